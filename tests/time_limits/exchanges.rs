//! How long an exchange may take as a whole, and how long it may wait for the head of its response.

use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Waker};
use std::time::Duration;

use crate::support::agent::{Req, agent_paused, at_rest, fetch, get, post, read, send};
use crate::support::{Conn, CountingConnector, Gate, Server, script, settle};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tower::ServiceExt;
use tower::retry::Retry;
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{
    AgentHandle, CloseReason, Error, KeepAliveLayer, TimeoutKind,
    extensions::{RequestTimeout, ResponseTimeout},
};

const T: Duration = Duration::from_millis(100);
const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n";

type Layers = KeepAliveLayer<Full<Bytes>>;

/// Without the active timeout, which would end these exchanges as well.
fn layer() -> Layers {
    KeepAliveLayer::new().active_timeout(Duration::MAX)
}

fn within(limit: Duration) -> Layers {
    layer().request_timeout(limit)
}

/// Reads a request, sends this, and nothing more.
fn sends(text: &'static str) -> Server {
    Server::in_memory(move |mut conn| async move {
        conn.request().await;
        conn.send(text).await;
        conn.closed().await;
    })
}

/// Polls it until its request, the second one, is sent; nobody polls it after that.
async fn poll_until_sent<F: Future>(mut future: Pin<&mut F>, server: &Server) {
    let mut cx = Context::from_waker(Waker::noop());
    // A connection in memory cannot be looked at, and has two turns to say that it has closed.
    for _ in 0..3 {
        assert!(future.as_mut().poll(&mut cx).is_pending());
        yield_now().await;
    }
    settle().await;
    assert_eq!(server.requests(), 2);
}

/// What became of it, which took as long as this: timers go by milliseconds.
#[track_caller]
fn late(error: &Error, kind: TimeoutKind, limit: Duration, since: Instant) {
    let took = since.elapsed();
    assert!((limit..limit + limit / 10).contains(&took), "{took:?}");
    assert_eq!(error.timeout_kind(), Some(kind), "{error:?}");
    assert_eq!(error.timeout(), Some(limit));
    assert!(error.is_timeout() && !error.is_reset() && !error.is_connect());
    let text = error.to_string();
    assert!(text.contains(&format!("{limit:?}")), "{text}");
}

#[track_caller]
fn closed_by(handle: &AgentHandle, reason: CloseReason) {
    let status = handle.status();
    assert_eq!(status.closes, [(reason, 1)].into());
    assert_eq!((status.timeouts, status.errors), (1, 1));
    assert!(status.active.is_empty(), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_in_line_is_given_up_in_time() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(within(T).max_connections_per_host(1), server.connector());
    let mut unlimited = get(server.url("/"));
    unlimited
        .extensions_mut()
        .insert(RequestTimeout(Duration::MAX));
    let held = client.request(unlimited).await.unwrap();
    let start = Instant::now();
    let mut waits = pin!(client.request(get(server.url("/"))));
    let error = waits.as_mut().await.unwrap_err();
    late(&error, TimeoutKind::Request, T, start);
    assert!(error.is_unsent());
    // Not even a future that nobody drops stays in line.
    assert!(handle.status().pending.is_empty());
    read(held).await.unwrap();
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_time_is_over_is_not_sent_whatever_came_for_it() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody")
                .await;
        }
    });
    let (client, handle) = agent_paused(within(T).max_connections_per_host(1), server.connector());
    let first = client
        .clone()
        .oneshot(get(server.url("/first")))
        .await
        .unwrap();
    let mut second = pin!(send(&client, post(server.url("/second"), "pay")));
    assert!(
        second
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    read(first).await.unwrap();
    // A connection comes for it, and it is polled too late.
    sleep(T * 2).await;
    let error = second.await.unwrap_err();
    assert_eq!(
        error.timeout_kind(),
        Some(TimeoutKind::Request),
        "{error:?}"
    );
    assert!(error.is_unsent(), "{error:?}");
    assert_eq!(server.requests(), 1);
    // And the connection is as good as before.
    fetch(&client, server.url("/third")).await.unwrap();
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_its_connect_is_given_up_in_time() {
    let server = Server::in_memory(script::ok);
    let connector = CountingConnector::new(server.connector()).gate(&Gate::new());
    let (client, handle) = agent_paused(within(T), connector.clone());
    let start = Instant::now();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    late(&error, TimeoutKind::Request, T, start);
    assert!(error.is_unsent());
    at_rest(&handle).await;
    assert_eq!(handle.status().closes, [(CloseReason::Cancelled, 1)].into());
    assert_eq!(connector.alive(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_is_given_up_in_time() {
    for kind in [TimeoutKind::Request, TimeoutKind::Response] {
        // Not a word, the first half of a head, an interim response.
        for part in ["", "HTTP/1.1 200 OK\r\nx: ", "HTTP/1.1 103 Hints\r\n\r\n"] {
            let server = sends(part);
            let (layer, reason) = match kind {
                TimeoutKind::Request => (within(T), CloseReason::RequestTimeout),
                _ => (layer().response_timeout(T), CloseReason::ResponseTimeout),
            };
            let (client, handle) = agent_paused(layer, server.connector());
            let start = Instant::now();
            let error = fetch(&client, server.url("/")).await.unwrap_err();
            late(&error, kind, T, start);
            assert!(!error.is_unsent() && !error.is_reused());
            // It was the limit, and nothing below.
            assert!(std::error::Error::source(&error).is_none(), "{error:?}");
            closed_by(&handle, reason);
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_body_that_takes_too_long_fails() {
    for head in [
        HEAD,
        "HTTP/1.1 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nxx\r\n",
    ] {
        let server = Server::in_memory(move |mut conn| async move {
            conn.request().await;
            conn.send(head).await;
            conn.closed().await;
        });
        let (client, handle) = agent_paused(within(T), server.connector());
        let start = Instant::now();
        let response = client.request(get(server.url("/"))).await.unwrap();
        let mut body = response.into_body();
        let error = loop {
            match body.frame().await.expect("no end without an error") {
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        late(&error, TimeoutKind::Request, T, start);
        closed_by(&handle, CloseReason::RequestTimeout);
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_keeps_its_slot_no_longer_than_its_request_may_take() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.respond(&"x".repeat(1 << 20)).await;
        }
    });
    let (client, handle) = agent_paused(within(T).max_connections_per_host(1), server.connector());
    let start = Instant::now();
    let response = client.request(get(server.url("/"))).await.unwrap();
    // In line behind it for nearly as long.
    sleep(T / 2).await;
    let next = fetch(&client, server.url("/")).await.unwrap();
    assert!(!next.info.is_reused());
    let took = start.elapsed();
    assert!((T..T * 11 / 10).contains(&took), "{took:?}");
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Request));
    assert_eq!(
        handle.status().closes,
        [(CloseReason::RequestTimeout, 1)].into()
    );
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_future_that_nobody_polls_keeps_its_slot_no_longer_than_its_limits() {
    for (layer, reason) in [
        (within(T), CloseReason::RequestTimeout),
        (layer().response_timeout(T), CloseReason::ResponseTimeout),
    ] {
        let server = Server::in_memory(|mut conn| async move {
            while let Some(head) = conn.request().await {
                match head.target.as_str() {
                    "/never" => conn.closed().await,
                    _ => conn.respond("ok").await,
                }
            }
        });
        let layer = layer.max_connections_per_host(1);
        let (client, handle) = agent_paused(layer, server.connector());
        fetch(&client, server.url("/")).await.unwrap();
        let mut unpolled = pin!(client.request(get(server.url("/never"))));
        poll_until_sent(unpolled.as_mut(), &server).await;
        let mut next = get(server.url("/"));
        next.extensions_mut().insert(RequestTimeout(T * 10));
        send(&client, next).await.unwrap();
        assert_eq!(handle.status().closes, [(reason, 1)].into());
        assert!(unpolled.await.unwrap_err().is_timeout());
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_came_in_time_is_an_answer_however_late_its_caller_looks() {
    for body in ["late", ""] {
        let server = Server::in_memory(move |mut conn| async move {
            conn.request().await;
            conn.respond("first").await;
            while conn.request().await.is_some() {
                let length = body.len();
                conn.send(format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n"
                ))
                .await;
                // When the limit is over, and before its caller looks.
                sleep(T * 2).await;
                conn.send(body).await;
            }
        });
        let (client, handle) = agent_paused(layer().response_timeout(T), server.connector());
        fetch(&client, server.url("/")).await.unwrap();
        let mut unpolled = pin!(client.request(get(server.url("/"))));
        poll_until_sent(unpolled.as_mut(), &server).await;
        sleep(T * 3).await;
        let answer = read(unpolled.await.unwrap()).await.unwrap();
        assert_eq!(answer.body, body);
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_response_begins_with_the_end_of_the_request() {
    let server = Server::in_memory(|mut conn| async move {
        conn.head().await.expect("a request");
        // More than hyper and the pipe hold: the upload takes its time.
        sleep(T * 5).await;
        conn.body().await;
        sleep(T * 9 / 10).await;
        conn.respond("ok").await;
        conn.request().await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(layer().response_timeout(T), server.connector());
    let upload = || post(server.url("/"), vec![b'u'; 4 << 20]);
    assert_eq!(send(&client, upload()).await.unwrap().body, "ok");
    let start = Instant::now();
    let error = send(&client, upload()).await.unwrap_err();
    late(&error, TimeoutKind::Response, T, start);
    assert!(error.is_reused());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_response_that_has_begun_may_take_its_time() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.send(HEAD).await;
        sleep(T * 20).await;
        conn.send("late").await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(layer().response_timeout(T), server.connector());
    assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "late");
    at_rest(&handle).await;
}

/// Answers each request with its target, so many milliseconds late as that says.
async fn slow(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let wait = head.target.trim_start_matches('/').parse().unwrap();
        sleep(Duration::from_millis(wait)).await;
        conn.respond(&head.target).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_can_have_limits_of_its_own() {
    let server = Server::in_memory(slow);
    let both = layer().request_timeout(T * 2).response_timeout(T);
    let (client, handle) = agent_paused(both, server.connector());
    fn with<L: Clone + Send + Sync + 'static>(mut request: Req, limit: L) -> Req {
        request.extensions_mut().insert(limit);
        request
    }
    let to = |millis: u64| get(server.url(&format!("/{millis}")));
    let none = ResponseTimeout(Duration::MAX);
    // What fails closes its connection; what is served gives it to the next.
    let start = Instant::now();
    let error = send(&client, to(500)).await.unwrap_err();
    late(&error, TimeoutKind::Response, T, start);
    send(&client, with(to(150), none)).await.unwrap();
    let start = Instant::now();
    let error = send(&client, with(to(500), none)).await.unwrap_err();
    late(&error, TimeoutKind::Request, T * 2, start);
    assert!(error.is_reused());
    let long = RequestTimeout(T * 8);
    send(&client, with(with(to(500), none), long))
        .await
        .unwrap();
    let start = Instant::now();
    let error = send(&client, with(to(80), RequestTimeout(T / 2)))
        .await
        .unwrap_err();
    late(&error, TimeoutKind::Request, T / 2, start);
    let error = send(&client, with(to(0), RequestTimeout(Duration::ZERO)))
        .await
        .unwrap_err();
    assert!(error.is_timeout() && error.is_unsent());
    send(
        &client,
        with(with(to(86_400_000), none), RequestTimeout(Duration::MAX)),
    )
    .await
    .unwrap();
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_one_exchange_does_not_end_the_next() {
    let server = Server::in_memory(slow);
    let (client, handle) = agent_paused(layer().idle_timeout(T * 100), server.connector());
    let mut limited = get(server.url("/50"));
    limited.extensions_mut().insert(RequestTimeout(T));
    limited.extensions_mut().insert(ResponseTimeout(T));
    let first = send(&client, limited).await.unwrap();
    let next = fetch(&client, server.url("/1000")).await.unwrap();
    assert_eq!(next.info.id(), first.info.id());
    // Nor an idle connection.
    let mut limited = get(server.url("/0"));
    limited.extensions_mut().insert(RequestTimeout(T));
    send(&client, limited).await.unwrap();
    sleep(T * 3).await;
    let last = fetch(&client, server.url("/0")).await.unwrap();
    assert_eq!(last.info.id(), first.info.id());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_gives_up_before_the_limit_leaves_nothing_behind() {
    let server = sends(HEAD);
    let counting = CountingConnector::new(server.connector());
    let layer = within(T).response_timeout(T).max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, counting.clone());
    // Before the head, and in the middle of the body.
    drop(timeout(Duration::ZERO, client.request(get(server.url("/")))).await);
    let response = client.request(get(server.url("/"))).await.unwrap();
    drop(response);
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!((status.timeouts, counting.alive()), (0, 0));
    assert!(
        status.closes.contains_key(&CloseReason::Abandoned),
        "{:?}",
        status.closes
    );
}

#[tokio::test(start_paused = true)]
async fn a_retry_takes_it_for_what_it_is() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        conn.request().await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(layer().response_timeout(T), server.connector());
    let retrying = Retry::new(ReusedReset::new(), client);
    let first = retrying
        .clone()
        .oneshot(get(server.url("/")))
        .await
        .unwrap();
    read(first).await.unwrap();
    let error = retrying.oneshot(get(server.url("/"))).await.unwrap_err();
    assert!(error.is_reused() && !error.is_reset() && !error.is_unsent());
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Response));
    assert_eq!(server.requests(), 2, "it may have been carried out");
    at_rest(&handle).await;
}
