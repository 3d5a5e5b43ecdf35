//! A server of raw frames, in a thread of its own.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive_benches::frames::{Behaviour, Conn, Io, Log};

/// Ends when it is dropped.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) log: Log,
    _runtime: Runtime,
}

impl Server {
    pub(crate) fn start(behaviour: Behaviour) -> Self {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let (log, behaviour) = (Log::default(), Arc::new(behaviour));
        let server = Self {
            addr: listener.local_addr().expect("it is bound"),
            log: log.clone(),
            _runtime: runtime,
        };
        server._runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (behaviour, conn) = (behaviour.clone(), Conn::new(Socket(stream), &log));
                tokio::spawn(async move { behaviour.serve(conn).await });
            }
        });
        server
    }
}

struct Socket(TcpStream);

impl Io for Socket {
    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.0.read_buf(buffer).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}
