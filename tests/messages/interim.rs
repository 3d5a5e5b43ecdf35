//! How many interim responses (1xx) are accepted before a response, in whatever form and whatever pieces.

use std::error::Error as _;

use crate::support::agent::{agent_over, at_rest, fetch};
use crate::support::{Conn, Server, http2};
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use hyper::client::conn::http1::Builder;
use tower::{Layer, Service, ServiceExt};
use tower_keep_alive::{Error, KeepAliveLayer, Protocol, layers::HandshakeLayer};

/// What hyper accepts before a response, once and again.
const FORMS: [&str; 8] = [
    "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n",
    "\nHTTP/1.1 103 Early Hints\r\n\r\n",
    "\r\n\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
    "\n\r\n\nHTTP/1.1 102 Processing\n\n",
    "HTTP/1.0 100 Continue\r\n\r\n",
    "HTTP/1.1 199\n\r\n",
    "HTTP/1.1 110 \r\nlink: a\n\n",
    "HTTP/1.1 103 x\r\nlink: a\r\n b\r\n \r\n\tc:\r\n\r\n",
];

/// Answers `/{form}/{count}` by so many interim responses of this form, and then a response, in one piece.
async fn interim(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let mut parts = head.target.split('/').skip(1);
        let mut number = || parts.next().unwrap().parse::<usize>().unwrap();
        let (form, count) = (number(), number());
        let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        conn.send(FORMS[form].repeat(count) + ok).await;
    }
}

/// hyper's settings that accept the most.
fn lenient() -> Builder {
    let mut http1 = Builder::new();
    http1
        .allow_obsolete_multiline_headers_in_responses(true)
        .ignore_invalid_headers_in_responses(true);
    http1
}

/// What the system, or the transport, said.
fn root(error: &Error) -> String {
    let mut source = error.source().expect("it has a source");
    while let Some(next) = source.source() {
        source = next;
    }
    source.to_string()
}

#[tokio::test]
async fn interim_responses_are_counted_in_every_form_that_is_accepted() {
    let server = Server::start(interim).await;
    for max in [0, 8, 100] {
        let mut layer = KeepAliveLayer::<Full<bytes::Bytes>>::new().http1(lenient());
        if max != 100 {
            layer = layer.max_interim_responses(max);
        }
        let (client, handle) = agent_over(layer, crate::support::Sockets);
        for (form, name) in FORMS.iter().enumerate() {
            for _ in 0..2 {
                let url = server.url(&format!("/{form}/{max}"));
                let answer = fetch(&client, url).await;
                assert_eq!(answer.expect("within the limit").body, "ok", "{name:?}");
            }
            let url = server.url(&format!("/{form}/{}", max + 1));
            let error = fetch(&client, url).await.expect_err(name);
            let expected = format!("the server sent more than {max} interim (1xx) responses");
            assert_eq!(root(&error), expected, "{name:?}");
            assert!(!error.is_reset() && !error.is_timeout(), "{error:?}");
        }
        assert_eq!(handle.status().errors, FORMS.len() as u64);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn the_limit_is_the_same_over_http2() {
    let server = http2::Server::start(|mut conn| async move {
        conn.open([]).await;
        while let Some(request) = conn.request().await {
            for _ in 0..request.path()[1..].parse().unwrap() {
                let hint = [(":status", "103"), ("link", "</a.css>")];
                conn.headers(request.stream, &hint, false).await;
            }
            conn.respond(request.stream, 200, b"ok").await;
        }
    })
    .await;
    for max in [0, 8, 99] {
        let layer = KeepAliveLayer::<Full<bytes::Bytes>>::new().protocol(Protocol::Http2);
        let layer = layer.max_interim_responses(max);
        let (client, handle) = agent_over(layer, crate::support::Sockets);
        let url = |count: usize| server.url(&format!("/{count}"));
        for count in [max, max] {
            assert_eq!(fetch(&client, url(count)).await.unwrap().body, "ok");
        }
        let error = fetch(&client, url(max + 1)).await.unwrap_err();
        let expected = format!("the server sent more than {max} interim (1xx) responses");
        assert_eq!(root(&error), expected);
        assert!(!error.is_reset() && !error.is_timeout(), "{error:?}");
        assert_eq!(fetch(&client, url(0)).await.unwrap().body, "ok");
        assert_eq!(handle.status().created, 1, "the connection goes on");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_large_body_that_is_read_with_its_head_is_no_interim_response() {
    const SIZE: usize = 4 << 20;
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            let body = "HTTP/1.1 103\r\n\r\n".repeat(SIZE / 16);
            conn.send(FORMS[1].repeat(3) + &head + &body).await;
        }
    });
    let mut http1 = Builder::new();
    http1.read_buf_exact_size(Some(2 * SIZE));
    let layer = KeepAliveLayer::new().http1(http1);
    let (client, handle) = agent_over(layer, server.connector());
    for _ in 0..2 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(answer.body.len(), SIZE);
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn interim_responses_take_a_mebibyte_at_the_most() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            let hint = format!("HTTP/1.1 103\r\nlink: {}\r\n\r\n", "x".repeat(64 << 10));
            conn.send(hint.repeat(17)).await;
            conn.respond("never read").await;
        }
    });
    let layer = KeepAliveLayer::new().max_interim_responses(usize::MAX);
    let (client, handle) = agent_over(layer, server.connector());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    let expected = "the server sent more than 1048576 bytes of interim (1xx) responses";
    assert_eq!(root(&error), expected);
    at_rest(&handle).await;
}

/// No pool says there when a use begins.
#[tokio::test]
async fn each_request_on_a_connection_used_by_hand_is_counted_for() {
    let server = Server::start(interim).await;
    let layer = HandshakeLayer::<Empty<bytes::Bytes>>::new().max_interim_responses(3);
    let connections = layer.layer(crate::support::Sockets);
    let uri: http::Uri = server.url("/").parse().unwrap();
    let mut conn = connections.oneshot(uri).await.unwrap();
    for (count, passes) in [(3, true), (3, true), (4, false)] {
        let request = Request::get(format!("/0/{count}"));
        let answer = conn.call(request.body(Empty::new()).unwrap()).await;
        assert_eq!(answer.is_ok(), passes, "{count}");
        if let Ok(response) = answer {
            response.into_body().collect().await.unwrap();
            std::future::poll_fn(|cx| tower_keep_alive::custom::Poolable::poll_free(&mut conn, cx))
                .await;
        }
    }
}
