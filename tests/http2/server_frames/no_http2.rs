//! Peers that do not speak HTTP/2, or not to its end.

use std::time::Duration;

use tower_keep_alive::KeepAliveLayer;

use super::http2;
use super::{answer, the_next_is_answered, words};
use crate::support::agent::{at_rest, fetch, post};
use crate::support::frames::{code, flag, frame, kind};
use crate::support::http2::Server;
use crate::support::tls::localhost;
use crate::support::{Conn, Server as RawServer, only_over_tcp};

const TLS: &str = "the server seems to speak TLS on this port: the URI has to begin with https://";

#[tokio::test]
async fn a_server_that_answers_in_http_1_is_an_error_that_says_so() {
    let server = RawServer::start(|mut conn: Conn| async move {
        conn.read().await;
        let answer = "HTTP/1.1 400 Bad Request\r\ncontent-length: 3\r\n\r\nno\n";
        conn.send(answer).await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    for tries in 1..=3 {
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert!(words(&error).contains("HTTP/1"), "{error:?}");
        assert!(!error.is_timeout() && !error.is_refused(), "{error:?}");
        assert_eq!(server.accepted(), tries, "it is not asked twice");
    }
    at_rest(&handle).await;
}

/// It may be one of HTTP/1, or one that is not well: so the error says both, and another attempt may help.
#[tokio::test]
async fn a_server_that_ends_the_connection_without_a_byte_may_not_speak_http_2() {
    for reads in [false, true] {
        for abruptly in [false, true] {
            let server = RawServer::start(move |mut conn: Conn| async move {
                if reads {
                    conn.read().await;
                }
                match abruptly {
                    true => conn.rst(),
                    false => conn.fin().await,
                }
            })
            .await;
            let (client, handle) = http2(KeepAliveLayer::new());
            for tries in 1..=2 {
                let error = fetch(&client, server.url("/")).await.unwrap_err();
                let said = error.to_string();
                let words = "before the server sent anything: it may not speak HTTP/2 without negotiation; for HTTP/1, \
                             send the request with Version::HTTP_11, and without Protocol::Http2";
                assert!(said.contains(words), "{error:?}");
                assert!(error.is_reset() && !error.is_timeout(), "{error:?}");
                assert!(!error.is_protocol() && !error.is_permanent());
                assert_eq!(server.accepted(), tries, "it is not asked twice");
            }
            at_rest(&handle).await;
        }
    }
}

#[tokio::test]
async fn a_server_that_closes_after_its_settings_speaks_http_2() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        conn.request().await;
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_reset(), "{error:?}");
    assert!(!words(&error).contains("negotiation"), "{error:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_answers_with_an_alert_of_tls_is_an_error_that_says_so() {
    for (version, resets) in [(0, false), (1, false), (3, false), (1, true)] {
        let server = RawServer::start(move |mut conn: Conn| async move {
            conn.read().await;
            conn.send([21, 3, version, 0, 2, 2, 10]).await;
            match resets {
                true => conn.rst(),
                false => conn.closed().await,
            }
        })
        .await;
        let (client, handle) = http2(KeepAliveLayer::new());
        for length in [0, 100, 1_000_000] {
            let request = post(server.url("/"), vec![b'x'; length]);
            let error = client.request(request).await.unwrap_err();
            assert_eq!(error.to_string(), TLS, "{version}, {resets}, {length}");
            assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
        }
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn each_of_those_who_ask_a_server_of_tls_at_once_is_told_so() {
    if only_over_tcp("the server speaks TLS, and the client does not") {
        return;
    }
    let server = RawServer::start_tls(localhost().server(), |conn: Conn| conn.stall()).await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let url = server.url("/").replace("https:", "http:");
    let (a, b, c) = tokio::join!(
        fetch(&client, &url),
        fetch(&client, &url),
        fetch(&client, &url)
    );
    for answer in [a, b, c] {
        let error = answer.unwrap_err();
        assert_eq!(error.to_string(), TLS);
        assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_preface_that_never_ends_is_waited_for_as_long_as_an_answer() {
    for part in [0, 3, 9, 12] {
        let server = Server::start(move |mut conn| async move {
            if conn.preface().await && conn.index == 0 {
                let whole = frame(kind::SETTINGS, 0, 0, &[0; 6]);
                conn.send(&whole[..part]).await;
                return conn.silence().await;
            }
            conn.settings([]).await;
            answer(&mut conn).await;
        })
        .await;
        let limit = Duration::from_millis(100);
        let (client, handle) = http2(KeepAliveLayer::new().active_timeout(limit));
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert!(error.is_timeout(), "{error:?}");
        the_next_is_answered(&client, &server).await;
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn what_begins_with_another_frame_than_settings_is_no_http_2() {
    let server = Server::start(|mut conn| async move {
        conn.preface().await;
        if conn.index == 0 {
            conn.ping([0; 8]).await;
        }
        conn.settings([]).await;
        answer(&mut conn).await;
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(words(&error).contains("SETTINGS"), "{error:?}");
    the_next_is_answered(&client, &server).await;
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
