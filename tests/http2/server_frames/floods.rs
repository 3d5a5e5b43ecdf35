//! What comes without end: it costs a connection at the most, and no memory.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tower_keep_alive::KeepAliveLayer;

use super::{answer, http2, the_next_is_answered, words};
use crate::support::agent::{at_rest, fetch, post, send};
use crate::support::frames::{code, encode, flag, frame, kind, setting};
use crate::support::http2::{Conn, Server};

/// More than the buffers of two sockets can be.
const MORE_THAN_BUFFERS: usize = 64 * 1024 * 1024;

/// A client that is asked for more than it can write stops reading; if it did not, its memory would grow.
const STEP: usize = 64 * 1024;

/// An agent that gives up on what does not move.
fn impatient() -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().active_timeout(Duration::from_millis(200))
}

/// Sends `frames` again and again and reads nothing, until the client is gone: how many bytes that took.
async fn flood(conn: &mut Conn, frames: &[u8]) -> usize {
    let many = frames.repeat(STEP / frames.len() + 1);
    let mut sent = 0;
    while sent < MORE_THAN_BUFFERS && conn.try_send(&many).await {
        sent += many.len();
    }
    sent
}

/// After the first request of its first connection, a server floods it with what is made for its stream.
async fn server_that_floods(frames: fn(u32) -> (Vec<u8>, Vec<u8>)) -> Server {
    Server::start(move |mut conn| async move {
        conn.open([]).await;
        if conn.index > 0 {
            return answer(&mut conn).await;
        }
        let stream = conn.request().await.expect("a request").stream;
        let (first, again) = frames(stream);
        conn.send(&first).await;
        let sent = flood(&mut conn, &again).await;
        assert!(sent < MORE_THAN_BUFFERS, "the client takes in {sent} bytes");
    })
    .await
}

#[tokio::test]
async fn pings_and_settings_without_end_are_an_error() {
    let floods: [fn(u32) -> (Vec<u8>, Vec<u8>); 2] = [
        |_| (Vec::new(), frame(kind::PING, 0, 0, &[0; 8])),
        |_| (Vec::new(), frame(kind::SETTINGS, 0, 0, &[])),
    ];
    for frames in floods {
        let server = server_that_floods(frames).await;
        let (client, handle) = http2(impatient());
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert!(words(&error).contains("floods"), "{error:?}");
        the_next_is_answered(&client, &server).await;
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn fields_and_frames_without_end_are_an_error() {
    let floods: [fn(u32) -> (Vec<u8>, Vec<u8>); 3] = [
        // CONTINUATION, each with a field.
        |it| {
            let first = frame(kind::HEADERS, 0, it, &encode([(":status", "200")]));
            let field = encode([("x", "0123456789".repeat(100))]);
            (first, frame(kind::CONTINUATION, 0, it, &field))
        },
        // CONTINUATION of nothing.
        |it| {
            let first = frame(kind::HEADERS, 0, it, &encode([(":status", "200")]));
            (first, frame(kind::CONTINUATION, 0, it, &[]))
        },
        // DATA of nothing.
        |it| {
            let block = encode([(":status", "200")]);
            let first = frame(kind::HEADERS, flag::END_HEADERS, it, &block);
            (first, frame(kind::DATA, 0, it, &[]))
        },
    ];
    for frames in floods {
        let server = server_that_floods(frames).await;
        let (client, handle) = http2(impatient());
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert!(error.http2_reason().is_some(), "{error:?}");
        the_next_is_answered(&client, &server).await;
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn fields_that_are_packed_small_and_unpacked_too_large_are_an_error() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            if request.path() == "/next" {
                conn.respond(request.stream, 200, b"ok").await;
                continue;
            }
            // A field of 3,000 bytes goes into the table, and is named ten thousand times by a byte.
            let mut block = encode([(":status", "200")]);
            block.extend_from_slice(&[0x40, 1, b'x', 0x7f, 0xb9, 0x16]);
            block.extend_from_slice(&[b'y'; 3_000]);
            block.extend_from_slice(&[0xbe; 10_000]);
            let flags = flag::END_HEADERS | flag::END_STREAM;
            conn.raw(kind::HEADERS, flags, request.stream, &block).await;
        }
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.http2_reason().is_some(), "{error:?}");
    the_next_is_answered(&client, &server).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_resets_every_stream_fails_those_and_no_others() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            match request.path() {
                "/next" => conn.respond(request.stream, 200, b"ok").await,
                _ => conn.reset(request.stream, code::INTERNAL_ERROR).await,
            }
        }
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    for _ in 0..2_000 {
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        let reason = error.http2_reason();
        assert_eq!(reason, Some(code::INTERNAL_ERROR), "{error:?}");
    }
    the_next_is_answered(&client, &server).await;
    server.log.seen(|seen| assert_eq!(seen.connections, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_window_that_never_opens_is_a_silence() {
    let server = Server::start(|mut conn| async move {
        conn.open([(setting::INITIAL_WINDOW_SIZE, 0)]).await;
        answer(&mut conn).await;
    })
    .await;
    let (client, handle) = http2(impatient());
    // The window is known.
    the_next_is_answered(&client, &server).await;
    let error = send(&client, post(server.url("/"), "nobody takes this"));
    let error = error.await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    the_next_is_answered(&client, &server).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_window_that_opens_by_a_byte_at_a_time_lets_a_body_through() {
    let body = "a body of some bytes".repeat(20);
    let length = body.len();
    let server = Server::start(move |mut conn| async move {
        conn.open([(setting::INITIAL_WINDOW_SIZE, 0)]).await;
        while let Some(next) = conn.frame().await {
            if next.kind == kind::SETTINGS && !next.has(flag::ACK) {
                conn.raw(kind::SETTINGS, flag::ACK, 0, &[]).await;
            }
            // Of DATA there is a byte.
            if next.kind == kind::HEADERS || !next.payload.is_empty() && next.kind == kind::DATA {
                conn.window_update(next.stream, 1).await;
            }
            if let Some(request) = conn.take_request() {
                let expected = if request.path() == "/next" { 0 } else { length };
                assert_eq!(request.body.len(), expected);
                conn.respond(request.stream, 200, b"ok").await;
            }
        }
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    the_next_is_answered(&client, &server).await;
    let answer = send(&client, post(server.url("/"), body)).await.unwrap();
    assert_eq!(answer.body, "ok");
    at_rest(&handle).await;
}
