//! Trying again, and giving up.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::time::Instant;
use tower::retry::RetryLayer;
use tower::retry::budget::TpsBudget;
use tower::timeout::TimeoutLayer;
use tower::timeout::error::Elapsed;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{
    CloseReason, Error, KeepAliveLayer,
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

use crate::support::agent::{Connector, agent_paused, at_rest, fetch, get, read};
use crate::support::{Conn, CountingConnector, Gate, Server, eventually, script};

/// Answers one request on each connection, and closes at the second.
async fn closes_the_reused(mut conn: Conn) {
    conn.request().await;
    conn.respond("ok").await;
    if conn.request().await.is_some() {
        conn.fin().await;
    }
}

#[tokio::test]
async fn retry_with_budget_sends_again_until_the_budget_is_spent() {
    let server = Server::start(closes_the_reused).await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    // One second try in ten seconds, and none for the responses.
    let budget = Arc::new(TpsBudget::new(Duration::from_secs(10), 1, 0.0));
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(ReusedReset::new().budget(budget)))
        .layer(layer)
        .service(Connector);
    let mut failures = Vec::new();
    let mut answers = 0;
    for _ in 0..40 {
        match fetch(&client, server.url("/")).await {
            Ok(answer) => {
                answers += 1;
                assert_eq!(answer.body, "ok");
            }
            Err(error) => failures.push(error),
        }
    }
    // Of two requests one comes on a reused connection: it fails, or is sent again while the budget lasts.
    let second_tries = server.requests() - answers - failures.len();
    assert_eq!(second_tries, 10, "the reserve of ten seconds");
    assert!(!failures.is_empty());
    assert!(
        failures
            .iter()
            .all(|error| error.is_reset() && error.is_reused())
    );
    at_rest(&handle).await;
    assert_eq!(handle.status().completed, answers as u64);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_above_counts_the_time_in_line() {
    let server = Server::in_memory(script::stall);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .layer(TimeoutLayer::new(Duration::from_secs(2)))
        .layer(layer)
        .service(server.connector());
    let started = Instant::now();
    let url = server.url("/");
    let (first, second) = tokio::join!(
        client.clone().oneshot(get(&url)),
        client.clone().oneshot(get(&url))
    );
    assert!(first.unwrap_err().is::<Elapsed>());
    let second = second.unwrap_err();
    assert!(second.is::<Elapsed>());
    let found = Error::find(&*second).expect("as one of the agent's");
    assert!(found.is_timeout() && found.timeout().is_none() && !found.is_unsent());
    assert_eq!(started.elapsed().as_secs(), 2, "both, and at once");
    // Which closes the connection of the first, as nobody knows what the server makes of its request.
    at_rest(&handle).await;
    assert_eq!(handle.status().closes[&CloseReason::Abandoned], 1);
    assert_eq!(server.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_below_counts_the_connect_alone() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            tokio::time::sleep(Duration::from_secs(5)).await;
            conn.respond("ok").await;
        }
    });
    let gate = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&gate);
    let checkout = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(1));
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(TimeoutLayer::new(Duration::from_secs(2)))
        .layer(HandshakeLayer::<Full<Bytes>>::new())
        .service(connector);
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    gate.open_for_all();
    // Ten seconds, most of them in line: the connect took none.
    let (first, second) = tokio::join!(
        fetch(&client, server.url("/")),
        fetch(&client, server.url("/"))
    );
    assert_eq!(
        (first.unwrap().body, second.unwrap().body),
        ("ok".into(), "ok".into())
    );
    at_rest(&handle).await;
    assert_eq!((handle.status().create_errors, server.accepted()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn checkout_timeout_counts_the_time_in_line_alone() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            tokio::time::sleep(Duration::from_secs(3)).await;
            conn.respond("ok").await;
        }
    });
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .checkout_timeout(Duration::from_secs(4));
    let (client, handle) = agent_paused(layer, server.connector());
    let started = Instant::now();
    let url = server.url("/");
    let (first, second, third) = tokio::join!(
        fetch(&client, &url),
        fetch(&client, &url),
        fetch(&client, &url)
    );
    // The second waits for 3 s, and then takes 3 s of its own.
    assert_eq!(
        (first.unwrap().body, second.unwrap().body),
        ("ok".into(), "ok".into())
    );
    assert_eq!(started.elapsed().as_secs(), 6);
    let third = third.unwrap_err();
    assert!(third.is_timeout() && third.is_unsent(), "{third:?}");
    assert_eq!(server.requests(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_timeout_above_a_retry_counts_both_tries() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        if conn.index == 0 {
            conn.request().await;
            return conn.fin().await;
        }
        conn.stall().await;
    })
    .await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .timeout(Duration::from_millis(200))
        .layer(RetryLayer::new(ReusedReset::new()))
        .layer(layer)
        .service(Connector);
    for _ in 0..2 {
        let response = client.clone().oneshot(get(server.url("/"))).await.unwrap();
        assert_eq!(read(response).await.unwrap().body, "ok");
    }
    assert_eq!((server.accepted(), server.requests()), (2, 3));
    let error = client
        .clone()
        .oneshot(get(server.url("/")))
        .await
        .unwrap_err();
    assert!(error.is::<Elapsed>(), "{error}");
    eventually("it is closed", || handle.status().open() == 0).await;
    at_rest(&handle).await;
}
