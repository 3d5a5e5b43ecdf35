//! The clients, behind one face; each speaks HTTP/2 by prior knowledge.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio_rustls::rustls::crypto::ring;
use tower::Layer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{BoxError, KeepAlive, KeepAliveLayer, Protocol};

/// A body that nobody can have a copy of.
#[derive(Debug)]
pub(crate) struct OneShot(Option<Bytes>);

impl OneShot {
    /// Without content where there is none to send.
    pub(crate) fn new(content: Bytes) -> Self {
        Self(Some(content).filter(|it| !it.is_empty()))
    }
}

impl Body for OneShot {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|it| Ok(Frame::data(it))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, Bytes::len) as u64)
    }
}

/// A client with its pool; clones share it.
pub(crate) trait Peer: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    fn new() -> Self;

    /// Sends a request, and reads the response to its end.
    fn send(
        &self,
        request: Request<OneShot>,
    ) -> impl Future<Output = Result<Bytes, BoxError>> + Send;
}

/// With its defaults, and nothing around it.
#[derive(Clone)]
pub(crate) struct Agent(KeepAlive<TcpConnector, OneShot>);

impl Agent {
    pub(crate) fn with_ttl(ttl: Duration) -> Self {
        Self::over(KeepAliveLayer::new().ttl(ttl))
    }

    fn over(layer: KeepAliveLayer<OneShot>) -> Self {
        let layer = layer.protocol(Protocol::Http2);
        Self(layer.layer(TcpConnector::new()))
    }
}

impl Peer for Agent {
    const NAME: &'static str = "tower-keep-alive";

    fn new() -> Self {
        Self::over(KeepAliveLayer::new())
    }

    async fn send(&self, request: Request<OneShot>) -> Result<Bytes, BoxError> {
        let response = self.0.request(request).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

#[derive(Clone)]
pub(crate) struct Legacy(Client<HttpConnector, OneShot>);

impl Peer for Legacy {
    const NAME: &'static str = "hyper-util legacy";

    fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .http2_only(true)
                .build(connector),
        )
    }

    async fn send(&self, request: Request<OneShot>) -> Result<Bytes, BoxError> {
        let response = self.0.request(request).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }
}

#[derive(Clone)]
pub(crate) struct Reqwest(reqwest::Client);

impl Peer for Reqwest {
    const NAME: &'static str = "reqwest";

    fn new() -> Self {
        // It has none of its own, and wants one even in the clear.
        let _ = ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .no_proxy()
            .http2_prior_knowledge()
            .build();
        Self(client.expect("it needs nothing of the system"))
    }

    async fn send(&self, request: Request<OneShot>) -> Result<Bytes, BoxError> {
        // It can copy a request without a body, and so send it again.
        let request = match request.body().is_end_stream() {
            true => request.map(|_| reqwest::Body::default()),
            false => request.map(reqwest::Body::wrap),
        };
        let response = self.0.execute(request.try_into()?).await?;
        Ok(response.bytes().await?)
    }
}
