//! Which fields go on the CONNECT, and which go past it.

use super::{agent, agent_without_tls, proxy, through};
use crate::support::agent::{Req, at_rest, get, send};
use crate::support::{Conn, Server, eventually, proxies};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower_keep_alive::connect::Proxy;
use tower_keep_alive::{CloseReason, Key, extensions::Route};

fn authorized(mut request: Req, value: &'static str) -> Req {
    let value = HeaderValue::from_static(value);
    request.headers_mut().append(PROXY_AUTHORIZATION, value);
    request
}

#[tokio::test]
async fn proxy_authorization_goes_on_the_connect_and_never_past_it() {
    let origin = Server::ok().await;
    let server = Server::start(proxies::connect).await;
    let (client, handle) = agent();
    let url = format!("https://{}/", origin.addr());
    // The proxy's own login does not stand before the caller's.
    for login in ["", "me:secret@"] {
        let proxy = proxy(login, &server);
        for value in ["Bearer one", "Bearer two"] {
            for reused in [false, true] {
                let request = authorized(through(&proxy, &url), value);
                let answer = send(&client, request).await.unwrap();
                // What differs in it shares no tunnel; logins that come to the same field are one.
                assert_eq!(answer.info.is_reused(), reused || !login.is_empty());
            }
        }
    }
    let asked = server.heads();
    let sent: Vec<_> = asked
        .iter()
        .map(|head| head.header("proxy-authorization"))
        .collect();
    assert_eq!(sent, [Some("Bearer one"), Some("Bearer two")]);
    assert_eq!(asked[0].headers.len(), 2, "{asked:?}");
    assert_eq!((server.accepted(), origin.accepted()), (2, 2));
    assert_eq!(origin.requests(), 8);
    for head in origin.heads() {
        assert_eq!(head.header("proxy-authorization"), None);
    }
    // Nor is it shown.
    let told = format!("{:?} {}", handle.status(), handle.status());
    assert!(!told.contains("Bearer"), "{told}");
    handle.close_idle();
    at_rest(&handle).await;
}

#[tokio::test]
async fn proxy_authorization_goes_not_through_a_proxy_of_socks() {
    let origin = Server::ok().await;
    let server = Server::start(|conn| proxies::socks5(conn, false)).await;
    let (client, handle) = agent();
    let proxy: Proxy = format!("socks5h://{}", server.addr()).parse().unwrap();
    for scheme in ["http", "https"] {
        let url = format!("{scheme}://{}/", origin.addr());
        for value in ["Basic one", "Basic two"] {
            let request = authorized(through(&proxy, &url), value);
            send(&client, request).await.unwrap();
        }
    }
    assert_eq!((origin.accepted(), origin.requests()), (2, 4));
    for head in origin.heads() {
        assert_eq!(head.header("proxy-authorization"), None);
    }
    handle.close_idle();
    at_rest(&handle).await;
}

/// The proxy reads it with each request: no connection has it for all.
#[tokio::test]
async fn proxy_authorization_of_a_request_that_the_proxy_reads_goes_with_it() {
    let server = Server::ok().await;
    let (client, handle) = agent_without_tls();
    let proxy = proxy("", &server);
    for (value, reused) in [("Basic one", false), ("Basic two", true)] {
        let request = authorized(through(&proxy, "http://origin.test/"), value);
        let answer = send(&client, request).await.unwrap();
        assert_eq!(answer.info.is_reused(), reused);
        let heads = server.heads();
        let sent = heads.last().unwrap().header("proxy-authorization");
        assert_eq!(sent, Some(value));
    }
    at_rest(&handle).await;
}

/// Without a proxy in its route it is sent where the caller sends it: the connector may lead to a proxy by itself.
#[tokio::test]
async fn proxy_authorization_of_a_request_without_a_proxy_stays() {
    let server = Server::ok().await;
    let (client, handle) = agent_without_tls();
    let request = authorized(get(server.url("/")), "Basic one");
    send(&client, request).await.unwrap();
    let heads = server.heads();
    assert_eq!(heads[0].header("proxy-authorization"), Some("Basic one"));
    at_rest(&handle).await;
}

#[tokio::test]
async fn two_proxy_authorizations_for_one_tunnel_are_an_error() {
    let server = Server::ok().await;
    let (client, handle) = agent();
    let request = through(&proxy("", &server), "https://origin.test/");
    let request = authorized(authorized(request, "Basic one"), "Basic two");
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_target(), "{error:?}");
    assert!(error.to_string().contains("proxy-authorization"), "{error}");
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

fn own_connect(proxy: &Proxy, target: &str) -> Req {
    let request = http::Request::connect(target);
    let request = request.extension(Route::new().with_proxy(proxy.clone()));
    request.body(Full::default()).unwrap()
}

/// RFC 9112 §3.2.2.
#[tokio::test]
async fn the_host_of_the_callers_own_connect_is_its_target() {
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n")
                .await;
        }
    })
    .await;
    let proxy = proxy("", &server);
    let (client, handle) = agent_without_tls();
    for (host, is_sent) in [
        ("origin.test:443", true),
        ("Origin.test:443", true),
        ("origin.test", false),
        ("other.test:443", false),
    ] {
        let mut request = own_connect(&proxy, "origin.test:443");
        request.headers_mut().insert("host", host.parse().unwrap());
        let answer = client.request(request).await;
        assert_eq!(answer.is_ok(), is_sent, "{host}");
        if let Err(error) = answer {
            assert!(
                error.is_target() && error.to_string().contains("host"),
                "{error}"
            );
        }
    }
    assert_eq!(server.requests(), 2);
    at_rest(&handle).await;
}

/// RFC 9110 §9.3.6: whatever the port is, nothing but the CONNECT is sent to the proxy, and in the clear.
#[tokio::test]
async fn the_callers_own_connect_is_for_the_proxy_itself() {
    for (uri, target) in [
        ("origin.test:80", "origin.test:80"),
        ("origin.test:443", "origin.test:443"),
        ("origin.test:8443", "origin.test:8443"),
        ("http://origin.test:80/", "origin.test:80"),
        ("https://origin.test:443/", "origin.test:443"),
        ("[::1]:443", "[::1]:443"),
    ] {
        let server = Server::start(|mut conn: Conn| async move {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\n\r\n").await;
            assert_eq!(conn.read().await, b"hello");
            conn.send("HELLO").await;
            conn.closed().await;
        })
        .await;
        let proxy = proxy("me:secret@", &server);
        // A connector that put TLS on what is https would fail.
        let (client, handle) = agent_without_tls();
        let response = client.request(own_connect(&proxy, uri)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let mut tunnel = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        tunnel.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        tunnel.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HELLO");
        let head = &server.heads()[0];
        assert_eq!((&*head.method, &*head.target), ("CONNECT", target));
        let fields: Vec<_> = head
            .headers
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert!(fields.contains(&("host", target)), "{fields:?}");
        let login = ("proxy-authorization", "Basic bWU6c2VjcmV0");
        assert!(fields.contains(&login), "{fields:?}");
        assert_eq!(fields.len(), 2);
        drop(tunnel);
        assert_eq!((server.accepted(), server.requests()), (1, 1));
        at_rest(&handle).await;
    }
}

/// It is an answer, and the connection to the proxy is as good as before.
#[tokio::test]
async fn a_connect_of_the_callers_own_that_is_refused_leaves_its_connection() {
    let server = Server::start(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            match head.method.as_str() {
                "CONNECT" => conn.respond_with("HTTP/1.1 407 Who?", "who?").await,
                _ => conn.respond("ok").await,
            }
        }
    })
    .await;
    let proxy = proxy("", &server);
    let (client, handle) = agent_without_tls();
    for (request, status, reused) in [
        (own_connect(&proxy, "origin.test:443"), 407, false),
        (own_connect(&proxy, "origin.test:443"), 407, true),
        // To the proxy as well, and on the same terms.
        (through(&proxy, "http://origin.test:443/"), 200, true),
    ] {
        let answer = send(&client, request).await.unwrap();
        assert_eq!(answer.status.as_u16(), status);
        assert_eq!(answer.info.is_reused(), reused);
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn headers_of_a_proxy_go_on_the_connect_and_never_past_it() {
    let origin = Server::ok().await;
    let server = Server::start(proxies::connect).await;
    let (client, handle) = agent();
    let named = |value: &'static str| {
        let value = HeaderValue::from_static(value);
        let proxy = proxy("me:secret@", &server);
        proxy.with_header(PROXY_AUTHORIZATION, value).with_header(
            HeaderName::from_static("x-team"),
            HeaderValue::from_static("hidden"),
        )
    };
    let url = format!("https://{}/", origin.addr());
    for value in ["Bearer one", "Bearer two"] {
        for reused in [false, true] {
            let answer = send(&client, through(&named(value), &url)).await.unwrap();
            assert_eq!(answer.info.is_reused(), reused);
        }
    }
    for (head, value) in server.heads().iter().zip(["Bearer one", "Bearer two"]) {
        assert_eq!(head.header("proxy-authorization"), Some(value));
        assert_eq!(head.header("x-team"), Some("hidden"));
    }
    assert_eq!((server.accepted(), origin.requests()), (2, 4));
    for head in origin.heads() {
        let names: Vec<_> = head.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["host"]);
    }
    let told = format!("{:?} {}", handle.status(), handle.status());
    assert!(
        !told.contains("Bearer") && !told.contains("hidden"),
        "{told}"
    );
    handle.close_idle();
    at_rest(&handle).await;
}

#[tokio::test]
async fn headers_of_a_proxy_go_with_each_request_that_it_reads() {
    let server = Server::ok().await;
    let (client, handle) = agent_without_tls();
    let proxy = proxy("", &server)
        .with_header(
            PROXY_AUTHORIZATION,
            HeaderValue::from_static("Bearer token"),
        )
        .with_header(
            HeaderName::from_static("x-team"),
            HeaderValue::from_static("blue"),
        );
    let plain = through(&proxy, "http://origin.test/");
    let own = authorized(through(&proxy, "http://origin.test/"), "Basic own");
    for (request, login) in [(plain, "Bearer token"), (own, "Basic own")] {
        send(&client, request).await.unwrap();
        let heads = server.heads();
        let head = heads.last().unwrap();
        assert_eq!(head.header("proxy-authorization"), Some(login));
        assert_eq!(head.header("x-team"), Some("blue"));
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn headers_for_a_proxy_of_socks_are_an_error() {
    let server = Server::start(|mut conn: Conn| async move {
        assert!(conn.read().await.is_empty(), "it is asked for nothing");
    })
    .await;
    let (client, handle) = agent_without_tls();
    let proxy: Proxy = format!("socks5://{}", server.addr()).parse().unwrap();
    let value = HeaderValue::from_static("Bearer token");
    let proxy = proxy.with_header(PROXY_AUTHORIZATION, value);
    let request = through(&proxy, "http://origin.test/");
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_target() && error.is_unsent(), "{error:?}");
    assert!(error.to_string().contains("SOCKS"), "{error}");
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

/// RFC 6455 §4.1: what the proxy would not pass on, an upgrade here, goes through a tunnel, and plain requests with it.
#[tokio::test]
async fn http_goes_through_a_tunnel_on_request() {
    let origin = Server::start(|mut conn: Conn| async move {
        while let Some(head) = conn.request().await {
            if head.header("upgrade").is_none() {
                conn.respond("ok").await;
                continue;
            }
            conn.send(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n",
            )
            .await;
            assert_eq!(conn.read().await, b"hello");
            return conn.send("HELLO").await;
        }
    })
    .await;
    let server = Server::start(proxies::connect).await;
    let (client, handle) = agent_without_tls();
    let tunnelled = proxy("me:secret@", &server).with_tunnel();
    let url = format!("http://{}/path", origin.addr());
    for reused in [false, true] {
        let answer = send(&client, through(&tunnelled, &url)).await.unwrap();
        assert_eq!(answer.info.is_reused(), reused);
    }
    let name = format!("{}::{}:tunnel", origin.addr(), proxy("", &server));
    let names: Vec<_> = handle.status().idle.keys().map(Key::to_string).collect();
    assert_eq!(names, [name]);
    let mut request = authorized(through(&tunnelled, &url), "Basic bWU6c2VjcmV0");
    let fields = request.headers_mut();
    fields.insert("connection", HeaderValue::from_static("upgrade"));
    fields.insert("upgrade", HeaderValue::from_static("raw"));
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut socket = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    socket.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    socket.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HELLO");
    drop(socket);
    assert_eq!((server.accepted(), origin.accepted()), (1, 1));
    let asked = &server.heads()[0];
    assert_eq!(asked.target, origin.addr().to_string());
    assert!(asked.header("proxy-authorization").is_some());
    for head in origin.heads() {
        assert_eq!(head.target, "/path");
        assert_eq!(head.header("proxy-authorization"), None);
    }
    at_rest(&handle).await;
}

/// And not inside a tunnel to its own target.
#[tokio::test]
async fn the_callers_own_connect_is_for_the_proxy_where_everything_else_is_tunnelled() {
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.respond_with("HTTP/1.1 403 Forbidden", "no").await;
        }
    })
    .await;
    let (client, handle) = agent_without_tls();
    let proxy = proxy("", &server).with_tunnel();
    for reused in [false, true] {
        let request = own_connect(&proxy, "origin.test:443");
        let answer = send(&client, request).await.unwrap();
        assert_eq!(
            (answer.status.as_u16(), answer.info.is_reused()),
            (403, reused)
        );
    }
    at_rest(&handle).await;
}

/// It is the proxy's word about the connection to it, beside `Connection`; from an origin it says nothing.
#[tokio::test]
async fn proxy_connection_close_is_heeded_from_a_proxy_that_reads_the_request() {
    let said = |value: &'static str| {
        Server::start(move |mut conn: Conn| async move {
            while let Some(head) = conn.request().await {
                let status = match head.method.as_str() {
                    "CONNECT" => "407 Who?",
                    _ => "200 OK",
                };
                let head = format!("HTTP/1.1 {status}\r\nProxy-Connection: {value}");
                conn.respond_with(&head, "ok").await;
            }
        })
    };
    for (value, is_last) in [("close", true), ("x, CLOSE", true), ("keep-alive", false)] {
        let server = said(value).await;
        let (client, handle) = agent_without_tls();
        let proxy = proxy("", &server);
        let asking: [fn(&Proxy) -> Req; 2] = [
            |proxy| through(proxy, "http://origin.test/"),
            |proxy| own_connect(proxy, "origin.test:443"),
        ];
        let mut made = false;
        for asking in asking {
            for _ in 0..2 {
                let answer = send(&client, asking(&proxy)).await.unwrap();
                assert_eq!(answer.info.is_reused(), made && !is_last, "{value}");
                made = true;
            }
        }
        at_rest(&handle).await;
        // One, to the proxy, for all targets.
        let open = if is_last { 0 } else { 1 };
        eventually("what is closed is gone", || handle.status().open() == open).await;
        let finals = handle.status().closes.get(&CloseReason::Final).copied();
        assert_eq!(finals, is_last.then_some(4), "{value}");

        // Asked directly, it is an origin. (What an agent's connector leads to may be a proxy: `absolute_form` says so.)
        let (client, handle) = agent_without_tls();
        for reused in [false, true] {
            let answer = send(&client, get(server.url("/"))).await.unwrap();
            assert_eq!(answer.info.is_reused(), reused, "{value}");
        }
        at_rest(&handle).await;
    }
}
