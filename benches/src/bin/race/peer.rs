//! The clients, behind one face.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tower::retry::RetryLayer;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{Body, BoxError, Error, KeepAliveLayer};

/// A client with its pool; clones share it.
pub(crate) trait Peer: Clone + Send + Sync + 'static {
    const NAME: &'static str;

    fn new() -> Self;

    /// Sends a request, and reads the response to its end.
    fn send(&self, request: Request<Bytes>)
    -> impl Future<Output = Result<Bytes, BoxError>> + Send;

    /// How many requests were sent again, where that can be told.
    fn retries(&self, sent: usize) -> Option<usize>;
}

#[derive(Clone)]
pub(crate) struct Legacy(Client<HttpConnector, Full<Bytes>>);

impl Peer for Legacy {
    const NAME: &'static str = "hyper-util legacy";

    fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Self(
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .build(connector),
        )
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Bytes, BoxError> {
        let response = self.0.request(request.map(Full::new)).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    fn retries(&self, _: usize) -> Option<usize> {
        None
    }
}

#[derive(Clone)]
pub(crate) struct Reqwest(reqwest::Client);

impl Peer for Reqwest {
    const NAME: &'static str = "reqwest";

    fn new() -> Self {
        // reqwest is built with no provider of its own. An error means that there is one already.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().build();
        Self(client.expect("it needs nothing of the system"))
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Bytes, BoxError> {
        let response = self.0.execute(request.try_into()?).await?;
        Ok(response.bytes().await?)
    }

    fn retries(&self, _: usize) -> Option<usize> {
        None
    }
}

/// `KeepAliveLayer` with its defaults, under tower's `RetryLayer`.
#[derive(Clone)]
pub(crate) struct Agent {
    client: BoxCloneSyncService<Request<Full<Bytes>>, Response<Body>, Error>,
    tries: Arc<AtomicUsize>,
}

impl Peer for Agent {
    const NAME: &'static str = "tower-keep-alive";

    fn new() -> Self {
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = tries.clone();
        let client = ServiceBuilder::new()
            .layer(RetryLayer::new(ReusedReset::new()))
            .map_request(move |request| {
                counted.fetch_add(1, Ordering::Relaxed);
                request
            })
            .layer(KeepAliveLayer::new())
            .service(TcpConnector::new());
        Self {
            client: BoxCloneSyncService::new(client),
            tries,
        }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Bytes, BoxError> {
        let response = self.client.clone().oneshot(request.map(Full::new)).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    fn retries(&self, sent: usize) -> Option<usize> {
        Some(self.tries.load(Ordering::Relaxed) - sent)
    }
}
