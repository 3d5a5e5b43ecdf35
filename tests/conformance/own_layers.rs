//! D. Layers of a user's own: they refuse to keep a connection, shorten its time, or are told of each reuse.

use super::release::{gated, idle, pending};
use crate::support::agent::{Req, at_rest, fetch, protocol};
use crate::support::{CountingConnector, Gate, Server, eventually, script, settle};
use bytes::Bytes;
use futures_util::future::join_all;
use http::Response;
use http_body_util::Full;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tower::make::MakeConnection;
use tower::util::MapResponseLayer;
use tower::{Service, ServiceBuilder};
use tower_keep_alive::{
    AgentHandle, Body, BoxError, CloseReason, Error,
    connect::Destination,
    custom::Poolable,
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, HttpConnection,
        IdleEvictionLayer, Lease, PoolConfig,
    },
};

/// The stack by hand, with a layer of the user's own that sees each lease before its exchange.
fn with_policy<M, P>(
    limits: PoolConfig,
    policy: P,
    connector: M,
) -> (
    impl Service<Req, Response = Response<Body>, Error = Error> + Clone,
    AgentHandle,
)
where
    M: MakeConnection<Destination, Error: Into<BoxError>, Future: Send + 'static>,
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Connection: Unpin + Send + 'static,
    P: Fn(&mut Lease<HttpConnection<Full<Bytes>>>) + Clone + Send + Sync + 'static,
{
    let checkout = CheckoutLayer::<HttpConnection<Full<Bytes>>>::new(limits);
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new().protocol(protocol()))
        .layer(MapResponseLayer::new(move |mut lease| {
            policy(&mut lease);
            lease
        }))
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(IdleEvictionLayer::new(Duration::from_millis(50)))
        .layer(HandshakeLayer::new().protocol(protocol()))
        .service(connector);
    (client, handle)
}

/// The pool keeps to it by itself, whatever the requests say.
#[tokio::test(start_paused = true)]
async fn node_42_a_pool_without_keep_alive_hands_nothing_over() {
    let server = Server::in_memory(script::ok);
    let connector = CountingConnector::new(server.connector());
    let limits = PoolConfig::new()
        .max_connections_per_host(1)
        .keep_alive(false);
    let (client, handle) = with_policy(limits, |_| {}, connector.clone());
    for answer in join_all((0..4).map(|_| fetch(&client, server.url("/")))).await {
        assert!(!answer.unwrap().info.is_reused());
    }
    settle().await;
    assert_eq!((connector.made(), connector.max_alive()), (4, 1));
    assert_eq!(server.accepted(), 4);
    assert_eq!(handle.status().closes[&CloseReason::Final], 4);
    at_rest(&handle).await;
}

/// Node's hook says it at the release; here a layer of one's own says it of each use.
#[tokio::test(start_paused = true)]
async fn node_47_a_layer_of_ones_own_can_refuse_to_keep() {
    let server = Server::in_memory(script::ok);
    let refusals = Arc::new(Mutex::new([true, false, true].into_iter()));
    let (client, handle) = with_policy(
        PoolConfig::new(),
        move |lease| {
            if refusals.lock().unwrap().next().unwrap() {
                lease.lifespan_mut().end(CloseReason::Surplus);
            }
        },
        server.connector(),
    );
    let refused = fetch(&client, server.url("/1")).await.unwrap();
    settle().await;
    assert_eq!(handle.status().open(), 0);
    let kept = fetch(&client, server.url("/2")).await.unwrap();
    settle().await;
    assert_eq!(idle(&handle), 1);
    let reused = fetch(&client, server.url("/3")).await.unwrap();
    settle().await;
    assert_eq!(handle.status().open(), 0);
    assert_ne!(refused.info.id(), kept.info.id());
    assert_eq!(reused.info.id(), kept.info.id());
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes[&CloseReason::Surplus], 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_47_a_layer_of_ones_own_can_only_shorten_the_time_idle() {
    for (own, expected) in [(30, 30), (60, 50)] {
        let server = Server::in_memory(script::ok);
        let (client, handle) = with_policy(
            PoolConfig::new(),
            move |lease| lease.lifespan_mut().limit_idle(Duration::from_millis(own)),
            server.connector(),
        );
        fetch(&client, server.url("/")).await.unwrap();
        settle().await;
        tokio::time::advance(Duration::from_millis(expected - 5)).await;
        settle().await;
        assert_eq!(idle(&handle), 1, "{own}");
        tokio::time::advance(Duration::from_millis(10)).await;
        settle().await;
        assert_eq!(idle(&handle), 0, "{own}");
        assert_eq!(server.accepted(), 1);
        assert_eq!(handle.status().closes[&CloseReason::Idle], 1);
        at_rest(&handle).await;
    }
}

/// Unlike Node's hook, it is told of the hand-over as well.
#[tokio::test(start_paused = true)]
async fn node_48_a_layer_of_ones_own_is_told_of_every_reuse() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::in_memory(move |conn| gated(conn, held.clone()));
    let uses = Arc::new(Mutex::new(Vec::new()));
    let seen = uses.clone();
    let (client, handle) = with_policy(
        PoolConfig::new().max_connections_per_host(1),
        move |lease| {
            let lifespan = Poolable::lifespan(lease);
            let mut seen = seen.lock().unwrap();
            seen.push((lifespan.is_reused(), lifespan.uses()));
        },
        server.connector(),
    );
    let (first, second, ()) = tokio::join!(
        fetch(&client, server.url("/1")),
        fetch(&client, server.url("/2")),
        async {
            eventually("the second is in line", || {
                pending(&handle) == 1 && gate.waiting() == 1
            })
            .await;
            gate.open_for_all();
        },
    );
    first.unwrap();
    second.unwrap();
    settle().await;
    fetch(&client, server.url("/3")).await.unwrap();
    assert_eq!(*uses.lock().unwrap(), [(false, 1), (true, 2), (true, 3)]);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}
