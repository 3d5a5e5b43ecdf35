//! What callers get when an upstream fails, and what becomes of callers that leave.

use std::time::Duration;

use super::{Proxy, parts, targets};
use crate::support::agent::{agent, at_rest, fetch, get};
use crate::support::{RefusingPort, Server, eventually, not_tiny};
use http::StatusCode;
use http_body_util::BodyExt;
#[cfg(target_os = "linux")]
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_keep_alive::KeepAliveLayer;

#[tokio::test]
async fn an_upstream_that_refuses_is_a_bad_gateway() {
    let nobody = RefusingPort::new();
    let proxy = Proxy::start(&nobody.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    let response = client.request(get(proxy.url("/"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(
        response.headers()["content-type"],
        "text/plain; charset=utf-8"
    );
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&body);
    assert!(text.starts_with("cannot connect"), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");

    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketErrorCount"], 1);
    assert_eq!(status["requestCount"], 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_upstream_that_hangs_up_without_a_word_is_a_bad_gateway() {
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.fin().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    let answer = fetch(&client, proxy.url("/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);

    assert_eq!(upstream.requests(), 1);
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketCount"], 1);
    assert_eq!(status["closeSocketCount"], 1);
    at_rest(&handle).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_upstream_that_cannot_be_connected_to_in_time_is_a_gateway_timeout() {
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let addr = full.local_addr().unwrap();
    // Nobody accepts: once its backlog is full, Linux answers no more.
    let mut backlog = Vec::new();
    while let Ok(stream) = timeout(Duration::from_millis(500), TcpStream::connect(addr)).await {
        backlog.push(stream.unwrap());
    }
    let proxy = Proxy::start(&format!("http://{addr}"), &["--active-timeout", "200ms"]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    let answer = fetch(&client, proxy.url("/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);

    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketErrorCount"], 1);
    assert_eq!(status["timeoutSocketCount"], 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_upstream_that_falls_silent_is_a_gateway_timeout() {
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond("first").await;
        conn.request().await;
        conn.closed().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &["--active-timeout", "200ms"]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    let answer = fetch(&client, proxy.url("/")).await.unwrap();
    assert_eq!(answer.body, "first");
    let answer = fetch(&client, proxy.url("/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.body.lines().count(), 1, "{}", answer.body);

    // The connection was reused, and still nothing was sent again: silence is no reset.
    assert_eq!(upstream.requests(), 2);
    let status = proxy.at_rest().await;
    assert_eq!(status["timeoutSocketCount"], 1);
    assert_eq!(status["closes"], serde_json::json!({ "silence": 1 }));
    at_rest(&handle).await;
}

/// What the upstream has of a request that it closed a reused connection on, and the proxy's answer.
async fn hung_up_on(request: &str, arguments: &[&str]) -> (Vec<crate::support::Head>, String) {
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond("answer").await;
        conn.request().await;
        conn.fin().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), arguments).await;
    let first = "GET /first HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n";
    assert!(proxy.raw(first).await.starts_with("HTTP/1.1 200 "));

    let response = proxy.raw(request).await;
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketCount"], upstream.accepted());
    (upstream.heads().split_off(1), response)
}

/// `method` with so many bytes of body.
fn close_after(method: &str, length: usize) -> String {
    let body = "x".repeat(length);
    format!(
        "{method} / HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn what_can_be_sent_again_is_where_a_reused_connection_was_closed() {
    for (method, length) in [("GET", 0), ("DELETE", 3), ("PUT", 64 * 1024)] {
        let (tries, response) = hung_up_on(&close_after(method, length), &[]).await;
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        assert_eq!(parts(&response).1, "answer");
        assert_eq!(tries.len(), 2, "{method}");
        for it in tries {
            assert_eq!((&*it.method, it.body.len()), (method, length));
        }
    }
}

#[tokio::test]
async fn what_cannot_be_sent_again_is_a_bad_gateway_where_a_reused_connection_was_closed() {
    let chunked = "PUT / HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   3\r\nin \r\n6\r\nchunks\r\n0\r\n\r\n";
    for (request, arguments) in [
        (close_after("POST", 3), &[][..]),
        (close_after("PUT", 64 * 1024 + 1), &[]),
        (chunked.to_owned(), &[]),
        (close_after("GET", 0), &["--no-retry"]),
    ] {
        let (tries, response) = hung_up_on(&request, arguments).await;
        assert!(response.starts_with("HTTP/1.1 502 "), "{response}");
        assert_eq!(tries.len(), 1, "{arguments:?} {}", tries[0].method);
    }
}

#[tokio::test]
async fn a_body_cut_short_does_not_look_whole_to_the_caller() {
    let upstream = Server::start(|mut conn| async move {
        let Some(head) = conn.request().await else {
            return;
        };
        conn.send(match &*head.target {
            "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            _ => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        })
        .await;
        conn.fin().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    for path in ["/length", "/chunked"] {
        let answer = fetch(&client, proxy.url(path)).await;
        assert!(answer.is_err(), "{path}: {answer:?}");
    }

    assert_eq!(upstream.requests(), 2);
    let status = proxy.at_rest().await;
    assert_eq!(status["closeSocketCount"], 2);
    assert_eq!(status["requestCount"], 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_caller_that_leaves_gives_its_connection_up() {
    if not_tiny("the first frame is all there is") {
        return;
    }
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
            .await;
        conn.stall().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    let mut response = client.request(get(proxy.url("/"))).await.unwrap();
    let frame = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(&frame.into_data().unwrap()[..], b"half");
    assert_eq!(upstream.open(), 1);
    drop(response);

    eventually("the upstream's connection is closed", || {
        upstream.open() == 0
    })
    .await;
    let status = proxy.at_rest().await;
    assert_eq!(status["closes"], serde_json::json!({ "abandoned": 1 }));
    assert_eq!(status["requestCount"], 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn without_keep_alive_every_request_has_a_connection_of_its_own() {
    let upstream = Server::start(targets).await;
    let proxy = Proxy::start(&upstream.url(""), &["--no-keep-alive"]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    for _ in 0..3 {
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }

    assert_eq!(upstream.accepted(), 3);
    let heads = upstream.heads();
    assert!(
        heads
            .iter()
            .all(|it| it.header("connection") == Some("close"))
    );
    let status = proxy.at_rest().await;
    assert_eq!(status["closes"], serde_json::json!({ "final": 3 }));
    at_rest(&handle).await;
}
