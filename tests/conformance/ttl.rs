//! R. The TTL of connections.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower_keep_alive::{
    CloseReason, KeepAliveLayer,
    custom::{Clock, Moment},
};

use super::idle_timeout::idle_life;
use crate::support::agent::{agent, agent_over, agent_paused, at_rest, fetch, get, read};
use crate::support::{CountingConnector, Gate, Server, eventually, script, settle};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Takes as many milliseconds for each answer.
fn taking(millis: u64) -> Server {
    Server::in_memory(move |mut conn| async move {
        while conn.request().await.is_some() {
            sleep(ms(millis)).await;
            conn.respond("ok").await;
        }
    })
}

/// A clock that stands, and what moves it on.
fn hand_set_clock() -> (Clock, impl Fn(Duration)) {
    let now = Arc::new(Mutex::new(Moment::now()));
    let clock = {
        let now = now.clone();
        Clock::new(move || *now.lock().unwrap())
    };
    let pass = move |time: Duration| {
        let mut now = now.lock().unwrap();
        *now = now.checked_add(time).unwrap();
    };
    (clock, pass)
}

#[tokio::test(start_paused = true)]
async fn ak_25_a_ttl_interrupts_no_exchange() {
    let server = taking(200);
    let (client, handle) = agent_paused(KeepAliveLayer::new().ttl(ms(50)), server.connector());
    for _ in 0..2 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "ok"));
        assert!(!answer.info.is_reused());
        settle().await;
        assert_eq!(handle.status().open(), 0, "rotated where the exchange ends");
    }
    assert_eq!(server.accepted(), 2);
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Age, 2)].into());
    assert_eq!((status.completed, status.errors), (2, 0));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_25_within_its_ttl_a_connection_is_used_again() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(KeepAliveLayer::new().ttl(ms(1000)), server.connector());
    let first = fetch(&client, server.url("/")).await.unwrap();
    sleep(ms(100)).await;
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(first.info.id(), second.info.id());
    assert!(second.info.age() >= ms(100));
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_25_constant_traffic_is_rotated_too() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(KeepAliveLayer::new().ttl(ms(95)), server.connector());
    for _ in 0..30 {
        fetch(&client, server.url("/")).await.unwrap();
        sleep(ms(10)).await;
    }
    settle().await;
    // Ten requests each, from 0 to 90 ms of its age.
    assert_eq!(server.accepted(), 3);
    assert_eq!(handle.status().closes, [(CloseReason::Age, 3)].into());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_25_age_begins_when_the_connection_is_there() {
    let server = Server::in_memory(script::ok);
    let counting = CountingConnector::new(server.connector()).delay(ms(300));
    let (client, handle) = agent_paused(KeepAliveLayer::new().ttl(ms(100)), counting);
    fetch(&client, server.url("/")).await.unwrap();
    sleep(ms(90)).await;
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert!(second.info.is_reused());
    sleep(ms(11)).await;
    settle().await;
    assert_eq!(handle.status().closes, [(CloseReason::Age, 1)].into());
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_26_idle_time_is_the_shorter_of_idle_timeout_and_what_is_left_of_the_ttl() {
    for (idle_timeout, ttl, life, expected) in [
        (ms(4000), ms(200), 200, CloseReason::Age),
        (ms(500), ms(1000), 500, CloseReason::Idle),
        (Duration::MAX, ms(50), 50, CloseReason::Age),
        (ms(100), Duration::MAX, 100, CloseReason::Idle),
    ] {
        let server = Server::in_memory(script::ok);
        let layer = KeepAliveLayer::new().idle_timeout(idle_timeout).ttl(ttl);
        let (lived, reason) = idle_life(layer, &server).await.unwrap();
        assert!(lived.abs_diff(ms(life)) <= ms(2), "{life}: {lived:?}");
        assert_eq!(reason, expected);
    }
    // What is left of it: the exchange took some.
    let layer = KeepAliveLayer::new().ttl(ms(200));
    let (lived, reason) = idle_life(layer, &taking(120)).await.unwrap();
    assert!(lived.abs_diff(ms(80)) <= ms(2), "{lived:?}");
    assert_eq!(reason, CloseReason::Age);
}

#[tokio::test(start_paused = true)]
async fn ak_26_a_ttl_that_is_over_counts_as_a_timeout() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(KeepAliveLayer::new().ttl(ms(100)), server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    sleep(ms(200)).await;
    let status = handle.status();
    assert_eq!((status.timeouts, status.errors, status.open()), (1, 0, 0));
    assert!(
        !fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_26_age_is_looked_at_when_one_is_picked() {
    let server = Server::in_memory(script::ok);
    let (clock, pass) = hand_set_clock();
    // Without an idle timeout, and no timer of the runtime ever fires.
    let layer = KeepAliveLayer::new()
        .idle_timeout(Duration::MAX)
        .ttl(ms(50))
        .clock(clock);
    let (client, handle) = agent_over(layer, server.connector());
    let first = fetch(&client, server.url("/")).await.unwrap();
    pass(ms(49));
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(first.info.id(), second.info.id());
    pass(ms(1));
    let third = fetch(&client, server.url("/")).await.unwrap();
    assert!(!third.info.is_reused());
    settle().await;
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes, [(CloseReason::Age, 1)].into());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_27_a_connection_past_its_ttl_is_not_handed_over() {
    let server = taking(100);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .ttl(ms(80));
    let (client, handle) = agent_paused(layer, counting.clone());
    let begun = Instant::now();
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        assert!(!answer.unwrap().info.is_reused());
    }
    assert!(begun.elapsed() <= ms(310), "nobody waits for anything else");
    settle().await;
    assert_eq!((counting.made(), counting.max_alive()), (3, 1));
    assert_eq!(handle.status().closes, [(CloseReason::Age, 3)].into());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_27_what_is_left_of_a_ttl_is_no_limit_for_the_exchange_it_is_handed_to() {
    let server = taking(100);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .ttl(ms(150));
    let (client, handle) = agent_paused(layer, counting.clone());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    let reused: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().info.is_reused())
        .collect();
    // The second began at an age of 100 ms, and ended at 200.
    assert_eq!(reused, [false, true, false]);
    settle().await;
    assert_eq!((counting.made(), counting.max_alive()), (2, 1));
    let status = handle.status();
    assert_eq!((status.closes[&CloseReason::Age], status.errors), (1, 0));
    at_rest(&handle).await;
}

/// A caller in line is handed a connection within its limits, and comes for it when its runtime has time: with a look
/// in time and before that look is over, or without one; and with a connect of its own under way, or in line for it.
async fn comes_late(
    layer: KeepAliveLayer<Full<Bytes>>,
    reason: CloseReason,
    looks: bool,
    connects: bool,
) {
    let server = Server::in_memory(script::ok);
    let gate = Gate::new();
    gate.open(1);
    let counting = CountingConnector::new(server.connector()).gate(&gate);
    let (clock, pass) = hand_set_clock();
    let layer = layer.max_connections_per_host(if connects { 2 } else { 1 });
    let (client, handle) = agent_over(layer.clock(clock), counting.clone());
    let first = client.request(get(server.url("/"))).await.unwrap();
    let mut late = pin!(fetch(&client, server.url("/")));
    assert!((&mut late).now_or_never().is_none(), "it waits");
    read(first).await.unwrap();
    eventually("it is handed over", || handle.status().completed == 1).await;
    settle().await;
    if looks {
        assert!((&mut late).now_or_never().is_none(), "it looks");
    }
    pass(ms(100));
    gate.open(1);
    let late = late.await.unwrap();
    assert!(
        !late.info.is_reused(),
        "{reason:?}, looks {looks}, connects {connects}"
    );
    settle().await;
    assert_eq!((counting.made(), server.accepted()), (2, 2));
    let status = handle.status();
    assert_eq!((status.stale, status.reused), (0, 0));
    assert_eq!(status.closes, [(reason, 1)].into());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_27_who_comes_late_for_a_hand_over_gets_nothing_past_its_time() {
    for (looks, connects) in [(false, false), (true, false), (false, true), (true, true)] {
        let layer = || KeepAliveLayer::new().idle_timeout(Duration::MAX);
        comes_late(layer().ttl(ms(100)), CloseReason::Age, looks, connects).await;
        comes_late(
            layer().idle_timeout(ms(100)),
            CloseReason::Idle,
            looks,
            connects,
        )
        .await;
    }
}

/// On a socket, which is looked at in one step.
#[tokio::test]
async fn ak_27_who_comes_late_to_a_socket_gets_nothing_past_its_time() {
    let server = Server::ok().await;
    let (clock, pass) = hand_set_clock();
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .ttl(ms(100))
        .clock(clock);
    let (client, handle) = agent(layer);
    let first = client.request(get(server.url("/"))).await.unwrap();
    let mut late = pin!(fetch(&client, server.url("/")));
    assert!((&mut late).now_or_never().is_none(), "it waits");
    read(first).await.unwrap();
    eventually("it is handed over", || handle.status().completed == 1).await;
    pass(ms(100));
    let late = late.await.unwrap();
    assert!(!late.info.is_reused());
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes, [(CloseReason::Age, 1)].into());
    at_rest(&handle).await;
}
