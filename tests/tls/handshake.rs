//! What can go wrong before a connection is there.

use std::time::Duration;

use http::Uri;
use tokio::time::Instant;
use tokio_rustls::rustls::{self, AlertDescription};
use tower::{Layer, ServiceExt};
use tower_keep_alive::connect::{TcpConnector, UnixConnector};
use tower_keep_alive::{KeepAliveLayer, TimeoutKind, connect::Destination};

use crate::support::agent::{agent_over, at_rest, fetch};
use crate::support::tls::{CA, localhost};
use crate::support::{Server, eventually, script};
use crate::{agent, agent_with, idle, in_chain, text};

/// What is spoken is not what is asked for.
fn https(server: &Server, path: &str) -> String {
    server.url(path).replace("http:", "https:")
}

#[tokio::test]
async fn http_passes_below_tls() {
    let plain = Server::ok().await;
    let secure = Server::start_tls(localhost().server(), script::ok).await;
    let (client, handle) = agent(CA.trusted());
    for _ in 0..2 {
        for server in [&plain, &secure] {
            let answer = fetch(&client, server.url("/")).await.unwrap();
            assert_eq!(answer.info.remote_addr(), Some(server.addr()));
        }
    }
    assert_eq!((plain.accepted(), secure.accepted()), (1, 1));
    assert_eq!((handle.status().created, idle(&handle)), (2, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn the_protocol_agreed_on_is_http_1() {
    let server = Server::start_tls(localhost().server(), |mut conn| async move {
        while conn.request().await.is_some() {
            let alpn = conn.tls().unwrap().alpn_protocol().map(<[u8]>::to_vec);
            let alpn = String::from_utf8(alpn.unwrap_or_default()).unwrap();
            conn.respond(&alpn).await;
        }
    })
    .await;
    let mut config = CA.client_config();
    config.alpn_protocols = vec![b"h2".to_vec()];
    for tls in [CA.trusted(), crate::TlsLayer::with_config(config)] {
        let (client, handle) = agent(tls);
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(answer.body, "http/1.1");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_server_without_a_common_protocol_is_a_connect_error() {
    let mut config = localhost().server();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let server = Server::start_tls(config, script::ok).await;
    let (client, handle) = agent(CA.trusted());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(
        in_chain::<rustls::Error>(&error),
        Some(&rustls::Error::AlertReceived(
            AlertDescription::NoApplicationProtocol
        ))
    );
    assert_eq!(handle.status().create_errors, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_a_connect_error_that_says_so() {
    let settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64";
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n"[..],
        settings,
        b"220 mail.test ESMTP\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
    ] {
        for resets in [false, true] {
            let server = Server::start(move |mut conn| async move {
                conn.read().await;
                conn.send(answer).await;
                match resets {
                    true => conn.rst(),
                    false => conn.fin().await,
                }
            })
            .await;
            let (client, handle) = agent(CA.trusted());
            let error = fetch(&client, https(&server, "/")).await.unwrap_err();
            assert!(error.is_connect() && error.is_unsent(), "{error:?}");
            assert!(error.is_protocol() && error.is_permanent(), "{error:?}");
            assert!(!error.is_certificate() && !error.is_reset(), "{error:?}");
            let words = "does not speak TLS on this port; for plain HTTP, ask with http://";
            assert!(text(&error).contains(words), "{}", text(&error));
            assert!(in_chain::<rustls::Error>(&error).is_some());
            assert_eq!((handle.status().create_errors, idle(&handle)), (1, 0));
            assert_eq!(server.accepted(), 1);
            at_rest(&handle).await;
        }
    }
}

/// Such bytes within TLS are no alert.
#[tokio::test]
async fn a_server_of_tls_that_answers_with_nonsense_is_not_told_to_speak_tls() {
    let server = Server::start_tls(localhost().server(), |mut conn| async move {
        conn.request().await;
        conn.send([21, 3, 3, 0, 2, 2, 10]).await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = agent(CA.trusted());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(!error.is_protocol(), "{error:?}");
    let words = "what the server sent is not a valid HTTP/1 response";
    assert_eq!(error.to_string(), words);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_stalls_in_the_handshake_is_waited_for_as_long_as_for_a_connect() {
    let server = Server::start(|conn| conn.stall()).await;
    let limit = Duration::from_millis(100);
    let (client, handle) = agent_with(KeepAliveLayer::new().connect_timeout(limit), CA.trusted());
    let begun = Instant::now();
    let error = fetch(&client, https(&server, "/")).await.unwrap_err();
    assert_eq!(
        error.timeout_kind(),
        Some(TimeoutKind::Connect),
        "{error:?}"
    );
    assert!(error.is_connect() && begun.elapsed() >= limit);
    assert_eq!(handle.status().create_errors, 1);
    eventually("its transport is closed", || server.open() == 0).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_closes_in_the_handshake_may_not_speak_tls() {
    for abruptly in [false, true] {
        let server = Server::start(move |mut conn| async move {
            conn.read().await;
            match abruptly {
                true => conn.rst(),
                false => conn.cut().await,
            }
        })
        .await;
        let (client, handle) = agent(CA.trusted());
        let error = fetch(&client, https(&server, "/")).await.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        assert!(!error.is_timeout() && !error.is_reset(), "{error:?}");
        assert!(!error.is_protocol() && !error.is_permanent(), "{error:?}");
        let words = "the server closed the connection; is there TLS on this port?";
        assert!(text(&error).contains(words), "{}", text(&error));
        assert!(in_chain::<std::io::Error>(&error).is_some(), "{error:?}");
        assert_eq!((handle.status().create_errors, idle(&handle)), (1, 0));
        assert_eq!(server.accepted(), 1);
        at_rest(&handle).await;
    }
}

/// The line goes on behind a handshake that failed.
#[tokio::test]
async fn a_failed_handshake_leaves_its_slot_to_the_next() {
    let acceptor = std::sync::Arc::new(localhost().server());
    let server = Server::start(move |mut conn| {
        let acceptor = acceptor.clone();
        async move {
            if conn.index > 0 && conn.secure(acceptor).await {
                script::ok(conn).await;
            }
        }
    })
    .await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_with(layer, CA.trusted());
    let url = https(&server, "/");
    let (first, second) = tokio::join!(fetch(&client, &url), fetch(&client, &url));
    assert!(first.unwrap_err().is_connect());
    assert_eq!(second.unwrap().status, 200);
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (2, 1));
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_host_that_no_certificate_can_name_is_a_connect_error_that_says_so() {
    let server = Server::start_tls(localhost().server(), script::ok).await;
    let (client, handle) = agent(CA.trusted());
    for host in ["[v1.x]", "a..b"] {
        let error = fetch(&client, server.url_of(host, "/")).await.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        assert!(text(&error).contains(host), "{}", text(&error));
    }
    assert_eq!(handle.status().create_errors, 2);
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

/// Not a name by the letter of RFC 1123, and many a container's.
#[tokio::test]
async fn a_host_with_an_underscore_is_one() {
    let server = Server::start_tls(CA.issue(&["a_b.example"]).server(), script::ok).await;
    let (client, handle) = agent(CA.trusted());
    let url = server.url_of("a_b.example", "/");
    assert_eq!(fetch(&client, url).await.unwrap().status, 200);
    at_rest(&handle).await;
}

/// Neither is a route to the other: without TLS nothing of `https` is sent, over a Unix socket as little as over TCP.
#[cfg(unix)]
#[tokio::test]
async fn a_unix_socket_without_tls_is_no_way_to_https() {
    let server = Server::start_unix(script::ok).await;
    let connector = UnixConnector::at(server.unix_path());
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    fetch(&client, "http://app.test/").await.unwrap();
    let error = fetch(&client, "https://app.test/").await.unwrap_err();
    assert!(text(&error).contains("without TLS"), "{}", text(&error));
    assert_eq!((server.accepted(), server.requests()), (1, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn who_connects_sees_what_was_agreed_on() {
    let server = Server::start_tls(localhost().server(), script::ok).await;
    let connector = CA.trusted().layer(TcpConnector::new());
    for (url, is_tls) in [
        (server.url("/"), true),
        (server.url("/").replace("https:", "http:"), false),
    ] {
        let target: Destination = url.parse::<Uri>().unwrap().try_into().unwrap();
        let transport = connector.clone().oneshot(target).await.unwrap();
        let agreed = transport.tls_connection();
        assert_eq!(agreed.is_some(), is_tls, "{url}");
        if let Some(tls) = agreed {
            assert_eq!(format!("{tls:?}"), "TlsConnection");
            assert_eq!(tls.alpn_protocol(), Some(&b"http/1.1"[..]));
            assert!(tls.peer_certificates().is_some());
        }
    }
}
