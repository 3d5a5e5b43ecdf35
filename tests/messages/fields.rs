//! What a request says in its target and in the fields that belong to its connection, as a server reads it on the wire; and
//! what a response says there.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::agent::{Req, agent, agent_over, at_rest, fetch, get, post, read, send};
use crate::support::{Conn, Fault, Head, Server, TrapConnector, eventually, script};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, HeaderValue};
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{Empty, Full};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    AgentHandle, Body, CloseReason, Error, KeepAliveLayer,
    extensions::OneShot,
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

fn with(mut request: Req, fields: &[(&'static str, &'static str)]) -> Req {
    for (name, value) in fields {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_static(value);
        request.headers_mut().append(name, value);
    }
    request
}

fn names(head: &Head) -> Vec<&str> {
    head.headers.iter().map(|(name, _)| &**name).collect()
}

fn all<'a>(head: &'a Head, name: &str) -> Vec<&'a str> {
    let fields = head.headers.iter().filter(|(own, _)| own == name);
    fields.map(|(_, value)| &**value).collect()
}

/// Switches protocols where a request asks for that as RFC 6455 §4.2.1 wants it, and refuses it otherwise.
async fn websocket(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let connection = head.header("connection").unwrap_or_default().to_lowercase();
        let options: Vec<_> = connection.split(',').map(str::trim).collect();
        let asks = options.contains(&"upgrade") && head.header("upgrade") == Some("websocket");
        if !asks || options.contains(&"close") {
            conn.respond_with("HTTP/1.1 400 Bad Request", "").await;
            continue;
        }
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
        )
        .await;
        return conn.closed().await;
    }
}

#[tokio::test]
async fn an_upgrade_on_a_connection_of_its_own_is_not_told_to_close() {
    for keep_alive in [true, false] {
        let server = Server::start(websocket).await;
        let (client, handle) = agent(KeepAliveLayer::new().keep_alive(keep_alive));
        for one_shot in [true, false] {
            let fields = [("connection", "Upgrade"), ("upgrade", "websocket")];
            let mut request = with(get(server.url("/")), &fields);
            if one_shot {
                request.extensions_mut().insert(OneShot);
            }
            let response = client.request(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
            drop(hyper::upgrade::on(response).await.unwrap());
        }
        for head in server.heads() {
            assert_eq!(all(&head, "connection"), ["Upgrade"]);
        }
        assert_eq!(handle.status().detached, 2);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_tunnel_on_a_connection_of_its_own_is_not_told_to_close() {
    for keep_alive in [true, false] {
        let server = Server::start(|mut conn: Conn| async move {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\n\r\n").await;
            conn.closed().await;
        })
        .await;
        let (client, handle) = agent(KeepAliveLayer::new().keep_alive(keep_alive));
        let mut request = asking(Method::CONNECT, server.url("/").parse().unwrap());
        request.extensions_mut().insert(OneShot);
        let response = client.request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        drop(hyper::upgrade::on(response).await.unwrap());
        assert!(all(&server.heads()[0], "connection").is_empty());
        assert_eq!(handle.status().detached, 1);
        at_rest(&handle).await;
    }
}

/// `http` takes a bracket that is opened before an `@` and closed behind it.
#[tokio::test]
async fn a_uri_whose_user_information_hides_a_broken_host_is_refused() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = exchange(ExchangeLayer::new(), &server);
    for uri in ["http://[@]/", "http://a[@]b/", "http://[:@]/"] {
        let error = send(&client, get(uri)).await.unwrap_err();
        assert!(error.is_target(), "{uri}: {error:?}");
    }
    at_rest(&handle).await;
}

/// One name less than a `HeaderMap` holds, which panics where one is added beyond that.
#[tokio::test]
async fn a_request_with_too_many_fields_is_refused_and_panics_nowhere() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = exchange(ExchangeLayer::new(), &server);
    let mut request = get(server.url("/"));
    for number in 0..24_576 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        request
            .headers_mut()
            .insert(name, HeaderValue::from_static("1"));
    }
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_target(), "{error:?}");
    assert!(error.to_string().contains("24000"), "{error}");
    at_rest(&handle).await;
}

/// A `HeaderMap` limits the names alone: it holds any number of values.
#[tokio::test]
async fn a_field_may_have_more_values_than_a_map_has_room_for_names() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = exchange(ExchangeLayer::new(), &server);
    let mut request = get(server.url("/"));
    for _ in 0..25_000 {
        let value = HeaderValue::from_static("1");
        request.headers_mut().append("x", value);
    }
    let answer = send(&client, request).await.unwrap();
    assert_eq!(answer.status, StatusCode::OK);
    at_rest(&handle).await;
}

/// The server was not told to close, and without keep-alive the connection is closed all the same.
#[tokio::test]
async fn an_upgrade_that_is_refused_leaves_no_connection_without_keep_alive() {
    let server = Server::in_memory(script::ok);
    // The pool below would keep it.
    let (client, handle) = exchange(ExchangeLayer::new().keep_alive(false), &server);
    let fields = [("connection", "upgrade"), ("upgrade", "websocket")];
    for _ in 0..2 {
        let answer = send(&client, with(get(server.url("/")), &fields)).await;
        assert_eq!(answer.unwrap().status, StatusCode::OK);
    }
    eventually("both are closed", || server.open() == 0).await;
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes[&CloseReason::Final], 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn close_is_added_to_the_options_of_the_caller() {
    for keep_alive in [true, false] {
        let server = Server::ok().await;
        let (client, handle) = agent(KeepAliveLayer::new().keep_alive(keep_alive));
        let mut request = with(
            get(server.url("/")),
            &[("connection", "x-hop"), ("x-hop", "1")],
        );
        if keep_alive {
            request.extensions_mut().insert(OneShot);
        }
        send(&client, request).await.unwrap();
        let head = &server.heads()[0];
        assert_eq!(all(head, "connection"), ["x-hop, close"]);
        assert_eq!(head.header("x-hop"), Some("1"));
        eventually("it is closed", || server.open() == 0).await;
        assert_eq!(handle.status().closes[&CloseReason::Final], 1);
        at_rest(&handle).await;
    }
}

/// RFC 9110 §10.1.4 and §7.6.1: otherwise a proxy would pass it on.
#[tokio::test]
async fn te_is_sent_with_its_option() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for fields in [
        &[("te", "trailers")][..],
        &[("te", "trailers"), ("connection", "TE")],
    ] {
        send(&client, with(get(server.url("/")), fields))
            .await
            .unwrap();
        let heads = server.heads();
        let connection = all(heads.last().unwrap(), "connection");
        assert!(connection.len() == 1 && connection[0].eq_ignore_ascii_case("te"));
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn host_is_the_first_field_on_the_wire() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let addr = server.addr().to_string();
    for (own, sent, host) in [
        (&[][..], &["host"][..], None),
        (&[("b", "1"), ("a", "2")], &["host", "b", "a"], None),
        (
            &[("b", "1"), ("a", "2"), ("b", "3")],
            &["host", "b", "b", "a"],
            None,
        ),
        (
            &[("b", "1"), ("host", "own"), ("a", "2")],
            &["host", "b", "a"],
            Some("own"),
        ),
        (&[("host", "own"), ("a", "2")], &["host", "a"], Some("own")),
    ] {
        send(&client, with(get(server.url("/")), own))
            .await
            .unwrap();
        let heads = server.heads();
        let head = heads.last().unwrap();
        assert_eq!(names(head), sent, "{own:?}");
        assert_eq!(head.header("host"), Some(host.unwrap_or(&addr)));
    }
    let mut one_shot = post(server.url("/"), "x");
    one_shot.extensions_mut().insert(OneShot);
    send(&client, one_shot).await.unwrap();
    let heads = server.heads();
    assert_eq!(
        names(heads.last().unwrap()),
        ["host", "connection", "content-length"]
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_option_that_can_be_read_counts_beside_odd_bytes() {
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close, \xe9\r\ncontent-length: 0\r\n\r\n";
            conn.send(head).await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for _ in 0..2 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert!(!answer.info.is_reused());
    }
    eventually("both are closed", || server.open() == 0).await;
    assert_eq!(handle.status().closes[&CloseReason::Final], 2);
    at_rest(&handle).await;

    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let mut last = get(server.url("/"));
    let value = HeaderValue::from_bytes(b"\xe9, close").unwrap();
    last.headers_mut().insert(CONNECTION, value);
    send(&client, last).await.unwrap();
    eventually("it is closed", || server.open() == 0).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_hint_that_can_be_read_counts_beside_odd_bytes() {
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            let head =
                b"HTTP/1.1 200 OK\r\nkeep-alive: \xe9, timeout=1\r\ncontent-length: 0\r\n\r\n";
            conn.send(head).await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new().idle_timeout(Duration::from_secs(60)));
    fetch(&client, server.url("/")).await.unwrap();
    // The margin of a second leaves it no time.
    eventually("it is closed", || server.open() == 0).await;
    assert_eq!(handle.status().closes[&CloseReason::Idle], 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_method_that_expects_content_says_that_there_is_none() {
    for version in [Version::HTTP_11, Version::HTTP_10] {
        let server = Server::ok().await;
        let (client, handle) = agent(KeepAliveLayer::new());
        let methods = [
            (Method::POST, Some("0")),
            (Method::PUT, Some("0")),
            (Method::PATCH, Some("0")),
            (Method::GET, None),
            (Method::HEAD, None),
            (Method::DELETE, None),
            (Method::OPTIONS, None),
        ];
        for (method, length) in &methods {
            let mut request = get(server.url("/"));
            *request.method_mut() = method.clone();
            *request.version_mut() = version;
            send(&client, request).await.unwrap();
            let heads = server.heads();
            let head = heads.last().unwrap();
            assert_eq!(
                all(head, "content-length"),
                Vec::from_iter(*length),
                "{method}"
            );
            assert_eq!(head.header("transfer-encoding"), None);
        }
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_body_that_is_empty_by_its_type_has_the_length_zero() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::<Empty<Bytes>>::new();
    let handle = layer.handle();
    let client = tower::Layer::layer(&layer, server.connector());
    for fields in [&[][..], &[("transfer-encoding", "chunked")]] {
        let mut request = Request::post(server.url("/"));
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).unwrap();
        read(client.clone().oneshot(request).await.unwrap())
            .await
            .unwrap();
        let heads = server.heads();
        let head = heads.last().unwrap();
        assert_eq!(all(head, "content-length"), ["0"]);
        assert_eq!(head.header("transfer-encoding"), None);
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

/// RFC 9112 §6.3: the next one on the way may have taken the other length for the true one.
#[tokio::test]
async fn a_response_with_two_lengths_is_delivered_and_its_connection_closed() {
    const HEAD: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n";
    for method in [Method::GET, Method::HEAD] {
        let server = Server::start(|mut conn: Conn| async move {
            while let Some(head) = conn.request().await {
                let body = match &*head.method {
                    "HEAD" => "",
                    _ => "5\r\nhello\r\n0\r\n\r\n",
                };
                conn.send(format!("{HEAD}{body}")).await;
            }
        })
        .await;
        let (client, handle) = agent(KeepAliveLayer::new());
        for _ in 0..2 {
            let mut request = get(server.url("/"));
            *request.method_mut() = method.clone();
            let answer = send(&client, request).await.unwrap();
            let body = if method == Method::GET { "hello" } else { "" };
            assert_eq!((&*answer.body, answer.info.is_reused()), (body, false));
        }
        eventually("both are closed", || server.open() == 0).await;
        assert_eq!(handle.status().closes[&CloseReason::Final], 2);
        at_rest(&handle).await;
    }
}

/// A URI of parts that no text of one URI has together.
fn built(authority: &'static str, path: &'static str) -> Uri {
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(Authority::from_static(authority));
    parts.path_and_query = Some(path.parse::<PathAndQuery>().unwrap());
    Uri::from_parts(parts).unwrap()
}

fn asking(method: Method, uri: Uri) -> Req {
    let request = Request::builder().method(method).uri(uri);
    request.body(Full::default()).unwrap()
}

#[tokio::test]
async fn every_target_stands_on_the_wire_as_rfc_9112_has_it() {
    for (method, path, origin, absolute) in [
        (Method::GET, "/", "/", "http://h.test:81/"),
        (
            Method::GET,
            "/a/b?c=d",
            "/a/b?c=d",
            "http://h.test:81/a/b?c=d",
        ),
        (Method::GET, "?q", "/?q", "http://h.test:81/?q"),
        (Method::GET, "#fragment", "/", "http://h.test:81/"),
        (Method::GET, "/a?b#c", "/a?b", "http://h.test:81/a?b"),
        (Method::GET, "//a", "//a", "http://h.test:81//a"),
        (
            Method::GET,
            "/\u{e9}?\u{e9}",
            "/%C3%A9?%C3%A9",
            "http://h.test:81/%C3%A9?%C3%A9",
        ),
        (Method::OPTIONS, "/*", "/*", "http://h.test:81/*"),
        (Method::OPTIONS, "/", "/", "http://h.test:81/"),
        (Method::OPTIONS, "*", "*", "http://h.test:81"),
    ] {
        let server = Server::in_memory(script::ok);
        for (form, sent) in [(false, origin), (true, absolute)] {
            let (client, handle) = exchange(ExchangeLayer::new().absolute_form(form), &server);
            for authority in ["h.test:81", "me:secret@h.test:81"] {
                for _ in 0..2 {
                    let request = asking(method.clone(), built(authority, path));
                    send(&client, request).await.unwrap();
                    let heads = server.heads();
                    let head = heads.last().unwrap();
                    assert_eq!(head.target, sent, "{method} {path}");
                    assert_eq!(head.header("host"), Some("h.test:81"));
                }
            }
            at_rest(&handle).await;
        }
        assert_eq!(server.accepted(), 2);
    }
}

fn exchange(
    layer: ExchangeLayer,
    server: &Server,
) -> (
    impl Service<Req, Response = Response<Body>, Error = Error> + Clone + use<>,
    AgentHandle,
) {
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    crate::support::agent::belongs_here(&handle);
    let stack = ServiceBuilder::new()
        .layer(layer)
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::<Full<Bytes>>::new());
    (stack.service(server.connector()), handle)
}

/// None of it was written, and so it goes on another connection by itself: as it was.
#[tokio::test]
async fn an_asterisk_for_a_proxy_stays_one_where_it_is_sent_again() {
    let server = Server::in_memory(script::ok);
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let trap = TrapConnector::new(server.connector());
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new().absolute_form(true))
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::<Full<Bytes>>::new())
        .service(trap.clone());
    for first in [true, false] {
        let request = asking(Method::OPTIONS, built("h.test:81", "*"));
        let answer = send(&client, request).await.unwrap();
        assert!(!answer.info.is_reused(), "{first}");
        trap.set(Fault {
            accepts: 0,
            write: Some(std::io::ErrorKind::BrokenPipe),
            read: None,
        });
    }
    let targets = server.heads().into_iter().map(|head| head.target);
    let expected = "http://h.test:81";
    assert_eq!(targets.collect::<Vec<_>>(), [expected, expected]);
    assert_eq!(trap.made(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_asterisk_is_for_options_alone() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = exchange(ExchangeLayer::new(), &server);
    for method in [Method::GET, Method::POST, Method::HEAD] {
        let request = asking(method, built("h.test", "*"));
        let error = send(&client, request).await.unwrap_err();
        assert!(error.is_target(), "{error:?}");
        assert!(error.to_string().contains("OPTIONS"), "{error}");
    }
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

/// As curl, Node and reqwest do; and it is nobody's business.
#[tokio::test]
async fn user_information_becomes_authorization_and_is_not_shown() {
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.respond("ok").await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let url = |user: &str| format!("http://{user}@{}/path", server.addr());
    for (user, own, sent) in [
        ("me:secret", None, "Basic bWU6c2VjcmV0"),
        ("m%65:secre%74", None, "Basic bWU6c2VjcmV0"),
        ("me", None, "Basic bWU6"),
        ("me:secret", Some("Bearer own"), "Bearer own"),
    ] {
        let mut request = get(url(user));
        if let Some(own) = own {
            let own = HeaderValue::from_static(own);
            request.headers_mut().insert(AUTHORIZATION, own);
        }
        let mut client = client.clone();
        let mut call = pin!(client.call(request));
        let response = poll_fn(|cx| {
            let polled = call.as_mut().poll(cx);
            assert!(!format!("{call:?}").contains("secret"));
            polled
        })
        .await;
        let answer = read(response.unwrap()).await.unwrap();
        assert!(!format!("{answer:?}").contains("secret"));
        let heads = server.heads();
        let head = heads.last().unwrap();
        assert_eq!(all(head, "authorization"), [sent], "{user}");
        assert_eq!(head.target, "/path");
        assert_eq!(names(head)[0], HOST.as_str());
    }
    // With whatever login, it is one origin.
    assert_eq!(server.accepted(), 1);
    assert!(!format!("{:?}", handle.status()).contains("secret"));

    for user in ["secret%3Ax:y", "x:secret%00"] {
        let error = fetch(&client, url(user)).await.unwrap_err();
        assert!(error.is_target() && error.is_unsent(), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("secret"));
        assert!(error.to_string().contains("user"), "{error}");
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn no_connector_sees_user_information() {
    let server = Server::in_memory(script::ok);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = seen.clone();
    let connector = tower::ServiceExt::<Uri>::map_request(server.connector(), move |uri: Uri| {
        sees.lock().unwrap().push(uri.to_string());
        uri
    });
    let connector = tower_keep_alive::connect::UriConnector::new(connector);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    fetch(&client, "http://me:secret@h.test/").await.unwrap();
    assert_eq!(*seen.lock().unwrap(), ["http://h.test/"]);
    at_rest(&handle).await;
}
