//! Requests that a server of HTTP/2 does not take, or does not want like this.

use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Version};
use http_body_util::Full;
use tower::Layer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAliveLayer, Protocol};

use crate::support::agent::{agent, agent_over, at_rest, fetch, post, send};
use crate::support::frames::{self, Behaviour, GoAway, Log, code};
use crate::support::tls::{CA, localhost};
use crate::support::{Conn, Server, http2, script};

fn layer() -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().protocol(Protocol::Http2)
}

#[tokio::test]
async fn what_is_refused_is_sent_again_whatever_its_method() {
    for behaviour in [
        Behaviour {
            refuse_every: Some(5),
            ..Behaviour::default()
        },
        Behaviour {
            go_away: Some((5, GoAway::Named)),
            ..Behaviour::default()
        },
        Behaviour {
            go_away: Some((5, GoAway::Back(2))),
            ..Behaviour::default()
        },
        Behaviour {
            go_away: Some((5, GoAway::Announced(Duration::from_millis(1)))),
            limit: Some(3),
            ..Behaviour::default()
        },
    ] {
        let server = http2::Server::behaving(behaviour.clone()).await;
        let (client, handle) = agent(layer());
        let posts = (0..60).map(|at| send(&client, post(server.url(&format!("/{at}")), "x")));
        for (at, answer) in join_all(posts).await.into_iter().enumerate() {
            let answer = answer.unwrap_or_else(|error| panic!("{behaviour:?}: {error:?}"));
            assert_eq!(answer.body, format!("/{at}"));
        }
        assert_eq!(server.log.executed_twice("POST"), 0, "{behaviour:?}");
        assert_eq!(server.log.executed("POST").len(), 60, "{behaviour:?}");
        at_rest(&handle).await;
    }
}

/// Whatever the code of a reset says about the server, only REFUSED_STREAM and HTTP_1_1_REQUIRED say that it has not acted on
/// the request (RFC 9113 §8.7).
#[tokio::test]
async fn a_post_that_the_server_resets_with_another_code_is_not_sent_again() {
    let server = http2::Server::start(|mut conn: http2::Conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            let code = request.path()[1..].parse().expect("a code");
            conn.reset(request.stream, code).await;
        }
    })
    .await;
    let (client, handle) = agent(layer());
    for other in [
        code::NO_ERROR,
        code::PROTOCOL_ERROR,
        code::INTERNAL_ERROR,
        code::CANCEL,
    ] {
        let url = server.url(&format!("/{other}"));
        let error = send(&client, post(url, "once only")).await.unwrap_err();
        assert_eq!(error.http2_reason(), Some(other), "{error:?}");
        assert!(!error.is_refused() && !error.is_unsent(), "{error:?}");
    }
    assert_eq!(server.log.executed("POST").len(), 4);
    assert_eq!(server.log.executed_twice("POST"), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_refuses_for_ever_is_asked_eight_times() {
    let server = http2::Server::start(|mut conn: http2::Conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            conn.reset(request.stream, code::REFUSED_STREAM).await;
        }
    })
    .await;
    let (client, handle) = agent(layer());
    let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
    assert!(error.is_refused() && error.is_unsent(), "{error:?}");
    assert_eq!(error.http2_reason(), Some(code::REFUSED_STREAM));
    assert_eq!(server.log.requests().len(), 8);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connection_that_is_ended_with_an_error_on_its_first_request_is_not_made_again() {
    let server = http2::Server::start(|mut conn: http2::Conn| async move {
        conn.open([]).await;
        conn.request().await;
        conn.go_away(0, code::ENHANCE_YOUR_CALM, b"too many").await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = agent(layer());
    let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
    assert!(error.is_refused(), "{error:?}");
    assert_eq!(error.goaway_debug_data(), Some(&b"too many"[..]));
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_wants_http_1_gets_it() {
    let log = Log::default();
    let seen = log.clone();
    let server = Server::start_tls(localhost().server(), move |mut conn: Conn| {
        let log = log.clone();
        async move {
            let chosen = conn.tls().and_then(|tls| tls.alpn_protocol());
            if chosen != Some(b"h2") {
                return script::echo(conn).await;
            }
            let mut conn = frames::Conn::new(conn, &log);
            conn.open([]).await;
            while let Some(request) = conn.request().await {
                conn.reset(request.stream, code::HTTP_1_1_REQUIRED).await;
            }
        }
    })
    .await;
    let layer = layer().protocol(Protocol::Auto);
    let (client, handle) = agent_over(layer, CA.trusted().layer(TcpConnector::new()));
    for _ in 0..2 {
        let answer = send(&client, post(server.url("/a"), "x")).await.unwrap();
        assert_eq!(
            (&*answer.body, answer.info.version()),
            ("/a", Version::HTTP_11)
        );
    }
    assert_eq!(seen.requests().len(), 2);
    at_rest(&handle).await;
}

/// Wants HTTP/1.1 on its first connection, and does on the others as `second` does.
async fn wanting_http1<F>(second: fn(Conn) -> F) -> Server
where
    F: Future<Output = ()> + Send + 'static,
{
    let log = Log::default();
    let connections = Arc::new(AtomicUsize::new(0));
    Server::start(move |conn: Conn| {
        let log = log.clone();
        let is_first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if !is_first {
                return second(conn).await;
            }
            let mut conn = frames::Conn::new(conn, &log);
            conn.open([]).await;
            while let Some(request) = conn.request().await {
                conn.reset(request.stream, code::HTTP_1_1_REQUIRED).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_wants_http_1_gets_it_where_http_2_was_set_as_well() {
    let server = wanting_http1(script::echo).await;
    let (client, handle) = agent(layer());
    let answer = send(&client, post(server.url("/a"), "x")).await.unwrap();
    assert_eq!(
        (&*answer.body, answer.info.version()),
        ("/a", Version::HTTP_11)
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_wants_http_1_and_does_not_speak_it_is_an_error_with_both_reasons() {
    // The settings of HTTP/2; nothing; nonsense.
    let settings = wanting_http1(|mut conn| async move {
        conn.read().await;
        conn.send([0, 0, 0, 4, 0, 0, 0, 0, 0]).await;
        conn.closed().await;
    });
    let nothing = wanting_http1(|mut conn| async move {
        conn.read().await;
        conn.fin().await;
    });
    let nonsense = wanting_http1(|mut conn| async move {
        conn.read().await;
        conn.send("SSH-2.0-OpenSSH_9.6\r\n").await;
        conn.closed().await;
    });
    let servers = [
        (settings.await, false, true),
        // It may answer the next time.
        (nothing.await, true, false),
        (nonsense.await, false, false),
    ];
    for (server, is_reset, is_protocol) in servers {
        let (client, handle) = agent(layer().max_connections_per_host(1));
        let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
        assert_eq!(
            error.http2_reason(),
            Some(code::HTTP_1_1_REQUIRED),
            "{error:?}"
        );
        let words = "the server requires HTTP/1.1 for this request (HTTP_1_1_REQUIRED), and gave no response over HTTP/1.1";
        assert_eq!(error.to_string(), words);
        let source = error.source().unwrap();
        assert_eq!(
            source.to_string(),
            "the server reset the stream: HTTP_1_1_REQUIRED"
        );
        assert!(source.source().is_some(), "the failure over HTTP/1.1");
        assert_eq!(error.is_protocol(), is_protocol, "{error:?}");
        assert_eq!(error.is_permanent(), is_protocol, "{error:?}");
        assert_eq!(error.is_reset(), is_reset, "{error:?}");
        assert!(!error.is_refused() && !error.is_unsent(), "{error:?}");
        assert!(!error.is_connect(), "{error:?}");
        assert_eq!(error.connection().unwrap().version(), Version::HTTP_11);
        assert_eq!(server.accepted(), 2);
        at_rest(&handle).await;
    }
}

/// The GOAWAY says that the stream was not processed; the request that followed over HTTP/1.1 may have been.
#[tokio::test]
async fn a_request_that_was_sent_over_http_1_after_a_goaway_is_not_refused() {
    let log = Log::default();
    let connections = Arc::new(AtomicUsize::new(0));
    let server = Server::start(move |mut conn: Conn| {
        let log = log.clone();
        let is_first = connections.fetch_add(1, Ordering::SeqCst) == 0;
        async move {
            if !is_first {
                conn.request().await;
                return conn.fin().await;
            }
            let mut conn = frames::Conn::new(conn, &log);
            conn.open([]).await;
            while conn.request().await.is_some() {
                conn.go_away(0, code::HTTP_1_1_REQUIRED, b"").await;
            }
        }
    })
    .await;
    let (client, handle) = agent(layer());
    let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
    assert_eq!(error.http2_reason(), Some(code::HTTP_1_1_REQUIRED));
    assert!(!error.is_refused() && !error.is_unsent(), "{error:?}");
    assert!(error.is_reset() && !error.is_permanent(), "{error:?}");
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_misdirected_request_ends_the_use_of_its_connection_and_is_answered() {
    let server = http2::Server::start(|mut conn: http2::Conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            let status = if conn.index == 0 { 421 } else { 200 };
            conn.respond(request.stream, status, b"").await;
        }
    })
    .await;
    let (client, handle) = agent(layer());
    let misdirected = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(misdirected.status, 421);
    let directed = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(
        (directed.status.as_u16(), directed.info.is_reused()),
        (200, false)
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_fresh_connection_for_each_post_is_for_http_1() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = agent(layer().fresh_for_non_idempotent(true));
    fetch(&client, server.url("/")).await.unwrap();
    for _ in 0..5 {
        let answer = send(&client, post(server.url("/"), "x")).await.unwrap();
        assert!(answer.info.is_reused());
    }
    at_rest(&handle).await;
    assert_eq!(handle.status().created, 1);
}

#[tokio::test]
async fn a_request_that_says_close_lets_the_others_end() {
    let server = http2::Server::behaving(Behaviour {
        delay: Duration::from_millis(20),
        ..Behaviour::default()
    })
    .await;
    let (client, handle) = agent(layer());
    fetch(&client, server.url("/")).await.unwrap();
    let last = Request::get(server.url("/")).header("connection", "close");
    let last = send(&client, last.body(Full::default()).unwrap());
    let (last, other) = tokio::join!(last, fetch(&client, server.url("/")));
    assert_eq!(last.unwrap().info.id(), other.unwrap().info.id());
    assert!(
        !fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    at_rest(&handle).await;
}
