//! The reverse proxy of `examples/proxy.rs`, as it was built: what callers see, what the upstream sees, and its status.

mod support;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use serde_json::Value;
use support::agent::{Client, agent, at_rest, fetch, get, post, send};
use support::tls::{Authority, CA, localhost};
use support::{RefusingPort, Server, eventually, not_tiny, script};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
#[cfg(target_os = "linux")]
use tokio::net::TcpSocket;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tower_keep_alive::KeepAliveLayer;

/// A running proxy; it is killed when it is dropped.
struct Proxy {
    addr: String,
    process: Child,
    /// Asks for the status, apart from the callers.
    observer: Client,
}

impl Proxy {
    /// Starts one on a free port, with `arguments` beside the two that it needs.
    async fn start(upstream: &str, arguments: &[&str]) -> Self {
        Self::start_with(upstream, arguments, &[]).await
    }

    /// The same, with these variables.
    async fn start_with(upstream: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut process = command(&["--listen", "127.0.0.1:0", "--upstream", upstream])
            .args(arguments)
            .envs(variables.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the proxy starts");
        let stdout = process.stdout.take().expect("piped above");
        let line = timeout(
            Duration::from_secs(10),
            BufReader::new(stdout).lines().next_line(),
        )
        .await
        .expect("the proxy listens within 10 s")
        .expect("its output can be read")
        .expect("it says where it listens");
        let addr = line.strip_prefix("listening on ").expect(&line).to_owned();
        let (observer, _) = agent(KeepAliveLayer::new());
        Self {
            addr,
            process,
            observer,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// What it says of its agent, as it stands there.
    async fn status(&self) -> String {
        let answer = fetch(&self.observer, self.url("/agent/status"))
            .await
            .expect("the proxy tells its status");
        assert_eq!(answer.status, StatusCode::OK);
        answer.body
    }

    /// The proxy's own `at_rest`: its status, once nothing is in motion and every connection is accounted for.
    async fn at_rest(&self) -> Value {
        let started = Instant::now();
        loop {
            let text = self.status().await;
            let status: Value = serde_json::from_str(&text).expect("the status is JSON");
            let count = |name: &str| status[name].as_u64().expect(name);
            let idle: u64 = status["freeSockets"]
                .as_object()
                .expect("a map")
                .values()
                .map(|count| count.as_u64().expect("a count"))
                .sum();
            let ended = count("closeSocketCount") + count("detachedSocketCount");
            if status["sockets"] == serde_json::json!({})
                && status["requests"] == serde_json::json!({})
                && count("createSocketCount") == ended + idle
            {
                return status;
            }
            assert!(
                started.elapsed() < Duration::from_secs(5),
                "not at rest within 5 s: {text}"
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes `request` as it stands, which should say `Connection: close`, and reads to the end.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr)
            .await
            .expect("the proxy listens");
        stream
            .write_all(request.as_bytes())
            .await
            .expect("the request is written");
        let mut response = String::new();
        timeout(
            Duration::from_secs(10),
            stream.read_to_string(&mut response),
        )
        .await
        .expect("the response ends within 10 s")
        .expect("the response is text");
        response
    }
}

/// The example, beside the tests where cargo has built both: `target/<profile>/examples/proxy`.
fn command(arguments: &[&str]) -> Command {
    let test = std::env::current_exe().expect("the path of this test");
    let profile = test
        .ancestors()
        .nth(2)
        .expect("tests are in target/<profile>/deps");
    let path = profile
        .join("examples")
        .join(format!("proxy{}", std::env::consts::EXE_SUFFIX));
    assert!(
        path.exists(),
        "{} is not built: `cargo test` builds it, `cargo test --test proxy` does not; run `cargo build --example proxy`",
        path.display(),
    );
    let mut command = Command::new(path);
    command.args(arguments).kill_on_drop(true);
    command
}

/// The names of a raw response's fields, sorted, and its body.
fn parts(response: &str) -> (Vec<String>, &str) {
    let (head, body) = response.split_once("\r\n\r\n").expect("a whole head");
    let mut names: Vec<_> = head
        .lines()
        .skip(1)
        .map(|line| line.split(':').next().expect("a name").to_lowercase())
        .collect();
    names.sort();
    (names, body)
}

/// Answers every request with its own target.
async fn targets(mut conn: support::Conn) {
    while let Some(head) = conn.request().await {
        conn.respond(&head.target).await;
    }
}

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
    at_rest(&handle).await;
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
async fn hung_up_on(request: &str, arguments: &[&str]) -> (Vec<support::Head>, String) {
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

/// A file that is removed when it is dropped.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("proxy-{}-{name}", std::process::id()));
        std::fs::write(&path, text).expect("a temporary file");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

#[tokio::test]
async fn an_upstream_of_https_is_whom_the_file_vouches_for() {
    let upstream = Server::start_tls(localhost().server(), script::ok).await;
    let ca = TempFile::new("ca.pem", &CA.pem());
    let proxy = Proxy::start(&upstream.url("/"), &["--ca", ca.path()]).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for _ in 0..10 {
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!((answer.status, &*answer.body), (StatusCode::OK, "ok"));
    }
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketCount"], 1);
    let name = format!("https:{}:", upstream.addr());
    assert_eq!(status["freeSockets"][&name], 1);
    assert_eq!((upstream.accepted(), upstream.requests()), (1, 10));
    at_rest(&handle).await;
}

/// The platform's, as OpenSSL's variables name them: a machine without any, and one that trusts the tests.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_upstream_of_https_is_whom_the_platform_vouches_for() {
    let upstream = Server::start_tls(localhost().server(), script::ok).await;
    let plain = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let none = TempFile::new("none.pem", "");
    let ours = TempFile::new("ours.pem", &CA.pem());
    for (trusted, status, said) in [
        (
            &none,
            StatusCode::BAD_GATEWAY,
            "the platform has no certificates to trust",
        ),
        (&ours, StatusCode::OK, "ok"),
    ] {
        let variables = [("SSL_CERT_FILE", trusted.path()), ("SSL_CERT_DIR", "")];
        let proxy = Proxy::start_with(&upstream.url("/"), &[], &variables).await;
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(said), "{}", answer.body);
        let is_error = status != StatusCode::OK;
        assert_eq!(
            proxy.at_rest().await["createSocketErrorCount"],
            u64::from(is_error)
        );
        // For http that is nothing.
        let proxy = Proxy::start_with(&plain.url("/"), &[], &variables).await;
        let answer = fetch(&client, proxy.url("/")).await.unwrap();
        assert_eq!(answer.status, StatusCode::OK);
    }
    assert_eq!(upstream.requests(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_upstream_of_https_that_nobody_vouches_for_is_a_bad_gateway() {
    let upstream = Server::start_tls(localhost().server(), script::ok).await;
    let stranger = TempFile::new("stranger.pem", &Authority::new("stranger").pem());
    let proxy = Proxy::start(&upstream.url("/"), &["--ca", stranger.path()]).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let answer = fetch(&client, proxy.url("/")).await.unwrap();
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert!(answer.body.contains("UnknownIssuer"), "{}", answer.body);
    let status = proxy.at_rest().await;
    assert_eq!(status["createSocketErrorCount"], 1);
    assert_eq!(status["freeSockets"], serde_json::json!({}));
    assert_eq!(upstream.requests(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_file_without_certificates_ends_it_in_a_line() {
    let empty = TempFile::new("empty.pem", "");
    for file in [empty.path(), "/no/such/file"] {
        let arguments = [
            "--listen",
            "127.0.0.1:0",
            "--upstream",
            "https://localhost",
            "--ca",
            file,
        ];
        let output = timeout(Duration::from_secs(10), command(&arguments).output());
        let output = output.await.expect("it ends by itself").unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.starts_with(&format!("proxy: {file}: ")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[tokio::test]
async fn what_cannot_be_started_says_so_in_a_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let upstream = "http://127.0.0.1:1";

    let output = command(&["--listen", &taken, "--upstream", upstream])
        .output()
        .await
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.starts_with("proxy: cannot listen on"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    for wrong in [
        &["--listen", "nowhere"][..],
        &["--upstream", "ftp://127.0.0.1"],
        &["--upstream", "/path"],
        &["--max-connections-per-host", "0"],
        &["--max-connections", "many"],
        &["--max-idle-per-host", "some"],
        &["--idle-timeout", "4"],
        &["--active-timeout", "0s"],
        &["--ttl", "long"],
        &["--no-such-thing"],
    ] {
        let mut arguments = vec!["--listen", "127.0.0.1:0", "--upstream", upstream];
        match wrong {
            ["--listen", value] => arguments[1] = value,
            ["--upstream", value] => arguments[3] = value,
            _ => arguments.extend(wrong),
        }
        let output = timeout(Duration::from_secs(10), command(&arguments).output());
        let output = output.await.expect("it ends by itself").unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{wrong:?}: {said}");
        assert!(
            said.starts_with("error: ") && said.contains(wrong[0]),
            "{said}"
        );
    }
}

#[cfg(unix)]
#[tokio::test]
async fn ctrl_c_ends_it_when_what_is_in_flight_has_ended() {
    let upstream = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/slow" {
                sleep(Duration::from_millis(300)).await;
            }
            conn.respond(&head.target).await;
        }
    })
    .await;
    let mut proxy = Proxy::start(&upstream.url(""), &[]).await;
    let (client, handle) = agent(KeepAliveLayer::new());

    fetch(&client, proxy.url("/")).await.unwrap();
    let slow = {
        let client = client.clone();
        let url = proxy.url("/slow");
        tokio::spawn(async move { fetch(&client, url).await })
    };
    eventually("the slow request is at the upstream", || {
        upstream.requests() == 2
    })
    .await;
    let id = proxy.process.id().expect("it runs").to_string();
    let killed = Command::new("kill").args(["-INT", &id]).status().await;
    assert!(killed.unwrap().success());

    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.body, "/slow");
    let code = timeout(Duration::from_secs(10), proxy.process.wait());
    let code = code.await.expect("it ends within 10 s").unwrap();
    assert_eq!(code.code(), Some(0));
    eventually("no connection to the upstream is left", || {
        upstream.open() == 0
    })
    .await;
    at_rest(&handle).await;
}
