//! A port that never answers a SYN.

use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// Lets every connect wait while it lives: it listens and never accepts, and its backlog is full. What Linux does then is
/// nothing; other systems refuse.
pub struct SwallowingPort {
    addr: SocketAddr,
    _listener: TcpListener,
    _backlog: Vec<TcpStream>,
}

impl SwallowingPort {
    /// Takes a free port of `127.0.0.1`.
    pub async fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket
            .bind(([127, 0, 0, 1], 0).into())
            .expect("loopback can be bound");
        let addr = socket.local_addr().expect("bound above");
        let listener = socket.listen(1).expect("bound above");
        let mut backlog = Vec::new();
        let mut unanswered = 0;
        // One could be late on a busy machine.
        while unanswered < 3 {
            let connect = TcpStream::connect(addr);
            match tokio::time::timeout(Duration::from_millis(100), connect).await {
                Ok(stream) => backlog.push(stream.expect("somebody listens")),
                Err(_) => unanswered += 1,
            }
        }
        Self {
            addr,
            _listener: listener,
            _backlog: backlog,
        }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}
