//! A request's body and the windows of the server.

use std::time::Duration;

use crate::support::agent::{agent_paused, at_rest, fetch, post, send};
use crate::support::frames::{flag, kind};
use crate::support::http2::{Conn, Server};
use tokio::time::{Instant, sleep};
use tower_keep_alive::{KeepAliveLayer, Protocol, TimeoutKind};

const T: Duration = Duration::from_millis(100);
/// Of each stream and of the connection, at first.
const WINDOW: u32 = 65_535;

/// More than four windows, in one piece.
fn body() -> Vec<u8> {
    (0..300_000_u32).map(|it| (it % 251) as u8).collect()
}

fn layer() -> KeepAliveLayer<http_body_util::Full<bytes::Bytes>> {
    let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
    layer.response_timeout(T).active_timeout(20 * T)
}

/// Reads so many bytes of a body, gives nothing of the windows back, and says which stream it was.
async fn take(conn: &mut Conn, mut bytes: u32) -> u32 {
    loop {
        let frame = conn.frame().await.expect("a frame");
        if frame.kind == kind::DATA {
            let length = frame.payload.len() as u32;
            assert!(length <= bytes, "it keeps to the window");
            bytes -= length;
            assert_eq!(frame.has(flag::END_STREAM), is_whole(conn));
            if bytes == 0 {
                return frame.stream;
            }
        }
    }
}

fn is_whole(conn: &Conn) -> bool {
    conn.log().requests()[0].body.len() == body().len()
}

/// Reads the whole body, and waits before each part of it for more than half of what the response may take.
async fn read_slowly(conn: &mut Conn) -> u32 {
    conn.open([]).await;
    let mut stream = take(conn, WINDOW).await;
    // Steps that cut frames, and steps that have room for several.
    for by in [1, 16_384, 16_385, 50_000, 100_000, 300_000 - 248_305] {
        sleep(T * 6 / 10).await;
        conn.window_update(0, by).await;
        conn.window_update(stream, by).await;
        stream = take(conn, by).await;
    }
    assert!(is_whole(conn));
    stream
}

#[tokio::test(start_paused = true)]
async fn the_time_for_the_response_does_not_begin_while_the_body_waits_for_the_window() {
    let server = Server::in_memory(|mut conn| async move {
        let stream = read_slowly(&mut conn).await;
        conn.respond(stream, 200, b"whole").await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(layer(), server.connector());
    let start = Instant::now();
    let answer = send(&client, post(server.url("/"), body())).await.unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.body), (200, "whole"));
    assert!(start.elapsed() > 3 * T, "the server reads slowly");
    assert_eq!(server.log.requests()[0].body, body());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_time_for_the_response_begins_with_the_end_of_the_body() {
    let server = Server::in_memory(|mut conn| async move {
        read_slowly(&mut conn).await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(layer(), server.connector());
    let start = Instant::now();
    let sent = send(&client, post(server.url("/"), body())).await;
    let error = sent.expect_err("nothing is answered");
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Response));
    let took = start.elapsed();
    let expected = 6 * (T * 6 / 10) + T;
    assert!((expected..expected + T / 10).contains(&took), "{took:?}");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_gets_no_window_is_ended_by_the_active_timeout() {
    let server = Server::in_memory(|mut conn| async move {
        conn.open([]).await;
        take(&mut conn, WINDOW).await;
        while let Some(frame) = conn.frame().await {
            assert_ne!(frame.kind, kind::DATA, "beyond the window");
            if frame.kind == kind::PING && !frame.has(flag::ACK) {
                conn.raw(kind::PING, flag::ACK, 0, &frame.payload).await;
            }
            if frame.kind == kind::HEADERS {
                conn.respond(frame.stream, 200, b"next").await;
            }
        }
    });
    let (client, handle) = agent_paused(layer(), server.connector());
    let start = Instant::now();
    let sent = send(&client, post(server.url("/"), body())).await;
    let error = sent.expect_err("the body is not read");
    assert_eq!(
        error.timeout_kind(),
        Some(TimeoutKind::Inactivity),
        "{error:?}"
    );
    let took = start.elapsed();
    assert!((20 * T..24 * T).contains(&took), "{took:?}");
    // The stream was reset, and the connection goes on.
    let next = fetch(&client, server.url("/next")).await.unwrap();
    assert_eq!(next.body, "next");
    server.log.seen(|seen| {
        assert_eq!((seen.connections, seen.resets.len()), (1, 1));
        assert_eq!(seen.requests[0].body.len(), WINDOW as usize);
    });
    at_rest(&handle).await;
}
