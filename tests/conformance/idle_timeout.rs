//! Q. The idle timeout of agentkeepalive.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep, timeout};
use tower::{Layer, ServiceExt};
use tower_keep_alive::{
    CloseReason, KeepAliveLayer,
    connect::Destination,
    custom::Poolable,
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, HttpConnection,
        IdleEvictionLayer, PoolConfig, TtlLayer,
    },
};

use crate::support::agent::{agent_paused, at_rest, fetch, get, paused_clock, protocol, send};
use crate::support::{CountingConnector, Server, eventually, not_over_h2, script, settle};

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// An in-memory server that answers each request with these lines added to its head.
pub(super) fn saying(lines: &'static str) -> Server {
    Server::in_memory(move |mut conn| async move {
        while conn.request().await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\n{lines}");
            conn.respond_with(&head, "ok").await;
        }
    })
}

/// How long an agent keeps a connection idle after one exchange with `server`, and why it closes it then; `None` if it
/// is not kept at all. Needs paused time, and is right to the millisecond.
pub(super) async fn idle_life(
    layer: KeepAliveLayer<Full<Bytes>>,
    server: &Server,
) -> Option<(Duration, CloseReason)> {
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    settle().await;
    let released = Instant::now();
    let is_kept = !handle.status().idle.is_empty();
    while !handle.status().idle.is_empty() {
        sleep(ms(1)).await;
        assert!(released.elapsed() < ms(120_000), "it is kept for ever");
    }
    let life = released.elapsed();
    at_rest(&handle).await;
    let reason = *handle.status().closes.keys().next().unwrap();
    assert_eq!(handle.status().closed, 1);
    is_kept.then_some((life, reason))
}

#[tokio::test(start_paused = true)]
async fn ak_18_an_idle_connection_goes_quietly_when_its_time_is_up() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    sleep(ms(99)).await;
    settle().await;
    assert_eq!(handle.status().idle.len(), 1);
    sleep(ms(11)).await;
    settle().await;
    let status = handle.status();
    assert_eq!(status.open(), 0);
    assert_eq!((status.timeouts, status.errors, status.closed), (1, 0, 1));
    assert_eq!(status.closes, [(CloseReason::Idle, 1)].into());
    assert_eq!(server.open(), 0);
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
async fn ak_18_each_of_many_has_its_own_time() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let service = head.target[1..].parse().unwrap();
            sleep(ms(service)).await;
            conn.respond("ok").await;
        }
    });
    let layer = KeepAliveLayer::new().idle_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    let (a, b, c) = tokio::join!(
        fetch(&client, server.url("/10")),
        fetch(&client, server.url("/30")),
        fetch(&client, server.url("/60")),
    );
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    // At 60 ms now. They were idle from 10, 30 and 60 ms on.
    for (pause, left) in [(49, 3), (2, 2), (18, 2), (2, 1), (28, 1), (2, 0)] {
        sleep(ms(pause)).await;
        settle().await;
        assert_eq!(handle.status().open(), left, "after a pause of {pause} ms");
    }
    assert_eq!(handle.status().timeouts, 3);
    assert_eq!(server.open(), 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_19_idle_time_begins_where_the_body_was_read_to_its_end() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    let response = client.request(get(server.url("/"))).await.unwrap();
    // All of it has come long before it is read.
    sleep(ms(250)).await;
    assert_eq!(handle.status().active.len(), 1);
    response.into_body().collect().await.unwrap();
    sleep(ms(99)).await;
    settle().await;
    assert_eq!(handle.status().idle.len(), 1);
    sleep(ms(2)).await;
    settle().await;
    assert_eq!(handle.status().idle.len(), 0);
    assert_eq!(handle.status().timeouts, 1);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_19_every_release_begins_anew() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    for turn in 0..6 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(answer.info.uses(), turn + 1);
        sleep(ms(80)).await;
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().reused, 5);
    sleep(ms(30)).await;
    settle().await;
    assert_eq!(handle.status().open(), 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_19_a_hand_over_begins_anew_too() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            sleep(ms(80)).await;
            conn.respond("ok").await;
        }
    });
    let layer = KeepAliveLayer::new()
        .idle_timeout(ms(100))
        .max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, server.connector());
    let url = server.url("/");
    let answers = tokio::join!(
        fetch(&client, &url),
        fetch(&client, &url),
        fetch(&client, &url)
    );
    assert!(answers.0.is_ok() && answers.1.is_ok() && answers.2.is_ok());
    sleep(ms(99)).await;
    settle().await;
    assert_eq!(handle.status().idle.len(), 1);
    sleep(ms(2)).await;
    settle().await;
    assert_eq!(handle.status().open(), 0);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_20_no_idle_timeout_means_none() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(Duration::MAX);
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    sleep(Duration::from_secs(24 * 60 * 60)).await;
    settle().await;
    assert_eq!(handle.status().idle.len(), 1);
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().timeouts, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_20_zero_keeps_none_idle() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(Duration::ZERO);
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    fetch(&client, server.url("/")).await.unwrap();
    settle().await;
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().open(), 0);
    assert_eq!(handle.status().closes, [(CloseReason::Idle, 2)].into());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_20_the_idle_timeout_is_not_for_use() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            sleep(ms(400)).await;
            conn.respond("ok").await;
        }
    });
    let layer = KeepAliveLayer::new().idle_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
        sleep(ms(50)).await;
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().timeouts, 0);
    sleep(ms(60)).await;
    settle().await;
    assert_eq!(handle.status().closes, [(CloseReason::Idle, 1)].into());
    at_rest(&handle).await;
}

/// The recipe of users: what the server says about its own idle time. The TTL stands beside it.
#[tokio::test(start_paused = true)]
async fn ak_21_a_connections_own_idle_time_does_not_outlive_its_ttl() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let long = saying("Keep-Alive: timeout=4");
    let layer = || KeepAliveLayer::new().idle_timeout(Duration::MAX);
    let (life, reason) = idle_life(layer().ttl(ms(200)), &long).await.unwrap();
    assert!((ms(198)..=ms(202)).contains(&life), "{life:?}");
    assert_eq!(reason, CloseReason::Age);
    let (life, reason) = idle_life(layer().ttl(ms(5000)), &long).await.unwrap();
    assert!((ms(2998)..=ms(3002)).contains(&life), "{life:?}");
    assert_eq!(reason, CloseReason::Idle);
}

/// A policy of the user's own, in a layer of its own: it tightens, on whichever side of the others it stands.
#[tokio::test(start_paused = true)]
async fn ak_21_a_policy_for_one_connection_can_only_shorten() {
    for (own, ttl, expected, reason) in [
        (3000, 200, 200, CloseReason::Age),
        (100, 5000, 100, CloseReason::Idle),
        (8000, 60_000, 4000, CloseReason::Idle),
    ] {
        let server = Server::in_memory(script::ok);
        let checkout = CheckoutLayer::new(PoolConfig::new().clock(paused_clock()));
        let handle = checkout.handle();
        let limited = IdleEvictionLayer::new(ms(4000)).layer(
            TtlLayer::new(ms(ttl)).layer(
                HandshakeLayer::new()
                    .protocol(protocol())
                    .layer(server.connector())
                    .map_request(|destination: Destination| destination),
            ),
        );
        let policy = limited.map_response(move |mut conn: HttpConnection<Full<Bytes>>| {
            conn.lifespan_mut().limit_idle(ms(own));
            conn
        });
        let client = ExchangeLayer::new()
            .protocol(protocol())
            .layer(CheckinLayer::new().layer(checkout.layer(policy)));
        send(&client, get(server.url("/"))).await.unwrap();
        let released = Instant::now();
        eventually("it is closed", || handle.status().open() == 0).await;
        let life = released.elapsed();
        let range = ms(expected - 2)..=ms(expected + 2);
        assert!(range.contains(&life), "{own} and {ttl}: {life:?}");
        assert_eq!(handle.status().closes, [(reason, 1)].into());
        at_rest(&handle).await;
    }
}

/// Closes what has been idle for a second, as a server does; `said` in every response.
fn closing_after_a_second(said: &'static str) -> Server {
    Server::in_memory(move |mut conn| async move {
        while let Ok(Some(_)) = timeout(ms(1000), conn.request()).await {
            conn.respond_with(&format!("HTTP/1.1 200 OK\r\n{said}"), "ok")
                .await;
        }
        conn.fin().await;
    })
}

#[tokio::test(start_paused = true)]
async fn ak_22_a_shorter_idle_time_than_the_servers_avoids_its_resets() {
    let server = closing_after_a_second("");
    let layer = KeepAliveLayer::new().idle_timeout(ms(900));
    let (client, handle) = agent_paused(layer, server.connector());
    for _ in 0..10 {
        fetch(&client, server.url("/")).await.unwrap();
        sleep(ms(999)).await;
    }
    settle().await;
    assert_eq!(server.accepted(), 10);
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Idle, 10)].into());
    assert_eq!((status.completed, status.stale), (10, 0));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_23_the_servers_word_is_not_overridden() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    for (hint, idle_timeout, expected) in [
        ("Keep-Alive: timeout=0", 4000, None),
        ("Keep-Alive: timeout=1", 4000, None),
        ("Keep-Alive: timeout=2", 4000, Some(1000)),
        ("Keep-Alive: timeout=3", 4000, Some(2000)),
        ("Keep-Alive: timeout=60", 4000, Some(4000)),
        ("Keep-Alive: timeout=60", 500, Some(500)),
    ] {
        let server = saying(hint);
        let layer = KeepAliveLayer::new().idle_timeout(ms(idle_timeout));
        let life = idle_life(layer, &server).await;
        let Some(expected) = expected else {
            assert_eq!(life, None, "{hint}");
            continue;
        };
        let (life, reason) = life.unwrap();
        let range = ms(expected - 2)..=ms(expected + 2);
        assert!(range.contains(&life), "{hint}: {life:?}");
        assert_eq!(reason, CloseReason::Idle);
    }
}

#[tokio::test(start_paused = true)]
async fn ak_24_a_server_that_says_one_second_and_means_it_resets_nobody() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = closing_after_a_second("Keep-Alive: timeout=1");
    let counting = CountingConnector::new(server.connector());
    let (client, handle) = agent_paused(KeepAliveLayer::new(), counting.clone());
    for _ in 0..6 {
        fetch(&client, server.url("/")).await.unwrap();
        sleep(ms(1000)).await;
    }
    assert_eq!((server.accepted(), counting.alive()), (6, 0));
    let status = handle.status();
    assert_eq!((status.completed, status.stale, status.reused), (6, 0, 0));
    at_rest(&handle).await;
}
