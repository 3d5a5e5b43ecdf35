//! Connectors without ideas of their own: `tower::make::MakeConnection` over sockets, and over memory.

use super::{
    memory::{MemoryStream, pair},
    over::{self, Over},
    server::Stage,
    stream::Stream,
    tiny::Tiny,
    tls,
    wire::Wire,
};
use http::Uri;
use std::{
    future::{Future, Ready, ready},
    io,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tower::{ServiceExt, service_fn};
use tower_keep_alive::BoxError;
use tower_service::Service;

/// Connects to the host and port of a URI, over what the run is over.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sockets;

#[cfg(not(unix))]
type UnixStream = TcpStream;

impl<T> Service<T> for Sockets
where
    T: Into<Uri>,
{
    type Response = Tiny<Wire<TcpStream, UnixStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let uri = target.into();
        Box::pin(async move {
            #[cfg(unix)]
            if over::over() == Over::Unix {
                let port = uri.port_u16().unwrap_or(80);
                return UnixStream::connect(over::unix_path(port))
                    .await
                    .map(|unix| Tiny::new(Wire::Unix(unix)));
            }
            if over::over() == Over::Tls {
                let tls = tls::client(service_fn(tcp)).oneshot(tls::https(&uri)).await;
                return tls.map(|tls| Tiny::new(Wire::Tls(tls))).map_err(as_io);
            }
            tcp(uri).await.map(|tcp| Tiny::new(Wire::Tcp(tcp)))
        })
    }
}

async fn tcp(uri: Uri) -> io::Result<TcpStream> {
    let host = uri.host().ok_or(io::ErrorKind::InvalidInput)?;
    let port = uri.port_u16().unwrap_or(80);
    let stream = TcpStream::connect(format!("{host}:{port}")).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The error that it is, if it is one.
fn as_io(error: BoxError) -> io::Error {
    match error.downcast() {
        Ok(error) => *error,
        Err(error) => io::Error::other(error),
    }
}

/// Connects to the in-memory server that made it, whatever the target; refuses when that is gone.
#[derive(Clone)]
pub struct InMemory {
    stage: Weak<Stage>,
}

impl InMemory {
    pub(super) fn new(stage: &Arc<Stage>) -> Self {
        Self {
            stage: Arc::downgrade(stage),
        }
    }
}

impl<T> Service<T> for InMemory {
    type Response = MemoryStream;
    type Error = io::Error;
    type Future = Ready<io::Result<MemoryStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: T) -> Self::Future {
        let Some(stage) = self.stage.upgrade() else {
            return ready(Err(io::ErrorKind::ConnectionRefused.into()));
        };
        let (stream, peer) = pair();
        stage.perform(Stream::Memory(peer));
        ready(Ok(stream))
    }
}
