//! Upgrades: two streams, connected.

use tokio::io::AsyncWriteExt;
use tower::{Layer, ServiceExt, service_fn};
use tower_keep_alive::forward::ForwardLayer;

use http::{Request, Response};

use crate::front::{Front, field, names};
use crate::support::{Conn, Server, eventually};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: front.test\r\nConnection: keep-alive, Upgrade\r\n\
                   Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const AGREE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Accept: y\r\n\r\n";

/// Upgrades, and sends back whatever comes, in capitals, until the caller ends; says so, and ends too.
async fn shouts(mut conn: Conn) {
    conn.head().await;
    // Glued to the head.
    conn.send(format!("{AGREE}hello ")).await;
    loop {
        let bytes = conn.read().await;
        if bytes.is_empty() {
            conn.send("bye").await;
            return conn.fin().await;
        }
        conn.send(bytes.to_ascii_uppercase()).await;
    }
}

#[tokio::test]
async fn an_upgrade_connects_both_streams_with_what_is_glued_to_the_heads() {
    let upstream = Server::start(shouts).await;
    let front = Front::to(&upstream.url("")).await;

    let mut caller = front.connect().await;
    caller.send(format!("{ASK}early ")).await;
    let head = caller.until("\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    assert_eq!(field(&head, "connection"), Some("upgrade"));
    assert_eq!(field(&head, "upgrade"), Some("websocket"));
    assert_eq!(field(&head, "sec-websocket-accept"), Some("y"));
    caller.until("hello ").await;
    caller.until("EARLY ").await;
    for word in ["one ", "two "] {
        caller.send(word).await;
        caller.until(&word.to_ascii_uppercase()).await;
    }
    // Half of it is closed, and the other half goes on.
    caller.stream.shutdown().await.unwrap();
    assert_eq!(caller.rest().await, "bye");

    let head = &upstream.heads()[0];
    assert_eq!(head.header("connection"), Some("upgrade"));
    assert_eq!(head.header("upgrade"), Some("websocket"));
    assert_eq!(head.header("sec-websocket-key"), Some("x"));
    assert_eq!(front.agent.status().detached, 1);
    drop(caller);
    eventually("the upstream's is closed", || upstream.open() == 0).await;
    front.at_rest().await;
}

#[tokio::test]
async fn either_side_that_goes_takes_the_other_with_it() {
    let upstream = Server::start(|mut conn| async move {
        let head = conn.head().await.unwrap();
        conn.send(format!("{AGREE}hello")).await;
        match &*head.target {
            "/fin" => conn.fin().await,
            "/rst" => conn.rst(),
            _ => conn.closed().await,
        }
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    for path in ["/fin", "/rst", "/stays"] {
        let mut caller = front.connect().await;
        caller.send(ASK.replace("/chat", path)).await;
        caller.until("\r\n\r\n").await;
        if path == "/stays" {
            caller.until("hello").await;
        } else {
            caller.rest().await;
        }
        drop(caller);
        eventually("the upstream's is closed", || upstream.open() == 0).await;
    }
    front.at_rest().await;
}

#[tokio::test]
async fn an_upgrade_that_is_refused_leaves_both_connections_in_use() {
    let upstream = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.respond_with("HTTP/1.1 403 Forbidden", "no").await;
        }
    })
    .await;
    let front = Front::to(&upstream.url("")).await;
    let mut caller = front.connect().await;
    for _ in 0..3 {
        caller.send(ASK).await;
        let head = caller.until("\r\n\r\nno").await;
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
        assert_eq!(field(&head, "connection"), None);
    }
    assert_eq!(upstream.accepted(), 1);
    drop(caller);
    front.at_rest().await;
}

#[tokio::test]
async fn what_is_no_upgrade_is_asked_as_none() {
    let upstream = Server::start(crate::support::script::ok).await;
    for (forward, request) in [
        (true, "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n"),
        (true, "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\n"),
        (
            true,
            "GET / HTTP/1.0\r\nConnection: upgrade, keep-alive\r\nUpgrade: websocket\r\n",
        ),
        (
            true,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n",
        ),
        (
            true,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket, H2C\r\n",
        ),
        (
            false,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
        ),
    ] {
        let layer = ForwardLayer::to(upstream.url(""))
            .unwrap()
            .upgrades(forward);
        let front = Front::of(layer).await;
        let mut caller = front.connect().await;
        caller.send(format!("{request}\r\n")).await;
        caller.until("\r\n\r\nok").await;
        let head = upstream.heads().pop().unwrap();
        for name in ["upgrade", "connection", "http2-settings"] {
            assert_eq!(head.header(name), None, "{request}");
        }
        drop(caller);
        front.at_rest().await;
    }
}

#[tokio::test]
async fn a_switch_that_was_not_asked_for_is_a_bad_gateway_and_ends_its_connection() {
    let upstream = Server::start(|mut conn| async move {
        let head = conn.head().await.unwrap();
        let fields = match &*head.target {
            "/other" => "Connection: Upgrade\r\nUpgrade: irc\r\n",
            "/more" => "Connection: Upgrade\r\nUpgrade: websocket, irc\r\n",
            "/none" => "Connection: Upgrade\r\n",
            _ => "Connection: Upgrade\r\nUpgrade: websocket\r\n",
        };
        conn.send(format!(
            "HTTP/1.1 101 It Switches\r\nX-Secret: 1\r\n{fields}\r\nwhat"
        ))
        .await;
        conn.closed().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    let plain = "GET /plain HTTP/1.1\r\nHost: front.test\r\n\r\n".to_owned();
    let asks = ["/other", "/more", "/none"].map(|path| ASK.replace("/chat", path));
    for request in asks.into_iter().chain([plain]) {
        let mut caller = front.connect().await;
        caller.send(&request).await;
        let head = caller.until("\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{head}");
        assert_eq!(names(&head), ["content-length", "date"], "{request}");
        drop(caller);
        eventually("the upstream's is closed", || upstream.open() == 0).await;
    }
    front.at_rest().await;
}

#[tokio::test]
async fn a_switch_without_streams_is_passed_as_it_is() {
    let below = service_fn(|request: Request<String>| async move {
        assert_eq!(request.headers()["connection"], "upgrade");
        let response = Response::builder()
            .status(101)
            .header("upgrade", "WebSocket");
        Ok::<_, std::convert::Infallible>(response.body("body").unwrap())
    });
    let request = Request::get("/")
        .header("connection", "upgrade")
        .header("upgrade", "irc")
        .header("upgrade", "websocket")
        .body(String::new())
        .unwrap();
    let forward = ForwardLayer::to("http://h").unwrap().layer(below);
    let response = forward.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "WebSocket");
    assert_eq!(response.headers()["connection"], "upgrade");
    assert_eq!(*response.body(), "body");
}
