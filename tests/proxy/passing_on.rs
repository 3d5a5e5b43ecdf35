//! What goes through the proxy, and how.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Proxy, parts, targets};
use crate::support::Server;
use crate::support::agent::{agent, at_rest, fetch, post, send};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tower_keep_alive::KeepAliveLayer;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_connections_serve_sixty_callers_with_twelve_thousand_answers() {
    const CALLERS: usize = 60;
    const EACH: usize = 200;

    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            sleep(Duration::from_millis(5)).await;
            conn.respond(&head.target).await;
        }
    })
    .await;
    let limits = [
        "--max-connections-per-host",
        "50",
        // How long this test takes must not matter.
        "--idle-timeout",
        "10m",
    ];
    let proxy = Proxy::start(&upstream.url(""), &limits).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = client.clone();
            let base = proxy.url("");
            tokio::spawn(async move {
                for n in 0..EACH {
                    let path = format!("/{caller}/{n}?of={EACH}");
                    let answer = fetch(&client, format!("{base}{path}"))
                        .await
                        .unwrap_or_else(|error| panic!("{path}: {error:?}"));
                    assert_eq!((answer.status, answer.body), (StatusCode::OK, path));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("every answer is its request's");
    }

    assert_eq!(upstream.accepted(), 50);
    assert_eq!(upstream.requests(), CALLERS * EACH);
    proxy.at_rest().await;
    let status = proxy.status().await;
    let key = format!("{}:", upstream.addr());
    // agentkeepalive's names, in its order, before our own.
    let expected = format!(
        "{{\"createSocketCount\":50,\"createSocketErrorCount\":0,\"closeSocketCount\":0,\"errorSocketCount\":0,\
         \"timeoutSocketCount\":0,\"requestCount\":12000,\"freeSockets\":{{\"{key}\":50}},\"sockets\":{{}},\
         \"requests\":{{}},"
    );
    assert_eq!(status.get(..expected.len()), Some(&*expected), "{status}");
    assert_eq!(known(&status), known(&shown_in_the_readme(upstream.addr())));
    at_rest(&handle).await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_limit_holds_over_all_runtimes_and_each_uses_its_own_connections() {
    const CALLERS: usize = 30;

    static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let before = UNDER_WAY.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            UNDER_WAY.fetch_sub(1, Ordering::SeqCst);
            conn.respond(&format!("{before} before {}", head.target))
                .await;
        }
    })
    .await;
    let arguments = ["--runtimes", "2", "--max-connections-per-host", "1"];
    let proxy = Proxy::start(&upstream.url(""), &arguments).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    // So many connections to the proxy that the system gives some to each runtime.
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let client = client.clone();
            let url = proxy.url(&format!("/{caller}"));
            tokio::spawn(async move {
                for _ in 0..5 {
                    let answer = fetch(&client, &url).await.unwrap();
                    assert_eq!(answer.body, format!("0 before /{caller}"));
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("one request at a time");
    }
    assert_eq!(upstream.requests(), CALLERS * 5);
    assert!(upstream.accepted() > 1, "only one runtime has callers");
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketErrorCount"], 0);
    assert_eq!(status["createSocketCount"], upstream.accepted());
    at_rest(&handle).await;
}

/// The README's status, as if it were of this upstream.
fn shown_in_the_readme(upstream: impl Display) -> String {
    let (_, json) = include_str!("../../README.md")
        .split_once("```json\n")
        .unwrap();
    let (json, _) = json.split_once("```").unwrap();
    json.replace("127.0.0.1:3000", &upstream.to_string())
}

/// A status, without how often a connection went to another caller than it was made for: that differs from run to run.
fn known(status: &str) -> serde_json::Value {
    let mut status: serde_json::Value = serde_json::from_str(status).unwrap();
    let reused = status["reusedSocketCount"].take();
    assert!(
        (11_950..12_000).contains(&reused.as_u64().unwrap()),
        "{reused}"
    );
    status
}

#[tokio::test]
async fn hop_by_hop_fields_stay_between_neighbours() {
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond_with(
            "HTTP/1.1 200 OK\r\n\
             Connection: keep-alive, X-Hop,\r\n\
             connection: x-other-hop\r\n\
             X-Hop: 1\r\n\
             X-Other-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\n\
             Proxy-Authenticate: Basic\r\n\
             Trailer: X-Sum\r\n\
             Upgrade: h2c\r\n\
             X-End: 1",
            "answer",
        )
        .await;
        conn.stall().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;

    let response = proxy
        .raw(
            "GET /fields HTTP/1.1\r\n\
             Host: proxy.test\r\n\
             Connection: close, X-Hop\r\n\
             connection: ,x-other-hop\r\n\
             X-Hop: 1\r\n\
             X-Other-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic eDp5\r\n\
             TE: trailers\r\n\
             Trailer: X-Sum\r\n\
             Upgrade: websocket\r\n\
             X-End: 1\r\n\r\n",
        )
        .await;

    // `Connection: close` is the proxy's own answer to its caller.
    let (names, body) = parts(&response);
    let expected = ["connection", "content-length", "date", "trailer", "x-end"];
    assert_eq!(names, expected);
    assert!(response.contains("connection: close\r\n"), "{response}");
    assert_eq!(body, "answer");

    let head = &upstream.heads()[0];
    let mut names: Vec<_> = head.headers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    // Trailers pass, and whether they are wanted.
    assert_eq!(names, ["connection", "host", "te", "trailer", "x-end"]);
    assert_eq!(head.header("connection"), Some("te"));
    assert_eq!(head.header("host"), Some(&*upstream.addr().to_string()));

    // The caller's `close` was not the upstream's.
    let status = proxy.at_rest().await;
    assert_eq!(status["closeSocketCount"], 0);
    assert_eq!(status["requestCount"], 1);
}

#[tokio::test]
async fn the_path_and_the_query_come_after_the_upstreams_own() {
    let upstream = Server::start(targets).await;
    let proxy = Proxy::start(&upstream.url("/base/"), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    for path in ["/", "/a%20b/?x=1&x=%2F", "/?", "//c/../d"] {
        let answer = fetch(&client, proxy.url(path)).await.unwrap();
        assert_eq!(answer.body, format!("/base{path}"));
    }
    let request = format!(
        "GET http://elsewhere.test/absolute HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        proxy.addr
    );
    assert!(proxy.raw(&request).await.ends_with("/base/absolute"));
    let request = "OPTIONS * HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n";
    assert!(proxy.raw(request).await.ends_with("\r\n\r\n*"));

    assert_eq!(upstream.accepted(), 1);
    let status = proxy.at_rest().await;
    assert_eq!(status["requestCount"], 6);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_body_arrives_with_its_length_or_in_chunks() {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let body = String::from_utf8(head.body).expect("the body is text");
            conn.respond(&body).await;
        }
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    let long = "0123456789".repeat(100_000);
    for body in ["with a length", &long] {
        let answer = send(&client, post(proxy.url("/"), body.to_owned()))
            .await
            .unwrap();
        assert_eq!(answer.status, StatusCode::OK);
        assert!(answer.body == body, "{} bytes came back", answer.body.len());
        let head = upstream.heads().pop().unwrap();
        assert_eq!(
            head.header("content-length"),
            Some(&*body.len().to_string())
        );
        assert_eq!(head.header("transfer-encoding"), None);
    }

    let request =
        "POST / HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let response = proxy.raw(request).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    let head = upstream.heads().pop().unwrap();
    assert_eq!(head.header("content-length"), Some("0"));

    // With a GET as well, with which hyper would send none.
    for method in ["POST", "GET", "DELETE"] {
        let request = format!(
            "{method} / HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
             3\r\nin \r\n6\r\nchunks\r\n0\r\n\r\n"
        );
        let response = proxy.raw(&request).await;
        assert_eq!(parts(&response).1, "in chunks");
        let head = upstream.heads().pop().unwrap();
        assert_eq!(head.method, method);
        assert_eq!(head.header("transfer-encoding"), Some("chunked"));
        assert_eq!(head.header("content-length"), None);
        assert_eq!(head.body, b"in chunks");
    }

    assert_eq!(upstream.accepted(), 1);
    let status = proxy.at_rest().await;
    assert_eq!(status["requestCount"], 6);
    at_rest(&handle).await;
}

#[tokio::test]
async fn bodies_are_passed_on_while_they_come() {
    let upstream = Server::start(|mut conn| async move {
        conn.head().await;
        let mut body = Vec::new();
        while !body.ends_with(b"5\r\nfirst\r\n") {
            body.extend(conn.read().await);
        }
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n")
            .await;
        while !body.ends_with(b"6\r\nsecond\r\n0\r\n\r\n") {
            body.extend(conn.read().await);
        }
        conn.send("4\r\nlate\r\n0\r\n\r\n").await;
        conn.stall().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;

    let mut caller = TcpStream::connect(&proxy.addr).await.unwrap();
    caller
        .write_all(
            b"POST / HTTP/1.1\r\nHost: proxy.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n",
        )
        .await
        .unwrap();
    let mut response = Vec::new();
    let mut read_to = async |end: &[u8], caller: &mut TcpStream| {
        while !response.ends_with(end) {
            let read = timeout(Duration::from_secs(10), caller.read_buf(&mut response));
            let read = read.await.expect("more within 10 s").unwrap();
            assert_ne!(read, 0, "{}", String::from_utf8_lossy(&response));
        }
    };
    read_to(b"5\r\nearly\r\n", &mut caller).await;
    caller.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    read_to(b"4\r\nlate\r\n0\r\n\r\n", &mut caller).await;

    assert_eq!(upstream.accepted(), 1);
    let status = proxy.at_rest().await;
    assert_eq!(status["requestCount"], 1);
    assert_eq!(status["closeSocketCount"], 0);
}

#[tokio::test]
async fn responses_without_a_body_say_what_the_upstream_said() {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let status_and_fields = match &*head.target {
                "/length" => "200 OK\r\nContent-Length: 1234",
                "/chunked" => "200 OK\r\nTransfer-Encoding: chunked",
                "/204" => "204 No Content",
                "/304" => "304 Not Modified\r\nETag: \"x\"",
                _ => "200 OK",
            };
            let head = format!("HTTP/1.1 {status_and_fields}");
            conn.respond_with(&head, "").await;
        }
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    for (method, path, status, length) in [
        (Method::HEAD, "/length", 200, Some("1234")),
        (Method::HEAD, "/chunked", 200, None),
        (Method::GET, "/204", 204, None),
        (Method::GET, "/304", 304, None),
        (Method::GET, "/empty", 200, Some("0")),
    ] {
        let request = Request::builder()
            .method(method)
            .uri(proxy.url(path))
            .body(Full::<Bytes>::default())
            .unwrap();
        let response = client.request(request).await.unwrap();
        let fields = response.headers().clone();
        let field = |name: &str| fields.get(name).map(|value| value.to_str().unwrap());
        assert_eq!(response.status(), status, "{path}");
        assert_eq!(field("content-length"), length, "{path}");
        assert_eq!(field("transfer-encoding"), None, "{path}");
        assert_eq!(field("etag"), (status == 304).then_some("\"x\""), "{path}");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert!(body.is_empty(), "{path}: {body:?}");
    }

    // Both neighbours found the end of each of them, so that both connections were kept.
    assert_eq!(handle.status().created, 1);
    assert_eq!(upstream.accepted(), 1);
    let status = proxy.at_rest().await;
    assert_eq!(status["requestCount"], 5);
    at_rest(&handle).await;
}

#[tokio::test]
async fn each_side_speaks_its_own_version() {
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.0 200 OK\r\n\r\nto the end").await;
        conn.fin().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;

    // Old caller, new upstream; new caller, old upstream.
    let response = proxy.raw("GET / HTTP/1.0\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.0 200 "), "{response}");
    assert_eq!(parts(&response).1, "to the end");
    let request = "GET / HTTP/1.1\r\nHost: proxy.test\r\nConnection: close\r\n\r\n";
    let response = proxy.raw(request).await;
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert_eq!(parts(&response).1, "A\r\nto the end\r\n0\r\n\r\n");

    assert!(upstream.heads().iter().all(|it| it.version == "HTTP/1.1"));
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketCount"], 2);
    assert_eq!(status["closes"], serde_json::json!({ "final": 2 }));
}

#[tokio::test]
async fn a_close_by_the_upstream_is_between_it_and_the_proxy() {
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "last")
            .await;
        conn.fin().await;
    })
    .await;
    let proxy = Proxy::start(&upstream.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    for _ in 0..3 {
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!(answer.body, "last");
    }

    assert_eq!(upstream.accepted(), 3);
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketCount"], 3);
    assert_eq!(status["closes"], serde_json::json!({ "final": 3 }));
    // The caller's connection is another matter.
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}
