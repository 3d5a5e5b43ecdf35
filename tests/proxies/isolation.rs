//! What is never shared: a connection of another partition or another route, whatever else is the same; and by which
//! route a request goes that says nothing of it.

use std::net::{IpAddr, Ipv4Addr};
use std::task::{Context, Poll};

use crate::support::agent::{Req, agent_over, at_rest, get, send};
use crate::support::tls::{Authority, CA};
use crate::support::{Server, script};
use bytes::Bytes;
use http_body_util::Full;
use tokio_rustls::rustls::{self, CertificateError};
use tower::{Layer, Service};
use tower_keep_alive::connect::{TcpConnector, Tls, TlsConfig};
use tower_keep_alive::{
    AgentHandle, Error, KeepAlive, KeepAliveLayer, Key,
    custom::KeyRef,
    extensions::{Partition, Route},
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

type Layers = KeepAliveLayer<Full<Bytes>>;
type Client = KeepAlive<TcpConnector, Full<Bytes>>;

fn agent(layer: Layers) -> (Client, AgentHandle) {
    agent_over(layer, TcpConnector::new())
}

fn from(address: [u8; 4]) -> Route {
    Route::new().with_local_address(Ipv4Addr::from(address).into())
}

fn with(route: &Route, partition: Option<&'static str>, url: &str) -> Req {
    let mut request = get(url);
    let said = request.extensions_mut();
    said.insert(route.clone());
    if let Some(name) = partition {
        said.insert(Partition::new(name));
    }
    request
}

fn names(handle: &AgentHandle) -> Vec<String> {
    let mut names: Vec<_> = handle.status().idle.keys().map(Key::to_string).collect();
    names.sort();
    names
}

#[test]
fn keys_are_equal_only_if_partition_and_route_both_are() {
    let routes = [None, Some(from([127, 0, 0, 1])), Some(from([127, 0, 0, 2]))];
    let partitions = [None, Some("blue"), Some("green")];
    let mut keys = Vec::new();
    for route in &routes {
        for partition in partitions {
            let mut key = KeyRef::new("http", "origin.test", None);
            if let Some(route) = route {
                key = key.route(route);
            }
            if let Some(name) = partition {
                key = key.partition(name);
            }
            keys.push(key);
        }
    }
    let kept: Vec<_> = keys.iter().map(|key| Key::from(*key)).collect();
    for (at, one) in kept.iter().enumerate() {
        for (other_at, other) in kept.iter().enumerate() {
            let is_same = at == other_at;
            assert_eq!(*one == keys[other_at], is_same, "{one} {other}");
            assert_eq!(one == other, is_same, "{one} {other}");
        }
    }
}

/// Tenants that leave by the same route are still two.
#[tokio::test]
async fn a_partition_counts_beside_a_route() {
    let server = Server::start_tcp(script::ok).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let url = format!("http://{}/", server.addr());
    let local = from([127, 0, 0, 1]);
    let unrouted = Route::new();
    let mut ids = Vec::new();
    for reused in [false, true] {
        for (route, partition) in [
            (&local, Some("blue")),
            (&local, Some("green")),
            (&local, None),
            (&unrouted, Some("blue")),
            (&unrouted, None),
        ] {
            let answer = send(&client, with(route, partition, &url)).await.unwrap();
            assert_eq!(answer.info.is_reused(), reused, "{route:?} {partition:?}");
            let key = answer.info.key().unwrap();
            assert_eq!(key.partition(), partition);
            assert_eq!(key.route().is_some(), route == &local);
            ids.push(answer.info.id());
        }
    }
    assert_eq!(ids[..5], ids[5..]);
    assert_eq!((server.accepted(), handle.status().created), (5, 5));
    assert_eq!(names(&handle).len(), 5);
    at_rest(&handle).await;
}

fn secure_agent() -> (KeepAlive<Tls<TcpConnector>, Full<Bytes>>, AgentHandle) {
    let connector = CA.trusted().layer(TcpConnector::new());
    agent_over(KeepAliveLayer::new(), connector)
}

fn not_trusted(error: &Error) -> bool {
    let mut chain = std::iter::successors(std::error::Error::source(error), |error| error.source());
    chain.any(|error| {
        let untrusted = rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer);
        error.downcast_ref() == Some(&untrusted)
    })
}

/// Whom to trust and who the server has to be are two things, and each of them counts with the other.
#[tokio::test]
async fn the_tls_of_a_route_counts_beside_its_server_name() {
    let other = Authority::new("other");
    let identity = other.issue(&["x.test"]);
    let server = Server::start_tls(identity.server(), script::ok).await;
    let (client, handle) = secure_agent();
    let url = format!("https://{}/", server.addr());
    let named = || Route::new().with_server_name("x.test".try_into().unwrap());
    let trusting = TlsConfig::new(other.client_config());
    let again = TlsConfig::new(other.client_config());
    let strict = TlsConfig::new(CA.client_config());

    // The configuration is the route's, and not the connector's.
    let mut ids = Vec::new();
    for config in [&trusting, &again, &trusting, &again] {
        let request = with(&named().with_tls(config.clone()), None, &url);
        ids.push(send(&client, request).await.unwrap().info.id());
    }
    assert_eq!((ids[0], ids[1]), (ids[2], ids[3]));
    assert_ne!(ids[0], ids[1]);
    // What another configuration trusts is not used by one that does not, nor by the connector's own.
    for route in [named().with_tls(strict), named()] {
        let error = send(&client, with(&route, None, &url)).await.unwrap_err();
        assert!(error.is_connect() && not_trusted(&error), "{error:?}");
    }
    // The name counts with the configuration: nobody vouches for the address.
    let unnamed = Route::new().with_tls(trusting);
    let error = send(&client, with(&unnamed, None, &url)).await.unwrap_err();
    assert!(error.is_connect() && !not_trusted(&error), "{error:?}");
    assert_eq!(names(&handle).len(), 2);
    at_rest(&handle).await;
}

/// Where a request left from.
async fn left_from(client: &Client, request: Req) -> String {
    let answer = send(client, request).await.unwrap();
    answer.info.local_addr().unwrap().ip().to_string()
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn the_layers_route_is_that_of_every_request_that_has_none() {
    let server = Server::start_tcp(script::ok).await;
    let url = format!("http://{}/", server.addr());
    let layer = KeepAliveLayer::new().route(from([127, 0, 0, 2]));
    // A clone keeps it.
    for layer in [layer.clone(), layer] {
        let (client, handle) = agent(layer);
        assert_eq!(left_from(&client, get(&url)).await, "127.0.0.2");
        let partitioned = with(&from([127, 0, 0, 3]), Some("blue"), &url);
        assert_eq!(left_from(&client, partitioned).await, "127.0.0.3");
        // One that says that it has none goes without.
        let empty = with(&Route::new(), None, &url);
        assert_eq!(left_from(&client, empty).await, "127.0.0.1");
        // It is in the key as if the request had said it.
        let said = with(&from([127, 0, 0, 2]), None, &url);
        let answer = send(&client, said).await.unwrap();
        assert!(answer.info.is_reused());
        let addr = server.addr();
        assert_eq!(
            names(&handle),
            [
                format!("{addr}:"),
                format!("{addr}:127.0.0.2"),
                format!("{addr}:127.0.0.3:blue"),
            ]
        );
        at_rest(&handle).await;
    }
}

/// As by a layer that follows redirects: the second request is made anew, and has no extensions.
#[derive(Clone)]
struct Again<S>(S);

impl<S> Service<Req> for Again<S>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send,
    S::Response: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        let mut service = self.0.clone();
        Box::pin(async move {
            let url = request.uri().to_string();
            service.call(request).await?;
            service.call(get(url)).await
        })
    }
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_request_that_a_layer_made_anew_leaves_by_the_layers_route() {
    let server = Server::start_tcp(script::ok).await;
    let url = format!("http://{}/", server.addr());
    let (client, handle) = agent(KeepAliveLayer::new().route(from([127, 0, 0, 2])));
    let answer = send(&Again(client.clone()), get(&url)).await.unwrap();
    assert_eq!(
        answer.info.local_addr().unwrap().ip(),
        IpAddr::from([127, 0, 0, 2])
    );
    assert_eq!(names(&handle), [format!("{}:127.0.0.2", server.addr())]);
    at_rest(&handle).await;
}

/// The same of a stack by hand.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn an_exchange_by_hand_has_a_route_for_requests_that_have_none() {
    let server = Server::start_tcp(script::ok).await;
    let url = format!("http://{}/", server.addr());
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let exchange = ExchangeLayer::new().route(from([127, 0, 0, 2]));
    let handshake = HandshakeLayer::<Full<Bytes>>::new();
    let client = exchange
        .clone()
        .layer(CheckinLayer::new().layer(checkout.layer(handshake.layer(TcpConnector::new()))));
    for (request, address) in [
        (get(&url), [127, 0, 0, 2]),
        (with(&Route::new(), None, &url), [127, 0, 0, 1]),
    ] {
        let answer = send(&client, request).await.unwrap();
        let local = answer.info.local_addr().unwrap().ip();
        assert_eq!(local, IpAddr::from(address));
    }
    at_rest(&handle).await;
}
