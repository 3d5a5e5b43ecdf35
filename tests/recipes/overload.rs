//! More callers than connections.

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::join_all;
use http_body_util::Full;
use tower::buffer::Buffer;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::error::Overloaded;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    Error, KeepAliveLayer,
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

use crate::support::agent::{Connector, agent, at_rest, fetch, get, read};
use crate::support::{CountingConnector, Gate, Server, Sockets, eventually};

/// Answers when the gate lets it.
async fn server_behind(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn| {
        let gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                gate.pass().await;
                conn.respond("ok").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_full_line_sheds_at_once_and_says_so() {
    let gate = Gate::new();
    let server = server_behind(&gate).await;
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .max_pending_per_host(2);
    let (client, handle) = agent(layer);
    let fetches: Vec<_> = (0..3)
        .map(|_| {
            tokio::spawn({
                let (client, url) = (client.clone(), server.url("/"));
                async move { fetch(&client, url).await }
            })
        })
        .collect();
    eventually("one is served, two wait", || {
        handle.status().pending.values().sum::<usize>() == 2
    })
    .await;
    let shed = fetch(&client, server.url("/")).now_or_never();
    let error = shed.expect("at once").unwrap_err();
    assert!(error.is_queue_full() && error.is_unsent(), "{error:?}");
    gate.open_for_all();
    for answer in join_all(fetches).await {
        assert_eq!(answer.unwrap().unwrap().body, "ok");
    }
    assert_eq!((server.accepted(), server.requests()), (1, 3));
    at_rest(&handle).await;
}

/// The agent is always ready, as its line is its own: what tower's `LoadShed` sheds is a limit between the two.
#[tokio::test]
async fn load_shed_over_a_concurrency_limit_sheds_over_all_hosts() {
    let gate = Gate::new();
    let (one, other) = (server_behind(&gate).await, server_behind(&gate).await);
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(2)
        .layer(layer)
        .service(Connector);
    let both = [&one, &other].map(|server| {
        let request = client.clone().oneshot(get(server.url("/")));
        tokio::spawn(async move { read(request.await.unwrap()).await })
    });
    eventually("two are under way", || handle.status().active.len() == 2).await;
    let shed = client.clone().oneshot(get(one.url("/"))).await;
    assert!(shed.unwrap_err().is::<Overloaded>());
    gate.open_for_all();
    for answer in join_all(both).await {
        assert_eq!(answer.unwrap().unwrap().body, "ok");
    }
    assert_eq!(one.requests() + other.requests(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_concurrency_limit_below_limits_connects_and_not_connections() {
    let server = Server::ok().await;
    let gate = Gate::new();
    let connector = CountingConnector::new(Sockets).gate(&gate);
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(ConcurrencyLimitLayer::new(2))
        .layer(HandshakeLayer::<Full<Bytes>>::new())
        .service(connector.clone());
    let fetches: Vec<_> = (0..5)
        .map(|_| {
            tokio::spawn({
                let (client, url) = (client.clone(), server.url("/"));
                async move { read(client.oneshot(get(url)).await?).await }
            })
        })
        .collect();
    eventually("two connect, and three wait for it", || {
        handle.status().open() == 5 && gate.waiting() == 2
    })
    .await;
    assert_eq!(connector.made(), 2);
    gate.open_for_all();
    for answer in join_all(fetches).await {
        assert_eq!(answer.unwrap().unwrap().body, "ok");
    }
    at_rest(&handle).await;
    assert!(
        handle.status().idle.values().sum::<usize>() > 2,
        "kept ones are no connects"
    );
}

#[tokio::test]
async fn a_buffer_makes_a_stack_that_is_no_clone_one_and_has_a_bound() {
    let gate = Gate::new();
    let server = server_behind(&gate).await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let limited = ServiceBuilder::new()
        .concurrency_limit(1)
        .layer(layer)
        .service(Connector);
    let client = Buffer::new(limited, 1);
    let mut fetches: Vec<_> = (0..3)
        .map(|_| {
            tokio::spawn({
                let (client, url) = (client.clone(), server.url("/"));
                async move { client.oneshot(get(url)).await }
            })
        })
        .collect();
    eventually("one is under way", || handle.status().active.len() == 1).await;
    // The task has the second in its hand, and the third is in the buffer: there is no other place.
    eventually("the buffer is full", || {
        client.clone().ready().now_or_never().is_none()
    })
    .await;
    let fourth = client.clone().oneshot(get(server.url("/")));
    fetches.push(tokio::spawn(fourth));
    gate.open_for_all();
    for answer in join_all(fetches).await {
        assert_eq!(read(answer.unwrap().unwrap()).await.unwrap().body, "ok");
    }
    assert_eq!(server.requests(), 4);

    handle.destroy();
    let mut client = client;
    let refused = client
        .ready()
        .await
        .unwrap()
        .call(get(server.url("/")))
        .await;
    let error = refused.unwrap_err();
    let found = Error::find(&*error).expect("through the buffer");
    assert!(found.is_shut_down());
    // The buffer's task ends with it.
    drop(client);
    at_rest(&handle).await;
}
