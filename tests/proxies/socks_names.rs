//! Who resolves the name of an origin behind a proxy of SOCKS, and to which of its addresses.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::vec;

use crate::support::agent::{Req, agent_over, at_rest, get, send};
use crate::support::{Conn, Server};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::TcpStream;
use tower::{Layer, Service};
use tower_keep_alive::connect::{Proxy, ProxyLayer, TcpConnector};
use tower_keep_alive::{
    BoxError, Error, KeepAliveLayer,
    connect::Destination,
    extensions::{Family, Route},
};

/// A resolver that knows these addresses for every name, and keeps the names that it is asked for.
#[derive(Clone, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Known {
    fn of(addresses: &[&str]) -> Self {
        let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
        Self {
            addresses,
            ..Self::default()
        }
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Service<Name> for Known {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        self.asked.lock().unwrap().push(name.to_string());
        ready(Ok(self.addresses.clone().into_iter()))
    }
}

/// A proxy of SOCKS that keeps what it is asked for, and refuses.
struct Refusing {
    server: Server,
    asked: Arc<Mutex<Vec<u8>>>,
}

impl Refusing {
    async fn start() -> Self {
        let asked = Arc::<Mutex<Vec<u8>>>::default();
        let seen = asked.clone();
        let server = Server::start_tcp(move |mut conn: Conn| {
            let seen = seen.clone();
            async move {
                let mut first = conn.read().await;
                if first == [5, 1, 0] {
                    conn.send([5, 0]).await;
                    first = conn.read().await;
                }
                let refusal: &[u8] = match first.first() {
                    Some(5) => &[5, 5, 0, 1, 0, 0, 0, 0, 0, 0],
                    Some(_) => &[0, 91, 0, 0, 0, 0, 0, 0],
                    // Connected to, and asked for nothing.
                    None => return,
                };
                *seen.lock().unwrap() = first;
                conn.send(refusal).await;
                conn.closed().await;
            }
        })
        .await;
        Self { server, asked }
    }

    fn named(&self, scheme: &str) -> Proxy {
        format!("{scheme}://{}", self.server.addr())
            .parse()
            .unwrap()
    }

    fn asked(&self) -> Vec<u8> {
        self.asked.lock().unwrap().clone()
    }
}

fn through(route: Route, url: &str) -> Req {
    let mut request = get(url);
    request.extensions_mut().insert(route);
    request
}

async fn fails(layer: ProxyLayer, connector: TcpConnector<Known>, request: Req) -> Error {
    let connector = layer.layer(connector);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let error = send(&client, request).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    at_rest(&handle).await;
    error
}

/// Bytes of a request for an IPv4 address.
fn v4(scheme: &str, address: [u8; 4], port: u16) -> Vec<u8> {
    let port = port.to_be_bytes();
    match scheme {
        "socks4" => [&[4, 1][..], &port, &address, &[0]].concat(),
        _ => [&[5, 1, 0, 1][..], &address, &port].concat(),
    }
}

#[tokio::test]
async fn a_proxy_of_socks_is_given_addresses_by_the_connectors_resolver() {
    for scheme in ["socks4", "socks5"] {
        for (addresses, url, port) in [
            (
                &["192.0.2.7:0", "192.0.2.8:0"][..],
                "http://origin.test/",
                80,
            ),
            (&["192.0.2.7:0"], "http://origin.test:81/", 81),
            // A port of the resolver's counts as it does without a proxy.
            (&["192.0.2.7:99"], "http://origin.test/", 99),
            (&["192.0.2.7:99"], "http://origin.test:80/", 80),
        ] {
            let proxy = Refusing::start().await;
            let known = Known::of(addresses);
            let connector = TcpConnector::with_resolver(known.clone());
            let route = Route::new().with_proxy(proxy.named(scheme));
            fails(ProxyLayer::new(), connector, through(route, url)).await;
            assert_eq!(proxy.asked(), v4(scheme, [192, 0, 2, 7], port), "{url}");
            assert_eq!(known.asked(), ["origin.test"]);
        }
    }
}

/// They are asked for the name, and nobody here is.
#[tokio::test]
async fn a_proxy_of_socks_that_is_given_names_resolves_them_itself() {
    for scheme in ["socks4a", "socks5h"] {
        let proxy = Refusing::start().await;
        let known = Known::of(&["192.0.2.7:0"]);
        let connector = TcpConnector::with_resolver(known.clone());
        let route = Route::new().with_proxy(proxy.named(scheme));
        let layer = ProxyLayer::new().resolver(known.clone());
        fails(layer, connector, through(route, "http://origin.test/")).await;
        let asked = String::from_utf8_lossy(&proxy.asked()).into_owned();
        assert!(asked.contains("origin.test"), "{asked:?}");
        assert!(known.asked().is_empty());
    }
}

#[tokio::test]
async fn a_proxy_of_socks_is_given_an_address_of_the_family_that_is_asked_for() {
    let v6 = [
        &[5, 1, 0, 4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0][..],
        &[0, 0, 0, 0, 0, 0, 0, 7, 0, 80],
    ]
    .concat();
    let four = v4("socks5", [192, 0, 2, 7], 80);
    let any = Route::new;
    let only_v4 = || Route::new().with_family(Family::V4);
    for (connectors, route, expected) in [
        (None, any(), &v6),
        (Some(Family::V4), any(), &four),
        (None, only_v4(), &four),
    ] {
        let proxy = Refusing::start().await;
        let known = Known::of(&["[2001:db8::7]:0", "192.0.2.7:0"]);
        let connector = TcpConnector::with_resolver(known).family(connectors);
        let route = route.with_proxy(proxy.named("socks5"));
        fails(
            ProxyLayer::new(),
            connector,
            through(route, "http://origin.test/"),
        )
        .await;
        assert_eq!(&proxy.asked(), expected, "{connectors:?}");
    }
    // One of SOCKS4 has no words for the first.
    let proxy = Refusing::start().await;
    let known = Known::of(&["[2001:db8::7]:0", "192.0.2.7:0"]);
    let route = Route::new().with_proxy(proxy.named("socks4"));
    let request = through(route, "http://origin.test/");
    fails(
        ProxyLayer::new(),
        TcpConnector::with_resolver(known),
        request,
    )
    .await;
    assert_eq!(proxy.asked(), v4("socks4", [192, 0, 2, 7], 80));
}

#[tokio::test]
async fn an_origin_without_an_address_that_will_do_is_asked_of_no_proxy() {
    for (scheme, addresses, family) in [
        ("socks5", &[][..], None),
        ("socks4", &["[2001:db8::7]:0"], None),
        ("socks5", &["[2001:db8::7]:0"], Some(Family::V4)),
    ] {
        for own in [false, true] {
            let proxy = Refusing::start().await;
            let known = Known::of(addresses);
            let (connector, layer) = match own {
                true => (
                    TcpConnector::with_resolver(Known::default()),
                    ProxyLayer::new().resolver(known),
                ),
                false => (TcpConnector::with_resolver(known), ProxyLayer::new()),
            };
            let mut route = Route::new().with_proxy(proxy.named(scheme));
            if let Some(family) = family {
                route = route.with_family(family);
            }
            let request = through(route, "http://origin.test/");
            let error = fails(layer, connector, request).await;
            let error: &dyn std::error::Error = &error;
            let chain = std::iter::successors(Some(error), |error| error.source());
            let said: Vec<_> = chain.map(ToString::to_string).collect();
            let names_it = |text: &String| text.contains("origin.test has no ");
            assert!(said.iter().any(names_it), "{said:?}");
            assert!(proxy.asked().is_empty());
        }
    }
}

/// Whoever connects by other means says by what names are resolved.
#[tokio::test]
async fn a_resolver_of_the_layer_is_for_connectors_that_have_none() {
    let proxy = Refusing::start().await;
    let addr = proxy.server.addr();
    let known = Known::of(&["[2001:db8::7]:0", "192.0.2.7:0"]);
    let connector = tower::service_fn(move |_: Destination| async move {
        TcpStream::connect(addr).await.map_err(BoxError::from)
    });
    let connector = ProxyLayer::new().resolver(known.clone()).layer(connector);
    let layer: KeepAliveLayer<Full<Bytes>> = KeepAliveLayer::new();
    let (client, handle) = agent_over(layer, connector);
    let route = Route::new()
        .with_proxy(proxy.named("socks5"))
        .with_family(Family::V4);
    let request = through(route, "http://origin.test/");
    assert!(send(&client, request).await.unwrap_err().is_connect());
    assert_eq!(known.asked(), ["origin.test"]);
    assert_eq!(proxy.asked(), v4("socks5", [192, 0, 2, 7], 80));
    // Without one: the system's, which knows this name everywhere.
    let connector = tower::service_fn(move |_: Destination| async move {
        TcpStream::connect(addr).await.map_err(BoxError::from)
    });
    let layer: KeepAliveLayer<Full<Bytes>> = KeepAliveLayer::new();
    let (client, other) = agent_over(layer, ProxyLayer::new().layer(connector));
    let route = Route::new()
        .with_proxy(proxy.named("socks5"))
        .with_family(Family::V4);
    let request = through(route, "http://localhost/");
    assert!(send(&client, request).await.unwrap_err().is_connect());
    assert_eq!(proxy.asked(), v4("socks5", [127, 0, 0, 1], 80));
    at_rest(&handle).await;
    at_rest(&other).await;
}
