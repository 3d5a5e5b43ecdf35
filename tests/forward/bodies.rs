//! Bodies pass while they come, with their trailers.

use std::convert::Infallible;

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Channel};
use tower::{Layer, ServiceExt};
use tower_keep_alive::KeepAliveLayer;
use tower_keep_alive::forward::ForwardLayer;

use crate::front::{Front, field};
use crate::support::agent::{Connector, at_rest, belongs_here, probe};
use crate::support::{Conn, Server, not_tiny};

/// Reads on to this end.
async fn read_to(conn: &mut Conn, body: &mut Vec<u8>, end: &str) {
    while !body.ends_with(end.as_bytes()) {
        let more = conn.read().await;
        assert!(!more.is_empty(), "{}", String::from_utf8_lossy(body));
        body.extend(more);
    }
}

#[tokio::test]
async fn bodies_pass_both_ways_while_they_come() {
    if not_tiny("it tells chunks apart") {
        return;
    }
    let upstream = Server::start(|mut conn| async move {
        conn.head().await;
        let mut body = Vec::new();
        read_to(&mut conn, &mut body, "5\r\nfirst\r\n").await;
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
            .await;
        read_to(&mut conn, &mut body, "6\r\nsecond\r\n0\r\n\r\n").await;
        conn.send("4\r\nlate\r\n0\r\n\r\n").await;
        conn.stall().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    let mut caller = front.connect().await;
    caller
        .send("POST / HTTP/1.1\r\nHost: front.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n")
        .await;
    caller.until("5\r\nearly\r\n").await;
    caller.send("6\r\nsecond\r\n0\r\n\r\n").await;
    caller.until("4\r\nlate\r\n0\r\n\r\n").await;

    drop(caller);
    front.at_rest().await;
}

#[tokio::test]
async fn a_body_has_its_length_or_goes_in_chunks_with_any_method() {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.respond(&String::from_utf8(head.body).unwrap()).await;
        }
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    for method in ["POST", "GET", "DELETE"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nin \r\n6\r\nchunks\r\n0\r\n\r\n"
        );
        let response = front.ask(request).await;
        assert!(response.ends_with("\r\n\r\nin chunks"), "{response}");
        let head = upstream.heads().pop().unwrap();
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        assert_eq!(head.header("content-length"), None);

        let request = format!(
            "{method} / HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\nContent-Length: 5\r\n\r\nwhole"
        );
        let response = front.ask(request).await;
        assert!(response.ends_with("\r\n\r\nwhole"), "{response}");
        let head = upstream.heads().pop().unwrap();
        assert_eq!(head.header("transfer-encoding"), None);
        assert_eq!(head.header("content-length"), Some("5"));

        let request =
            format!("{method} / HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\n\r\n");
        assert!(front.ask(request).await.ends_with("\r\n\r\n"));
        let head = upstream.heads().pop().unwrap();
        assert_eq!(head.header("transfer-encoding"), None);
    }

    assert_eq!(upstream.accepted(), 1);
    front.at_rest().await;
}

#[tokio::test]
async fn a_streamed_body_of_a_get_is_sent() {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.respond(&String::from_utf8(head.body).unwrap()).await;
        }
    })
    .await;
    let agent = KeepAliveLayer::<Channel<Bytes>>::new().probe_with(probe);
    let handle = agent.handle();
    belongs_here(&handle);
    let client = ForwardLayer::to(upstream.url("")).unwrap();
    let client = client.layer(agent.layer(Connector));

    let (mut sender, body) = Channel::<Bytes, Infallible>::new(2);
    let send = async {
        let frame = Frame::data(Bytes::from_static(b"of unknown length"));
        sender.send(frame).await.unwrap();
        drop(sender);
    };
    let request = Request::get("/").body(body).unwrap();
    let (response, ()) = tokio::join!(client.clone().oneshot(request), send);
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "of unknown length");
    at_rest(&handle).await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = Server::start(|mut conn| async move {
        conn.head().await;
        let mut body = Vec::new();
        read_to(&mut conn, &mut body, "\r\n\r\n").await;
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "2\r\nup\r\n0\r\nx-sum: 1\r\n\r\n"
        );
        conn.send(
            "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
             4\r\ndown\r\n0\r\nx-sum: 2\r\n\r\n",
        )
        .await;
        conn.stall().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    let mut caller = front.connect().await;
    caller
        .send(
            "POST / HTTP/1.1\r\nHost: front.test\r\nTE: trailers\r\nConnection: te\r\nTrailer: X-Sum\r\n\
             Transfer-Encoding: chunked\r\n\r\n2\r\nup\r\n0\r\nX-Sum: 1\r\n\r\n",
        )
        .await;
    let response = caller.until("x-sum: 2\r\n\r\n").await;
    assert_eq!(field(&response, "trailer"), Some("X-Sum"));
    let head = &upstream.heads()[0];
    assert_eq!(head.header("te"), Some("trailers"));
    assert_eq!(head.header("trailer"), Some("X-Sum"));

    drop(caller);
    front.at_rest().await;
}

#[tokio::test]
async fn an_expectation_reaches_the_upstream() {
    let upstream = Server::start(|mut conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
        let body = conn.body().await.unwrap();
        conn.respond(&String::from_utf8(body).unwrap()).await;
        conn.stall().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    let mut caller = front.connect().await;
    caller
        .send("POST / HTTP/1.1\r\nHost: front.test\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
        .await;
    caller.until("HTTP/1.1 100 Continue\r\n\r\n").await;
    caller.send("body").await;
    let response = caller.until("\r\n\r\nbody").await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert_eq!(upstream.heads()[0].header("expect"), Some("100-continue"));

    drop(caller);
    front.at_rest().await;
}

#[tokio::test]
async fn answers_without_a_body_say_what_the_upstream_said() {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let status_and_fields = match &*head.target {
                "/length" => "200 OK\r\nContent-Length: 1234",
                "/204" => "204 No Content",
                "/304" => "304 Not Modified\r\nETag: \"x\"",
                _ => "200 OK",
            };
            conn.respond_with(&format!("HTTP/1.1 {status_and_fields}"), "")
                .await;
        }
    })
    .await;
    let front = Front::to(&upstream.url("")).await;
    let mut caller = front.connect().await;

    for (request, status, length, tag) in [
        ("HEAD /length", "200", Some("1234"), None),
        ("GET /304", "304", None, Some("\"x\"")),
        ("GET /204", "204", None, None),
        ("GET /empty", "200", Some("0"), None),
    ] {
        caller
            .send(format!("{request} HTTP/1.1\r\nHost: front.test\r\n\r\n"))
            .await;
        let response = caller.until("\r\n\r\n").await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{response}"
        );
        // axum's router gives a length to an answer that has none.
        if status == "200" {
            assert_eq!(field(&response, "content-length"), length, "{response}");
        }
        assert_eq!(field(&response, "etag"), tag, "{response}");
    }

    assert_eq!(upstream.accepted(), 1);
    drop(caller);
    front.at_rest().await;
}
