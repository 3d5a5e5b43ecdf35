//! `Expect: 100-continue` (RFC 9110 §10.1.1): whether and when a body goes.

use std::time::Duration;

use crate::support::agent::{
    Client, Req, agent, agent_over, at_rest, fetch, get, post, read, send,
};
use crate::support::{Conn, Gate, Server, eventually};
use http::header::EXPECT;
use http::{HeaderValue, StatusCode, Version};
use tokio::time::Instant;
use tower_keep_alive::{AgentHandle, CloseReason, KeepAliveLayer};

const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const HINTS: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const HOUR: Duration = Duration::from_secs(3600);

/// No test that passes waits for as long as this.
const LONG: Duration = Duration::from_secs(30);

fn expecting(url: String) -> Req {
    let mut request = post(url, "the body");
    let value = HeaderValue::from_static("100-continue");
    request.headers_mut().insert(EXPECT, value);
    request
}

fn waiting(timeout: Duration) -> (Client, AgentHandle) {
    let layer = KeepAliveLayer::new().active_timeout(HOUR);
    agent(layer.expect_continue_timeout(timeout))
}

/// Reads for a moment, in which nothing comes.
async fn nothing_comes(conn: &mut Conn) {
    let read = tokio::time::timeout(Duration::from_millis(50), conn.read()).await;
    assert!(read.is_err(), "{:?}", read.map(String::from_utf8));
}

async fn the_body_comes(conn: &mut Conn) {
    let mut body = Vec::new();
    while body.len() < b"the body".len() {
        let more = conn.read().await;
        assert!(!more.is_empty(), "{body:?}");
        body.extend(more);
    }
    assert_eq!(body, b"the body");
}

#[tokio::test]
async fn the_body_goes_when_the_server_says_100() {
    // Also after hints, in one piece with them or alone, as leniently as it is read, and in two pieces.
    let ways: [&[&str]; 5] = [
        &[CONTINUE],
        &[HINTS, CONTINUE],
        &["HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"],
        &["\r\nHTTP/1.1 100\n\n"],
        &["HTTP/1.1 1", "00 Continue\r\n\r\n"],
    ];
    let server = Server::start(move |mut conn: Conn| async move {
        for way in ways {
            let head = conn.head().await.expect("one request for each way");
            assert_eq!(head.header("expect"), Some("100-continue"));
            for piece in way {
                nothing_comes(&mut conn).await;
                conn.send(piece).await;
            }
            the_body_comes(&mut conn).await;
            conn.send(ANSWER).await;
        }
        conn.closed().await;
    })
    .await;
    let (client, handle) = waiting(HOUR);
    for _ in ways {
        let answer = tokio::time::timeout(LONG, send(&client, expecting(server.url("/"))));
        assert_eq!(answer.await.expect("100 was said").unwrap().body, "ok");
    }
    assert_eq!(server.accepted(), 1, "each on the same connection");
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_interim_response_that_is_not_100_does_not_let_the_body_go() {
    let server = Server::start(|mut conn: Conn| async move {
        conn.head().await;
        conn.send(HINTS).await;
        conn.send("HTTP/1.1 102 Processing\r\n\r\n").await;
        nothing_comes(&mut conn).await;
        conn.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n")
            .await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = waiting(HOUR);
    let answer = send(&client, expecting(server.url("/"))).await.unwrap();
    assert_eq!(answer.status, StatusCode::EXPECTATION_FAILED);
    at_rest(&handle).await;
}

#[tokio::test]
async fn the_body_goes_after_a_time_where_the_server_says_nothing() {
    let server = Server::ok().await;
    for timeout in [Duration::from_millis(50), Duration::ZERO] {
        let (client, handle) = waiting(timeout);
        for reused in [false, true] {
            let began = Instant::now();
            let answer = send(&client, expecting(server.url("/"))).await.unwrap();
            assert_eq!((&*answer.body, answer.info.is_reused()), ("ok", reused));
            assert!(began.elapsed() >= timeout, "{:?}", began.elapsed());
            assert_eq!(server.heads().last().unwrap().body, b"the body");
        }
        at_rest(&handle).await;
    }
}

/// In time that is paused, in which only what waits for the time makes it go on.
#[tokio::test(start_paused = true)]
async fn the_time_is_a_second_unless_it_is_set() {
    let server = Server::in_memory(crate::support::script::ok);
    let layer = KeepAliveLayer::new();
    let (client, handle) = crate::support::agent::agent_paused(layer, server.connector());
    for _ in 0..2 {
        let began = Instant::now();
        send(&client, expecting(server.url("/"))).await.unwrap();
        let took = began.elapsed();
        assert!(
            took >= Duration::from_secs(1) && took < Duration::from_millis(1100),
            "{took:?}"
        );
    }
    let began = Instant::now();
    send(&client, post(server.url("/"), "at once"))
        .await
        .unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_100_that_comes_late_does_no_harm() {
    let server = Server::start(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            assert_eq!(head.body, b"the body");
            conn.send(CONTINUE).await;
            conn.send(ANSWER).await;
        }
    })
    .await;
    let (client, handle) = waiting(Duration::from_millis(10));
    for _ in 0..3 {
        let answer = send(&client, expecting(server.url("/"))).await.unwrap();
        assert_eq!(answer.body, "ok");
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

/// Whatever it is: 417 and 401 are those that a caller can do something about. What is sent of the body after it would be
/// read as a request (CVE-2024-24791).
#[tokio::test]
async fn after_a_final_answer_no_body_goes_and_the_connection_is_closed() {
    for (status, body) in [
        ("417 Expectation Failed", ""),
        ("401 Unauthorized", "who are you?"),
        ("200 OK", "I have it already"),
        ("204 No Content", ""),
    ] {
        let server = Server::start(move |mut conn: Conn| async move {
            let head = conn.head().await.expect("a request");
            if head.header("expect").is_none() {
                conn.body().await;
                conn.send(ANSWER).await;
                return conn.closed().await;
            }
            let answer = format!("HTTP/1.1 {status}");
            conn.respond_with(&answer, body).await;
            // To the end of the connection, and not a byte before it.
            assert_eq!(conn.read().await, b"");
        })
        .await;
        let (client, handle) = waiting(HOUR);
        let answer = send(&client, expecting(server.url("/"))).await.unwrap();
        assert_eq!(answer.status.as_str(), &status[..3]);
        assert_eq!(answer.body, body);
        let next = send(&client, post(server.url("/"), "the body"));
        let next = next.await.unwrap();
        assert_eq!(
            (&*next.body, next.info.is_reused()),
            ("ok", false),
            "{status}"
        );
        eventually("it is closed", || server.open() == 1).await;
        assert_eq!(handle.status().closes[&CloseReason::Abandoned], 1);
        at_rest(&handle).await;
    }
}

/// The wait is over with the answer, be the body of that as slow as it likes.
#[tokio::test]
async fn the_time_does_not_let_the_body_go_after_a_final_answer() {
    let gate = Gate::new();
    let passes = gate.clone();
    let server = Server::start(move |mut conn: Conn| {
        let gate = passes.clone();
        async move {
            conn.head().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
                .await;
            gate.pass().await;
            conn.send("lf").await;
            assert_eq!(conn.read().await, b"");
        }
    })
    .await;
    let (client, handle) = waiting(Duration::from_millis(20));
    let response = client.request(expecting(server.url("/"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(60)).await;
    gate.open_for_all();
    assert_eq!(read(response).await.unwrap().body, "half");
    eventually("it is closed", || server.open() == 0).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_caller_who_leaves_while_the_body_waits_loses_nothing_but_the_request() {
    let server = Server::start(|mut conn: Conn| async move {
        let head = conn.head().await.expect("a request");
        if head.header("expect").is_some() {
            assert_eq!(conn.read().await, b"");
            return;
        }
        conn.send(ANSWER).await;
        conn.closed().await;
    })
    .await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent(layer.expect_continue_timeout(HOUR));
    for leavers in 1..=3 {
        let call = tokio::spawn(client.request(expecting(server.url("/"))));
        eventually("its head is there", || server.requests() == leavers).await;
        call.abort();
        eventually("its connection is closed", || server.open() == 0).await;
    }
    let answer = tokio::time::timeout(LONG, fetch(&client, server.url("/"))).await;
    assert_eq!(answer.expect("the place is free").unwrap().body, "ok");
    assert_eq!(handle.status().closes[&CloseReason::Abandoned], 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_goes_while_the_body_waits_is_a_reset() {
    let server = Server::start(|mut conn: Conn| async move {
        conn.head().await;
        conn.fin().await;
    })
    .await;
    let (client, handle) = waiting(HOUR);
    let error = send(&client, expecting(server.url("/"))).await.unwrap_err();
    assert!(error.is_reset() && !error.is_unsent(), "{error:?}");
    at_rest(&handle).await;
}

/// RFC 9110 §10.1.1: without content there is nothing to expect, and HTTP/1.0 has no 100.
#[tokio::test]
async fn nothing_waits_without_content_nor_in_http_1_0() {
    let server = Server::ok().await;
    let (client, handle) = waiting(HOUR);
    let mut empty = get(server.url("/"));
    empty
        .headers_mut()
        .insert(EXPECT, HeaderValue::from_static("100-continue"));
    let mut old = expecting(server.url("/"));
    *old.version_mut() = Version::HTTP_10;
    let mut other = post(server.url("/"), "the body");
    other
        .headers_mut()
        .insert(EXPECT, HeaderValue::from_static("the best"));
    for (request, expect) in [
        (empty, None),
        (old, Some("100-continue")),
        (other, Some("the best")),
    ] {
        let answer = tokio::time::timeout(LONG, send(&client, request)).await;
        assert_eq!(answer.expect("it did not wait").unwrap().body, "ok");
        assert_eq!(server.heads().last().unwrap().header("expect"), expect);
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn nothing_waits_for_a_server_of_http_1_0() {
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            let head = "HTTP/1.0 200 OK\r\nconnection: keep-alive";
            conn.respond_with(head, "ok").await;
        }
    })
    .await;
    let (client, handle) = waiting(HOUR);
    fetch(&client, server.url("/")).await.unwrap();
    let answer = tokio::time::timeout(LONG, send(&client, expecting(server.url("/")))).await;
    let answer = answer.expect("it did not wait").unwrap();
    assert!(answer.info.is_reused());
    at_rest(&handle).await;
}

/// Otherwise a server that is silent there, and not one that lets a body wait, would never be found out.
#[tokio::test]
async fn the_wait_counts_as_the_servers_silence() {
    let server = Server::start(crate::support::script::stall).await;
    let layer = KeepAliveLayer::new().active_timeout(Duration::from_millis(80));
    let (client, handle) = agent_over(
        layer
            .expect_continue_timeout(HOUR)
            .probe_with(crate::support::agent::probe),
        crate::support::agent::Connector,
    );
    let error = send(&client, expecting(server.url("/"))).await.unwrap_err();
    assert!(error.is_timeout(), "{error:?}");
    at_rest(&handle).await;
}
