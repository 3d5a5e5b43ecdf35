//! The age of connections, at its finest.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    AgentHandle, CloseReason,
    custom::{Moment, Poolable},
    layers::{
        Checkin, CheckinLayer, Checkout, CheckoutLayer, Exchange, ExchangeLayer, Handshake,
        HandshakeLayer, HttpConnection, Limited, PoolConfig, TtlLayer,
    },
};

use crate::line::{Shard, answer, maker};
use crate::support::agent::{at_rest, fetch, get, read};
use crate::support::{Conn, InMemory, Server, eventually, script, settle};

const TTL: Duration = Duration::from_secs(100);

#[tokio::test(start_paused = true)]
async fn jitter_is_in_bounds_and_constant_per_connection() {
    let server = Server::in_memory(answer);
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let jittered = TtlLayer::new(TTL).jitter(0.2);
    let lines = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(jittered)
        .layer(checkout)
        .layer(jittered)
        .service(maker(&server));
    let born = Instant::now();
    let mut ages = BTreeSet::new();
    // All held at once, so that all are made, and then used again and again.
    for round in 0..4 {
        let held = join_all((0..40).map(|_| lines.clone().oneshot(Shard(1)))).await;
        let seen: BTreeSet<_> = held
            .iter()
            .map(|line| {
                let lifespan = line.as_ref().expect("made").lifespan();
                assert_eq!(lifespan.uses(), round + 1);
                let deadline = lifespan.deadline(Moment::now()).expect("there is a TTL");
                assert_eq!(deadline.reason, CloseReason::Age);
                deadline.at.mono.duration_since(born)
            })
            .collect();
        if round == 0 {
            ages = seen;
        } else {
            assert_eq!(seen, ages, "not rolled again");
        }
        drop(held);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(ages.len() > 30, "another for each: {ages:?}");
    for age in &ages {
        assert!((TTL.mul_f64(0.8)..=TTL).contains(age), "{age:?}");
    }
    assert_eq!(server.accepted(), 40);
    let youngest = *ages.first().unwrap();
    tokio::time::sleep_until(born + youngest - Duration::from_millis(10)).await;
    assert_eq!(handle.status().open(), 40);
    tokio::time::sleep_until(born + TTL + Duration::from_millis(10)).await;
    assert_eq!(handle.status().closes[&CloseReason::Age], 40);
    at_rest(&handle).await;
}

type Stack = Exchange<
    Checkin<Checkout<Limited<Handshake<InMemory, Full<Bytes>>>, HttpConnection<Full<Bytes>>>>,
>;

fn stack(server: &Server, ttl: TtlLayer) -> (Stack, AgentHandle) {
    let checkout = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(1));
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(ttl)
        .layer(HandshakeLayer::new())
        .service(server.connector());
    (client, handle)
}

/// The first connection answers nothing, or `begin`; the others answer.
fn stalls_first(begin: &'static str) -> Server {
    Server::in_memory(move |mut conn: Conn| async move {
        if conn.index > 0 {
            return script::ok(conn).await;
        }
        conn.request().await;
        conn.send(begin).await;
        conn.stall().await;
    })
}

#[tokio::test(start_paused = true)]
async fn hard_ends_an_exchange_before_its_head() {
    let server = stalls_first("");
    let (client, handle) = stack(&server, TtlLayer::new(TTL).hard());
    let started = Instant::now();
    let stuck = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { fetch(&client, url).await }
    });
    settle().await;
    let next = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { fetch(&client, url).await }
    });
    settle().await;
    assert_eq!(handle.status().pending.values().sum::<usize>(), 1);
    let error = stuck.await.unwrap().unwrap_err();
    assert_eq!(started.elapsed().as_secs(), TTL.as_secs());
    assert!(!error.is_unsent() && !error.is_shut_down(), "{error:?}");
    assert!(error.connection().is_some());
    let answer = next.await.unwrap().expect("the slot passes on");
    assert_eq!(answer.body, "ok");
    assert_eq!(started.elapsed().as_secs(), TTL.as_secs());
    let status = handle.status();
    assert_eq!((status.closes[&CloseReason::Age], status.timeouts), (1, 1));
    eventually("the server sees it go", || server.open() == 1).await;
    // The other one's timer goes with it.
    handle.close_idle();
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn hard_ends_a_body_in_the_middle() {
    let server = stalls_first("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha");
    let ttl = TtlLayer::new(TTL).hard();
    let (client, handle) = stack(&server, ttl);
    let started = Instant::now();
    let response = client.clone().oneshot(get(server.url("/"))).await.unwrap();
    let error = read(response).await.expect_err("half of it");
    assert!(error.connection().is_some());
    assert_eq!(started.elapsed().as_secs(), TTL.as_secs());
    assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
    assert_eq!(handle.status().closes[&CloseReason::Age], 1);
    // The other one's timer goes with it.
    handle.close_idle();
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn without_hard_an_exchange_goes_on_to_its_end() {
    let server = Server::in_memory(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            tokio::time::sleep(3 * TTL).await;
            conn.respond("late").await;
        }
    });
    let (client, handle) = stack(&server, TtlLayer::new(TTL));
    for at in 1..=2 {
        assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "late");
        settle().await;
        assert_eq!(
            handle.status().closes[&CloseReason::Age],
            at,
            "and is not kept"
        );
    }
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

/// Idle it is closed at its TTL as any other, and its timer goes with it.
#[tokio::test(start_paused = true)]
async fn hard_ends_an_idle_connection_and_no_timer_is_left() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = stack(&server, TtlLayer::new(TTL).hard());
    fetch(&client, server.url("/")).await.unwrap();
    tokio::time::sleep(TTL + Duration::from_millis(10)).await;
    assert_eq!(handle.status().closes[&CloseReason::Age], 1);
    assert_eq!(handle.status().open(), 0);

    fetch(&client, server.url("/")).await.unwrap();
    drop(client);
    eventually("no task is left", || crate::support::alive_tasks() == 0).await;
    at_rest(&handle).await;
}
