//! What the types promise: the compiler is the test.

use std::fmt::Debug;
use std::future::Future;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty, Full};
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::Destination;
use tower_keep_alive::connect::{Connecting, Probe, Tcp, TcpConnector};
use tower_keep_alive::custom::*;
use tower_keep_alive::extensions::*;
use tower_keep_alive::layers::*;
use tower_keep_alive::status::*;
use tower_keep_alive::*;

use crate::line::{Lines, Shard};
use crate::support::Server;
use crate::support::agent::{Connector, at_rest};

type B = Full<Bytes>;
type Stack = KeepAlive<TcpConnector, B>;
type Conns = Handshake<TcpConnector, B>;
type Pooled = Checkout<Conns, HttpConnection<B>>;
type Requests = Exchange<Checkin<Pooled>>;

fn debug<T: Debug>() {}
fn clone<T: Clone>() {}
fn send_sync<T: Send + Sync + 'static>() {}
fn send_future<F: Future + Send + 'static>() {}
fn unpin<T: Unpin>() {}
fn error<T: std::error::Error + Send + Sync + 'static>() {}

#[test]
fn every_public_type_is_debug() {
    debug::<AgentHandle>();
    debug::<Drained>();
    debug::<Status>();
    debug::<CloseHook>();
    debug::<TransportGuard>();
    debug::<CloseReason>();
    debug::<Checkin<Conns>>();
    debug::<CheckinFuture<()>>();
    debug::<CheckinLayer>();
    debug::<Lease<HttpConnection<B>>>();
    debug::<Pooled>();
    debug::<CheckoutFuture<Conns, Uri, HttpConnection<B>>>();
    debug::<CheckoutLayer<HttpConnection<B>>>();
    debug::<Clock>();
    debug::<Moment>();
    debug::<BoxError>();
    debug::<CheckoutError>();
    debug::<Denied>();
    debug::<Error>();
    debug::<SendError<B>>();
    debug::<TimeoutKind>();
    debug::<Body>();
    debug::<Requests>();
    debug::<<Requests as Service<Request<B>>>::Future>();
    debug::<ExchangeLayer>();
    debug::<Limited<Conns>>();
    debug::<LimitedFuture<()>>();
    debug::<IdleEvictionLayer>();
    debug::<MaxUsesLayer>();
    debug::<TtlLayer>();
    debug::<Conns>();
    debug::<HandshakeFuture<B>>();
    debug::<HandshakeLayer<B>>();
    debug::<HttpConnection<B>>();
    debug::<HttpFuture<B>>();
    debug::<ConnectionInfo>();
    debug::<Stack>();
    debug::<KeepAliveLayer<B>>();
    debug::<Destination>();
    debug::<Key>();
    debug::<KeyRef<'_>>();
    debug::<OneShot>();
    debug::<Partition>();
    debug::<Reuse>();
    debug::<Deadline>();
    debug::<Lifespan>();
    debug::<PoolConfig>();
    debug::<Pool<HttpConnection<B>>>();
    debug::<Scheduling>();
    debug::<Liveness>();
    debug::<Probe>();
    debug::<Tcp>();
    debug::<Connecting<Tcp>>();
    debug::<TcpConnector>();
}

#[test]
fn services_are_clone_and_shared_between_threads() {
    clone::<Stack>();
    send_sync::<Stack>();
    send_sync::<KeepAliveLayer<B>>();
    send_sync::<AgentHandle>();
    clone::<Requests>();
    send_sync::<Requests>();
    clone::<Lines>();
    send_sync::<Lines>();
    send_sync::<Pool<HttpConnection<B>>>();
    send_sync::<Lease<HttpConnection<B>>>();
    send_sync::<ConnectionInfo>();
    // Whatever the request bodies are.
    struct NotSync(std::cell::Cell<u8>);
    let _ = NotSync(std::cell::Cell::new(0)).0.get();
    clone::<KeepAlive<TcpConnector, NotSync>>();
    send_sync::<KeepAlive<TcpConnector, NotSync>>();
}

#[test]
fn futures_are_send() {
    send_future::<<Stack as Service<Request<B>>>::Future>();
    send_future::<<Requests as Service<Request<B>>>::Future>();
    send_future::<<Checkin<Pooled> as Service<Uri>>::Future>();
    send_future::<<Lines as Service<Shard>>::Future>();
    send_future::<<Conns as Service<Uri>>::Future>();
    send_future::<<Limited<Conns> as Service<Uri>>::Future>();
    send_future::<Drained>();
    let by_reference = |client: &'static Stack, request: Request<B>| {
        fn is_send<F: Future + Send>(_: F) {}
        is_send(client.request(request));
    };
    let _ = by_reference;
}

#[test]
fn bodies_and_errors_go_everywhere() {
    send_sync::<Body>();
    unpin::<Body>();
    error::<Error>();
    error::<Denied>();
    error::<CheckoutError>();
    error::<SendError<B>>();
    fn is_body<T: http_body::Body<Data = Bytes, Error = Error>>() {}
    is_body::<Body>();
    fn boxes<E: Into<BoxError>>() {}
    boxes::<CheckoutError>();
}

/// In a struct field, without a turbofish anywhere.
struct App {
    client: KeepAlive<Connector, Empty<Bytes>>,
    agent: AgentHandle,
}

impl App {
    fn new() -> Self {
        let layer = KeepAliveLayer::new();
        let agent = layer.handle();
        let client = layer.layer(Connector);
        Self { client, agent }
    }
}

#[tokio::test]
async fn keep_alive_lives_in_a_field_and_in_an_axum_state() {
    #[derive(Clone)]
    struct Gateway {
        client: KeepAlive<Connector, Empty<Bytes>>,
        upstream: String,
    }

    async fn pass_on(State(gateway): State<Gateway>) -> Result<axum::response::Response, String> {
        let request = Request::get(&gateway.upstream).body(Empty::new()).unwrap();
        let response = gateway.client.request(request).await;
        let response = response.map_err(|error| error.to_string())?;
        // A response body of ours is one of axum's.
        Ok(response.map(axum::body::Body::new))
    }

    let server = Server::echo().await;
    let app = App::new();
    let gateway = Gateway {
        client: app.client.clone(),
        upstream: server.url("/up"),
    };
    let router = Router::new().route("/", get(pass_on)).with_state(gateway);
    for _ in 0..2 {
        let request = Request::get("/").body(axum::body::Body::empty()).unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "/up");
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&app.agent).await;
}

/// Layers without a type of their own for the error, and boxes that hide all types.
#[tokio::test]
async fn a_client_can_be_boxed_and_its_error_found_again() {
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        // (`ServiceBuilder::boxed_clone_sync` asks for futures that are Sync, which hardly any are.)
        .layer(BoxCloneSyncService::layer())
        .map_err(BoxError::from)
        .layer(layer)
        .service(Connector);
    send_sync_value(&client);
    let request = Request::get("/relative").body(Full::<Bytes>::default());
    let failed = client.clone().oneshot(request.unwrap()).await;
    let failed = failed.expect_err("no host");
    assert!(failed.downcast_ref::<Error>().unwrap().is_target());
    at_rest(&handle).await;
}

fn send_sync_value<T: Send + Sync>(_: &T) {}
