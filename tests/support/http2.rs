//! A server that runs a script of [`frames`](super::frames) for each connection.

use std::future::Future;
use std::io;
use std::ops::Deref;
use std::sync::Arc;

use tokio_rustls::rustls::ServerConfig;

use super::frames::{self, Behaviour, Io, Log};
use super::listener::Listener;
use super::over::{Over, over};
use super::server::{self, Speaks};
use super::tls;

/// A connection of such a server.
pub type Conn = frames::Conn<super::Conn>;

/// A [`Server`](super::Server) that speaks HTTP/2.
pub struct Server {
    server: server::Server,
    /// What it has seen.
    pub log: Log,
}

impl Server {
    /// Runs `script` for each connection, whose preface is not read.
    pub async fn start<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let log = Log::default();
        let tls = (over() == Over::Tls).then(tls::server_config);
        let at = Listener::bind("127.0.0.1:0").await;
        let server = server::Server::perform(at, tls, Speaks::Bytes, with_log(&log, script));
        Self { server, log }
    }

    /// As [`start`](Self::start), over TCP whatever the run is over.
    pub async fn start_tcp<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let log = Log::default();
        let at = Listener::tcp("127.0.0.1:0").await;
        let server = server::Server::perform(at, None, Speaks::Bytes, with_log(&log, script));
        Self { server, log }
    }

    /// As [`start`](Self::start), over TLS. What ALPN offers is for the configuration to say.
    pub async fn start_tls<F, Fut>(config: impl Into<Arc<ServerConfig>>, script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let log = Log::default();
        let at = Listener::tcp("127.0.0.1:0").await;
        let tls = Some(config.into());
        let server = server::Server::perform(at, tls, Speaks::Bytes, with_log(&log, script));
        let server = server.with_https();
        Self { server, log }
    }

    /// As [`start`](Self::start), in memory.
    pub fn in_memory<F, Fut>(script: F) -> Self
    where
        F: Fn(Conn) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let log = Log::default();
        let server = server::Server::in_memory_speaking(Speaks::Bytes, with_log(&log, script));
        Self { server, log }
    }

    /// Does on each connection what `behaviour` says.
    pub async fn behaving(behaviour: Behaviour) -> Self {
        let behaviour = Arc::new(behaviour);
        Self::start(move |conn| {
            let behaviour = behaviour.clone();
            async move { behaviour.serve(conn).await }
        })
        .await
    }
}

impl Deref for Server {
    type Target = server::Server;

    fn deref(&self) -> &server::Server {
        &self.server
    }
}

fn with_log<F, Fut>(log: &Log, script: F) -> impl Fn(super::Conn) -> Fut + Send + Sync + 'static
where
    F: Fn(Conn) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let log = log.clone();
    move |conn| script(Conn::new(conn, &log))
}

impl Io for super::Conn {
    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.read_to(buffer).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await
    }
}
