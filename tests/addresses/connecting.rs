//! TCP: which of a name's addresses are connected to, when, and on which port; and what is said where none can be.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::{pending, ready};
use std::io;
use std::iter;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use crate::support::agent::{agent_over, at_rest, fetch, get, send};
use crate::support::{MemoryStream, RefusingPort, Server, script};
use futures_util::future::join_all;
use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use tower::{Layer, Service, ServiceExt};
use tower_keep_alive::connect::{Proxy, ProxyLayer, TcpConnector, UriConnector};
use tower_keep_alive::{BoxError, Error, KeepAliveLayer, connect::Destination, extensions::Route};

#[cfg(target_os = "linux")]
use crate::support::SwallowingPort;

/// For which every name has these addresses.
fn connector(
    addresses: Vec<SocketAddr>,
) -> TcpConnector<
    impl Service<Name, Response = vec::IntoIter<SocketAddr>, Error = Infallible, Future: Send + 'static>
    + Clone
    + Send
    + Sync
    + 'static,
> {
    TcpConnector::with_resolver(tower::service_fn(move |_: Name| {
        ready(Ok(addresses.clone().into_iter()))
    }))
}

/// What an error says, and what each error behind it says.
fn texts(error: &Error) -> Vec<String> {
    let first: &(dyn StdError + 'static) = error;
    let chain = iter::successors(Some(first), |&error| error.source());
    chain.map(ToString::to_string).collect()
}

/// The text of no error is in that of the error before it.
fn says_nothing_twice(texts: &[String]) -> bool {
    texts.windows(2).all(|pair| !pair[0].contains(&pair[1]))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn addresses_that_swallow_syns_fail_no_request() {
    let hole = SwallowingPort::new().await;
    let server = Server::ok().await;
    let second = [hole.addr(), server.addr()].to_vec();
    let fourth = [hole.addr(), hole.addr(), hole.addr(), server.addr()].to_vec();
    let ways = [
        (&second, Some(250), 20_000),
        (&fourth, Some(250), 20_000),
        // Longer than the limit.
        (&second, Some(60_000), 4000),
        (&second, None, 4000),
        (&fourth, None, 6000),
    ];
    let all = ways.map(async |(addresses, delay, limit)| {
        let connector =
            connector(addresses.clone()).happy_eyeballs_timeout(delay.map(Duration::from_millis));
        let layer = KeepAliveLayer::new().connect_timeout(Duration::from_millis(limit));
        let (client, handle) = agent_over(layer, connector);
        let answer = fetch(&client, "http://host.test/").await.unwrap();
        assert_eq!(answer.info.remote_addr(), Some(server.addr()));
        assert_eq!(handle.status().created, 1);
        handle
    });
    for handle in join_all(all).await {
        at_rest(&handle).await;
    }
    assert_eq!(server.accepted(), 5);
}

#[tokio::test]
async fn an_address_that_refuses_is_passed_over_at_once() {
    let nobody = RefusingPort::new();
    let server = Server::ok().await;
    for delay in [Some(Duration::from_secs(3600)), None] {
        let addresses = vec![nobody.addr(), nobody.addr(), server.addr()];
        let connector = connector(addresses).happy_eyeballs_timeout(delay);
        let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
        let answer = fetch(&client, "http://host.test/").await.unwrap();
        assert_eq!(answer.info.remote_addr(), Some(server.addr()));
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_port_of_the_resolver_stands_where_the_uri_has_none() {
    let server = Server::ok().await;
    let nobody = RefusingPort::new();
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector(vec![server.addr()]));
    fetch(&client, "http://host.test/").await.unwrap();
    let port = nobody.addr().port();
    let error = fetch(&client, format!("http://host.test:{port}/")).await;
    let told = texts(&error.unwrap_err()).join(": ");
    assert!(told.contains(&nobody.addr().to_string()), "{told}");
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_port_of_the_resolver_stands_under_tls_too() {
    let identity = crate::support::tls::CA.issue(&["host.test"]);
    let server = Server::start_tls(identity.server(), script::ok).await;
    let nobody = RefusingPort::new();
    let tls = |addr| {
        crate::support::tls::CA
            .trusted()
            .layer(connector(vec![addr]))
    };
    let (client, handle) = agent_over(KeepAliveLayer::new(), tls(server.addr()));
    fetch(&client, "https://host.test/").await.unwrap();
    let port = nobody.addr().port();
    let answer = fetch(&client, format!("https://host.test:{port}/")).await;
    let told = texts(&answer.unwrap_err()).join(": ");
    assert!(told.contains(&nobody.addr().to_string()), "{told}");
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_name_without_addresses_is_told_by_its_name() {
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector(Vec::new()));
    let error = fetch(&client, "http://host.test/").await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    assert_eq!(texts(&error), ["cannot connect: host.test has no address"]);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_takes_too_long_is_told_with_where_it_was_to_go() {
    let never = tower::service_fn(|_: Destination| pending::<Result<MemoryStream, BoxError>>());
    let layer = KeepAliveLayer::new().connect_timeout(Duration::from_secs(2));
    let (client, handle) = agent_over(layer, never);
    let error = fetch(&client, "http://user@host.test:81/")
        .await
        .unwrap_err();
    assert!(error.is_timeout() && error.is_unsent(), "{error:?}");
    assert_eq!(texts(&error), ["no connection to host.test:81 within 2s"]);
    assert!(format!("{error:?}").contains("no connection to host.test:81 within 2s"));
    at_rest(&handle).await;
}

/// A connector of URIs whose service cannot be ready.
#[tokio::test]
async fn a_connector_of_uris_that_is_not_ready_is_told() {
    #[derive(Clone, Debug)]
    struct Broken;
    impl Service<Uri> for Broken {
        type Response = MemoryStream;
        type Error = BoxError;
        type Future = std::future::Ready<Result<MemoryStream, BoxError>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Err("it is broken".into()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            unreachable!("it is not ready")
        }
    }
    let mut connector = UriConnector::new(Broken);
    let ready = ServiceExt::<Destination>::ready(&mut connector).await;
    assert_eq!(ready.unwrap_err().to_string(), "it is broken");
}

/// The zone of an address is the resolver's, and nobody else's.
#[tokio::test]
async fn an_address_with_a_zone_is_resolved_with_it_and_named_without() {
    let asked = Arc::new(Mutex::new(String::new()));
    let server = Server::start_tcp(script::ok).await;
    let addr = server.addr();
    let resolver = {
        let asked = asked.clone();
        tower::service_fn(move |name: Name| {
            *asked.lock().unwrap() = name.to_string();
            ready(Ok::<_, io::Error>(iter::once(addr)))
        })
    };
    let connector = TcpConnector::with_resolver(resolver);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let url = format!("http://[fe80::1%25eth0]:{}/", addr.port());
    fetch(&client, url).await.unwrap();
    assert_eq!(*asked.lock().unwrap(), "fe80::1%eth0");
    let host = format!("[fe80::1]:{}", addr.port());
    assert_eq!(server.heads()[0].header("host"), Some(&*host));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_name_that_cannot_be_resolved_is_told_with_the_resolvers_error() {
    let resolver = tower::service_fn(|name: Name| {
        let why: BoxError = format!("the resolver knows no {}", name.as_str().len()).into();
        ready(Err::<vec::IntoIter<SocketAddr>, _>(why))
    });
    let connector = TcpConnector::with_resolver(resolver);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let error = fetch(&client, "http://host.test/").await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let why = "the resolver knows no 9";
    let told = [&*format!("cannot resolve host.test: {why}"), why];
    assert_eq!(texts(&error), told);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connect_error_names_the_address_and_keeps_the_systems_error() {
    let nobody = RefusingPort::new();
    let (client, handle) = agent_over(KeepAliveLayer::new(), TcpConnector::new());
    let error = fetch(&client, nobody.url("/")).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let told = texts(&error);
    let expected = format!("cannot connect to {}: connection refused", nobody.addr());
    assert_eq!(told[0], expected);
    assert!(says_nothing_twice(&told), "{told:?}");
    let system = error.io_error().expect("the system's error");
    assert_eq!(system.kind(), io::ErrorKind::ConnectionRefused);
    assert!(system.raw_os_error().is_some());
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connect_error_names_every_address_that_was_tried_and_the_name() {
    let nobody = [RefusingPort::new(), RefusingPort::new()];
    let addresses = nobody.each_ref().map(RefusingPort::addr);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector(addresses.to_vec()));
    let error = fetch(&client, "http://host.test/").await.unwrap_err();
    let told = texts(&error);
    let expected = format!(
        "cannot connect to {}: connection refused, to {}: connection refused (host.test)",
        addresses[0], addresses[1]
    );
    assert_eq!(told[0], expected);
    assert!(says_nothing_twice(&told), "{told:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_local_address_that_cannot_be_bound_is_named() {
    let nobody = RefusingPort::new();
    // TEST-NET-1 of RFC 5737: nobody's address.
    let connector = TcpConnector::new().local_address(Some([192, 0, 2, 1].into()));
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let error = fetch(&client, nobody.url("/")).await.unwrap_err();
    let told = texts(&error);
    let expected = format!("cannot connect from 192.0.2.1 to {}: ", nobody.addr());
    assert!(told[0].starts_with(&expected), "{told:?}");
    assert!(says_nothing_twice(&told), "{told:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_proxy_that_cannot_be_connected_to_is_told_with_its_address() {
    let nobody = RefusingPort::new();
    let connector = ProxyLayer::new().layer(TcpConnector::new());
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let proxy: Proxy = nobody.url("").parse().unwrap();
    let mut request = get("http://origin.test/");
    let route = Route::new().with_proxy(proxy.clone());
    request.extensions_mut().insert(route);
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let told = texts(&error);
    let hop = format!("connect to {}: connection refused", nobody.addr());
    assert_eq!(told[0], format!("cannot connect through {proxy}: {hop}"));
    assert!(told.len() == 2 && says_nothing_twice(&told), "{told:?}");
    let system = error.io_error().expect("the system's error");
    assert_eq!(system.kind(), io::ErrorKind::ConnectionRefused);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_handshake_that_fails_is_told_in_words_with_the_server() {
    let server = Server::start(|mut conn| async move {
        conn.respond("not TLS").await;
    })
    .await;
    let tls = crate::support::tls::CA.trusted().layer(TcpConnector::new());
    let (client, handle) = agent_over(KeepAliveLayer::new(), tls);
    let url = server.url("/").replacen("http", "https", 1);
    let error = fetch(&client, url).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let told = texts(&error);
    let words = "cannot agree on TLS with 127.0.0.1: the server does not speak TLS on this port; for plain HTTP, ask with http://";
    assert_eq!(told[0], words);
    assert!(says_nothing_twice(&told), "{told:?}");
    at_rest(&handle).await;
}
