//! tower's own layers, above, between and below ours; and connectors of other crates.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::util::{BoxCloneSyncService, MapResponse};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::UriConnector;
use tower_keep_alive::{
    BoxError, CloseReason, KeepAliveLayer,
    connect::Destination,
    layers::{
        CheckinLayer, CheckoutError, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig,
    },
};

use crate::support;
use crate::support::agent::{
    Connector, Req, Transport, agent_over, agent_paused, at_rest, fetch, get, read,
};
use crate::support::{
    CountingConnector, Gate, MemoryStream, Server, eventually, only_over_tcp, script,
};

type B = Full<Bytes>;

#[tokio::test(start_paused = true)]
async fn a_timeout_above_gives_the_request_up_and_passes_the_slot_on() {
    let server = Server::in_memory(|conn| async move {
        match conn.index {
            0 => script::stall(conn).await,
            _ => script::ok(conn).await,
        }
    });
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .timeout(Duration::from_secs(2))
        .layer(layer)
        .service(server.connector());
    let url = server.url("/");
    let both = join_all([&url, &url].map(|url| client.clone().oneshot(get(url))));
    let started = tokio::time::Instant::now();
    let mut both = both.await.into_iter();
    for _ in 0..2 {
        let failed = both.next().unwrap().expect_err("two seconds are over");
        assert!(failed.is::<Elapsed>(), "{failed}");
    }
    assert_eq!(started.elapsed().as_secs(), 2);
    let response = client.clone().oneshot(get(&url)).await.unwrap();
    assert_eq!(read(response).await.unwrap().body, "ok");
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!(status.closes[&CloseReason::Abandoned], 1, "{status}");
    assert_eq!(server.accepted(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_on_connects_stands_below_checkout() {
    let server = Server::in_memory(script::ok);
    let gate = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&gate);
    let checkout = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(1));
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(TimeoutLayer::new(Duration::from_secs(2)))
        .layer(HandshakeLayer::<B>::new())
        .service(connector.clone());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let source = std::error::Error::source(&error).expect("tower's own");
    assert!(source.is::<Elapsed>(), "{source}");
    assert_eq!(handle.status().create_errors, 1);
    gate.open_for_all();
    // It does not limit what comes after the connect.
    assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
    assert_eq!(connector.alive(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_concurrency_limit_on_connects_stands_below_checkout() {
    let server = Server::ok().await;
    let gate = Gate::new();
    let connector = CountingConnector::new(support::Sockets).gate(&gate);
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(ConcurrencyLimitLayer::new(2))
        .layer(HandshakeLayer::<B>::new())
        .service(connector.clone());
    let fetches: Vec<_> = (0..6)
        .map(|_| {
            let (client, url) = (client.clone(), server.url("/"));
            tokio::spawn(async move { fetch(&client, url).await })
        })
        .collect();
    eventually("all ask, and two connect", || {
        handle.status().open() == 6 && gate.waiting() == 2
    })
    .await;
    assert_eq!(connector.made(), 2);
    gate.open(2);
    eventually("two more", || gate.waiting() == 2 || connector.made() > 4).await;
    gate.open_for_all();
    for fetch in fetches {
        assert_eq!(fetch.await.unwrap().unwrap().body, "ok");
    }
    // Idle connections hold no permit.
    assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
    at_rest(&handle).await;
}

#[tokio::test]
async fn map_request_and_map_err_stand_anywhere() {
    let server = Server::ok().await;
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let seen = Arc::new(AtomicUsize::new(0));
    let connects = seen.clone();
    let client = ServiceBuilder::new()
        .map_request(|mut request: Req| {
            let value = HeaderValue::from_static("above");
            request.headers_mut().insert("x-mapped", value);
            request
        })
        .map_err(|error: tower_keep_alive::Error| error)
        .layer(ExchangeLayer::new())
        // Another target than Exchange's.
        .map_request(|destination: Destination| Uri::from(destination))
        .map_err(|error: BoxError| io::Error::other(error))
        .layer(CheckinLayer::new())
        .map_err(|error: CheckoutError| BoxError::from(error))
        .layer(checkout)
        .map_err(|error: BoxError| -> BoxError { format!("mapped: {error}").into() })
        .layer(HandshakeLayer::<B>::new())
        .map_request(move |uri: Uri| {
            connects.fetch_add(1, Ordering::Relaxed);
            uri
        })
        .service(Connector);
    for _ in 0..3 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    assert_eq!((server.accepted(), seen.load(Ordering::Relaxed)), (1, 1));
    assert_eq!(server.heads()[2].header("x-mapped"), Some("above"));

    let error = fetch(&client, "http://127.0.0.1:0/").await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    handle.destroy();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_shut_down(), "found below two errors: {error:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn load_shed_stands_above_and_sheds_only_for_what_is_between() {
    let server = Server::start(script::stall).await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let handle = layer.handle();
    let shed = ServiceBuilder::new()
        .load_shed()
        .layer(layer.clone())
        .service(Connector);
    // Always ready: it has a line of its own, and that has its own limit.
    let mut waiting: Vec<_> = (0..3)
        .map(|_| Box::pin(shed.clone().oneshot(get(server.url("/")))))
        .collect();
    for request in &mut waiting {
        assert!(request.now_or_never().is_none());
    }
    eventually("two in line", || {
        handle.status().pending.values().sum::<usize>() == 2
    })
    .await;
    drop(waiting);

    let shed = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .layer(layer)
        .service(Connector);
    let mut one = Box::pin(shed.clone().oneshot(get(server.url("/"))));
    assert!((&mut one).now_or_never().is_none());
    let failed = shed.clone().oneshot(get(server.url("/"))).await;
    assert!(failed.unwrap_err().is::<Overloaded>());
    drop(one);
    at_rest(&handle).await;
}

#[tokio::test]
async fn hyper_utils_connector_is_one_of_ours() {
    if only_over_tcp("HttpConnector is TCP's") {
        return;
    }
    let server = Server::ok().await;
    let (client, handle) = agent_over(
        KeepAliveLayer::new(),
        UriConnector::hyper(HttpConnector::new()),
    );
    let first = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(first.info.remote_addr(), Some(server.addr()));
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert!(second.info.is_reused());
    assert_eq!(server.accepted(), 1);

    let error = fetch(&client, "http://127.0.0.1:0/").await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    at_rest(&handle).await;
}

/// Closed while idle, it is noticed without a probe: hyper's connection reads all the time.
#[tokio::test]
async fn hyper_utils_connector_is_not_trusted_blindly() {
    if only_over_tcp("HttpConnector is TCP's") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        conn.fin().await;
    })
    .await;
    let (client, handle) = agent_over(
        KeepAliveLayer::new(),
        UriConnector::hyper(HttpConnector::new()),
    );
    for _ in 0..5 {
        fetch(&client, server.url("/")).await.unwrap();
        eventually("the server has closed", || server.open() == 0).await;
        eventually("and the pool knows", || handle.status().open() == 0).await;
    }
    assert_eq!(server.accepted(), 5);
    at_rest(&handle).await;
}

/// Clone and Send, and not Sync.
#[derive(Clone, Default)]
struct NotSync {
    calls: Cell<usize>,
    connector: Connector,
}

impl Service<Destination> for NotSync {
    type Response = Transport;
    type Error = BoxError;
    type Future = <Connector as Service<Destination>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Destination>::poll_ready(&mut self.connector, cx)
    }

    fn call(&mut self, destination: Destination) -> Self::Future {
        self.calls.set(self.calls.get() + 1);
        self.connector.call(destination)
    }
}

#[tokio::test]
async fn a_connector_that_is_not_sync_is_buffered() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = layer.layer(Buffer::new(NotSync::default(), 16));
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
    let error = fetch(&client, "http://127.0.0.1:1/").await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    // The buffer's task ends with it.
    drop(client);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connector_can_be_boxed() {
    let server = Server::ok().await;
    let connector: BoxCloneSyncService<Destination, Transport, BoxError> =
        BoxCloneSyncService::new(Connector);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

/// A transport whose goodbye is never done, as that of a tunnel whose other end has gone.
struct Lingering(MemoryStream);

impl AsyncRead for Lingering {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Lingering {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_never_shuts_down_gives_its_slot_back() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .idle_timeout(Duration::from_secs(1));
    let connector = MapResponse::new(server.connector(), Lingering as fn(_) -> _);
    let (client, handle) = agent_paused(layer, connector);
    let within = async |fetch| {
        let limit = Duration::from_secs(5);
        tokio::time::timeout(limit, fetch).await.expect("in time")
    };
    for _ in 0..2 {
        within(fetch(&client, server.url("/"))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert!(handle.status().idle.is_empty(), "its time is up");
        assert_eq!(handle.status().open(), 1, "its transport is there still");
    }
    let started = tokio::time::Instant::now();
    within(fetch(&client, server.url("/"))).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(server.accepted(), 3);
    assert_eq!(handle.status().closes[&CloseReason::Idle], 2);
    // Nobody waits for the slot of this one: it has a second to shut down.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    assert_eq!(handle.status().open(), 1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(handle.status().open(), 0);
    at_rest(&handle).await;
}
