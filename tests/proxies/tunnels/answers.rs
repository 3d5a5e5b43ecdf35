//! What a proxy says to a CONNECT, and what its caller hears of that.

use std::error::Error as _;

use super::{agent, agent_without_tls, asked_for, proxy, through};
use crate::support::agent::{at_rest, send};
use crate::support::{Conn, Server, proxies};
use http::StatusCode;
use tower_keep_alive::CloseReason;

#[tokio::test]
async fn a_refused_tunnel_gives_the_proxys_status_and_fields() {
    for (answer, said, name, value) in [
        (
            "HTTP/1.1 407 Who?\r\nProxy-Authenticate: Basic realm=\"p\"\r\nContent-Length: 3\r\n\r\nno!",
            "407 Proxy Authentication Required",
            "proxy-authenticate",
            "Basic realm=\"p\"",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nVia: 1.1 p\r\n\r\n",
            "403 Forbidden",
            "via",
            "1.1 p",
        ),
        (
            "HTTP/1.0 502 Bad Gateway\r\nServer: p\r\n\r\n",
            "502 Bad Gateway",
            "server",
            "p",
        ),
        (
            "HTTP/1.1 429 Slow down\r\nRetry-After: 7\r\n\r\n",
            "429 Too Many Requests",
            "retry-after",
            "7",
        ),
    ] {
        let server = Server::start(move |mut conn: Conn| async move {
            while conn.request().await.is_some() {
                conn.send(answer).await;
            }
        })
        .await;
        let proxy = proxy("me:secret@", &server);
        let (client, handle) = agent();
        for times in 1..=2 {
            let error = send(&client, through(&proxy, "https://origin.test/")).await;
            let error = error.unwrap_err();
            assert!(error.is_connect() && error.is_unsent(), "{error:?}");
            assert!(!error.is_target() && !error.is_reset(), "{error:?}");
            let status: StatusCode = said[..3].parse().unwrap();
            assert_eq!(error.proxy_status(), Some(status));
            assert_eq!(error.proxy_headers().unwrap()[name], value);
            let shown = format!("proxy {proxy} refused the tunnel to origin.test:443: {said}");
            assert_eq!(error.to_string(), shown);
            // It has said it all.
            assert!(error.source().is_none(), "{error:?}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
            // Nothing is kept of it.
            assert_eq!(server.accepted(), times);
            let status = handle.status();
            assert_eq!(status.closes[&CloseReason::Connect], times as u64);
            assert_eq!(status.open(), 0);
        }
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_proxy_that_speaks_tls_where_its_uri_says_http_is_named_with_what_to_do() {
    let server = Server::start(|mut conn: Conn| async move {
        conn.request().await;
        conn.send([21, 3, 1, 0, 2, 2, 10]).await;
        conn.closed().await;
    })
    .await;
    let proxy = proxy("", &server);
    let (client, handle) = agent();
    let error = send(&client, through(&proxy, "https://origin.test/")).await;
    let error = error.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
    let said = format!(
        "cannot connect through {proxy}: the proxy seems to speak TLS on this port: its URI has to begin with https://"
    );
    assert_eq!(error.to_string(), said);
    assert_eq!(handle.status().open(), 0);
    at_rest(&handle).await;

    let (client, handle) = agent_without_tls();
    let error = send(&client, through(&proxy, "http://origin.test/")).await;
    let error = error.unwrap_err();
    assert!(error.is_protocol() && !error.is_connect(), "{error:?}");
    let said = "the server or the proxy seems to speak TLS on this port: its URI has to begin with https://";
    assert_eq!(error.to_string(), said);
    assert_eq!(handle.status().open(), 0);
    at_rest(&handle).await;
}

/// A refusal to a request that the proxy reads itself is an answer.
#[tokio::test]
async fn what_a_proxy_says_to_a_request_that_it_reads_is_a_response() {
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.respond_with("HTTP/1.1 407 Who?", "who?").await;
        }
    })
    .await;
    let (client, handle) = agent_without_tls();
    let request = through(&proxy("", &server), "http://origin.test/");
    let answer = send(&client, request).await.unwrap();
    assert_eq!((answer.status.as_u16(), &*answer.body), (407, "who?"));
    at_rest(&handle).await;
}

/// RFC 9110 §9.3.6.
#[tokio::test]
async fn any_2xx_makes_a_tunnel_whatever_comes_before_it() {
    for pieces in [
        &["HTTP/1.1 200 Connection established\r\n\r\n"][..],
        &["HTTP/1.0 200 OK\r\n\r\n"],
        &["HTTP/1.1 201 Created\r\n\r\n"],
        &["HTTP/1.1 204 No Content\r\n\r\n"],
        &["HTTP/1.1 299 \r\nConnection: close\r\n\r\n"],
        &["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n"],
        &[
            "HTTP/1.1 103 Early Hints\r\nLink: </>\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 201 Created\r\n\r\n",
        ],
        &["HTTP/1", ".1 20", "0 OK\r", "\nVia: p\r\n\r", "\n"],
        // To be ignored.
        &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"],
        &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"],
    ] {
        let made = asked_for(pieces).await;
        made.unwrap_or_else(|error| panic!("{pieces:?}: {error:?}"));
    }
}

#[tokio::test]
async fn what_is_no_2xx_makes_no_tunnel() {
    for (pieces, status) in [
        (&["HTTP/1.1 101 Switching Protocols\r\n\r\n"][..], 101),
        (&["HTTP/1.1 300 Multiple Choices\r\n\r\n"], 300),
        (
            &["HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 407 Who?\r\n\r\n"],
            407,
        ),
        (&["HTTP/1.1 999 \r\n\r\n"], 999),
    ] {
        let error = asked_for(pieces).await.unwrap_err();
        let refused = error.proxy_status().map(|status| status.as_u16());
        assert_eq!(refused, Some(status), "{error:?}");
    }
}

/// Of TLS and of HTTP/1 the client says the first word: such bytes are nobody's, and are not lost unseen.
#[tokio::test]
async fn bytes_behind_the_proxys_answer_make_no_tunnel() {
    for pieces in [
        &["HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno"][..],
        &["HTTP/1.1 204 No Content\r\n\r\n!"],
    ] {
        let error = asked_for(pieces).await.unwrap_err();
        assert!(
            error.is_connect() && error.proxy_status().is_none(),
            "{error:?}"
        );
    }
}

#[tokio::test]
async fn an_answer_of_a_proxy_without_an_end_is_given_up() {
    for piece in ["HTTP/1.1 103 Early Hints\r\n\r\n", "x: y\r\n"] {
        let server = Server::start(move |mut conn: Conn| async move {
            conn.request().await;
            conn.send("HTTP/1.1 103 Early Hints\r\n").await;
            if !piece.starts_with('x') {
                conn.send("\r\n").await;
            }
            // Ends with the client: each piece waits until there is room for it.
            for _ in 0..100_000 {
                conn.send(piece.repeat(100)).await;
            }
        })
        .await;
        let (client, handle) = agent();
        let request = through(&proxy("", &server), "https://origin.test/");
        let error = send(&client, request).await.unwrap_err();
        assert!(error.is_connect() && !error.is_timeout(), "{error:?}");
        at_rest(&handle).await;
    }
}

/// What a proxy is sent: this, and nothing else.
#[tokio::test]
async fn connect_names_the_target_as_host_and_nothing_more() {
    for (login, url, target) in [
        ("", "https://origin.test/path?query", "origin.test:443"),
        ("", "https://user:pw@origin.test:8443/", "origin.test:8443"),
        ("me:secret@", "https://[::1]/", "[::1]:443"),
    ] {
        let (asked, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let server = Server::start(move |mut conn: Conn| {
            let asked = asked.clone();
            async move {
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"\r\n\r\n") {
                    match conn.read().await {
                        more if more.is_empty() => break,
                        more => bytes.extend(more),
                    }
                }
                asked.send(bytes).unwrap();
            }
        })
        .await;
        let (client, handle) = agent();
        let request = through(&proxy(login, &server), url);
        assert!(send(&client, request).await.unwrap_err().is_connect());
        let login = match login {
            "" => "",
            _ => "Proxy-Authorization: Basic bWU6c2VjcmV0\r\n",
        };
        let expected = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{login}\r\n");
        assert_eq!(
            String::from_utf8(seen.try_recv().unwrap()).unwrap(),
            expected
        );
        at_rest(&handle).await;
    }
}

/// A proxy that cannot reach the origin says so, and the error is of the connect.
#[tokio::test]
async fn an_origin_that_the_proxy_cannot_reach_is_the_proxys_502() {
    let server = Server::start(proxies::connect).await;
    let (client, handle) = agent();
    let request = through(&proxy("", &server), "https://127.0.0.1:1/");
    let error = send(&client, request).await.unwrap_err();
    assert_eq!(error.proxy_status(), Some(StatusCode::BAD_GATEWAY));
    at_rest(&handle).await;
}
