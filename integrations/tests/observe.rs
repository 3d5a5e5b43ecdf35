//! ObserveLayer below clients that have pools of their own.

#[path = "../../tests/support/mod.rs"]
mod support;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Uri;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use support::agent::{agent_over, at_rest, fetch};
use support::{CountingConnector, Gate, RefusingPort, Server, Sockets, eventually};
use tower::{Layer, ServiceExt};
use tower_keep_alive::{KeepAliveLayer, connect::CountConnectsLayer};

#[tokio::test]
async fn it_counts_the_connects_of_hyper_utils_client() {
    let server = Server::ok().await;
    let refusing = RefusingPort::new();
    let observe = CountConnectsLayer::new();
    let client: Client<_, Empty<Bytes>> =
        Client::builder(TokioExecutor::new()).build(observe.layer(HttpConnector::new()));
    for _ in 0..3 {
        let response = client.get(server.url("/").parse().unwrap()).await.unwrap();
        assert_eq!(response.collect().await.unwrap().to_bytes(), "ok");
    }
    let uri: Uri = refusing.url("/").parse().unwrap();
    assert!(client.get(uri).await.unwrap_err().is_connect());
    let connects = observe.connects();
    assert_eq!(
        (connects.begun, connects.connected, connects.failed),
        (2, 1, 1)
    );
    assert_eq!((connects.abandoned, connects.connecting()), (0, 0));
    assert!(!connects.longest_time.is_zero() && connects.longest_time == connects.total_time);
    assert_eq!((server.accepted(), server.requests()), (1, 3));
}

#[tokio::test]
async fn it_counts_the_connects_of_reqwests_client() {
    let server = Server::ok().await;
    let refusing = RefusingPort::new();
    let observe = CountConnectsLayer::new();
    let client = reqwest::Client::builder()
        .connector_layer(observe.clone())
        .build()
        .unwrap();
    for _ in 0..3 {
        let response = client.get(server.url("/")).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "ok");
    }
    assert!(
        client
            .get(refusing.url("/"))
            .send()
            .await
            .unwrap_err()
            .is_connect()
    );
    let connects = observe.connects();
    assert_eq!(
        (connects.begun, connects.connected, connects.failed),
        (2, 1, 1)
    );
    assert_eq!((server.accepted(), server.requests()), (1, 3));
}

#[tokio::test]
async fn it_counts_the_connects_of_the_agent_and_what_is_abandoned() {
    let server = Server::ok().await;
    let gate = Gate::new();
    let observe = CountConnectsLayer::new();
    let connector = CountingConnector::new(Sockets).gate(&gate);
    let (client, handle) = agent_over(KeepAliveLayer::new(), observe.layer(connector.clone()));
    let spawn = || {
        let (client, url) = (client.clone(), server.url("/"));
        tokio::spawn(async move { fetch(&client, url).await })
    };
    let abandoned = spawn();
    eventually("it connects", || observe.connects().connecting() == 1).await;
    abandoned.abort();
    eventually("it is abandoned", || observe.connects().abandoned == 1).await;
    let fetches = [spawn(), spawn()];
    eventually("two connect", || observe.connects().connecting() == 2).await;
    assert_eq!(connector.alive(), 2);
    gate.open_for_all();
    for fetch in join_all(fetches).await {
        assert_eq!(fetch.unwrap().unwrap().body, "ok");
    }
    let connects = observe.connects();
    assert_eq!((connects.begun, connects.connecting()), (3, 0));
    assert_eq!(handle.status().created, connects.begun);
    at_rest(&handle).await;
}

#[tokio::test]
async fn all_that_one_layer_makes_counts_together() {
    let server = Server::ok().await;
    let observe = CountConnectsLayer::new();
    let uri: Uri = server.url("/").parse().unwrap();
    for connector in [observe.layer(Sockets), observe.clone().layer(Sockets)] {
        drop(connector.oneshot(uri.clone()).await.unwrap());
    }
    let connects = observe.connects();
    assert_eq!(connects.connected, 2);
    let text = connects.to_string();
    assert!(
        text.starts_with("2 begun, 2 connected, 0 failed, 0 abandoned, 0 connecting; "),
        "{text}"
    );
}
