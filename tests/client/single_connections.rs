//! Control of single connections: made in advance, made for one request, listed, excluded from further use.

use std::error::Error as _;
use std::time::Duration;

use crate::support::agent::{
    agent, agent_over, agent_paused, at_rest, fetch, get, post, read, send,
};
use crate::support::{CountingConnector, Gate, RefusingPort, Server, Sockets, eventually, script};
use futures_util::future::join_all;
use http::Request;
use http_body_util::Full;
use tower::Layer;
use tower_keep_alive::{
    CloseReason, Error, KeepAliveLayer, connect::Destination, status::ConnectionState,
};

fn target(url: &str) -> Destination {
    let uri: http::Uri = url.parse().unwrap();
    uri.try_into().unwrap()
}

#[tokio::test]
async fn prewarmed_connections_are_idle_and_serve_without_a_connect() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    assert_eq!(
        handle.prewarm(target(&server.url("/")), 3).await.unwrap(),
        3
    );
    assert_eq!(handle.status().idle.values().sum::<usize>(), 3);
    assert_eq!(handle.status().completed, 0);
    // What is idle counts.
    assert_eq!(
        handle.prewarm(target(&server.url("/")), 4).await.unwrap(),
        1
    );
    let answers = join_all((0..4).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        let info = answer.unwrap().info;
        assert!(info.is_reused() && info.uses() == 1, "{info:?}");
    }
    assert_eq!(server.accepted(), 4);
    assert_eq!(handle.status().created, 4);
    at_rest(&handle).await;
}

#[tokio::test]
async fn prewarming_keeps_to_every_limit_and_takes_nobodys_turn() {
    let server = Server::ok().await;
    for layer in [
        KeepAliveLayer::new().max_connections_per_host(2),
        KeepAliveLayer::new().max_connections(2),
        KeepAliveLayer::new().max_idle_per_host(2),
    ] {
        let (client, handle) = agent(layer);
        assert_eq!(
            handle.prewarm(target(&server.url("/")), 9).await.unwrap(),
            2
        );
        fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(handle.status().created, 2);
        at_rest(&handle).await;
    }
    let gate = Gate::new();
    let held = gate.clone();
    let slow = Server::start(move |mut conn| {
        let gate = held.clone();
        async move {
            while conn.request().await.is_some() {
                gate.pass().await;
                conn.respond("ok").await;
            }
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let url = slow.url("/");
    let both = join_all([fetch(&client, &url), fetch(&client, &url)]);
    let steps = async {
        eventually("one waits", || handle.status().pending.len() == 1).await;
        assert_eq!(handle.prewarm(target(&url), 1).await.unwrap(), 0);
        gate.open(9);
    };
    let (answers, ()) = tokio::join!(both, steps);
    answers.into_iter().for_each(|it| drop(it.unwrap()));
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn prewarming_tells_of_the_connect_that_failed_and_keeps_nothing_of_it() {
    let port = RefusingPort::new();
    let (_client, handle) = agent(KeepAliveLayer::new());
    let error = handle.prewarm(target(&port.url("/")), 2).await.unwrap_err();
    assert!(error.error().is_connect(), "{error:?}");
    assert!(error.source().is_some_and(|it| it.is::<Error>()));
    assert_eq!((error.made(), handle.status().create_errors), (0, 2));
    handle.drain().await;
    let error = handle.prewarm(target(&port.url("/")), 2).await.unwrap_err();
    assert!(error.error().is_shut_down(), "{error:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn prewarming_goes_on_where_one_service_fails_and_counts_what_the_others_made() {
    let server = Server::ok().await;
    let gate = Gate::new();
    let works = CountingConnector::new(Sockets).gate(&gate);
    let fails = CountingConnector::new(Sockets);
    fails.fail_next(4);
    let layer = KeepAliveLayer::<Full<bytes::Bytes>>::new();
    let handle = layer.handle();
    let services = [&fails, &works, &fails, &works].map(|it| layer.layer(it.clone()));
    let warming = handle.prewarm(target(&server.url("/")), 2);
    let steps = async {
        // No service waits for another.
        eventually("all wait", || gate.waiting() == 4 && fails.made() == 4).await;
        gate.open(9);
    };
    let (warmed, ()) = tokio::join!(warming, steps);
    let error = warmed.unwrap_err();
    assert_eq!(error.made(), 4);
    assert_eq!(error.to_string(), "prewarming failed after 4 connections");
    assert!(tower_keep_alive::Error::from(error).is_connect());
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (8, 4));
    assert_eq!(status.idle.values().sum::<usize>(), 4);
    drop(services);
    at_rest(&handle).await;
}

#[tokio::test]
async fn prewarming_that_is_given_up_gives_its_connects_up() {
    let server = Server::ok().await;
    let gate = Gate::new();
    let connector = CountingConnector::new(Sockets).gate(&gate);
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, connector);
    let warming = handle.prewarm(target(&server.url("/")), 2);
    let given_up = tokio::time::timeout(Duration::from_millis(50), warming).await;
    assert!(given_up.is_err());
    assert_eq!(handle.status().closes, [(CloseReason::Cancelled, 2)].into());
    gate.open(9);
    let answers = join_all((0..2).map(|_| fetch(&client, server.url("/")))).await;
    answers.into_iter().for_each(|it| drop(it.unwrap()));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_poisoned_connection_finishes_its_exchange_and_serves_no_other() {
    let server = Server::echo().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(get(server.url("/sick"))).await.unwrap();
    response.body().connection().poison();
    let answer = read(response).await.unwrap();
    assert_eq!(answer.body, "/sick");
    eventually("it is closed", || handle.status().closed == 1).await;
    let next = fetch(&client, server.url("/")).await.unwrap();
    assert!(!next.info.is_reused());
    assert_eq!(handle.status().closes, [(CloseReason::Poisoned, 1)].into());
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connection_poisoned_while_it_is_idle_is_closed_at_once() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(handle.status().idle.len(), 1);
    answer.info.poison();
    eventually("it is closed", || server.open() == 0).await;
    assert!(handle.status().idle.is_empty());
    assert_eq!(handle.status().closes, [(CloseReason::Poisoned, 1)].into());
    fetch(&client, server.url("/")).await.unwrap();
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_poisoned_connection_is_not_handed_over() {
    let server = Server::echo().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let first = client.request(get(server.url("/first"))).await.unwrap();
    let steps = async {
        eventually("one waits", || handle.status().pending.len() == 1).await;
        first.body().connection().poison();
        read(first).await.unwrap()
    };
    let (second, first) = tokio::join!(fetch(&client, server.url("/second")), steps);
    assert_ne!(second.unwrap().info.id(), first.info.id());
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_is_not_repeatable_never_rides_a_used_connection_where_that_is_asked_for() {
    let server = Server::echo().await;
    let layer = KeepAliveLayer::new()
        .fresh_for_non_idempotent(true)
        .max_connections_per_host(1);
    let (client, handle) = agent(layer);
    let url = server.url("/");
    let reused = |answer: crate::support::agent::Answer| answer.info.is_reused();
    assert!(!reused(fetch(&client, &url).await.unwrap()));
    assert!(reused(fetch(&client, &url).await.unwrap()));
    // At its limit it makes room for the new one.
    assert!(!reused(send(&client, post(&url, "a")).await.unwrap()));
    assert!(reused(fetch(&client, &url).await.unwrap()));
    let keyed = Request::post(&url)
        .header("idempotency-key", "1")
        .body(Full::from("b"))
        .unwrap();
    assert!(reused(send(&client, keyed).await.unwrap()));
    let put = Request::put(&url).body(Full::from("c")).unwrap();
    assert!(reused(send(&client, put).await.unwrap()));
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_connections_of_a_key_are_listed_with_age_uses_and_state() {
    let server = Server::in_memory(script::ok);
    let gate = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&gate);
    let (client, handle) = agent_paused(KeepAliveLayer::new(), connector);
    gate.open(2);
    let url = server.url("/");
    let idle = fetch(&client, &url).await.unwrap().info;
    let key = idle.key().unwrap().clone();
    tokio::time::advance(Duration::from_secs(1)).await;
    fetch(&client, &url).await.unwrap();
    let used = client.request(get(&url)).await.unwrap();
    let other = client.request(get(&url)).await.unwrap();
    let third = client.clone();
    let connecting = tokio::spawn(async move { fetch(&third, &url).await });
    eventually("the third connects", || gate.waiting() == 1).await;
    let list = handle.connections(&key);
    let said: Vec<_> = list.iter().map(|it| (it.id, it.state, it.uses)).collect();
    assert_eq!(
        said,
        [
            (Some(idle.id()), ConnectionState::Active, 3),
            (
                Some(other.body().connection().id()),
                ConnectionState::Active,
                1
            ),
            (None, ConnectionState::Connecting, 0),
        ]
    );
    assert!(list[0].age >= Duration::from_secs(1) && list[1].age < Duration::from_secs(1));
    // The third is served by this one, and its own connect goes on.
    read(used).await.unwrap();
    assert_eq!(connecting.await.unwrap().unwrap().info.id(), idle.id());
    assert_eq!(handle.connections(&key)[0].state, ConnectionState::Idle);
    assert_eq!(handle.connections(&key)[0].uses, 4);
    drop(other);
    handle.destroy();
    eventually("all are gone", || handle.connections(&key).is_empty()).await;
    at_rest(&handle).await;
}
