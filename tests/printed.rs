//! What the values of the crate say of themselves where they are printed.

mod support;

use std::error::Error as _;
use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use support::agent::{Connector, agent_over, at_rest, fetch, get};
use support::tls::CA;
use support::{Server, eventually};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::{
    DefaultConnector, Destination, Proxy, ProxyLayer, Tcp, TcpConnector, TlsConfig, UnixConnector,
    UriConnector,
};
use tower_keep_alive::custom::*;
use tower_keep_alive::extensions::*;
use tower_keep_alive::forward::ForwardLayer;
use tower_keep_alive::layers::*;
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::*;

type B = Full<Bytes>;

fn text(value: &dyn Debug) -> String {
    format!("{value:?}")
}

fn destination(uri: &str) -> Destination {
    uri.parse::<Uri>().unwrap().try_into().unwrap()
}

/// A value in a log or in a failed assertion is told by its type, whatever else it says.
#[track_caller]
fn is_named(name: &str, value: &dyn Debug) {
    let text = text(value);
    assert!(text.starts_with(name), "{name} is printed as {text:?}");
}

#[tokio::test]
async fn layers_services_and_their_futures_are_printed_with_their_names() {
    let server = Server::ok().await;
    let uri: Uri = server.url("/").parse().unwrap();

    let layer = KeepAliveLayer::<B>::new();
    let handle = layer.handle();
    is_named("KeepAliveLayer", &layer);
    let mut client = layer.layer(TcpConnector::new());
    is_named("KeepAlive ", &client);
    is_named("KeepAliveFuture", &client.call(get(server.url("/"))));
    let get_uri = KeepAlive::builder().build().get(server.url("/"));
    is_named("RequestFuture", &get_uri);

    let handshake = HandshakeLayer::<B>::new();
    is_named("HandshakeLayer", &handshake);
    let mut connections = handshake.layer(Connector);
    is_named("Handshake {", &connections);
    is_named("HandshakeFuture", &connections.call(uri.clone()));
    let mut conn = connections.clone().oneshot(uri.clone()).await.unwrap();
    is_named("HttpConnection", &conn);
    is_named("HttpFuture", &conn.call(Request::new(B::default())));

    let checkout = CheckoutLayer::new(PoolConfig::new());
    is_named("CheckoutLayer", &checkout);
    let pooled = checkout.layer(connections);
    is_named("Checkout {", &pooled);
    is_named("CheckoutFuture", &pooled.clone().call(uri.clone()));
    is_named("Pool", pooled.pool());

    let leases = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .service(pooled);
    let lease = leases.clone().oneshot(uri.clone()).await.unwrap();
    is_named("Lease(Lifespan", &lease);
    let mut requests = ExchangeLayer::new().layer(leases);
    is_named("ExchangeFuture", &requests.call(get(server.url("/"))));
    drop((lease, conn, requests, client));

    let mut forward =
        ForwardLayer::to(uri)
            .unwrap()
            .layer(tower::service_fn(async |_: Request<B>| {
                Ok::<_, BoxError>(http::Response::new(B::default()))
            }));
    is_named("ForwardFuture", &forward.call(get(server.url("/"))));

    is_named("TlsLayer", &CA.trusted());
    let mut tls = CA.trusted().layer(TcpConnector::new());
    is_named("Tls {", &tls);
    let target = destination(&server.url("/"));
    is_named("Connecting", &tls.call(target.clone()));
    let mut proxied = ProxyLayer::new().layer(TcpConnector::new());
    is_named("ProxyConnector {", &proxied);
    let resolver = "the connector's";
    assert!(text(&ProxyLayer::new()).contains(resolver), "{proxied:?}");
    let own = ProxyLayer::new().resolver(GaiResolver::new());
    assert!(text(&own).contains("of its own"), "{own:?}");
    is_named("Connecting", &proxied.call(target.clone()));
    let mut any = DefaultConnector::new();
    is_named("Connecting", &any.call(target.clone()));
    let mut hyper = UriConnector::hyper(HttpConnector::new());
    is_named("Connecting", &hyper.call(target.clone()));
    let stream = tls.clone().oneshot(target.clone()).await.unwrap();
    is_named("MaybeTls { tls: false", &stream);
    is_named("Probe", &stream.probe_with(Tcp::probe));
    drop(stream);
    is_named("Connecting", &TcpConnector::new().call(target.clone()));
    is_named("Connecting", &UnixConnector::at("/tmp/none").call(target));
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_belongs_to_a_response_is_printed_with_its_name() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::<B>::new();
    let handle = layer.handle();
    is_named("AgentHandle", &handle);
    is_named("Drained", &handle.drain());
    let client = layer.layer(TcpConnector::new());
    drop(client);
    let layer = KeepAliveLayer::<B>::new();
    let handle = layer.handle();
    let client = layer.layer(TcpConnector::new());
    let response = client.request(get(server.url("/"))).await.unwrap();
    let info = response.body().connection().clone();
    let id = info.id();
    let text = text(&info);
    assert!(
        text.starts_with("ConnectionInfo") && text.contains(&id.to_string()),
        "{text}"
    );
    is_named("Body {", response.body());
    drop(response);
    drop(client);
    eventually("it is closed", || handle.status().open() == 0).await;
    at_rest(&handle).await;
}

#[test]
fn plain_values_are_printed_with_their_names() {
    is_named("Clock", &Clock::default());
    assert_eq!(text(&Clock::new(Moment::now)), "Clock(replaced)");
    is_named("CloseHook", &CloseHook::new(|_| ()));
    is_named("ReusedReset", &ReusedReset::default());
    let uri = Uri::from_static("http://a.test:81/");
    assert_eq!(text(&Key::from(uri.key())), "Key(a.test:81:)");
    is_named("Destination", &destination("http://a.test/"));
    let mut lifespan = Lifespan::new();
    is_named("Lifespan", &lifespan);
    lifespan.limit_idle(Duration::from_secs(4));
    assert!(text(&lifespan).contains("4s"), "{lifespan:?}");
    is_named(
        "TransportGuard(ConnShared",
        &lifespan.take_transport_guard().unwrap(),
    );
    is_named("TlsConfig", &TlsConfig::new(CA.client_config()));
    is_named("Proxy", &"http://p.test:3128".parse::<Proxy>().unwrap());
    is_named("Route", &Route::new());
    let body = text(&RequestBody::from("secret"));
    assert_eq!(body, "RequestBody { size: Some(6), .. }");
}

/// Each names its connections, and a list of them is in an order.
#[test]
fn routes_and_what_is_in_them_have_one_order_that_agrees_with_their_equality() {
    let config = || TlsConfig::new(CA.client_config());
    let proxy = |uri: &str| uri.parse::<Proxy>().unwrap();
    let one = config();
    let routes = [
        Route::new(),
        Route::new().with_family(Family::V4),
        Route::new().with_family(Family::V6),
        Route::new().with_proxy(proxy("http://a.test")),
        Route::new().with_proxy(proxy("http://b.test")),
        Route::new().with_proxy(proxy("http://me:one@b.test")),
        Route::new().with_proxy(proxy("http://me:two@b.test")),
        Route::new().with_tls(one.clone()),
        Route::new().with_tls(config()),
    ];
    let keys = routes.iter().enumerate();
    for (at, a) in keys.clone() {
        for (place, b) in keys.clone() {
            assert_eq!(a == b, at == place, "{a:?}, {b:?}");
            assert_eq!(a.cmp(b).is_eq(), a == b, "{a:?}, {b:?}");
            assert_eq!(a.partial_cmp(b), Some(a.cmp(b)), "{a:?}, {b:?}");
            assert_eq!(a.cmp(b), b.cmp(a).reverse(), "{a:?}, {b:?}");
        }
    }
    assert_eq!(one, one.clone());
    assert_ne!(one, config());
}

#[test]
fn errors_are_printed_with_what_they_are() {
    let denied = CheckoutError::Denied(Denied::QueueFull(3));
    assert_eq!(
        denied.to_string(),
        "the queue is full: max_pending_per_host is 3"
    );
    let connect = CheckoutError::Connect("no way".into());
    assert_eq!(connect.to_string(), "no connection could be made");
    assert_eq!(connect.source().unwrap().to_string(), "no way");
    let request = || Some(Box::new(Request::new(B::default())));
    for (error, said) in [
        (SendError::new("why"), "the request has no response"),
        (
            SendError::unsent("why", request()),
            "the request was not sent",
        ),
    ] {
        is_named("SendError", &error);
        assert_eq!(error.to_string(), said);
        assert_eq!(error.source().unwrap().to_string(), "why");
    }
    for (denied, said) in [
        (
            Denied::ConnectTimeout(Duration::from_secs(2)),
            "no connection within 2s",
        ),
        (
            Denied::CheckoutTimeout(Duration::from_secs(2)),
            "no connection came free within 2s",
        ),
        (
            Denied::CannotClose(Duration::from_secs(2)),
            "a connection whose place is needed was not closed within 2s: its runtime is not driven, and its transport \
             cannot be closed from outside; drive that runtime, or give the transport a way to be closed \
             (Probe::with_close)",
        ),
        (Denied::ShutDown, "the agent is shut down"),
    ] {
        assert_eq!(denied.to_string(), said);
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_before_the_answer_is_told_in_words() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        if conn.index == 0 {
            conn.respond("ok").await;
            conn.request().await;
        }
        conn.fin().await;
    });
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    for of in [" (reused connection)", ""] {
        let post = support::agent::post(server.url("/"), "x");
        let error = support::agent::send(&client, post).await.unwrap_err();
        let said = format!("the connection was closed or lost before a response{of}");
        assert_eq!(error.to_string(), said);
    }
    at_rest(&handle).await;
}
