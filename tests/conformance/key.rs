//! B. Pool key.

use crate::support::agent::{Connector, agent, agent_over, at_rest, fetch, get, protocol, send};
use crate::support::{CountingConnector, RefusingPort, Server, eventually, only_over_tcp};
use http::Uri;
use hyper_util::client::legacy::connect::dns::Name;
use std::convert::Infallible;
use std::iter;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{
    AgentHandle, CloseReason, KeepAliveLayer, Key,
    custom::{KeyRef, Target},
    extensions::Partition,
};
use tower_layer::Layer;

fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}

fn names(handle: &AgentHandle) -> Vec<String> {
    handle.status().idle.keys().map(Key::to_string).collect()
}

#[test]
fn node_12_a_key_prints_as_node_names_it() {
    for (key, printed) in [
        (KeyRef::new("http", "a", Some(1)), "a:1:"),
        (KeyRef::new("http", "localhost", None), "localhost:80:"),
        (KeyRef::new("http", "[::1]", Some(3000)), "::1:3000:"),
        (KeyRef::new("https", "a", None), "https:a:443:"),
        (
            KeyRef::new("http", "a", Some(1)).partition("tenant"),
            "a:1::tenant",
        ),
    ] {
        assert_eq!(Key::from(key).to_string(), printed);
    }
}

#[tokio::test]
async fn node_12_the_status_has_nodes_names() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let answer = fetch(&client, server.url("/")).await.unwrap();
    let name = format!("{}:", server.addr());
    assert_eq!(answer.info.key().unwrap().to_string(), name);
    eventually("it is idle", || names(&handle) == [name.clone()]).await;
    let json = serde_json::to_value(handle.status()).unwrap();
    assert_eq!(json["freeSockets"][&name], 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_13_the_default_port_is_filled_in() {
    let server = Server::in_memory(crate::support::script::ok);
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    let bare = fetch(&client, "http://localhost/").await.unwrap();
    eventually("it is idle", || idle(&handle) == 1).await;
    let explicit = fetch(&client, "http://localhost:80/").await.unwrap();
    assert_eq!(explicit.info.id(), bare.info.id());
    eventually("it is idle again", || {
        names(&handle) == ["localhost:80:".to_owned()]
    })
    .await;
    assert_eq!(server.accepted(), 1);
    let hosts: Vec<_> = server
        .heads()
        .iter()
        .map(|head| head.header("host").map(str::to_owned))
        .collect();
    assert_eq!(hosts, [Some("localhost".into()), Some("localhost".into())]);
    at_rest(&handle).await;
}

/// Deliberately not Node's `localhost`: a request that names no host is a mistake here.
#[tokio::test]
async fn node_13_a_request_without_a_host_is_refused() {
    let server = Server::in_memory(crate::support::script::ok);
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    let error = fetch(&client, "/relative").await.unwrap_err();
    assert!(error.is_target(), "{error:?}");
    assert_eq!(server.accepted(), 0);
    assert_eq!(handle.status().created, 0);
    at_rest(&handle).await;
}

#[cfg(target_os = "linux")] // Elsewhere only 127.0.0.1 is ours without further ado.
#[tokio::test]
async fn node_16_local_address_is_connected_from() {
    if only_over_tcp("it is about IP addresses") {
        return;
    }
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new().protocol(protocol());
    let handle = layer.handle();
    let mut ids = Vec::new();
    for last in [5, 6] {
        // A pool belongs to one connector: two addresses never mix.
        let ours = [127, 0, 0, last].into();
        let client = layer.layer(TcpConnector::new().local_address(Some(ours)));
        for _ in 0..2 {
            let answer = fetch(&client, server.url("/")).await.unwrap();
            assert_eq!(answer.info.local_addr().unwrap().ip(), ours);
            ids.push(answer.info.id());
            eventually("it is idle", || idle(&handle) == 1).await;
        }
    }
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[2], ids[3]);
    assert_ne!(ids[0], ids[2]);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_16_a_local_address_that_cannot_be_bound_is_an_error() {
    let server = Server::ok().await;
    // TEST-NET-1 of RFC 5737: nobody's address.
    let connector = TcpConnector::new().local_address(Some([192, 0, 2, 1].into()));
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(server.accepted(), 0);
    assert_eq!(handle.status().create_errors, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_17_host_case_host_header_user_path_and_query_share_a_connection() {
    if only_over_tcp("it is about names, which TCP resolves") {
        return;
    }
    let server = Server::ok().await;
    let port = server.addr().port();
    let (client, handle) = agent_over(KeepAliveLayer::new(), resolving(&server, &Arc::default()));
    let urls = [
        format!("http://Host.Test:{port}/"),
        format!("http://host.test:{port}/path?query"),
        format!("HTTP://HOST.TEST:{port}/"),
        format!("http://user:password@host.test:{port}/"),
    ];
    for (index, url) in urls.iter().enumerate() {
        let mut request = get(url);
        let host = format!("virtual-{index}.test").parse().unwrap();
        request.headers_mut().insert(http::header::HOST, host);
        let answer = send(&client, request).await.unwrap();
        assert_eq!(answer.info.is_reused(), index > 0, "{url}");
        eventually("it is idle", || idle(&handle) == 1).await;
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(server.heads()[3].header("host"), Some("virtual-3.test"));
    assert_eq!(names(&handle), [format!("host.test:{port}:")]);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_17_a_name_a_port_and_a_partition_are_told_apart() {
    let server = Server::in_memory(crate::support::script::ok);
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    for url in [
        "http://localhost/",
        "http://127.0.0.1/",
        "http://localhost:8080/",
        "https://localhost:80/",
    ] {
        let answer = fetch(&client, url).await.unwrap();
        assert!(!answer.info.is_reused(), "{url}");
    }
    let mut request = get("http://localhost/");
    request.extensions_mut().insert(Partition::new("tenant"));
    let answer = send(&client, request).await.unwrap();
    assert!(!answer.info.is_reused());
    assert_eq!(server.accepted(), 5);
    eventually("each is idle under a name of its own", || {
        handle.status().idle.len() == 5
    })
    .await;
    at_rest(&handle).await;
}

/// Any name is the server's address; counts the times it is asked.
fn resolving(
    server: &Server,
    asked: &Arc<AtomicUsize>,
) -> TcpConnector<
    impl tower::Service<
        Name,
        Response = iter::Once<SocketAddr>,
        Error = Infallible,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static,
> {
    let addr = server.addr();
    let asked = asked.clone();
    TcpConnector::with_resolver(tower::service_fn(move |_: Name| {
        asked.fetch_add(1, Ordering::SeqCst);
        async move { Ok(iter::once(addr)) }
    }))
}

#[tokio::test]
async fn node_17_names_are_resolved_when_a_connection_is_made_and_only_then() {
    if only_over_tcp("it is about names, which TCP resolves") {
        return;
    }
    let server = Server::ok().await;
    let asked = Arc::default();
    let (client, handle) = agent_over(KeepAliveLayer::new(), resolving(&server, &asked));
    let url = format!("http://host.test:{}/", server.addr().port());
    for _ in 0..5 {
        fetch(&client, &url).await.unwrap();
        eventually("it is idle", || idle(&handle) == 1).await;
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    handle.close_idle();
    eventually("it is closed", || handle.status().open() == 0).await;
    fetch(&client, &url).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_21_a_connection_leaves_by_the_key_that_it_came_by() {
    let server = Server::ok().await;
    let port = server.addr().port();
    let connector = CountingConnector::new(Connector);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    for (index, host) in ["LocalHost", "localhost", "user@LOCALHOST"]
        .iter()
        .enumerate()
    {
        let mut request = get(format!("http://{host}:{port}/"));
        let virtual_host = format!("{index}.test").parse().unwrap();
        request
            .headers_mut()
            .insert(http::header::HOST, virtual_host);
        send(&client, request).await.unwrap();
        eventually("one is idle, under one name", || {
            names(&handle) == [format!("localhost:{port}:")]
        })
        .await;
    }
    assert_eq!(connector.made(), 1);
    handle.close_idle();
    eventually("it is closed", || handle.status().open() == 0).await;
    let status = handle.status();
    assert!(status.idle.is_empty() && status.active.is_empty() && status.pending.is_empty());
    assert_eq!(status.closes[&CloseReason::Shutdown], 1);
    assert_eq!(connector.alive(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_21_a_key_that_was_never_connected_leaves_nothing() {
    let refusing = RefusingPort::new();
    let (client, handle) = agent(KeepAliveLayer::new());
    let uri: Uri = refusing.url("/").parse().unwrap();
    let error = fetch(&client, uri.to_string()).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(
        Key::from(uri.key()).to_string(),
        format!("{}:", refusing.addr())
    );
    let status = handle.status();
    assert!(status.idle.is_empty() && status.active.is_empty() && status.pending.is_empty());
    at_rest(&handle).await;
}
