//! Servers that speak something else than HTTP/1, which they were asked in.

use std::error::Error as _;

use bytes::Bytes;
use http_body_util::Full;
use tower_keep_alive::{Error, KeepAliveLayer};

use crate::support::agent::{agent, at_rest, fetch, post};
use crate::support::tls::localhost;
use crate::support::{Conn, Server, not_tiny, only_over_tcp};

/// Asks twice, with room for one connection at a time.
async fn asked_twice(url: &str) -> Error {
    let layer = KeepAliveLayer::<Full<Bytes>>::new().max_connections_per_host(1);
    let (client, handle) = agent(layer);
    fetch(&client, url).await.unwrap_err();
    let error = fetch(&client, url).await.unwrap_err();
    let status = handle.status();
    assert_eq!((status.created, status.closed), (2, 2));
    assert!(!error.is_unsent() && !error.is_connect(), "{error:?}");
    assert!(!error.is_reset() && !error.is_timeout(), "{error:?}");
    at_rest(&handle).await;
    error
}

/// Reads a request, and sends these bytes.
async fn saying(bytes: &'static [u8]) -> Server {
    Server::start(move |mut conn: Conn| async move {
        conn.request().await;
        conn.send(bytes).await;
        conn.fin().await;
    })
    .await
}

const TLS: &str = "the server seems to speak TLS on this port: the URI has to begin with https://";

#[tokio::test]
async fn a_server_that_answers_http_with_an_alert_of_tls_is_named_with_what_to_do() {
    for alert in [
        // RFC 8446 §6: unexpected_message, with the versions that servers write into it.
        b"\x15\x03\x00\x00\x02\x02\x0a",
        b"\x15\x03\x01\x00\x02\x02\x0a",
        b"\x15\x03\x03\x00\x02\x02\x46",
    ] {
        let server = saying(alert).await;
        let error = asked_twice(&server.url("/")).await;
        assert_eq!(error.to_string(), TLS);
        assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
    }
}

/// A server that closes with a part of the request unread resets the connection.
#[tokio::test]
async fn an_alert_of_tls_is_read_however_the_connection_ends_and_however_much_is_uploaded() {
    for resets in [false, true] {
        for length in [0, 100, 1_000_000] {
            let server = Server::start(move |mut conn: Conn| async move {
                conn.read().await;
                conn.send(b"\x15\x03\x01\x00\x02\x02\x46").await;
                match resets {
                    true => conn.rst(),
                    false => conn.fin().await,
                }
            })
            .await;
            let (client, handle) = agent(KeepAliveLayer::new());
            let request = post(server.url("/"), vec![b'x'; length]);
            let error = client.request(request).await.unwrap_err();
            assert_eq!(error.to_string(), TLS, "{resets}, {length}");
            assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
            assert_eq!(server.accepted(), 1);
            at_rest(&handle).await;
        }
    }
}

#[tokio::test]
async fn a_server_of_tls_that_is_asked_in_plain_http_is_named_with_what_to_do() {
    if only_over_tcp("the server speaks TLS, and the client does not") {
        return;
    }
    let server = Server::start_tls(localhost().server(), |conn: Conn| conn.stall()).await;
    let error = asked_twice(&server.url("/").replace("https:", "http:")).await;
    assert_eq!(error.to_string(), TLS);
    assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
}

/// As nginx and Go do.
#[tokio::test]
async fn an_http_response_of_a_server_of_tls_is_a_response() {
    let server = Server::start(|mut conn: Conn| async move {
        conn.request().await;
        let said = "The plain HTTP request was sent to HTTPS port";
        conn.respond_with("HTTP/1.1 400 Bad Request", said).await;
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(answer.status, 400);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_speaks_only_http_2_is_named_with_what_to_do() {
    if not_tiny("the first frame is recognised if its head comes in one piece") {
        return;
    }
    let server = saying(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 100]).await;
    let error = asked_twice(&server.url("/")).await;
    let words = "the server speaks HTTP/2 without negotiation, and not HTTP/1: set Protocol::Http2 (feature `http2`)";
    assert_eq!(error.to_string(), words);
    assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
}

#[tokio::test]
async fn what_nobody_knows_is_no_valid_response_and_may_pass() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.6\r\n"[..],
        &[21, 2, 0],
        &[0, 0, 8, 6, 0, 0, 0, 0, 0],
    ] {
        let server = saying(bytes).await;
        let error = asked_twice(&server.url("/")).await;
        let words = "what the server sent is not a valid HTTP/1 response";
        assert_eq!(error.to_string(), words);
        assert!(error.source().is_some());
        assert!(!error.is_protocol() && !error.is_permanent(), "{error:?}");
    }
}
