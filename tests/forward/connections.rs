//! The caller's connection and the agent's are two.

use tower::ServiceExt;
use tower_keep_alive::forward::{ForwardLayer, Upstream};
use tower_keep_alive::{KeepAliveLayer, extensions::Partition};

use http::{Request, Version};
use tower::{Layer, service_fn};

use crate::front::{Front, field};
use crate::support::agent::{Answer, agent, at_rest, get, read};
use crate::support::{Conn, RefusingPort, Server, eventually, not_tiny, script};

/// Answers every request with its own target.
async fn targets(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        conn.respond(&head.target).await;
    }
}

#[tokio::test]
async fn five_requests_that_say_close_make_one_connection_to_the_upstream() {
    let upstream = Server::start(script::ok).await;
    let front = Front::to(&upstream.url("")).await;

    for close in [
        "close",
        "Close",
        "keep-alive, close",
        ", close ,",
        "close, \u{e9}",
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: front.test\r\nConnection: {close}\r\n\r\n");
        let mut caller = front.connect().await;
        caller.send(request).await;
        let response = caller.until("\r\n\r\nok").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    }

    assert_eq!(upstream.accepted(), 1);
    assert!(
        upstream
            .heads()
            .iter()
            .all(|it| it.header("connection").is_none())
    );
    front.at_rest().await;
}

#[tokio::test]
async fn a_close_by_the_upstream_is_not_the_callers() {
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "last")
            .await;
        conn.fin().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;
    let mut caller = front.connect().await;

    for _ in 0..3 {
        caller
            .send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
            .await;
        let response = caller.until("\r\n\r\nlast").await;
        assert_eq!(field(&response, "connection"), None, "{response}");
    }

    assert_eq!(upstream.accepted(), 3);
    drop(caller);
    front.at_rest().await;
}

#[tokio::test]
async fn a_caller_of_http_1_0_is_answered_in_its_version_and_the_upstream_asked_in_ours() {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match &*head.target {
                "/chunked" => {
                    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked";
                    conn.respond_with(head, "4\r\nin p\r\n5\r\nieces\r\n0\r\n\r\n")
                        .await;
                }
                _ => conn.respond("whole").await,
            }
        }
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    let response = front.ask("GET /chunked HTTP/1.0\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.0 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nin pieces"), "{response}");
    assert_eq!(field(&response, "transfer-encoding"), None);

    // It may keep its connection.
    let mut caller = front.connect().await;
    for _ in 0..2 {
        caller
            .send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .await;
        let response = caller.until("\r\n\r\nwhole").await;
        assert_eq!(field(&response, "connection"), Some("keep-alive"));
    }

    assert_eq!(upstream.accepted(), 1);
    for head in upstream.heads() {
        assert_eq!(head.version, "HTTP/1.1");
        assert_eq!(head.header("host"), Some(&*upstream.addr().to_string()));
    }
    drop(caller);
    front.at_rest().await;
}

#[tokio::test]
async fn an_upstream_of_http_1_0_is_not_seen_by_the_caller() {
    if not_tiny("it is about the caller's chunks") {
        return;
    }
    let upstream = Server::start(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.0 200 OK\r\n\r\nto the end").await;
        conn.fin().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;
    let mut caller = front.connect().await;

    for _ in 0..2 {
        caller
            .send("GET / HTTP/1.1\r\nHost: front.test\r\n\r\n")
            .await;
        let response = caller.until("0\r\n\r\n").await;
        assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
        assert!(
            response.ends_with("A\r\nto the end\r\n0\r\n\r\n"),
            "{response}"
        );
    }

    drop(caller);
    front.at_rest().await;
}

#[tokio::test]
async fn the_target_comes_behind_the_base_with_its_query() {
    let upstream = Server::start(targets).await;
    let front = Front::to(&upstream.url("/base/?key=1")).await;

    for (asked, sent) in [
        ("/", "/base/?key=1"),
        ("/a%20b/%2F?x=1&x=%3F", "/base/a%20b/%2F?key=1&x=1&x=%3F"),
        ("/../up/./", "/base/../up/./?key=1"),
        ("//c", "/base//c?key=1"),
        ("/?", "/base/?key=1"),
        ("http://elsewhere.test/there?y", "/base/there?key=1&y"),
        ("http://elsewhere.test", "/base/?key=1"),
    ] {
        let request =
            format!("GET {asked} HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\n\r\n");
        let response = front.ask(request).await;
        assert!(
            response.ends_with(&format!("\r\n\r\n{sent}")),
            "{asked}: {response}"
        );
    }
    let request = "OPTIONS * HTTP/1.1\r\nHost: front.test\r\nConnection: close\r\n\r\n";
    let response = front.ask(request).await;
    assert!(response.ends_with("\r\n\r\n*"), "{response}");

    assert_eq!(upstream.accepted(), 1);
    front.at_rest().await;
}

#[tokio::test]
async fn each_request_goes_where_it_is_chosen_to_go() {
    let (one, two) = (Server::start(targets).await, Server::start(targets).await);
    let first = Upstream::try_from(one.url("/one")).unwrap();
    let second = Upstream::try_from(two.url("/two")).unwrap();
    let forward = ForwardLayer::to_each(move |request| {
        match request
            .headers
            .get("host")
            .is_some_and(|host| host == "two.test")
        {
            true => second.clone(),
            false => first.clone(),
        }
    });
    let front = Front::of(forward).await;

    for (host, sent) in [
        ("one.test", "/one/x"),
        ("two.test", "/two/x"),
        ("three.test", "/one/x"),
    ] {
        let request = format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        let response = front.ask(request).await;
        assert!(response.ends_with(sent), "{host}: {response}");
    }

    assert_eq!((one.accepted(), two.accepted()), (1, 1));
    front.at_rest().await;
}

#[tokio::test]
async fn what_a_layer_above_says_of_the_connection_reaches_the_agent() {
    let upstream = Server::start(script::ok).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let forward = ForwardLayer::to(upstream.url("")).unwrap();
    let client = forward.layer(client);

    for partition in ["a", "b", "a"] {
        let mut request = get("/");
        request.extensions_mut().insert(Partition::new(partition));
        let response = client.clone().oneshot(request).await.unwrap();
        let Answer { body, .. } = read(response).await.unwrap();
        assert_eq!(body, "ok");
    }

    assert_eq!(upstream.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_error_from_below_is_passed_through() {
    let nobody = RefusingPort::new();
    let (client, handle) = agent(KeepAliveLayer::new());
    let client = ForwardLayer::to(nobody.url("")).unwrap().layer(client);

    let error = client.oneshot(get("/")).await.unwrap_err();
    assert!(error.is_connect(), "{error}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_caller_that_leaves_ends_its_request_at_the_upstream() {
    let upstream = Server::start(|mut conn| async move {
        let head = conn.head().await.unwrap();
        if head.target == "/body" {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
                .await;
        }
        conn.closed().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    for (path, asked) in [("/head", 1), ("/body", 2)] {
        let mut caller = front.connect().await;
        caller
            .send(format!("GET {path} HTTP/1.1\r\nHost: front.test\r\n\r\n"))
            .await;
        eventually("the upstream has it", || upstream.requests() == asked).await;
        if path == "/body" {
            caller.until("\r\n\r\nsome").await;
        }
        drop(caller);
        eventually("the upstream's is closed", || upstream.open() == 0).await;
    }

    front.at_rest().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_ends_its_request_at_the_upstream() {
    let upstream = Server::start(|mut conn| async move {
        conn.head().await;
        conn.closed().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    for framing in [
        "Content-Length: 100\r\n\r\nsome",
        "Transfer-Encoding: chunked\r\n\r\n4\r\nsome",
    ] {
        let asked = upstream.requests();
        let mut caller = front.connect().await;
        let head = "POST / HTTP/1.1\r\nHost: front.test\r\n";
        caller.send(format!("{head}{framing}")).await;
        eventually("the upstream has it", || upstream.requests() == asked + 1).await;
        drop(caller);
        eventually("the upstream's is closed", || upstream.open() == 0).await;
    }

    front.at_rest().await;
}

#[tokio::test]
async fn readiness_is_that_of_the_service_below() {
    let (below, mut handle) = tower_test::mock::pair::<Request<String>, http::Response<u8>>();
    handle.allow(0);
    let mut above =
        tower_test::mock::Spawn::new(ForwardLayer::to("http://h").unwrap().layer(below));
    assert!(above.poll_ready::<Request<String>>().is_pending());
    handle.allow(2);
    assert!(above.poll_ready::<Request<String>>().is_ready());

    // The body's type is the service's, and so is the response's.
    let answer = above.call(Request::new("body".to_owned()));
    let (request, send) = handle.next_request().await.unwrap();
    assert_eq!(
        (request.uri(), &**request.body()),
        (&"http://h/".parse().unwrap(), "body")
    );
    send.send_response(http::Response::new(7));
    assert_eq!(*answer.await.unwrap().body(), 7);
}

#[tokio::test]
async fn versions_are_reset_both_ways() {
    for version in [
        Version::HTTP_10,
        Version::HTTP_11,
        Version::HTTP_2,
        Version::HTTP_3,
    ] {
        let below = service_fn(move |request: Request<String>| async move {
            assert_eq!(request.version(), Version::HTTP_11);
            let mut response = http::Response::new(());
            *response.version_mut() = version;
            Ok::<_, std::convert::Infallible>(response)
        });
        let mut request = Request::new(String::new());
        *request.version_mut() = version;
        let forward = ForwardLayer::to("http://h").unwrap().layer(below);
        let response = forward.oneshot(request).await.unwrap();
        assert_eq!(response.version(), Version::HTTP_11);
    }
}
