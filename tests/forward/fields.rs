//! Which fields pass, which do not, and which are added.

use std::convert::Infallible;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::uri::Scheme;
use http::{Method, Request, Response, StatusCode, Version};
use tower::{Layer, ServiceExt, service_fn};
use tower_keep_alive::forward::ForwardLayer;

use crate::front::{Front, field, names, peer};
use crate::support::{Server, script};

fn to(upstream: &str) -> ForwardLayer {
    ForwardLayer::to(upstream).unwrap()
}

/// The fields that a request has below the layer.
async fn sent(layer: ForwardLayer, request: http::request::Builder) -> HeaderMap {
    let request = request.body(String::new()).unwrap();
    let below = service_fn(|request: Request<String>| async move {
        Ok::<_, Infallible>(Response::new(request.headers().clone()))
    });
    layer
        .layer(below)
        .oneshot(request)
        .await
        .unwrap()
        .into_body()
}

/// The response that comes out above the layer.
async fn answered(
    layer: ForwardLayer,
    request: http::request::Builder,
    response: http::response::Builder,
) -> Response<()> {
    let request = request.body(String::new()).unwrap();
    let response = std::sync::Mutex::new(Some(response.body(()).unwrap()));
    let below = service_fn(|_: Request<String>| {
        let response = response.lock().unwrap().take().unwrap();
        async { Ok::<_, Infallible>(response) }
    });
    layer.layer(below).oneshot(request).await.unwrap()
}

#[tokio::test]
async fn fields_of_one_connection_stay_on_it_both_ways() {
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
             Proxy-Authentication-Info: x\r\n\
             Upgrade: h2c\r\n\
             X-End: 1",
            "answer",
        )
        .await;
        conn.stall().await;
    })
    .await;
    let front = Front::to(&upstream.url("")).await;

    let response = front
        .ask(
            "GET / HTTP/1.1\r\n\
             Host: front.test\r\n\
             Connection: close, X-Hop, Host, Content-Length\r\n\
             connection: \u{e9}, (odd), ,x-other-hop\r\n\
             X-Hop: 1\r\n\
             X-Other-Hop: 1\r\n\
             Keep-Alive: timeout=5\r\n\
             Proxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic eDp5\r\n\
             Proxy-Authenticate: Basic\r\n\
             TE: gzip\r\n\
             Upgrade: websocket\r\n\
             HTTP2-Settings: AAA\r\n\
             Authorization: Bearer x\r\n\
             Content-Length: 2\r\n\
             X-End: 1\r\n\r\n\
             ab",
        )
        .await;

    // `Connection: close` is the front's own answer to its caller.
    assert_eq!(
        names(&response),
        ["connection", "content-length", "date", "x-end"]
    );
    assert_eq!(field(&response, "connection"), Some("close"));
    let head = &upstream.heads()[0];
    let mut names: Vec<_> = head.headers.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "content-length", "host", "x-end"]);
    assert_eq!(head.header("host"), Some(&*upstream.addr().to_string()));
    assert_eq!(head.body, b"ab");

    assert_eq!(front.agent.status().closed, 0);
    front.at_rest().await;
}

#[tokio::test]
async fn thousands_of_fields_and_of_connection_options_are_read_whole() {
    let mut request = Request::get("/");
    let fields = request.headers_mut().unwrap();
    let mut options = Vec::new();
    for number in 0..5_000 {
        let name = format!("x-{number}");
        fields.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_static("1"),
        );
        if number % 2 == 0 {
            options.push(name);
        }
    }
    let options = HeaderValue::from_str(&options.join(",")).unwrap();
    fields.append("connection", options);
    for _ in 0..5_000 {
        fields.append(
            "connection",
            HeaderValue::from_bytes(b"\xff,,\t x-1 ,").unwrap(),
        );
    }
    let layer = to("http://h")
        .via("edge")
        .unwrap()
        .forwarded_proto(Scheme::HTTPS);
    let sent = sent(layer, request).await;
    assert_eq!(sent.len(), 2_499 + 2, "{:?}", sent.get("x-1"));
    assert!(!sent.contains_key("x-1") && !sent.contains_key("x-2") && sent.contains_key("x-3"));
}

#[tokio::test]
async fn an_expectation_of_http_1_0_is_ignored() {
    for (version, expected) in [
        (Version::HTTP_10, None),
        (Version::HTTP_11, Some("100-continue")),
    ] {
        let request = Request::post("/").version(version);
        let request = request.header("expect", "100-continue");
        let sent = sent(to("http://h"), request).await;
        let found = sent.get("expect").map(|it| it.to_str().unwrap());
        assert_eq!(found, expected, "{version:?}");
    }
}

#[tokio::test]
async fn a_map_without_room_is_forwarded_without_what_would_be_added() {
    let mut request = Request::get("/");
    let fields = request.headers_mut().unwrap();
    for number in 0.. {
        let name = HeaderName::from_bytes(format!("x-{number}").as_bytes()).unwrap();
        if fields
            .try_append(name, HeaderValue::from_static("1"))
            .is_err()
        {
            break;
        }
    }
    let full = fields.len();
    let layer = to("http://h")
        .via("edge")
        .unwrap()
        .forwarded_proto(Scheme::HTTPS);
    assert_eq!(sent(layer, request).await.len(), full);
}

#[tokio::test]
async fn the_length_of_a_body_cannot_be_named_away() {
    let request = Request::post("/").header("connection", "content-length, x");
    let request = request.header("content-length", "0").header("x", "1");
    let sent = sent(to("http://h"), request).await;
    assert_eq!(sent["content-length"], "0");
    assert_eq!(sent.len(), 1);
    let response = Response::builder().header("connection", "Content-Length");
    let response = response.header("content-length", "5");
    let came = answered(to("http://h"), Request::head("/"), response).await;
    assert_eq!(came.headers()["content-length"], "5");
}

/// Removed as one of `Connection`'s, it would leave a length beside a body that has another one, or a body in a coding that
/// nobody is told of.
#[tokio::test]
async fn the_framing_of_a_body_cannot_be_named_away() {
    let response = Response::builder()
        .header("connection", "transfer-encoding")
        .header("transfer-encoding", "chunked")
        .header("content-length", "5");
    let came = answered(to("http://h"), Request::get("/"), response).await;
    assert!(!came.headers().contains_key("content-length"));
    let request = Request::post("/")
        .header("connection", "close, transfer-encoding")
        .header("transfer-encoding", "gzip, chunked");
    let sent = sent(to("http://h"), request).await;
    assert_eq!(sent["transfer-encoding"], "gzip, chunked");
}

#[tokio::test]
async fn te_passes_trailers_alone_and_says_so() {
    for (value, passed) in [
        ("trailers", true),
        ("gzip;q=0.5, Trailers", true),
        ("gzip", false),
        ("", false),
        ("trailersx", false),
    ] {
        let request = Request::get("/")
            .header("te", value)
            .header("connection", "te");
        let sent = sent(to("http://h"), request).await;
        let text = |name: &str| sent.get(name).map(|it| it.to_str().unwrap());
        assert_eq!(text("te"), passed.then_some("trailers"), "{value:?}");
        assert_eq!(text("connection"), passed.then_some("te"), "{value:?}");
    }
}

#[tokio::test]
async fn crumbs_of_cookies_become_one_field() {
    let crumbs = |version| {
        Request::get("/")
            .version(version)
            .header("cookie", "a=1")
            .header("cookie", "b=2; c=3")
            .header("cookie", "d=\u{e9}".as_bytes())
    };
    for version in [Version::HTTP_2, Version::HTTP_3] {
        let sent = sent(to("http://h"), crumbs(version)).await;
        let cookies: Vec<_> = sent.get_all("cookie").iter().collect();
        assert_eq!(cookies.len(), 1);
        assert_eq!(cookies[0].as_bytes(), "a=1; b=2; c=3; d=\u{e9}".as_bytes());
    }
    let sent = sent(to("http://h"), crumbs(Version::HTTP_11)).await;
    assert_eq!(sent.get_all("cookie").iter().count(), 3);
}

#[tokio::test]
async fn a_transfer_coding_that_is_not_undone_is_told() {
    for (codings, told) in [
        (&["chunked"][..], None),
        (&["Chunked"], None),
        (&["identity, chunked"], None),
        (&["gzip, chunked"], Some("gzip, chunked")),
        (&["gzip", "chunked"], Some("gzip, chunked")),
    ] {
        let mut request = Request::post("/").header("content-length", "3");
        let mut response = Response::builder().header("content-length", "3");
        for coding in codings {
            request = request.header("transfer-encoding", *coding);
            response = response.header("transfer-encoding", *coding);
        }
        let sent = sent(to("http://h"), request).await;
        let came = answered(to("http://h"), Request::get("/"), response).await;
        for fields in [&sent, came.headers()] {
            let text = fields
                .get("transfer-encoding")
                .map(|it| it.to_str().unwrap());
            assert_eq!(text, told, "{codings:?}");
            // It says nothing beside a transfer coding (RFC 9112 §6.3).
            assert!(!fields.contains_key("content-length"), "{codings:?}");
        }
    }
}

#[tokio::test]
async fn host_is_the_upstreams_or_the_callers() {
    let upstream = Server::start(script::ok).await;
    let own = upstream.addr().to_string();
    for (preserves, line, host) in [
        (false, "GET / HTTP/1.1\r\nHost: a.test:81", &*own),
        (true, "GET / HTTP/1.1\r\nHost: a.test:81", "a.test:81"),
        // RFC 9112 §3.2.2: the request's target comes before the field.
        (
            true,
            "GET http://u:p@b.test/ HTTP/1.1\r\nHost: a.test",
            "b.test",
        ),
        (true, "GET / HTTP/1.0", &*own),
        (
            true,
            "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: host",
            "a.test",
        ),
    ] {
        let front = Front::of(to(&upstream.url("")).preserve_host(preserves)).await;
        let mut caller = front.connect().await;
        caller.send(format!("{line}\r\n\r\n")).await;
        caller.until("\r\n\r\nok").await;
        let head = upstream.heads().pop().unwrap();
        assert_eq!(head.header("host"), Some(host), "{line}");
        let hosts = head.headers.iter().filter(|(name, _)| name == "host");
        assert_eq!(hosts.count(), 1, "{line}");
        drop(caller);
        front.at_rest().await;
    }
}

#[tokio::test]
async fn via_says_by_which_version_it_came_in() {
    let via = |fields: &HeaderMap| fields.get("via").map(|it| it.to_str().unwrap().to_owned());
    for (version, said) in [
        (Version::HTTP_09, "0.9 edge"),
        (Version::HTTP_10, "1.0 edge"),
        (Version::HTTP_11, "1.1 edge"),
        (Version::HTTP_2, "2.0 edge"),
        (Version::HTTP_3, "3.0 edge"),
    ] {
        let layer = to("http://h").via("edge").unwrap();
        let request = Request::get("/").version(version);
        assert_eq!(via(&sent(layer.clone(), request).await).unwrap(), said);
        let response = Response::builder().version(version).header("via", "1.1 a");
        let response = answered(layer, Request::get("/"), response.header("via", "1.0 b")).await;
        assert_eq!(
            via(response.headers()).unwrap(),
            format!("1.1 a, 1.0 b, {said}")
        );
    }
    let request = Request::get("/").header("via", "1.1 a");
    assert_eq!(via(&sent(to("http://h"), request).await).unwrap(), "1.1 a");
    let response = answered(to("http://h"), Request::get("/"), Response::builder()).await;
    assert_eq!(via(response.headers()), None);
    for name in ["", "a b", "a,b", "a\r\nx: y", "\u{e9}"] {
        let error = to("http://h").via(name).unwrap_err();
        assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
    }
}

/// What a stranger claims.
fn claims() -> http::request::Builder {
    Request::get("/")
        .header("host", "front.test")
        .header("forwarded", "for=9.9.9.9")
        .header("x-forwarded-for", "9.9.9.9")
        .header("x-forwarded-for", "8.8.8.8")
        .header("x_forwarded_for", "9.9.9.9")
        .header("x-forwarded-host", "claimed.test")
        .header("x-forwarded-proto", "claimed")
        .header("x-forwarded-port", "9")
        .header("x-real-ip", "9.9.9.9")
}

#[tokio::test]
async fn what_a_stranger_claims_is_replaced() {
    let layer = to("http://h")
        .forwarded_for(|_| Some("2001:db8::1".parse().unwrap()))
        .forwarded_host(true)
        .forwarded_proto(Scheme::HTTPS);
    let fields = sent(layer, claims()).await;
    assert_eq!(fields.len(), 3, "{fields:?}");
    assert_eq!(fields["x-forwarded-for"], "2001:db8::1");
    assert_eq!(fields["x-forwarded-host"], "front.test");
    assert_eq!(fields["x-forwarded-proto"], "https");

    // Any one of the three, and with nothing to say too.
    for layer in [
        to("http://h").forwarded_for(|_| None),
        to("http://h").forwarded_host(true),
        to("http://h").forwarded_proto(Scheme::HTTP),
    ] {
        let fields = sent(layer, claims()).await;
        let claimed = fields.iter().any(|(_, value)| {
            let value = value.to_str().unwrap();
            value.contains("9") || value.contains("claimed")
        });
        assert!(!claimed, "{fields:?}");
    }
    // Nothing is asked for: these are fields as any other.
    let fields = sent(to("http://h"), claims()).await;
    assert_eq!(fields.len(), 8, "{fields:?}");
}

#[tokio::test]
async fn what_a_trusted_proxy_says_stays_and_is_added_to() {
    let layer = to("http://h")
        .forwarded_for(|_| Some("192.0.2.1".parse().unwrap()))
        .forwarded_host(true)
        .forwarded_proto(Scheme::HTTP)
        .trust_forwarded(true);
    let fields = sent(layer.clone(), claims()).await;
    assert_eq!(fields["x-forwarded-for"], "9.9.9.9, 8.8.8.8, 192.0.2.1");
    assert_eq!(fields.get_all("x-forwarded-for").iter().count(), 1);
    assert_eq!(fields["x-forwarded-host"], "claimed.test");
    assert_eq!(fields["x-forwarded-proto"], "claimed");

    let fields = sent(layer, Request::get("http://absolute.test/")).await;
    assert_eq!(fields["x-forwarded-for"], "192.0.2.1");
    assert_eq!(fields["x-forwarded-host"], "absolute.test");
    assert_eq!(fields["x-forwarded-proto"], "http");
}

#[tokio::test]
async fn a_caller_cannot_name_away_what_is_told_of_it() {
    let upstream = Server::start(script::ok).await;
    let layer = to(&upstream.url(""))
        .forwarded_for(peer)
        .forwarded_host(true)
        .via("edge")
        .unwrap();
    let front = Front::of(layer).await;
    let response = front
        .ask(
            "GET / HTTP/1.1\r\nHost: front.test\r\nX-Forwarded-For: 9.9.9.9\r\n\
             Connection: close, x-forwarded-for, x-forwarded-host, via, host\r\n\r\n",
        )
        .await;
    assert_eq!(field(&response, "via"), Some("1.1 edge"));
    let head = upstream.heads().pop().unwrap();
    assert_eq!(head.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(head.header("x-forwarded-host"), Some("front.test"));
    assert_eq!(head.header("via"), Some("1.1 edge"));
    front.at_rest().await;
}

#[tokio::test]
async fn a_426_says_what_to_upgrade_to() {
    let response = || {
        let response = Response::builder().status(StatusCode::UPGRADE_REQUIRED);
        response
            .header("upgrade", "websocket")
            .header("connection", "upgrade, close")
    };
    let passed = answered(to("http://h"), Request::get("/"), response()).await;
    assert_eq!(passed.headers()["upgrade"], "websocket");
    assert_eq!(passed.headers()["connection"], "upgrade");
    let layer = to("http://h").upgrades(false);
    let stripped = answered(layer, Request::get("/"), response()).await;
    assert!(stripped.headers().is_empty());
}

#[tokio::test]
async fn a_connect_is_for_the_upstream_and_makes_no_tunnel() {
    for (status, given) in [(200, 501), (204, 501), (405, 405), (403, 403)] {
        let below = service_fn(move |request: Request<String>| async move {
            assert_eq!(request.uri(), "http://upstream.test/base");
            let response = Response::builder().status(status).header("x", "1");
            Ok::<_, Infallible>(response.body(()).unwrap())
        });
        let request = Request::builder().method(Method::CONNECT);
        let request = request.uri("internal.test:22").body(String::new()).unwrap();
        let layer = to("http://upstream.test/base");
        let response = layer.layer(below).oneshot(request).await.unwrap();
        assert_eq!(response.status(), given);
        assert_eq!(response.headers().contains_key("x"), status == given);
    }
}

#[test]
fn an_upstream_that_cannot_be_is_named_and_its_password_is_not() {
    for (text, why) in [
        ("", "empty"),
        ("/path", "scheme"),
        ("127.0.0.1:3000", "scheme"),
        ("localhost", "scheme"),
        ("ftp://u:secret@h", "ftp"),
        ("http://u:secret@h:99999", "99999"),
        ("http://u:secret@", "authority"),
        ("http://a b", "invalid"),
        ("http://h/a b", "invalid"),
    ] {
        let error = ForwardLayer::to(text).unwrap_err().to_string();
        assert!(error.starts_with("invalid upstream: "), "{text}: {error}");
        assert!(error.contains(why), "{text}: {error}");
        assert!(!error.contains("secret"), "{text}: {error}");
    }
    let layer = to("http://u:secret@h/base?token=secret");
    let text = format!("{layer:?}");
    assert!(
        text.contains("http://h/base") && !text.contains("secret"),
        "{text}"
    );
}
