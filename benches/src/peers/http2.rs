//! One connection of HTTP/2, and nothing around it.

use std::future::poll_fn;
use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tower_keep_alive::BoxError;

use super::{Peer, length};

/// The `h2` crate's: what no client that is made of it can be cheaper than. Its requests have no body.
#[derive(Clone, Debug)]
pub struct H2Alone(h2::client::SendRequest<Bytes>);

impl H2Alone {
    pub async fn connect(addr: SocketAddr) -> Result<Self, BoxError> {
        let (sender, connection) = h2::client::handshake(socket(addr).await?).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }
}

impl<B: Send> Peer<B> for H2Alone {
    const NAME: &'static str = "h2 alone";

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        poll_fn(|cx| self.0.poll_ready(cx)).await?;
        let (response, _) = self.0.send_request(request.map(|_| ()), true)?;
        let mut body = response.await?.into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            length += data.len();
        }
        Ok(length)
    }
}

/// hyper's.
#[derive(Debug)]
pub struct HyperHttp2<B>(hyper::client::conn::http2::SendRequest<B>);

impl<B> HyperHttp2<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub async fn connect(addr: SocketAddr) -> Result<Self, BoxError> {
        let io = TokioIo::new(socket(addr).await?);
        let executor = TokioExecutor::new();
        let (sender, connection) = hyper::client::conn::http2::handshake(executor, io).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }
}

impl<B> Clone for HyperHttp2<B> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<B> Peer<B> for HyperHttp2<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const NAME: &'static str = "hyper alone, HTTP/2";

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        length(response.into_body()).await
    }
}

async fn socket(addr: SocketAddr) -> Result<TcpStream, BoxError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
