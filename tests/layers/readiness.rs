//! A service is ready when the one below it is, and not before.

use std::any::type_name;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http::{Request, Response, Uri};
use http_body_util::Full;
use tower::util::ServiceExt;
use tower::{Layer, Service};
use tower_keep_alive::connect::ProxyLayer;
use tower_keep_alive::forward::ForwardLayer;
use tower_keep_alive::{
    connect::{CountConnectsLayer, Destination},
    layers::{
        ActiveTimeoutLayer, CheckinLayer, ExchangeLayer, HandshakeLayer, HttpConnection,
        IdleEvictionLayer, Lease, MaxUsesLayer, TtlLayer,
    },
};
use tower_test::mock;

use crate::support::MemoryStream;
use crate::support::tls::CA;

type B = Full<Bytes>;

/// `T` and `R` are the requests and the responses of the service below, `Q` the requests of the one above.
async fn follows<T, R, Q, L>(layer: L)
where
    L: Layer<mock::Mock<T, R>, Service: Service<Q>>,
{
    let (below, mut told) = mock::pair::<T, R>();
    let mut service = layer.layer(below);
    told.allow(0);
    let name = type_name::<L>();
    assert!(poll_immediate(service.ready()).await.is_none(), "{name}");
    told.allow(1);
    assert!(service.ready().await.is_ok(), "{name}");
    let (below, mut told) = mock::pair::<T, R>();
    let mut service = layer.layer(below);
    told.send_error("broken");
    assert!(service.ready().await.is_err(), "{name}");
}

#[tokio::test]
async fn a_service_is_ready_when_the_one_below_is() {
    const SECOND: Duration = Duration::from_secs(1);
    follows::<Uri, Lease<HttpConnection<B>>, Uri, _>(CheckinLayer::new()).await;
    follows::<Uri, HttpConnection<B>, Uri, _>(IdleEvictionLayer::new(SECOND)).await;
    follows::<Uri, HttpConnection<B>, Uri, _>(TtlLayer::new(SECOND)).await;
    follows::<Uri, HttpConnection<B>, Uri, _>(MaxUsesLayer::new(1)).await;
    follows::<Uri, HttpConnection<B>, Uri, _>(ActiveTimeoutLayer::new(SECOND)).await;
    follows::<Destination, Lease<HttpConnection<B>>, Request<B>, _>(ExchangeLayer::new()).await;
    follows::<Uri, MemoryStream, Uri, _>(HandshakeLayer::<B>::new()).await;
    follows::<Uri, MemoryStream, Uri, _>(CountConnectsLayer::new()).await;
    follows::<Destination, MemoryStream, Destination, _>(CA.trusted()).await;
    follows::<Destination, MemoryStream, Destination, _>(ProxyLayer::new()).await;
    let forward = ForwardLayer::to(Uri::from_static("http://up.test")).unwrap();
    follows::<Request<B>, Response<B>, Request<B>, _>(forward).await;
}
