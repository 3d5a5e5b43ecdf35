//! A request's body and the windows of the server.

use std::convert::Infallible;
use std::time::Duration;

use crate::support::agent::{agent_paused, at_rest, fetch, paused_clock, post, read, send};
use crate::support::frames::{code, flag, kind, setting};
use crate::support::http2::{Conn, Server};
use bytes::Bytes;
use futures_util::stream::iter;
use http::{HeaderMap, HeaderValue, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};
use tower_keep_alive::{KeepAliveLayer, Protocol, TimeoutKind};

const T: Duration = Duration::from_millis(100);
/// Of each stream and of the connection, at first.
const WINDOW: u32 = 65_535;

/// More than four windows, in one piece.
fn body() -> Vec<u8> {
    (0..300_000_u32).map(|it| (it % 251) as u8).collect()
}

fn layer<B>() -> KeepAliveLayer<B> {
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

/// A window full, in pieces, and these trailers.
fn streamed(trailers: Option<HeaderMap>) -> BoxBody<Bytes, Infallible> {
    let pieces = [20_000, 45_534, 1].map(|it| Frame::data(Bytes::from(vec![b'p'; it])));
    let frames = pieces.into_iter().chain(trailers.map(Frame::trailers));
    BodyExt::boxed(StreamBody::new(iter(frames.map(Ok).collect::<Vec<_>>())))
}

#[tokio::test(start_paused = true)]
async fn a_body_that_fills_the_window_needs_no_more_of_it_for_its_end() {
    let whole = Full::new(Bytes::from(vec![b'w'; WINDOW as usize]));
    let sum = HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]);
    // What each of them ends with.
    let kinds = [
        (BodyExt::boxed(whole), kind::DATA, false),
        (streamed(None), kind::DATA, true),
        (streamed(Some(sum)), kind::HEADERS, false),
    ];
    for (body, ends_with, is_empty) in kinds {
        let server = Server::in_memory(move |mut conn| async move {
            conn.open([]).await;
            let mut left = WINDOW as usize;
            loop {
                let frame = conn.frame().await.expect("a frame");
                if frame.kind == kind::DATA {
                    left -= frame.payload.len();
                }
                if matches!(frame.kind, kind::DATA | kind::HEADERS) && frame.has(flag::END_STREAM) {
                    assert_eq!(
                        (left, frame.kind, frame.payload.is_empty()),
                        (0, ends_with, is_empty)
                    );
                    conn.respond(frame.stream, 200, b"whole").await;
                    break;
                }
            }
            conn.closed().await;
        });
        let layer = layer().clock(paused_clock());
        let handle = layer.handle();
        let client = layer.layer(server.connector());
        let request = Request::post(server.url("/")).body(body).unwrap();
        let answer = read(client.oneshot(request).await.unwrap()).await.unwrap();
        assert_eq!(answer.body, "whole");
        let has_trailers = !server.log.requests()[0].trailers.is_empty();
        assert_eq!(has_trailers, ends_with == kind::HEADERS);
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_body_is_sent_again_if_it_was_refused_within_its_first_window() {
    let server = Server::in_memory(|mut conn| async move {
        conn.open([]).await;
        let refused = take(&mut conn, WINDOW).await;
        conn.reset(refused, code::REFUSED_STREAM).await;
        conn.window_update(0, WINDOW).await;
        let again = conn.request().await.unwrap();
        conn.respond(again.stream, 200, b"whole").await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(layer(), server.connector());
    let answer = send(&client, post(server.url("/"), body())).await.unwrap();
    assert_eq!(answer.body, "whole");
    let sent: Vec<_> = server
        .log
        .requests()
        .iter()
        .map(|it| it.body.len())
        .collect();
    assert_eq!(sent, [WINDOW as usize, body().len()]);
    at_rest(&handle).await;
}

/// Lets all of the body come at once, reads it at leisure, and says which stream it was. All of it takes longer than `T`, and
/// what the transport and the server hold takes less.
async fn read_at_leisure(conn: &mut Conn) -> u32 {
    conn.open([(setting::INITIAL_WINDOW_SIZE, 1 << 20)]).await;
    conn.window_update(0, 1 << 20).await;
    loop {
        let frame = conn.frame().await.expect("a frame");
        if frame.kind == kind::DATA {
            sleep(T / 10).await;
            if frame.has(flag::END_STREAM) {
                assert!(is_whole(conn));
                return frame.stream;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_for_the_response_does_not_begin_while_the_body_waits_for_the_transport() {
    let server = Server::in_memory(|mut conn| async move {
        let stream = read_at_leisure(&mut conn).await;
        conn.respond(stream, 200, b"whole").await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(layer(), server.connector());
    let start = Instant::now();
    let answer = send(&client, post(server.url("/"), body())).await.unwrap();
    assert_eq!(answer.body, "whole");
    assert!(start.elapsed() > T * 3 / 2, "the server reads slowly");
    // The next one has its time, too.
    let start = Instant::now();
    let late = send(&client, post(server.url("/late"), "x")).await;
    let error = late.expect_err("nothing is answered");
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Response));
    assert!((T..T * 11 / 10).contains(&start.elapsed()));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_written_slowly_is_not_silent() {
    let server = Server::in_memory(|mut conn| async move {
        let stream = read_at_leisure(&mut conn).await;
        conn.respond(stream, 200, b"whole").await;
        conn.closed().await;
    });
    let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
    let (client, handle) = agent_paused(layer.active_timeout(T), server.connector());
    let start = Instant::now();
    let answer = send(&client, post(server.url("/"), body())).await.unwrap();
    assert_eq!(answer.body, "whole");
    assert!(start.elapsed() > T * 3 / 2, "the server reads slowly");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_large_body_does_not_put_off_the_time_for_the_response_to_another_request() {
    let server = Server::in_memory(|mut conn| async move {
        conn.open([(setting::INITIAL_WINDOW_SIZE, 1 << 20)]).await;
        conn.window_update(0, 1 << 20).await;
        while let Some(frame) = conn.frame().await {
            if frame.kind == kind::DATA {
                sleep(T / 10).await;
            }
        }
    });
    let (client, handle) = agent_paused(layer(), server.connector());
    let start = Instant::now();
    let large = async {
        let large = send(&client, post(server.url("/"), vec![0; 900_000])).await;
        (large, start.elapsed())
    };
    let small = async {
        sleep(T).await;
        let small = send(&client, post(server.url("/small"), "x")).await;
        (small, start.elapsed())
    };
    let ((large, large_took), (small, small_took)) = tokio::join!(large, small);
    for answer in [large, small] {
        let error = answer.expect_err("nothing is answered");
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Response));
    }
    assert!(large_took > 5 * T, "{large_took:?}");
    assert!(small_took < 4 * T, "{small_took:?}");
    at_rest(&handle).await;
}
