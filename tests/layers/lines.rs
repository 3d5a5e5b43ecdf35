//! Connections that are not HTTP are pooled as any other.

use std::time::Duration;

use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    AgentHandle, CloseReason, Scheduling,
    layers::{
        CheckinLayer, CheckoutError, CheckoutLayer, Denied, IdleEvictionLayer, MaxUsesLayer,
        PoolConfig,
    },
};

use crate::line::{Line, Lines, Shard, answer, maker};
use crate::support::agent::at_rest;
use crate::support::{Server, eventually, not_tiny, settle};

fn lines(server: &Server, limits: PoolConfig) -> (Lines, AgentHandle) {
    let checkout = CheckoutLayer::new(limits);
    let handle = checkout.handle();
    let lines = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(checkout)
        .service(maker(server));
    (lines, handle)
}

#[tokio::test]
async fn lines_are_reused() {
    let server = Server::in_memory(answer);
    let (lines, handle) = lines(&server, PoolConfig::new());
    for at in 1..=3 {
        let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
        assert_eq!(line.ask("hello").await.unwrap(), "hello!");
        use tower_keep_alive::custom::Poolable;
        assert_eq!(line.lifespan().uses(), at);
        assert_eq!(line.lifespan().is_reused(), at > 1);
    }
    assert_eq!(server.accepted(), 1);
    let status = handle.status();
    assert_eq!((status.created, status.reused, status.completed), (1, 2, 3));
    let keys: Vec<_> = status.idle.keys().map(ToString::to_string).collect();
    assert_eq!(keys, ["line:shard.internal:1:"]);

    let mut other = lines.clone().oneshot(Shard(2)).await.unwrap();
    other.ask("hello").await.unwrap();
    assert_eq!(server.accepted(), 2, "another key");
    drop(other);
    at_rest(&handle).await;
}

#[tokio::test]
async fn lines_are_limited_and_queued_for_in_order() {
    let server = Server::in_memory(answer);
    let limits = PoolConfig::new()
        .max_connections_per_host(1)
        .max_pending_per_host(2);
    let (lines, handle) = lines(&server, limits);
    let mut first = lines.clone().oneshot(Shard(1)).await.unwrap();
    let (done, mut order) = tokio::sync::mpsc::unbounded_channel();
    for name in ["a", "b"] {
        let (lines, done) = (lines.clone(), done.clone());
        tokio::spawn(async move {
            let mut line = lines.oneshot(Shard(1)).await.unwrap();
            done.send(line.ask(name).await.unwrap()).unwrap();
        });
        settle().await;
    }
    assert_eq!(handle.status().pending.values().sum::<usize>(), 2);
    let denied = lines.clone().oneshot(Shard(1)).await.unwrap_err();
    assert!(
        matches!(denied, CheckoutError::Denied(Denied::QueueFull(2))),
        "{denied:?}"
    );

    assert_eq!(first.ask("first").await.unwrap(), "first!");
    drop(first);
    assert_eq!(order.recv().await.unwrap(), "a!");
    assert_eq!(order.recv().await.unwrap(), "b!");
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
    assert_eq!(handle.status().completed, 3);
}

#[tokio::test(start_paused = true)]
async fn lines_are_evicted_when_idle_for_too_long() {
    let server = Server::in_memory(answer);
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let lines = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(IdleEvictionLayer::new(Duration::from_secs(4)))
        .service(maker(&server));
    let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
    line.ask("hello").await.unwrap();
    drop(line);
    tokio::time::sleep(Duration::from_millis(3_990)).await;
    assert_eq!(handle.status().open(), 1);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let status = handle.status();
    assert_eq!((status.open(), status.timeouts), (0, 1));
    assert_eq!(status.closes[&CloseReason::Idle], 1);
    eventually("the server sees it go", || server.open() == 0).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_line_closed_by_the_server_while_idle_is_found_stale() {
    if not_tiny("a look that waits first finds nothing") {
        return;
    }
    let server = Server::in_memory(answer);
    let (lines, handle) = lines(&server, PoolConfig::new().max_connections_per_host(1));
    let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
    assert_eq!(line.ask("bye").await.unwrap(), "bye!");
    drop(line);
    eventually("the server has closed", || server.open() == 0).await;
    let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
    assert_eq!(line.ask("hello").await.unwrap(), "hello!");
    drop(line);
    assert_eq!(server.accepted(), 2);
    let status = handle.status();
    assert_eq!((status.stale, status.closes[&CloseReason::Stale]), (1, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_line_given_up_in_the_middle_is_nobodys() {
    let server = Server::in_memory(answer);
    let (lines, handle) = lines(&server, PoolConfig::new().max_connections_per_host(1));
    let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
    let patience = Duration::from_millis(5);
    tokio::time::timeout(patience, line.ask("hush"))
        .await
        .unwrap_err();
    let waits = tokio::spawn(lines.clone().oneshot(Shard(1)));
    eventually("one in line", || handle.status().pending.len() == 1).await;
    drop(line);
    let mut line = waits.await.unwrap().unwrap();
    assert_eq!(line.ask("hello").await.unwrap(), "hello!");
    drop(line);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!((status.closed, status.open()), (1, 1));
}

#[tokio::test]
async fn a_line_that_fails_is_not_kept() {
    let server = Server::in_memory(|mut conn| async move {
        conn.read().await;
        conn.rst();
    });
    let (lines, handle) = lines(&server, PoolConfig::new());
    let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
    line.ask("hello").await.unwrap_err();
    drop(line);
    at_rest(&handle).await;
    assert_eq!(handle.status().open(), 0);
}

#[tokio::test]
async fn lines_are_used_up() {
    let server = Server::in_memory(answer);
    let checkout = CheckoutLayer::new(PoolConfig::new().scheduling(Scheduling::Fifo));
    let handle = checkout.handle();
    let lines = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(MaxUsesLayer::new(2))
        .layer(checkout)
        .service(maker(&server));
    for _ in 0..5 {
        let mut line = lines.clone().oneshot(Shard(1)).await.unwrap();
        line.ask("hello").await.unwrap();
    }
    assert_eq!(server.accepted(), 3);
    assert_eq!(handle.status().closes[&CloseReason::Uses], 2);
    at_rest(&handle).await;
}

/// A pool of one's own, given to two services that make the same.
#[tokio::test]
async fn two_services_can_share_a_pool() {
    use tower_keep_alive::layers::{Checkin, Checkout, Pool};
    let server = Server::in_memory(answer);
    let pool: Pool<Line> = Pool::new(PoolConfig::new());
    let handle = pool.handle();
    let one = Checkin::new(Checkout::with_pool(maker(&server), pool.clone()));
    let two = Checkin::new(Checkout::with_pool(maker(&server), pool));
    for service in [one.clone(), two, one] {
        let mut line = service.oneshot(Shard(1)).await.unwrap();
        line.ask("hello").await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(
        handle.status().closes[&CloseReason::Shutdown],
        1,
        "all are gone"
    );
    at_rest(&handle).await;
}
