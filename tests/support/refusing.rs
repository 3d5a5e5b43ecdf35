//! A port that refuses connections for sure.

use super::over::hold;
#[cfg(unix)]
use super::over::{Over, over, unix_path};
use std::net::SocketAddr;
use tokio::net::TcpSocket;

/// Refuses every connection while it lives: bound, so that nobody else gets the port, but not listening.
pub struct RefusingPort {
    addr: SocketAddr,
    _bound: TcpSocket,
}

impl RefusingPort {
    /// Takes a free port of `127.0.0.1`. Needs a runtime.
    pub fn new() -> Self {
        let (addr, bound) = hold(([127, 0, 0, 1], 0).into());
        #[cfg(unix)]
        if over() == Over::Unix {
            let path = unix_path(addr.port());
            std::fs::remove_file(&path).ok();
            // Its file stays, and nobody listens.
            drop(std::os::unix::net::UnixListener::bind(path).expect("a new Unix socket"));
        }
        Self {
            addr,
            _bound: bound,
        }
    }

    /// Where nobody listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://127.0.0.1:port/path`
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }
}

#[cfg(unix)]
impl Drop for RefusingPort {
    fn drop(&mut self) {
        std::fs::remove_file(unix_path(self.addr.port())).ok();
    }
}
