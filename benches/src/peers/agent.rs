use http::Request;
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::{Layer, Service};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::forward::{Forward, ForwardLayer};
use tower_keep_alive::{BoxError, KeepAlive, KeepAliveLayer, connect::Destination};

use super::{Peer, length};

/// This crate's agent over sockets.
pub type Agent<B> = AgentOf<TcpConnector, B>;

/// This crate's agent.
#[derive(Clone, Debug)]
pub struct AgentOf<M, B: Send + 'static>(KeepAlive<M, B>);

impl<M, B> AgentOf<M, B>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub fn new(layer: &KeepAliveLayer<B>, connector: M) -> Self {
        Self(layer.layer(connector))
    }
}

impl<M, B> Peer<B> for AgentOf<M, B>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const NAME: &'static str = "tower-keep-alive";

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        let response = self.0.request(request).await?;
        length(response.into_body()).await
    }
}

/// This crate's agent over sockets as a reverse proxy: what a caller asked of the proxy is rewritten for the server.
#[derive(Clone, Debug)]
pub struct Forwarding<B: Send + 'static>(Forward<KeepAlive<TcpConnector, B>>);

impl<B> Forwarding<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Fails where `upstream` is no URL of a server.
    pub fn new(layer: &KeepAliveLayer<B>, upstream: &str) -> Result<Self, BoxError> {
        let client = layer.layer(TcpConnector::new());
        Ok(Self(ForwardLayer::to(upstream)?.layer(client)))
    }
}

impl<B> Peer<B> for Forwarding<B>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const NAME: &'static str = "tower-keep-alive, forward";
    /// As callers of a proxy send it.
    const WANTS_HOST: bool = true;

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        // The client is always ready.
        let response = self.0.call(request).await?;
        length(response.into_body()).await
    }
}
