//! A port that refuses connections for sure.

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
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(([127, 0, 0, 1], 0).into())
            .expect("loopback can be bound");
        Self {
            addr: socket.local_addr().expect("bound above"),
            _bound: socket,
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
