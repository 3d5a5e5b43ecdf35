//! Peers that do not speak HTTP/2, or not to its end.

use tower_keep_alive::KeepAliveLayer;

use crate::http2;
use crate::support::agent::{at_rest, fetch};
use crate::support::frames::{code, flag, kind};
use crate::support::http2::Server;
use crate::support::{Conn, Server as RawServer};
use crate::{answer, the_next_is_answered};

#[tokio::test]
async fn a_server_that_closes_at_once_is_no_answer() {
    let server = RawServer::start(|conn: Conn| async move { conn.fin().await }).await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(!error.is_timeout(), "{error:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_answer_to_what_was_answered_is_for_nobody() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        let first = conn.request().await.unwrap();
        conn.respond(first.stream, 200, b"ok").await;
        let second = conn.request().await.unwrap();
        // The stream has ended long ago.
        conn.headers(first.stream, &[(":status", "200")], false)
            .await;
        conn.raw(kind::DATA, flag::END_STREAM, first.stream, b"old")
            .await;
        conn.respond(second.stream, 200, b"ok").await;
        answer(&mut conn).await;
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    the_next_is_answered(&client, &server).await;
    match fetch(&client, server.url("/second")).await {
        Ok(answer) => assert_eq!(answer.body, "ok"),
        Err(error) => assert_eq!(error.http2_reason(), Some(code::STREAM_CLOSED), "{error:?}"),
    }
    the_next_is_answered(&client, &server).await;
    at_rest(&handle).await;
}
