//! The limits commute: left out, doubled, optional, and on either side of Checkin and Checkout.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    AgentHandle, Body, CloseReason, Error,
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, IdleEvictionLayer,
        MaxUsesLayer, PoolConfig, TtlLayer,
    },
};

use crate::line::{Shard, answer, maker};
use crate::support::agent::{Req, at_rest, fetch};
use crate::support::{Server, eventually, script, settle};

type B = Full<Bytes>;

/// Any of the limits, none of which changes a type.
#[derive(Clone, Copy, Default)]
struct Three {
    idle: Option<IdleEvictionLayer>,
    ttl: Option<TtlLayer>,
    uses: Option<MaxUsesLayer>,
}

const NONE: Three = Three {
    idle: None,
    ttl: None,
    uses: None,
};

fn idle(seconds: u64) -> Three {
    Three {
        idle: Some(IdleEvictionLayer::new(Duration::from_secs(seconds))),
        ..NONE
    }
}

fn ttl(seconds: u64) -> Three {
    Three {
        ttl: Some(TtlLayer::new(Duration::from_secs(seconds))),
        ..NONE
    }
}

fn uses(max: u64) -> Three {
    Three {
        uses: Some(MaxUsesLayer::new(max)),
        ..NONE
    }
}

trait Client:
    tower::Service<Req, Response = http::Response<Body>, Error = Error> + Clone + Send + Sync
{
}
impl<S> Client for S where
    S: tower::Service<Req, Response = http::Response<Body>, Error = Error> + Clone + Send + Sync
{
}

/// Above Checkin, between it and Checkout, and below.
fn stack(server: &Server, [above, between, below]: [Three; 3]) -> (impl Client, AgentHandle) {
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .option_layer(above.idle)
        .option_layer(above.ttl)
        .option_layer(above.uses)
        .layer(CheckinLayer::new())
        .option_layer(between.uses)
        .option_layer(between.idle)
        .option_layer(between.ttl)
        .layer(checkout)
        .option_layer(below.ttl)
        .option_layer(below.uses)
        .option_layer(below.idle)
        .layer(HandshakeLayer::<B>::new())
        .service(server.connector());
    (client, handle)
}

/// Wherever a limit may stand: alone in each place, and beside looser ones in the others.
fn places(limit: Three, looser: Three) -> Vec<[Three; 3]> {
    vec![
        [limit, NONE, NONE],
        [NONE, limit, NONE],
        [NONE, NONE, limit],
        [limit, limit, limit],
        [looser, NONE, limit],
        [limit, looser, looser],
        [looser, limit, NONE],
    ]
}

fn closes(handle: &AgentHandle, reason: CloseReason) -> u64 {
    handle.status().closes.get(&reason).copied().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn without_limits_one_connection_does_for_all() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = stack(&server, [NONE; 3]);
    for _ in 0..5 {
        fetch(&client, server.url("/")).await.unwrap();
        settle().await;
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().open(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn idle_eviction_stands_anywhere() {
    for place in places(idle(4), idle(60)) {
        let server = Server::in_memory(script::ok);
        let (client, handle) = stack(&server, place);
        for _ in 0..3 {
            fetch(&client, server.url("/")).await.unwrap();
            settle().await;
            tokio::time::sleep(Duration::from_millis(3_900)).await;
        }
        assert_eq!((server.accepted(), handle.status().open()), (1, 1));
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(
            (closes(&handle, CloseReason::Idle), handle.status().open()),
            (1, 0)
        );
        eventually("the server sees it go", || server.open() == 0).await;
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ttl_stands_anywhere() {
    for place in places(ttl(10), ttl(60)) {
        let server = Server::in_memory(script::ok);
        let (client, handle) = stack(&server, place);
        for _ in 0..3 {
            fetch(&client, server.url("/")).await.unwrap();
            settle().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
        assert_eq!((server.accepted(), handle.status().open()), (1, 1));
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(
            (closes(&handle, CloseReason::Age), handle.status().open()),
            (1, 0)
        );
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn max_uses_stands_anywhere() {
    for place in places(uses(2), uses(5)) {
        let server = Server::in_memory(script::ok);
        let (client, handle) = stack(&server, place);
        for _ in 0..5 {
            fetch(&client, server.url("/")).await.unwrap();
            settle().await;
        }
        assert_eq!(server.accepted(), 3);
        assert_eq!(
            (closes(&handle, CloseReason::Uses), handle.status().open()),
            (2, 1)
        );
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn limits_of_all_kinds_stand_together() {
    let all = Three {
        uses: uses(3).uses,
        ttl: ttl(100).ttl,
        idle: idle(4).idle,
    };
    let server = Server::in_memory(script::ok);
    let (client, handle) = stack(&server, [all; 3]);
    for _ in 0..4 {
        fetch(&client, server.url("/")).await.unwrap();
        settle().await;
    }
    assert_eq!(
        (server.accepted(), closes(&handle, CloseReason::Uses)),
        (2, 1)
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(closes(&handle, CloseReason::Idle), 1);
    at_rest(&handle).await;
}

/// A lease of a lease gives back once.
#[tokio::test]
async fn checkin_can_be_doubled() {
    let server = Server::in_memory(script::ok);
    let checkout = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(1));
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::<B>::new())
        .service(server.connector());
    for _ in 0..3 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    eventually("it is idle", || handle.status().idle.len() == 1).await;
    let status = handle.status();
    assert_eq!((server.accepted(), status.completed), (1, 3), "{status}");
    assert_eq!((status.created, status.open()), (1, 1));
    let given_up = client
        .clone()
        .oneshot(crate::support::agent::get(server.url("/")));
    drop(given_up);
    at_rest(&handle).await;
}

/// The pool that is asked first keeps the connections; both count them, and both limits hold.
#[tokio::test]
async fn checkout_can_be_doubled() {
    let server = Server::in_memory(script::ok);
    let above = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(5));
    let below = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(2));
    let handles = [above.handle(), below.handle()];
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(above)
        .layer(below)
        .layer(HandshakeLayer::<B>::new())
        .service(server.connector());
    for _ in 0..3 {
        let fetches = (0..4).map(|_| fetch(&client, server.url("/")));
        for answer in futures_util::future::join_all(fetches).await {
            assert_eq!(answer.unwrap().body, "ok");
        }
    }
    assert!(server.accepted() <= 2, "{}", server.accepted());
    assert!(server.max_open() <= 2);
    drop(client);
    for handle in handles {
        eventually("all is closed", || handle.status().open() == 0).await;
        at_rest(&handle).await;
        let status = handle.status();
        assert_eq!(status.create_errors, 0, "{status}");
    }
}

/// Two whole pools, one above the other.
#[tokio::test]
async fn checkin_and_checkout_can_be_doubled_together() {
    let server = Server::in_memory(answer);
    let above = CheckoutLayer::new(PoolConfig::new());
    let below = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(2));
    let handles = [above.handle(), below.handle()];
    let lines = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(above)
        .layer(CheckinLayer::new())
        .layer(below)
        .service(maker(&server));
    for _ in 0..3 {
        let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
        assert_eq!(line.ask("hello").await.unwrap(), "hello!");
    }
    assert_eq!(server.accepted(), 1);
    for handle in &handles {
        let status = handle.status();
        assert_eq!((status.created, status.open()), (1, 1), "{status}");
    }
    // Closed by the one, closed in the other.
    handles[0].close_idle();
    for handle in &handles {
        eventually("it is closed", || handle.status().open() == 0).await;
        at_rest(handle).await;
    }
    eventually("the server sees it go", || server.open() == 0).await;
}
