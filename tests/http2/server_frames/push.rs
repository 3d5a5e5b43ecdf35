//! A push, which every client here declines: it ends the connection, on whatever stream it comes.

use http_body_util::BodyExt;
use tower::ServiceExt;
use tower_keep_alive::{Error, KeepAliveLayer};

use super::{answer, http2, the_next_is_answered};
use crate::support::agent::{Client, at_rest, fetch, get, post, send};
use crate::support::eventually;
use crate::support::frames::flag::END_HEADERS;
use crate::support::frames::{code, encode, frame, kind};
use crate::support::http2::{Conn, Server};

/// On which stream the push comes.
#[derive(Clone, Copy, Debug)]
enum PushOn {
    /// Its response is being read.
    InProgress,
    /// The client has reset it: its caller has dropped the response. `h2` 0.4.20 panics there in a debug build.
    WasReset,
    /// Its response was read to its end.
    Over,
}

fn push(stream: u32) -> Vec<u8> {
    let request = encode([
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/pushed"),
    ]);
    let payload = [&[0, 0, 0, 2], &request[..]].concat();
    frame(kind::PUSH_PROMISE, END_HEADERS, stream, &payload)
}

/// `/held` and `/pushed`, and the push once `/go` has come as well.
async fn pushes(conn: &mut Conn, how: PushOn, piece: usize) {
    let mut pushed = 0;
    for _ in 0..2 {
        let request = conn.request().await.expect("two requests");
        if request.path() == "/pushed" {
            pushed = request.stream;
        }
    }
    conn.headers(pushed, &[(":status", "200")], false).await;
    match how {
        PushOn::Over => conn.data(pushed, b"all of it", true).await,
        _ => conn.data(pushed, b"a part", false).await,
    }
    conn.request().await.expect("a third request");
    let resets = usize::from(matches!(how, PushOn::WasReset));
    while conn.log().seen(|seen| seen.resets.len() < resets) {
        conn.next().await.expect("a reset");
    }
    for piece in push(pushed).chunks(piece) {
        conn.send(piece).await;
        tokio::task::yield_now().await;
    }
    conn.closed().await;
}

async fn the_client_ends(how: PushOn, piece: usize) {
    let server = Server::start(move |mut conn| async move {
        conn.open([]).await;
        match conn.index {
            0 => pushes(&mut conn, how, piece).await,
            _ => answer(&mut conn).await,
        }
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let held = fetch(&client, server.url("/held"));
    let (held, ()) = tokio::join!(held, read_pushed(&client, &server, how));
    is_told(&held.expect_err("nobody answers it"));
    eventually("the server is told why", || {
        let go_aways = server.log.seen(|seen| seen.go_aways.clone());
        go_aways.contains(&(0, code::PROTOCOL_ERROR))
    })
    .await;
    the_next_is_answered(&client, &server).await;
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!((status.created, status.closed), (2, 1), "{status:?}");
}

fn is_told(error: &Error) {
    assert_eq!(error.http2_reason(), Some(code::PROTOCOL_ERROR));
    assert!(!error.is_unsent() && !error.is_refused(), "{error:?}");
}

async fn read_pushed(client: &Client, server: &Server, how: PushOn) {
    let request = get(server.url("/pushed"));
    let response = client.clone().oneshot(request).await.expect("a head");
    let mut body = response.into_body();
    match how {
        PushOn::Over => {
            let body = body.collect().await.expect("all of it");
            assert_eq!(body.to_bytes(), "all of it");
        }
        PushOn::WasReset => drop(body),
        PushOn::InProgress => {
            let part = body.frame().await.expect("a part").unwrap();
            assert_eq!(part.into_data().unwrap(), "a part");
            let (go, end) = tokio::join!(go(client, server), body.frame());
            is_told(&end.expect("no end").expect_err("no end"));
            return is_told(&go);
        }
    }
    is_told(&go(client, server).await);
}

/// It is not sent again, as a GET would be.
async fn go(client: &Client, server: &Server) -> Error {
    let sent = send(client, post(server.url("/go"), "")).await;
    sent.expect_err("nobody answers it")
}

#[tokio::test]
async fn a_push_ends_the_connection_on_whatever_stream_it_comes() {
    for how in [PushOn::InProgress, PushOn::WasReset, PushOn::Over] {
        for piece in [1, 8, 1_000] {
            the_client_ends(how, piece).await;
        }
    }
}
