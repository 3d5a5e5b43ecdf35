//! G. Timeouts, as Node has them.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Channel};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_keep_alive::{
    CloseReason, Error, KeepAliveLayer, TimeoutKind, extensions::InactivityTimeout,
};

use crate::support::agent::{
    Answer, Req, agent_paused, at_rest, fetch, get, paused_clock, protocol, read, send,
};
use crate::support::{
    Conn, CountingConnector, Gate, Over, Server, alive_tasks, eventually, not_over_h2, over,
};

pub(super) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// What came of it, and how long that took.
pub(super) async fn timed<F: Future>(future: F) -> (F::Output, Duration) {
    let start = Instant::now();
    let output = future.await;
    (output, start.elapsed())
}

/// A GET with a limit of its own.
pub(super) fn within(max: Duration, url: String) -> Req {
    let mut request = get(url);
    request.extensions_mut().insert(InactivityTimeout(max));
    request
}

/// Never too early; a silence is found out at the latest when it has lasted an eighth longer, and timers go by
/// milliseconds.
#[track_caller]
pub(super) fn took(elapsed: Duration, expected: Duration) {
    // Over HTTP/2 it is measured in nine steps, and each may end a millisecond late.
    let late = ms(if over() == Over::Http2 { 10 } else { 5 });
    assert!(
        (expected..expected + expected / 8 + late).contains(&elapsed),
        "{elapsed:?}, not {expected:?}"
    );
}

#[track_caller]
pub(super) fn silent_for(answer: Result<Answer, Error>, max: Duration) -> Error {
    let error = answer.expect_err("nobody answers");
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
    assert_eq!(error.timeout(), Some(max));
    // What a retry would ask for: nobody knows whether the server has acted on it.
    assert!(!error.is_reset() && !error.is_unsent() && !error.is_connect());
    error
}

/// Whether a silence ends the connection. Over HTTP/2 it ends the stream: the connection answers a PING, and goes on.
pub(super) fn silence_ends_connection() -> bool {
    over() != Over::Http2
}

/// How many connections so many silences have ended, which is what agentkeepalive's counters count.
pub(super) fn ended_by(silences: u64) -> u64 {
    if silence_ends_connection() {
        silences
    } else {
        0
    }
}

/// `AgentStatus::closes` after one silence.
pub(super) fn closes_after_silence() -> BTreeMap<CloseReason, u64> {
    let ended = silence_ends_connection().then_some((CloseReason::Silence, 1));
    ended.into_iter().collect()
}

/// Answers each request with its target, so many milliseconds late as that says; `/never` never.
pub(super) async fn late(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let Ok(wait) = head.target.trim_start_matches('/').parse() else {
            if silence_ends_connection() {
                return conn.closed().await;
            }
            continue;
        };
        sleep(ms(wait)).await;
        conn.respond(&head.target).await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_62_the_timeout_begins_with_the_connect() {
    let server = Server::in_memory(late);
    let gate = Gate::new();
    let counting = CountingConnector::new(server.connector()).gate(&gate);
    let layer = KeepAliveLayer::new().active_timeout(ms(100));
    let (client, handle) = agent_paused(layer, counting.clone());
    let (answer, elapsed) = timed(fetch(&client, server.url("/0"))).await;
    let error = answer.expect_err("no connect comes through");
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
    assert_eq!(error.timeout(), Some(ms(100)));
    assert!(error.is_connect() && error.is_unsent());
    took(elapsed, ms(100));
    assert_eq!((counting.made(), counting.alive()), (1, 0));
    let status = handle.status();
    assert_eq!(
        (status.created, status.create_errors, status.timeouts),
        (1, 1, 1)
    );
    assert_eq!(status.closes, [(CloseReason::ConnectTimeout, 1)].into());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_62_a_byte_in_either_direction_begins_it_anew() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        let parts = [
            "HTTP/1.1 103 Early Hints\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
            "o",
            "k",
        ];
        // Over HTTP/2 each part is a frame, whose first byte comes with its last one.
        let longest = if over() == Over::Http2 {
            usize::MAX
        } else {
            20
        };
        for piece in parts.iter().flat_map(|it| it.as_bytes().chunks(longest)) {
            sleep(ms(70)).await;
            conn.send(piece).await;
        }
        conn.closed().await;
    });
    let layer = KeepAliveLayer::new().active_timeout(ms(100));
    let handle = layer.handle();
    let layer = layer.protocol(protocol()).clock(paused_clock());
    let client = layer.layer(server.connector());
    let (mut upload, body) = Channel::<Bytes>::new(1);
    let request: Request<BoxBody<Bytes, _>> =
        Request::post(server.url("/")).body(body.boxed()).unwrap();
    let uploading = async {
        for _ in 0..5 {
            sleep(ms(70)).await;
            upload.send_data(Bytes::from_static(b"piece")).await.ok();
        }
        drop(upload);
    };
    let answering = async { read(client.clone().oneshot(request).await?).await };
    let ((), (answer, elapsed)) = tokio::join!(uploading, timed(answering));
    assert_eq!(answer.unwrap().body, "ok");
    assert!(elapsed > ms(600), "{elapsed:?}");
    assert_eq!(server.heads()[0].body.len(), 25);
    assert_eq!(handle.status().timeouts, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_63_the_requests_own_timeout_takes_precedence() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new().active_timeout(ms(50));
    let (client, handle) = agent_paused(layer, server.connector());
    send(&client, within(ms(100), server.url("/80")))
        .await
        .expect("within its own");
    // At the release it goes back to the agent's.
    let (answer, elapsed) = timed(fetch(&client, server.url("/80"))).await;
    let error = silent_for(answer, ms(50));
    assert!(error.is_reused());
    took(elapsed, ms(50));
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().timeouts, ended_by(1));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_63_the_requests_own_timeout_does_not_pass_on_with_its_connection() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .active_timeout(ms(50));
    let (client, handle) = agent_paused(layer, server.connector());
    let patient = send(&client, within(ms(100), server.url("/80")));
    let next = fetch(&client, server.url("/70"));
    let (patient, (next, elapsed)) = tokio::join!(patient, timed(next));
    patient.expect("within its own");
    assert!(silent_for(next, ms(50)).is_reused(), "it was handed over");
    took(elapsed, ms(80 + 50));
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_64_silence_ends_the_request_and_its_connection_once() {
    let server = Server::in_memory(late);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().active_timeout(ms(100));
    let (client, handle) = agent_paused(layer, counting.clone());
    let (answer, elapsed) = timed(fetch(&client, server.url("/300"))).await;
    silent_for(answer, ms(100));
    took(elapsed, ms(100));
    let ended = ended_by(1);
    assert_eq!(counting.alive() as u64, 1 - ended);
    if !silence_ends_connection() {
        // Until then the server does not come to the next request.
        sleep(ms(200)).await;
    }
    // The answer that comes too late is nobody's.
    let next = fetch(&client, server.url("/0")).await.unwrap();
    assert_eq!(next.body, "/0");
    assert_eq!(next.info.is_reused(), !silence_ends_connection());
    sleep(ms(400)).await;
    let status = handle.status();
    assert_eq!(
        (status.timeouts, status.errors, status.completed),
        (ended, ended, 1)
    );
    assert_eq!(status.closes, closes_after_silence());
    assert_eq!(server.accepted() as u64, 1 + ended);
    at_rest(&handle).await;
}

/// Each answer hints at 2 s, which is 1 s less the margin, and comes 1.5 s late.
fn hinting() -> Server {
    Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            sleep(ms(1500)).await;
            conn.respond_with("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2", "ok")
                .await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn node_65_a_hint_does_not_time_the_next_request() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = hinting();
    let layer = KeepAliveLayer::new().active_timeout(ms(30_000));
    let (client, handle) = agent_paused(layer, server.connector());
    for _ in 0..3 {
        // Idle for a part of the hint: its timer is under way when the next request comes.
        sleep(ms(500)).await;
        fetch(&client, server.url("/")).await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!((handle.status().timeouts, handle.status().reused), (0, 2));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_65_a_hint_does_not_time_a_hand_over() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = hinting();
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .active_timeout(ms(30_000));
    let (client, handle) = agent_paused(layer, server.connector());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(server.accepted(), 1);
    assert_eq!((handle.status().timeouts, handle.status().reused), (0, 2));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_65_after_idle_time_the_active_timeout_is_whole() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new()
        .idle_timeout(ms(1000))
        .active_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/0")).await.unwrap();
    // The timer of the first use runs out while nobody uses the connection.
    sleep(ms(950)).await;
    let (answer, elapsed) = timed(fetch(&client, server.url("/90"))).await;
    assert!(answer.unwrap().info.is_reused());
    took(elapsed, ms(90));
    sleep(ms(950)).await;
    let (answer, elapsed) = timed(fetch(&client, server.url("/never"))).await;
    silent_for(answer, ms(100));
    took(elapsed, ms(100));
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_66_connecting_has_a_timeout_of_its_own() {
    let server = Server::in_memory(late);
    let slow = CountingConnector::new(server.connector()).delay(ms(80));
    for (connect, active, expected) in [
        (ms(50), ms(1000), Err(ms(50))),
        (ms(200), ms(50), Ok(ms(80))),
        (Duration::MAX, ms(50), Ok(ms(80))),
    ] {
        let layer = KeepAliveLayer::new()
            .active_timeout(active)
            .connect_timeout(connect);
        let (client, handle) = agent_paused(layer, slow.clone());
        let (answer, elapsed) = timed(fetch(&client, server.url("/0"))).await;
        match expected {
            Ok(time) => {
                answer.unwrap();
                took(elapsed, time);
            }
            Err(time) => {
                let error = answer.unwrap_err();
                assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
                assert_eq!(error.timeout(), Some(time));
                took(elapsed, time);
            }
        }
        let failed = u64::from(expected.is_err());
        assert_eq!(handle.status().create_errors, failed);
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_66_the_requests_own_timeout_is_its_connects_too() {
    let server = Server::in_memory(late);
    let slow = CountingConnector::new(server.connector()).delay(ms(80));
    let layer = KeepAliveLayer::new().active_timeout(ms(100));
    let (client, handle) = agent_paused(layer, slow.clone());
    let (answer, elapsed) = timed(send(&client, within(ms(50), server.url("/0")))).await;
    let error = answer.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
    assert_eq!(error.timeout(), Some(ms(50)));
    took(elapsed, ms(50));
    // Each phase has the whole of it.
    let (answer, elapsed) = timed(send(&client, within(ms(90), server.url("/85")))).await;
    answer.unwrap();
    took(elapsed, ms(80 + 85));
    assert_eq!(handle.status().create_errors, 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_66_reuse_adds_no_tasks() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new().active_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/0")).await.unwrap();
    // Long enough for a look at the queue to be over: there is one at the most, however many reuses there are.
    sleep(ms(100)).await;
    let tasks = alive_tasks();
    for _ in 0..100 {
        fetch(&client, server.url("/1")).await.unwrap();
        send(&client, within(ms(50), server.url("/1")))
            .await
            .unwrap();
    }
    sleep(ms(100)).await;
    assert_eq!(alive_tasks(), tasks);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_67_no_clock_runs_in_line() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .active_timeout(ms(100));
    let (client, handle) = agent_paused(layer, server.connector());
    let requests = (0..6).map(|n| {
        let url = server.url("/80");
        // The agent's timeout, and the request's own.
        let request = if n % 2 == 0 {
            get(url)
        } else {
            within(ms(90), url)
        };
        timed(send(&client, request))
    });
    for (n, (answer, elapsed)) in (1..).zip(join_all(requests).await) {
        answer.unwrap();
        took(elapsed, ms(80) * n);
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().timeouts, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_67_a_wait_in_line_can_be_bounded() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .active_timeout(ms(1000))
        .checkout_timeout(ms(150));
    let (client, handle) = agent_paused(layer, server.connector());
    let first = fetch(&client, server.url("/300"));
    let second = timed(fetch(&client, server.url("/0")));
    let look = async {
        eventually("one is in line", || {
            handle.status().pending.values().sum::<usize>() == 1
        })
        .await;
    };
    let (first, (second, elapsed), ()) = tokio::join!(first, second, look);
    first.expect("it has its connection");
    let error = second.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Checkout));
    assert_eq!(error.timeout(), Some(ms(150)));
    assert!(error.is_unsent() && error.connection().is_none());
    took(elapsed, ms(150));
    assert_eq!(server.requests(), 1);
    // Nobody closed anything for it.
    assert_eq!((handle.status().timeouts, handle.status().closed), (0, 0));
    at_rest(&handle).await;
}
