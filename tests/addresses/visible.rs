//! Which address a connection leads to is told, and may be said.

use std::net::SocketAddr;

use futures_util::future::join_all;
use tower::Layer;
use tower_keep_alive::connect::{Proxy, ProxyLayer, TcpConnector, UnixConnector};
use tower_keep_alive::{
    AgentHandle, KeepAliveLayer, Key,
    extensions::{Family, Route},
    status::AddressStatus,
};

use crate::names::Names;
use crate::support::agent::{Req, agent_over, at_rest, fetch, get, read, send};
use crate::support::{RefusingPort, Server, script, tls};

fn to(url: impl AsRef<str>, address: SocketAddr) -> Req {
    let mut request = get(url);
    let route = Route::new().with_address(address);
    request.extensions_mut().insert(route);
    request
}

/// Of the one key that there is: `[idle, active, requests, served]`.
fn counts(handle: &AgentHandle, address: SocketAddr) -> [u64; 4] {
    let addresses = handle.status().addresses;
    assert!(addresses.len() <= 1, "{addresses:?}");
    let of_key = addresses.values().next();
    let counts: AddressStatus = of_key
        .and_then(|it| it.get(&address))
        .copied()
        .unwrap_or_default();
    let [idle, active, requests] = [counts.idle, counts.active, counts.requests];
    [idle as u64, active as u64, requests as u64, counts.served]
}

#[tokio::test]
async fn the_status_counts_connections_and_requests_by_address() {
    let server = Server::ok().await;
    let (client, handle) = agent_over(KeepAliveLayer::new(), TcpConnector::new());
    assert!(handle.status().addresses.is_empty());
    let requests = (0..3).map(|_| client.request(get(server.url("/"))));
    let responses: Vec<_> = join_all(requests).await;
    assert_eq!(counts(&handle, server.addr()), [0, 3, 3, 3]);
    for response in responses {
        read(response.unwrap()).await.unwrap();
    }
    assert_eq!(counts(&handle, server.addr()), [3, 0, 0, 3]);
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(counts(&handle, server.addr()), [3, 0, 0, 4]);
    let key = handle.status().idle.into_keys().next().unwrap();
    for connection in handle.connections(&key) {
        assert_eq!(connection.remote_addr, Some(server.addr()));
    }
    let json = serde_json::to_value(handle.status()).unwrap();
    let expected = serde_json::json!({"idle": 3, "active": 0, "requests": 0, "served": 4});
    let address = server.addr().to_string();
    assert_eq!(json["addresses"][key.to_string()][&address], expected);
    handle.close_idle();
    at_rest(&handle).await;
    assert!(handle.status().addresses.is_empty());
    let json = serde_json::to_value(handle.status()).unwrap();
    assert!(
        json.get("addresses").is_none(),
        "nothing is said of nothing"
    );
}

#[tokio::test]
async fn a_request_goes_to_the_address_of_its_route_and_keeps_its_host() {
    let servers = [Server::ok().await, Server::ok().await];
    let names = Names::of(&servers);
    let (client, handle) = agent_over(KeepAliveLayer::new(), names.connector());
    for server in &servers {
        for _ in 0..2 {
            let answer = send(&client, to("http://host.test/", server.addr())).await;
            assert_eq!(answer.unwrap().info.remote_addr(), Some(server.addr()));
        }
        assert_eq!(server.accepted(), 1);
        assert_eq!(server.heads()[1].header("host"), Some("host.test"));
    }
    assert_eq!(names.asked(), 0, "the name is not looked up");
    // Connections of other ways are not shared.
    let answer = fetch(&client, "http://host.test/").await.unwrap();
    assert!(!answer.info.is_reused());
    let mut keys: Vec<_> = servers
        .iter()
        .map(|it| format!("host.test:80::address={}", it.addr()))
        .collect();
    keys.push("host.test:80:".into());
    keys.sort();
    let mut idle: Vec<_> = handle.status().idle.keys().map(Key::to_string).collect();
    idle.sort();
    assert_eq!(idle, keys);
    at_rest(&handle).await;
}

#[tokio::test]
async fn the_server_at_an_address_has_to_prove_the_name_of_the_uri() {
    let identity = tls::CA.issue(&["host.test"]);
    let server = Server::start_tls(identity.server(), script::ok).await;
    let connector = tls::CA.trusted().layer(TcpConnector::new());
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let answer = send(&client, to("https://host.test/", server.addr())).await;
    assert_eq!(answer.unwrap().info.remote_addr(), Some(server.addr()));
    let error = send(&client, to("https://other.test/", server.addr())).await;
    assert!(error.unwrap_err().is_certificate());
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_address_that_cannot_be_connected_to_is_told() {
    let nobody = RefusingPort::new();
    let (client, handle) = agent_over(KeepAliveLayer::new(), TcpConnector::new());
    let error = send(&client, to("http://host.test/", nobody.addr())).await;
    let error = error.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let told = error.to_string();
    assert!(told.contains(&nobody.addr().to_string()), "{told}");
    let mut request = get("http://host.test/");
    let route = Route::new()
        .with_address(nobody.addr())
        .with_family(Family::V6);
    request.extensions_mut().insert(route);
    let told = send(&client, request).await.unwrap_err().to_string();
    assert!(told.contains("is no IPv6 address"), "{told}");
    let (unix, other) = agent_over(KeepAliveLayer::new(), UnixConnector::at("/path.sock"));
    let error = send(&unix, to("http://host.test/", nobody.addr())).await;
    assert!(error.unwrap_err().is_target());
    at_rest(&other).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn through_a_proxy_it_is_the_address_of_the_proxy() {
    let proxy = Server::ok().await;
    let connector = ProxyLayer::new().layer(TcpConnector::new());
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let mut request = get("http://origin.test/");
    let through: Proxy = "http://proxy.test:81".parse().unwrap();
    let route = Route::new().with_proxy(through).with_address(proxy.addr());
    request.extensions_mut().insert(route);
    send(&client, request).await.unwrap();
    assert_eq!(proxy.heads()[0].target, "http://origin.test/");
    assert_eq!(counts(&handle, proxy.addr()), [1, 0, 0, 1]);
    at_rest(&handle).await;
}
