//! Each layer, with as little around it as there can be.

use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use http::header::HOST;
use http::{Request, Uri};
use http_body_util::{BodyExt, Full};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_keep_alive::{
    BoxError, CloseReason, KeepAliveLayer,
    connect::Destination,
    custom::{Moment, Poolable},
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, IdleEvictionLayer,
        MaxUsesLayer, PoolConfig, TtlLayer,
    },
};

use crate::line::{Shard, answer, maker};
use crate::support::agent::{Connector, agent_over, at_rest, fetch, get};
use crate::support::{Gate, Server, eventually};

type B = Full<Bytes>;

#[tokio::test]
async fn handshake_gives_connections_for_one_request_at_a_time() {
    let server = Server::echo().await;
    let connections = ServiceBuilder::new()
        .layer(HandshakeLayer::<B>::new())
        .service(Connector);
    let uri: Uri = server.url("/").parse().unwrap();
    let mut conn = connections.oneshot(uri).await.unwrap();
    for path in ["/a", "/b"] {
        // As it is: the target form and `Host` are the caller's.
        let request = Request::get(path).header(HOST, "h");
        let request = request.body(B::default()).unwrap();
        let response = conn.ready().await.unwrap().call(request).await.unwrap();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, path);
        std::future::poll_fn(|cx| conn.poll_free(cx)).await;
        assert!(conn.is_open());
    }
    assert_eq!(server.accepted(), 1);
    drop(conn);
    eventually("it closes with the connection", || server.open() == 0).await;
}

/// It takes one request at a time, and says so: from its call to the end of its answer there is no place for another.
#[tokio::test]
async fn a_lease_is_ready_when_no_request_is_under_way() {
    let gate = Gate::new();
    let server = Server::start({
        let gate = gate.clone();
        move |mut conn| {
            let gate = gate.clone();
            async move {
                while conn.request().await.is_some() {
                    gate.pass().await;
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
                        .await;
                    gate.pass().await;
                    conn.send("lf").await;
                }
            }
        }
    })
    .await;
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let leases = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::<B>::new())
        .service(Connector);
    let uri: Uri = server.url("/").parse().unwrap();
    // One that is new, and one that was used: both are free when they are given out.
    for requests in [2, 4] {
        let mut lease = leases.clone().oneshot(uri.clone()).await.unwrap();
        for _ in 0..2 {
            let request = Request::get("/").header(HOST, "h");
            let request = request.body(B::default()).unwrap();
            let answer = lease.ready().await.unwrap().call(request);
            assert!(poll_immediate(lease.ready()).await.is_none(), "just sent");
            gate.open(1);
            let answer = answer.await.unwrap();
            assert!(
                poll_immediate(lease.ready()).await.is_none(),
                "a body to come"
            );
            gate.open(1);
            assert_eq!(
                answer.into_body().collect().await.unwrap().to_bytes(),
                "half"
            );
            lease.ready().await.unwrap();
        }
        drop(lease);
        assert_eq!((server.accepted(), server.requests()), (1, requests));
    }
    drop(leases);
    eventually("it closes with its pool", || handle.status().closed == 1).await;
    at_rest(&handle).await;
}

/// Nothing is under way on it, and nothing ever will be: who asks is told, and has its request back.
#[tokio::test]
async fn a_lease_that_has_closed_is_ready_and_gives_the_request_back() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.fin().await;
    })
    .await;
    let leases = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(CheckoutLayer::new(PoolConfig::new()))
        .layer(HandshakeLayer::<B>::new())
        .service(Connector);
    let uri: Uri = server.url("/").parse().unwrap();
    let mut lease = leases.oneshot(uri).await.unwrap();
    let request = || {
        let request = Request::get("/").header(HOST, "h");
        request.body(B::from("mine")).unwrap()
    };
    let failed = lease.ready().await.unwrap().call(request()).await;
    assert!(
        failed.unwrap_err().into_unsent().is_none(),
        "it may have been read"
    );
    let failed = lease.ready().await.unwrap().call(request()).await;
    let unsent = failed.unwrap_err().into_unsent().expect("it was not sent");
    assert_eq!(
        unsent.into_body().collect().await.unwrap().to_bytes(),
        "mine"
    );
    drop(lease);
    eventually("it is closed", || server.open() == 0).await;
}

/// Between its checkout and its request the connection has closed: who was not served stands before those who came later.
#[tokio::test]
async fn a_request_that_was_not_sent_says_that_it_comes_back() {
    let ends = Gate::new();
    let server = Server::start({
        let ends = ends.clone();
        move |mut conn| {
            let ends = ends.clone();
            async move {
                while conn.request().await.is_some() {
                    conn.respond("ok").await;
                    if conn.index == 0 {
                        ends.pass().await;
                        return conn.fin().await;
                    }
                }
            }
        }
    })
    .await;
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let leases = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::<B>::new())
        .service(Connector);
    let (asked, told) = mpsc::channel();
    let client = ExchangeLayer::new().layer(service_fn(move |target: Destination| {
        asked
            .send(format!("{target:?}").contains("is_retry: true"))
            .unwrap();
        let (leases, ends) = (leases.clone(), ends.clone());
        async move {
            let lease = leases.oneshot(target).await?;
            if lease.lifespan().uses() == 2 && ends.waiting() == 1 {
                ends.open(1);
                while lease.is_open() {
                    tokio::task::yield_now().await;
                }
            }
            Ok::<_, BoxError>(lease)
        }
    }));
    for _ in 0..2 {
        assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
    }
    drop(client);
    assert_eq!(told.iter().collect::<Vec<_>>(), [false, false, true]);
    assert_eq!((server.accepted(), server.requests()), (2, 2));
    at_rest(&handle).await;
}

/// Limits on connections that nobody pools are words on them, and change nothing else.
#[tokio::test(start_paused = true)]
async fn limits_alone_are_words_on_a_connection() {
    let server = Server::in_memory(answer);
    let uses = ServiceBuilder::new()
        .layer(MaxUsesLayer::new(1))
        .service(maker(&server));
    let mut line = uses.oneshot(Shard(1)).await.unwrap();
    assert_eq!(line.ask("hello").await.unwrap(), "hello!");
    drop(line);

    let idle = ServiceBuilder::new()
        .layer(IdleEvictionLayer::new(Duration::from_secs(4)))
        .service(maker(&server));
    let line = idle.oneshot(Shard(1)).await.unwrap();
    let now = Moment::now();
    let deadline = line.lifespan().deadline(now).unwrap();
    assert_eq!(deadline.reason, CloseReason::Idle);
    assert_eq!(Some(deadline.at), now.checked_add(Duration::from_secs(4)));
    drop(line);

    let aged = ServiceBuilder::new()
        .layer(TtlLayer::new(Duration::from_secs(4)).hard())
        .service(maker(&server));
    let mut line = aged.oneshot(Shard(1)).await.unwrap();
    // Without a pool its birth is not known, and without a driver it cannot be ended.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(line.ask("hello").await.unwrap(), "hello!");
    drop(line);
    eventually("each goes when it is dropped", || server.open() == 0).await;
}

#[tokio::test]
async fn a_connection_that_says_nothing_of_it_carries_one_use() {
    let server = Server::in_memory(answer);
    let line = maker(&server).oneshot(Shard(1)).await.unwrap();
    assert_eq!((line.capacity(), line.is_doubted()), (Some(1), false));
}

/// A connection without a pool has no birth: a hard limit counts from where it was put on.
#[tokio::test(start_paused = true)]
async fn a_hard_ttl_needs_no_pool() {
    let server = Server::in_memory(crate::support::script::stall);
    let connections = ServiceBuilder::new()
        .layer(TtlLayer::new(Duration::from_secs(4)).hard())
        .layer(HandshakeLayer::<B>::new())
        .service(server.connector());
    let uri: Uri = server.url("/").parse().unwrap();
    let mut conn = connections.oneshot(uri).await.unwrap();
    let started = tokio::time::Instant::now();
    let request = Request::get("/").header(HOST, "h").body(B::default());
    let failed = conn.ready().await.unwrap().call(request.unwrap()).await;
    assert!(failed.is_err());
    drop(conn);
    assert_eq!(started.elapsed().as_secs(), 4);
    eventually("it is closed", || server.open() == 0).await;
}

/// A transport that cannot be looked at is given two turns of the runtime before it is used again.
#[tokio::test]
async fn who_leaves_while_a_connection_is_looked_at_leaves_it_as_it_was() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.respond("hello").await;
        }
    });
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    for _ in 0..3 {
        let mut request = Box::pin(client.request(get(server.url("/"))));
        assert!(poll_immediate(&mut request).await.is_none());
        assert!(handle.status().idle.is_empty());
        drop(request);
        assert_eq!(handle.status().idle.len(), 1);
    }
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(server.accepted(), 1);
    let status = handle.status();
    assert_eq!((status.created, status.closed, status.completed), (1, 0, 2));
    at_rest(&handle).await;
}
