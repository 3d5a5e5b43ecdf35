//! Through proxies: requests in absolute form, tunnels by CONNECT and by SOCKS, each in a pool of its own; and proxies that
//! refuse, break off, or talk nonsense.

use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex};

use crate::support::agent::{Req, at_rest, get, send};
use crate::support::{Conn, RefusingPort, Server, proxies, script};
use http::header::{HeaderValue, PROXY_AUTHORIZATION};
use http_body_util::Full;
use hyper_util::client::proxy::matcher::Matcher;
use tower::util::MapRequest;
use tower::{Layer, ServiceExt};
use tower_keep_alive::connect::{Proxy, ProxyConnector, ProxyLayer, TcpConnector};
use tower_keep_alive::{
    AgentHandle, CloseReason, KeepAlive, KeepAliveLayer, Key, connect::Destination,
    extensions::Route,
};

type Body = Full<bytes::Bytes>;
type Client<M = ProxyConnector<TcpConnector>> = KeepAlive<M, Body>;

fn agent() -> (Client, AgentHandle) {
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    (
        layer.layer(ProxyLayer::new().layer(TcpConnector::new())),
        handle,
    )
}

/// Where TLS would be: what is asked for as `https` goes through a tunnel, and is plain there.
type Secured = MapRequest<ProxyConnector<TcpConnector>, fn(Destination) -> Destination>;

fn agent_through_tunnels() -> (Client<Secured>, AgentHandle) {
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let connector = ProxyLayer::new().layer(TcpConnector::new());
    let connector = connector.map_request(Destination::secured as _);
    (layer.layer(connector), handle)
}

fn proxy(scheme: &str, login: &str, server: &Server) -> Proxy {
    let uri = format!("{scheme}://{login}{}", server.addr());
    uri.parse().unwrap()
}

fn through(proxy: &Proxy, url: impl AsRef<str>) -> Req {
    let mut request = get(url);
    let route = Route::new().with_proxy(proxy.clone());
    request.extensions_mut().insert(route);
    request
}

fn names(handle: &AgentHandle) -> Vec<String> {
    handle.status().idle.keys().map(Key::to_string).collect()
}

/// RFC 9112 §3.2.4: for the proxy the target is that of an empty path, and the last proxy makes an asterisk of it.
#[tokio::test]
async fn a_question_about_the_server_itself_reaches_it_through_a_proxy() {
    let server = Server::echo().await;
    let (client, handle) = agent();
    let proxy = proxy("http", "", &server);
    for _ in 0..2 {
        let mut request = through(&proxy, "http://origin.test:81/");
        *request.method_mut() = http::Method::OPTIONS;
        let mut parts = request.uri().clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("*"));
        *request.uri_mut() = http::Uri::from_parts(parts).unwrap();
        let answer = send(&client, request).await.unwrap();
        assert_eq!(answer.body, "http://origin.test:81");
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_101_a_proxy_of_http_gets_requests_in_absolute_form() {
    let server = Server::echo().await;
    let proxy = proxy("http", "me:secret@", &server);
    let (client, handle) = agent();
    for reused in [false, true] {
        let request = through(&proxy, "http://user:pw@origin.test:81/path?query");
        let answer = send(&client, request).await.unwrap();
        assert_eq!(answer.body, "http://origin.test:81/path?query");
        assert_eq!(answer.info.is_reused(), reused);
        assert_eq!(answer.info.remote_addr(), Some(server.addr()));
    }
    let head = &server.heads()[1];
    assert_eq!(head.header("host"), Some("origin.test:81"));
    // me:secret
    let basic = Some("Basic bWU6c2VjcmV0");
    assert_eq!(head.header("proxy-authorization"), basic);
    assert_eq!(server.accepted(), 1);
    let name = format!("{}::{proxy}", server.addr());
    assert_eq!(names(&handle), [name]);
    // What is said of it says no secret.
    let told = format!(
        "{:?} {}",
        handle.status(),
        serde_json::to_string(&handle.status()).unwrap()
    );
    assert!(!told.contains("secret") && !told.contains("bWU6"), "{told}");
    at_rest(&handle).await;
}

/// As Go and undici do: what leads to a proxy that reads the requests leads to every origin behind it.
#[tokio::test]
async fn one_connection_to_a_proxy_serves_every_origin_of_http() {
    let server = Server::echo().await;
    let proxy = proxy("http", "", &server);
    let (client, handle) = agent();
    for number in 0..6 {
        let url = format!("http://origin{number}.test:{}/path", 80 + number);
        let answer = send(&client, through(&proxy, &url)).await.unwrap();
        let url = url.replace(":80/", "/");
        assert_eq!(answer.body.replace(":80/", "/"), url);
        assert_eq!(answer.info.is_reused(), number > 0);
        let key = answer.info.key().expect("a pool has it").to_string();
        assert_eq!(key, format!("{}::{proxy}", server.addr()));
    }
    assert_eq!((server.accepted(), server.requests()), (1, 6));
    let hosts: Vec<_> = server
        .heads()
        .into_iter()
        .map(|head| head.header("host").unwrap().to_owned())
        .collect();
    assert_eq!(hosts[0], "origin0.test");
    for (number, host) in hosts.iter().enumerate().skip(1) {
        assert_eq!(*host, format!("origin{number}.test:{}", 80 + number));
    }
    at_rest(&handle).await;
}

/// The limits of a host are those of the proxy: its connections are what there is.
#[tokio::test]
async fn the_limit_of_a_host_counts_the_connections_to_the_proxy() {
    let server = Server::start(script::ok).await;
    let proxy = proxy("http", "", &server);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let handle = layer.handle();
    let client: Client = layer.layer(ProxyLayer::new().layer(TcpConnector::new()));
    let requests = (0..6).map(|number| {
        send(
            &client,
            through(&proxy, format!("http://origin{number}.test/")),
        )
    });
    for answer in futures_util::future::join_all(requests).await {
        assert_eq!(answer.unwrap().status, 200);
    }
    assert_eq!((server.accepted(), server.max_open()), (1, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connection_to_a_proxy_is_shared_by_those_of_one_login_route_and_part_of_the_pool() {
    let server = Server::echo().await;
    let (client, handle) = agent();
    let plain = proxy("http", "", &server);
    let part = || {
        let mut request = through(&plain, "http://origin.test/");
        request
            .extensions_mut()
            .insert(tower_keep_alive::extensions::Partition::new("tenant"));
        request
    };
    let from = || {
        let mut request = get("http://origin.test/");
        let route = Route::new().with_proxy(plain.clone());
        let route = route.with_local_address([127, 0, 0, 1].into());
        request.extensions_mut().insert(route);
        request
    };
    let login = |login| through(&proxy("http", login, &server), "http://origin.test/");
    let tunnel = || {
        through(
            &plain.clone().with_header(
                http::HeaderName::from_static("x-zone"),
                HeaderValue::from_static("1"),
            ),
            "http://origin.test/",
        )
    };
    for round in 0..2 {
        for request in [
            through(&plain, "http://origin.test/"),
            login("me:secret@"),
            login("you:secret@"),
            part(),
            from(),
            tunnel(),
        ] {
            let answer = send(&client, request).await.unwrap();
            assert_eq!(answer.info.is_reused(), round > 0);
        }
    }
    assert_eq!((server.accepted(), server.requests()), (6, 12));
    at_rest(&handle).await;
}

/// What is made in advance for one origin is there for another.
#[tokio::test]
async fn a_connection_that_is_prewarmed_through_a_proxy_serves_any_origin() {
    let server = Server::echo().await;
    let proxy = proxy("http", "", &server);
    let (client, handle) = agent();
    let route = Route::new().with_proxy(proxy.clone());
    let origin: http::Uri = "http://origin.test/".parse().unwrap();
    let destination = Destination::try_from(origin).unwrap().with_route(route);
    assert_eq!(handle.prewarm(destination, 1).await.unwrap(), 1);
    let answer = send(&client, through(&proxy, "http://other.test/"))
        .await
        .unwrap();
    assert!(answer.info.is_reused());
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_101_the_callers_own_authorization_stands() {
    let server = Server::ok().await;
    let proxy = proxy("http", "me:secret@", &server);
    let (client, handle) = agent();
    let mut request = through(&proxy, "http://origin.test/");
    let own = HeaderValue::from_static("Bearer token");
    request.headers_mut().insert(PROXY_AUTHORIZATION, own);
    send(&client, request).await.unwrap();
    let head = &server.heads()[0];
    assert_eq!(head.header("proxy-authorization"), Some("Bearer token"));
    assert_eq!(head.target, "http://origin.test/");
    at_rest(&handle).await;
}

/// The proxy is in the key: with it, with another one, with another login, and without.
#[tokio::test]
async fn node_101_what_goes_through_a_proxy_is_pooled_by_itself() {
    let origin = Server::ok().await;
    let proxies = [Server::ok().await, Server::ok().await];
    let (client, handle) = agent();
    let logins = ["me:one@", "me:two@"].map(|login| proxy("http", login, &proxies[0]));
    let other = proxy("http", "", &proxies[1]);
    for reused in [false, true] {
        let url = origin.url("/");
        for request in [
            through(&logins[0], &url),
            through(&logins[1], &url),
            through(&other, &url),
            get(&url),
        ] {
            let answer = send(&client, request).await.unwrap();
            assert_eq!(answer.info.is_reused(), reused);
        }
    }
    assert_eq!(proxies.each_ref().map(Server::accepted), [2, 1]);
    assert_eq!((origin.accepted(), handle.status().idle.len()), (1, 4));
    // Two of them have one name, which tells no login: JSON counts them together.
    let json = serde_json::to_value(handle.status()).unwrap();
    let name = format!("{}::{}", proxies[0].addr(), logins[0]);
    assert_eq!(json["freeSockets"][&name], 2, "{json}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_101_https_goes_through_a_tunnel_by_connect() {
    let origin = Server::ok().await;
    let server = Server::start(proxies::connect).await;
    let proxy = proxy("http", "me:secret@", &server);
    let (client, handle) = agent_through_tunnels();
    let url = format!("https://{}/path", origin.addr());
    for reused in [false, true] {
        let answer = send(&client, through(&proxy, &url)).await.unwrap();
        assert_eq!(answer.info.is_reused(), reused);
    }
    let asked = &server.heads()[0];
    assert_eq!(asked.target, origin.addr().to_string());
    let basic = Some("Basic bWU6c2VjcmV0");
    assert_eq!(asked.header("proxy-authorization"), basic);
    // Nothing of it is for the origin.
    let head = &origin.heads()[0];
    assert_eq!(
        (&*head.target, head.header("proxy-authorization")),
        ("/path", None)
    );
    assert_eq!((server.accepted(), origin.accepted()), (1, 1));
    // The proxy's own transport to the origin would be one too many.
    handle.close_idle();
    at_rest(&handle).await;
}

/// What leaves an idle tunnel is noticed: the probe looks at the socket below it.
#[tokio::test]
async fn node_101_a_tunnel_that_is_closed_while_idle_is_not_used_again() {
    let origin = Server::start(|mut conn: Conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        conn.fin().await;
    })
    .await;
    let server = Server::start(proxies::connect).await;
    let proxy = proxy("http", "", &server);
    let (client, handle) = agent_through_tunnels();
    let url = format!("https://{}/", origin.addr());
    for _ in 0..3 {
        send(&client, through(&proxy, &url)).await.unwrap();
        crate::support::eventually("it is gone", || handle.status().open() == 0).await;
    }
    assert_eq!((server.accepted(), origin.accepted()), (3, 3));
    at_rest(&handle).await;
}

/// Two requests to `host` on one tunnel through `server`, which is a proxy of SOCKS.
async fn goes_through_socks(scheme: &str, login: &str, host: &str, server: Server) {
    let origin = Server::ok().await;
    let port = origin.addr().port();
    let proxy = proxy(scheme, login, &server);
    let (client, handle) = agent();
    let url = format!("http://{host}:{port}/path");
    for reused in [false, true] {
        let answer = send(&client, through(&proxy, &url)).await.unwrap();
        assert_eq!((&*answer.body, answer.info.is_reused()), ("ok", reused));
    }
    let heads = origin.heads();
    let head = heads.last().unwrap();
    assert_eq!(head.target, "/path");
    assert_eq!(head.header("host"), Some(&*format!("{host}:{port}")));
    assert_eq!(head.header("proxy-authorization"), None);
    assert_eq!((origin.accepted(), origin.requests()), (1, 2));
    assert_eq!(server.accepted(), 1);
    assert_eq!(names(&handle), [format!("{host}:{port}::{proxy}")]);
    handle.close_idle();
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_101_a_proxy_of_socks_makes_a_tunnel_for_http_too() {
    for (scheme, login, host) in [
        ("socks5", "", "127.0.0.1"),
        ("socks5", "", "localhost"),
        ("socks5h", "", "origin.test"),
        ("socks5h", "me:secret@", "origin.test"),
    ] {
        let server = Server::start(move |conn| proxies::socks5(conn, !login.is_empty())).await;
        goes_through_socks(scheme, login, host, server).await;
    }
}

/// One of SOCKS4 is given addresses, and one of SOCKS4a names.
#[tokio::test]
async fn node_101_a_proxy_of_socks4_makes_a_tunnel_too() {
    for (scheme, login, host) in [
        ("socks4", "", "127.0.0.1"),
        ("socks4", "", "localhost"),
        ("socks4", "me:secret@", "127.0.0.1"),
        ("socks4a", "", "127.0.0.1"),
        ("socks4a", "", "origin.test"),
    ] {
        let takes_names = scheme == "socks4a";
        let server = Server::start(move |conn| proxies::socks4(conn, takes_names)).await;
        goes_through_socks(scheme, login, host, server).await;
    }
}

/// It has no words for such an address, and so it is asked for nothing.
#[tokio::test]
async fn an_origin_of_ipv6_is_a_connect_error_through_a_proxy_of_socks4() {
    for (scheme, why) in [("socks4", "no address"), ("socks4a", "IPV6")] {
        let server = Server::start(|mut conn: Conn| async move {
            assert!(conn.read().await.is_empty(), "it is asked for nothing");
        })
        .await;
        let proxy = proxy(scheme, "", &server);
        let (client, handle) = agent();
        let request = through(&proxy, "http://[::1]:9/");
        let error = send(&client, request).await.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        let said = error.source().expect("why").to_string();
        assert!(said.contains(why), "{said}");
        assert_eq!(handle.status().create_errors, 1);
        assert!(handle.status().idle.is_empty());
        at_rest(&handle).await;
    }
}

/// hyper-util's tunnels take the port of HTTPS where a URI has none.
#[tokio::test]
async fn node_101_a_tunnel_is_asked_for_with_the_port_of_the_scheme() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let server = {
        let asked = asked.clone();
        Server::start(move |mut conn: Conn| {
            let asked = asked.clone();
            async move {
                conn.read().await;
                conn.send([5, 0]).await;
                *asked.lock().unwrap() = conn.read().await;
                conn.send([5, 5, 0, 1, 0, 0, 0, 0, 0, 0]).await;
                conn.closed().await;
            }
        })
        .await
    };
    let (client, handle) = agent();
    let request = through(&proxy("socks5h", "", &server), "http://origin.test/");
    assert!(send(&client, request).await.unwrap_err().is_connect());
    let bytes = [&[5, 1, 0, 3, 11][..], b"origin.test", &[0, 80]].concat();
    assert_eq!(*asked.lock().unwrap(), bytes);
    at_rest(&handle).await;

    let server = Server::start(|mut conn: Conn| async move {
        conn.request().await;
    });
    let server = server.await;
    let (client, handle) = agent_through_tunnels();
    let request = through(&proxy("http", "", &server), "https://origin.test/");
    assert!(send(&client, request).await.unwrap_err().is_connect());
    assert_eq!(server.heads()[0].target, "origin.test:443");
    at_rest(&handle).await;
}

/// The error of a request through a proxy that does as `script` says, and what it comes from.
async fn fails<F, Fut>(scheme: &str, script: F) -> String
where
    F: Fn(Conn) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let server = Server::start(script).await;
    let proxy = proxy(scheme, "me:secret@", &server);
    let (client, handle) = agent_through_tunnels();
    let request = through(&proxy, "https://127.0.0.1:1/");
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    assert!(!error.is_target() && !error.is_reset(), "{error:?}");
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (1, 1));
    assert_eq!(status.closes[&CloseReason::Connect], 1);
    assert!(status.idle.is_empty());
    at_rest(&handle).await;
    assert_eq!(error.to_string(), format!("cannot connect through {proxy}"));
    assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    error.source().expect("what it did").to_string()
}

#[tokio::test]
async fn a_proxy_that_makes_no_tunnel_is_a_connect_error() {
    for (answer, why) in [
        ("HTTP/1.1 200", "before message completed"),
        ("", "before message completed"),
        ("\u{1}garbage\r\n\r\n", "invalid"),
    ] {
        let error = fails("http", move |mut conn: Conn| async move {
            conn.request().await;
            conn.send(answer).await;
            conn.fin().await;
        });
        let error = error.await;
        assert!(error.contains(why), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_proxy_of_socks_that_makes_no_tunnel_is_a_connect_error() {
    fails("socks5h", |conn| proxies::socks5(conn, true)).await;
    fails("socks5h", |conn| proxies::socks5(conn, false)).await;
    fails("socks4", |conn| proxies::socks4(conn, false)).await;
    fails("socks4a", |conn| proxies::socks4(conn, true)).await;
    for scheme in ["socks5h", "socks4", "socks4a"] {
        for answer in ["", "\u{0}", "\u{5}", "garbage"] {
            fails(scheme, move |mut conn: Conn| async move {
                conn.read().await;
                conn.send(answer).await;
                conn.fin().await;
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_answer_is_given_up_with_the_connect_timeout() {
    let server = Server::start(script::stall).await;
    let proxy = proxy("http", "", &server);
    let layer = KeepAliveLayer::new().connect_timeout(std::time::Duration::from_millis(50));
    let handle = layer.handle();
    let connector = ProxyLayer::new().layer(TcpConnector::new());
    let client: KeepAlive<_, Body> = layer.layer(connector.map_request(Destination::secured));
    let error = send(&client, through(&proxy, "https://127.0.0.1:1/")).await;
    let error = error.unwrap_err();
    assert!(error.is_connect() && error.is_timeout(), "{error:?}");
    crate::support::eventually("the proxy sees it", || server.open() == 0).await;
    at_rest(&handle).await;
}

/// The I/O errors in what an error comes from.
fn kinds(error: &tower_keep_alive::Error) -> Vec<io::ErrorKind> {
    let chain = std::iter::successors(error.source(), |&error| error.source());
    let io = chain.filter_map(|error| error.downcast_ref::<io::Error>());
    io.map(io::Error::kind).collect()
}

#[tokio::test]
async fn a_proxy_that_cannot_be_connected_to_keeps_its_cause() {
    let refusing = RefusingPort::new();
    for scheme in ["http", "socks4", "socks4a", "socks5", "socks5h"] {
        let proxy: Proxy = format!("{scheme}://{}", refusing.addr()).parse().unwrap();
        let (client, handle) = agent();
        let error = send(&client, through(&proxy, "http://127.0.0.1:9/")).await;
        let error = error.unwrap_err();
        assert!(error.is_connect() && error.is_unsent(), "{error:?}");
        assert!(
            kinds(&error).contains(&io::ErrorKind::ConnectionRefused),
            "{scheme}: {error:?}"
        );
        let through = format!("cannot connect through {proxy}");
        assert!(error.to_string().starts_with(&through), "{error}");
        let chain = std::iter::successors(Some(&error as &dyn StdError), |&error| error.source());
        let said: Vec<_> = chain.map(ToString::to_string).collect();
        let names = |what: String| said.iter().filter(|text| text.contains(&what)).count();
        assert_eq!(names(proxy.to_string()), 1, "{said:?}");
        assert_eq!(handle.status().create_errors, 1);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_proxy_of_socks_that_breaks_off_keeps_its_cause() {
    for scheme in ["socks4", "socks4a", "socks5", "socks5h"] {
        for (resets, kind) in [
            (true, io::ErrorKind::ConnectionReset),
            (false, io::ErrorKind::UnexpectedEof),
        ] {
            let server = Server::start(move |mut conn: Conn| async move {
                conn.read().await;
                match resets {
                    true => conn.rst(),
                    false => conn.fin().await,
                }
            })
            .await;
            let proxy = proxy(scheme, "", &server);
            let (client, handle) = agent();
            let error = send(&client, through(&proxy, "http://127.0.0.1:9/")).await;
            let error = error.unwrap_err();
            assert!(error.is_connect() && error.is_unsent(), "{error:?}");
            assert_eq!(kinds(&error), [kind], "{scheme}: {error:?}");
            at_rest(&handle).await;
        }
    }
}

/// Nothing goes past a proxy, nor in the clear.
#[tokio::test]
async fn what_cannot_go_through_the_proxy_goes_nowhere() {
    let server = Server::ok().await;
    let proxy = proxy("http", "", &server);
    // TLS is missing.
    let (client, handle) = agent();
    let error = send(&client, through(&proxy, "https://origin.test/")).await;
    assert!(error.unwrap_err().is_target());
    // A Unix socket and a proxy.
    let mut request = through(&proxy, "http://origin.test/");
    let both = Route::new()
        .with_proxy(proxy.clone())
        .with_unix_path("/a.sock");
    request.extensions_mut().insert(both);
    assert!(send(&client, request).await.unwrap_err().is_target());
    at_rest(&handle).await;
    // The connector knows no proxies.
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client: KeepAlive<_, Body> = layer.layer(TcpConnector::new());
    let error = send(&client, through(&proxy, server.url("/"))).await;
    assert!(error.unwrap_err().is_target());
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

/// As `Matcher::from_env` reads it out of `HTTP_PROXY` and `NO_PROXY`.
#[tokio::test]
async fn the_callers_matcher_says_what_goes_through_which_proxy() {
    let origin = Server::ok().await;
    let server = Server::ok().await;
    let matcher = Matcher::builder()
        .http(format!("http://{}", server.addr()))
        .no("127.0.0.1, .internal.test")
        .build();
    let matcher = Arc::new(matcher);
    let (agent, handle) = agent();
    let client = agent.clone().map_request(move |mut request: Req| {
        if let Some(intercept) = matcher.intercept(request.uri()) {
            let route = Route::new().with_proxy(intercept.into());
            request.extensions_mut().insert(route);
        }
        request
    });
    send(&client, get(origin.url("/"))).await.unwrap();
    assert_eq!((origin.accepted(), server.accepted()), (1, 0));
    send(&client, get("http://origin.test/")).await.unwrap();
    assert_eq!((origin.accepted(), server.accepted()), (1, 1));
    assert_eq!(server.heads()[0].target, "http://origin.test/");
    at_rest(&handle).await;
}
