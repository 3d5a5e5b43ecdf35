//! J. Connections that leave the pool with their exchange: those of which an exchange is detached.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Channel, Full};
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    CloseReason, KeepAliveLayer,
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, HttpConnection, PoolConfig,
        TtlLayer,
    },
};

use super::leaving::{SWITCHES, one_at_a_time, owner_of, upgrade};
use super::timeouts::ms;
use crate::support::agent::{Client, agent, at_rest, fetch, get, read};
use crate::support::{
    CountingConnector, Gate, Server, Sockets, alive_tasks, eventually, not_over_h2,
};

/// Answers `/long` with half a body, and after the gate with the rest of it.
async fn long_server(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn| {
        let gate = gate.clone();
        async move {
            while let Some(head) = conn.head().await {
                if head.target == "/long" {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
                        .await;
                    gate.pass().await;
                    conn.send("half").await;
                } else {
                    conn.respond("ok").await;
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn node_90_a_detached_exchange_goes_on_without_its_slot() {
    let gate = Gate::new();
    let server = long_server(&gate).await;
    let (client, handle, counting) = one_at_a_time();
    let response = client.request(get(server.url("/long"))).await.unwrap();
    let info = response.body().connection().clone();
    let next = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { fetch(&client, url).await }
    });
    eventually("one is in line", || {
        handle.status().pending.values().sum::<usize>() == 1
    })
    .await;
    info.detach();
    let status = handle.status();
    assert_eq!((status.detached, status.closed), (1, 0));
    // Once, however often it is said, and by whom.
    info.detach();
    response.body().connection().detach();
    let next = next.await.unwrap().unwrap();
    assert!(!next.info.is_reused());
    assert_eq!(counting.alive(), 2);
    gate.open(1);
    let answer = read(response).await.unwrap();
    assert_eq!(answer.body, "halfhalf");
    // Not pooled: after its exchange nobody has it.
    eventually("it is gone", || counting.alive() == 1).await;
    let after = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(after.info.id(), next.info.id());
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (2, 1, 0));
    assert_eq!((status.completed, status.open()), (3, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_90_a_detached_exchange_that_is_given_up_is_closed() {
    let gate = Gate::new();
    let server = long_server(&gate).await;
    let (client, handle, counting) = one_at_a_time();
    let response = client.request(get(server.url("/long"))).await.unwrap();
    response.body().connection().detach();
    drop(response);
    eventually("the transport is dropped", || counting.alive() == 0).await;
    gate.open_for_all();
    eventually("the server sees it", || server.open() == 0).await;
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (1, 1, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_90_a_detached_exchange_whose_upload_has_no_end_is_closed() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        conn.head().await;
        conn.respond("early").await;
        conn.stall().await;
    })
    .await;
    let tasks = alive_tasks();
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = layer.layer(counting.clone());
    let (upload, body) = Channel::<Bytes>::new(1);
    let request = Request::post(server.url("/")).body(body).unwrap();
    let response = client.oneshot(request).await.unwrap();
    response.body().connection().detach();
    let answer = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(answer, "early");
    // hyper#4176: its driver would go on with the upload for ever.
    eventually("the transport is dropped", || counting.alive() == 0).await;
    eventually("no task is left", || alive_tasks() <= tasks).await;
    drop(upload);
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (1, 1, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_90_a_detached_exchange_that_fails_is_no_close_of_the_agents() {
    let gate = Gate::new();
    let server = {
        let gate = gate.clone();
        Server::start(move |mut conn| {
            let gate = gate.clone();
            async move {
                conn.request().await;
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
                    .await;
                gate.pass().await;
                conn.rst();
            }
        })
        .await
    };
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(get(server.url("/"))).await.unwrap();
    response.body().connection().detach();
    gate.open(1);
    let error = read(response).await.unwrap_err();
    assert!(!error.is_reset() && !error.is_shut_down(), "{error:?}");
    let status = handle.status();
    assert_eq!(
        (
            status.created,
            status.detached,
            status.closed,
            status.errors
        ),
        (1, 1, 0, 0)
    );
    assert!(!status.closes.contains_key(&CloseReason::Error));
    at_rest(&handle).await;
}

/// An upgrade whose owner waits for what never comes.
pub(super) async fn waiting_owner(
    client: &Client,
    server: &Server,
) -> tokio::task::JoinHandle<std::io::Result<usize>> {
    let response = client.request(upgrade(server.url("/"))).await.unwrap();
    let mut owner = owner_of(response).await;
    tokio::spawn(async move { owner.read(&mut [0; 8]).await })
}

#[tokio::test(start_paused = true)]
async fn node_90_no_limit_of_the_agents_ends_what_has_left() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = Server::in_memory(|mut conn| async move {
        let head = conn.request().await.unwrap();
        if head.header("upgrade").is_some() {
            conn.send(SWITCHES).await;
            sleep(ms(5000)).await;
            conn.send("late").await;
        } else {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n")
                .await;
            sleep(ms(5000)).await;
            conn.send("detached").await;
        }
        conn.closed().await;
    });
    let checkout = CheckoutLayer::<HttpConnection<Full<Bytes>>>::new(PoolConfig::new());
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        // Not even one that ends connections in use.
        .layer(TtlLayer::new(ms(1000)).hard())
        .layer(HandshakeLayer::new())
        .service(server.connector());
    let switched = client.clone().oneshot(upgrade(server.url("/"))).await;
    let detached = client.clone().oneshot(get(server.url("/"))).await.unwrap();
    detached.body().connection().detach();
    let attached = client.clone().oneshot(get(server.url("/"))).await.unwrap();
    let mut owner = owner_of(switched.unwrap()).await;
    let (owned, detached, attached) = tokio::join!(
        async {
            let mut read = [0; 4];
            owner.read_exact(&mut read).await.map(|_| read)
        },
        read(detached),
        read(attached),
    );
    assert_eq!(&owned.unwrap(), b"late");
    assert_eq!(detached.unwrap().body, "detached");
    attached.expect_err("it is the agent's, and too old");
    assert_eq!(handle.status().closes, [(CloseReason::Age, 1)].into());
    drop(owner);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_90_a_detached_slot_passes_to_who_waits_for_the_total() {
    let gate = Gate::new();
    let (server, other) = (long_server(&gate).await, long_server(&gate).await);
    let (client, handle) = agent(KeepAliveLayer::new().max_connections(1));
    let long = client.request(get(server.url("/long"))).await.unwrap();
    let next = tokio::spawn({
        let (client, url) = (client.clone(), other.url("/"));
        async move { fetch(&client, url).await }
    });
    eventually("one is in line", || {
        handle.status().pending.values().sum::<usize>() == 1
    })
    .await;
    long.body().connection().detach();
    let next = timeout(Duration::from_secs(5), next).await;
    next.expect("it has its turn").unwrap().unwrap();
    gate.open(1);
    assert_eq!(read(long).await.unwrap().body, "halfhalf");
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.open()), (2, 1, 1));
    at_rest(&handle).await;
}
