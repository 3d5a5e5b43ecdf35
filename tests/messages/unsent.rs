//! Requests that never reached a server are sent again.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::agent::{agent, agent_paused, at_rest, fetch, post, read, send};
use crate::support::{Conn, CountingConnector, RefusingPort, Server, script};
use bytes::Bytes;
use http_body_util::Full;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tower::ServiceExt;
use tower::retry::Retry;
use tower::retry::budget::TpsBudget;
use tower::util::MapResponse;
use tower_keep_alive::KeepAliveLayer;
use tower_keep_alive::retry::Unsent;

type Layers = KeepAliveLayer<Full<Bytes>>;

#[tokio::test]
async fn a_refused_connect_is_tried_again_whatever_the_method() {
    let refusing = RefusingPort::new();
    let (client, handle) = agent(Layers::new());
    let quick = Unsent::new()
        .backoff(Duration::ZERO, Duration::from_millis(1), 0.0)
        .unwrap();
    for (attempts, made) in [(1, 1), (2, 3), (5, 8)] {
        let client = Retry::new(quick.clone().attempts(attempts), client.clone());
        let error = client
            .oneshot(post(refusing.url("/"), "x"))
            .await
            .unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        assert_eq!(handle.status().create_errors, made, "{attempts} attempts");
    }
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_pauses_grow_and_are_not_the_same_for_all() {
    let server = Server::in_memory(script::ok);
    let connector = CountingConnector::new(server.connector());
    let (client, handle) = agent_paused(Layers::new(), connector.clone());
    let mut pauses = Vec::new();
    for _ in 0..8 {
        connector.fail_next(3);
        let client = Retry::new(Unsent::new().attempts(4), client.clone());
        let start = Instant::now();
        let answer = send(&client, post(server.url("/"), "x")).await.unwrap();
        assert_eq!(answer.body, "ok");
        handle.close_idle();
        pauses.push(start.elapsed());
    }
    // 50, 100 and 200 ms, and up to as much again; timers go by milliseconds.
    let all = Duration::from_millis(350)..=Duration::from_millis(704);
    assert!(pauses.iter().all(|it| all.contains(it)), "{pauses:?}");
    assert!(pauses.iter().any(|it| *it != pauses[0]), "{pauses:?}");
    assert_eq!(connector.made(), 8 * 4);
    at_rest(&handle).await;
}

#[tokio::test]
async fn no_attempt_goes_beyond_the_budget() {
    let refusing = RefusingPort::new();
    let (client, handle) = agent(Layers::new());
    // One more attempt in ten seconds.
    let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 0, 0.1));
    let quick = Unsent::new()
        .backoff(Duration::ZERO, Duration::from_millis(1), 0.0)
        .unwrap();
    let policy = quick.attempts(3).budget(budget);
    let client = Retry::new(policy, client);
    for _ in 0..10 {
        fetch(&client, refusing.url("/")).await.unwrap_err();
    }
    assert_eq!(handle.status().create_errors, 10, "nothing was paid in");
    let server = Server::ok().await;
    for _ in 0..10 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    for _ in 0..10 {
        fetch(&client, refusing.url("/")).await.unwrap_err();
    }
    assert_eq!(handle.status().create_errors, 21, "ten answers pay for one");
    at_rest(&handle).await;
}

/// Answers one request, reads half of the next one, and closes.
async fn closes_in_the_middle(mut conn: Conn) {
    conn.request().await;
    conn.respond("ok").await;
    conn.head().await;
    conn.fin().await;
}

#[tokio::test]
async fn what_a_server_may_have_seen_is_not_sent_again() {
    let server = Server::start(closes_in_the_middle).await;
    let (client, handle) = agent(Layers::new());
    let client = Retry::new(Unsent::new(), client);
    fetch(&client, server.url("/")).await.unwrap();
    let sent = client.oneshot(post(server.url("/"), "x")).await;
    assert!(!sent.unwrap_err().is_unsent());
    assert_eq!((server.accepted(), server.requests()), (1, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_agent_that_is_overloaded_gets_no_more_load() {
    let server = Server::ok().await;
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent(layer.max_pending_per_host(0));
    let held = client.request(post(server.url("/"), "x")).await.unwrap();
    let start = Instant::now();
    let retrying = Retry::new(Unsent::new(), client);
    let error = fetch(&retrying, server.url("/")).await.unwrap_err();
    assert!(error.is_queue_full());
    assert!(
        start.elapsed() < Duration::from_millis(50),
        "no pause was made"
    );
    read(held).await.unwrap();
    at_rest(&handle).await;
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let second = Duration::from_secs(1);
    assert!(Unsent::new().backoff(second * 2, second, 0.5).is_err());
    assert!(Unsent::new().backoff(second, second, -1.0).is_err());
    assert!(
        Unsent::new()
            .backoff(Duration::ZERO, Duration::ZERO, 0.0)
            .is_err()
    );
    assert!(std::panic::catch_unwind(|| Unsent::new().attempts(0)).is_err());
}

/// A transport of somebody's own that writes and panics.
struct PanicsAfterWrite<IO>(IO);

impl<IO: AsyncRead + Unpin> AsyncRead for PanicsAfterWrite<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for PanicsAfterWrite<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.0).poll_write(cx, buf);
        panic!("{written:?}, and the transport panics, as the test wants it to");
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_transport_was_writing_when_it_panicked_may_have_been_sent() {
    for content in ["", "content"] {
        let server = Server::in_memory(script::ok);
        let connector = MapResponse::new(server.connector(), PanicsAfterWrite);
        let (client, handle) = agent_paused(Layers::new().max_connections_per_host(1), connector);
        for failed in 1..=2 {
            let error = send(&client, post(server.url("/"), content)).await;
            let error = error.unwrap_err();
            assert!(!error.is_unsent(), "{content:?}: {error:?}");
            assert!(!error.is_request_body() && !error.is_reset(), "{error:?}");
            assert_eq!(handle.status().failed, failed);
        }
        at_rest(&handle).await;
        assert_eq!((handle.status().created, handle.status().closed), (2, 2));
    }
}
