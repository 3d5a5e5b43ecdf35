//! K. Whether a connection was used before, and what may be sent again because of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use http::StatusCode;
use tower::retry::RetryLayer;
use tower::{Layer, ServiceExt};
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{ConnectionInfo, KeepAliveLayer};

use crate::support::agent::{agent, agent_over, at_rest, fetch, get, post, read, send};
use crate::support::{
    CountingConnector, Gate, RefusingPort, Server, Sockets, eventually, not_over_unix, script,
};

#[tokio::test]
async fn node_91_a_connection_that_was_idle_is_reused_and_a_new_one_is_not() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for reused in [false, true, true] {
        let response = client.request(get(server.url("/"))).await.unwrap();
        let extension = response.extensions().get::<ConnectionInfo>().unwrap();
        assert_eq!(extension.is_reused(), reused);
        assert_eq!(response.body().connection().is_reused(), reused);
        read(response).await.unwrap();
    }
    assert_eq!((server.accepted(), handle.status().reused), (1, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_91_an_error_says_it_too() {
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/reset" {
                return conn.rst();
            }
            conn.respond("ok").await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let first = fetch(&client, server.url("/reset")).await.unwrap_err();
    assert!(first.is_reset() && !first.is_reused());
    let warm = fetch(&client, server.url("/")).await.unwrap();
    let second = fetch(&client, server.url("/reset")).await.unwrap_err();
    assert!(second.is_reset() && second.is_reused());
    assert_eq!(second.connection().unwrap().id(), warm.info.id());
    let refused = fetch(&client, RefusingPort::new().url("/")).await;
    let refused = refused.unwrap_err();
    assert!(!refused.is_reused() && refused.connection().is_none());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_92_a_hand_over_is_a_reuse() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent(layer);
    let answers = join_all((0..4).map(|_| fetch(&client, server.url("/")))).await;
    let reused: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().info.is_reused())
        .collect();
    assert_eq!(reused, [false, true, true, true]);
    assert_eq!((server.accepted(), handle.status().reused), (1, 3));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_92_a_connection_made_for_somebody_else_is_a_reuse() {
    // Late binding leaves it behind: it may be as stale as any that was idle.
    let server = Server::ok().await;
    let gate = Gate::new();
    let counting = CountingConnector::new(Sockets).gate(&gate);
    let (client, handle) = agent_over(KeepAliveLayer::new(), counting.clone());
    gate.open(1);
    let held = client.request(get(server.url("/"))).await.unwrap();
    let second = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { fetch(&client, url).await }
    });
    eventually("it connects", || gate.waiting() == 1).await;
    read(held).await.unwrap();
    assert!(second.await.unwrap().unwrap().info.is_reused());
    gate.open(1);
    eventually("both are idle", || {
        handle.status().idle.values().sum::<usize>() == 2
    })
    .await;
    let first_use = fetch(&client, server.url("/")).await.unwrap().info;
    // The one that nobody has used before is the latest that came free.
    assert_eq!((first_use.uses(), first_use.is_reused()), (1, true));
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_93_a_reset_of_a_reused_connection_is_retried_on_a_new_one() {
    if not_over_unix("a Unix socket has no RST") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/reset" && conn.index == 0 {
                return conn.rst();
            }
            conn.respond(&head.target).await;
        }
    })
    .await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = RetryLayer::new(ReusedReset::new()).layer(agent.clone());
    let warm = fetch(&agent, server.url("/")).await.unwrap();
    let again = fetch(&client, server.url("/reset")).await.unwrap();
    assert_eq!((again.status, &*again.body), (StatusCode::OK, "/reset"));
    // The flag is that of the second try (deno#34376).
    assert!(!again.info.is_reused());
    assert_ne!(again.info.id(), warm.info.id());
    assert_eq!((server.accepted(), server.requests()), (2, 3));
    let status = handle.status();
    // An attempt that failed is no request that was served.
    assert_eq!((status.completed, status.errors, status.reused), (2, 1, 1));
    // What the second try was made on is kept.
    let next = fetch(&agent, server.url("/")).await.unwrap();
    assert_eq!(next.info.id(), again.info.id());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_93_nothing_is_retried_without_a_policy() {
    let server = Server::start(|mut conn| async move {
        if conn.request().await.is_some() {
            conn.respond("ok").await;
            conn.request().await;
            conn.rst();
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/")).await.unwrap();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_reset() && error.is_reused() && !error.is_unsent());
    assert_eq!((server.accepted(), server.requests()), (1, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_93_a_retry_ends() {
    // Every connection resets at its second request, and none answers a first one but the first.
    let executed = Arc::new(AtomicUsize::new(0));
    let server = {
        let executed = executed.clone();
        Server::start(move |mut conn| {
            let executed = executed.clone();
            async move {
                while let Some(head) = conn.request().await {
                    if head.target == "/reset" {
                        executed.fetch_add(1, Ordering::SeqCst);
                        return conn.rst();
                    }
                    conn.respond("ok").await;
                }
            }
        })
        .await
    };
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = RetryLayer::new(ReusedReset::new()).layer(agent.clone());
    // Several idle connections to run through: they are not.
    join_all((0..5).map(|_| fetch(&agent, server.url("/")))).await;
    eventually("all are idle", || {
        handle.status().idle.values().sum::<usize>() == 5
    })
    .await;
    let error = fetch(&client, server.url("/reset")).await.unwrap_err();
    assert!(error.is_reset() && !error.is_reused());
    assert_eq!(executed.load(Ordering::SeqCst), 2);
    assert_eq!(server.accepted(), 6);
    // A write is not repeated at all: reused does not mean that nothing was done.
    let error = send(&client, post(server.url("/reset"), "x")).await;
    assert!(error.unwrap_err().is_reused());
    assert_eq!(executed.load(Ordering::SeqCst), 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_93_a_policy_over_a_healthy_server_does_nothing() {
    let server = Server::start(script::echo).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = RetryLayer::new(ReusedReset::new()).layer(agent);
    for n in 0..20 {
        let path = format!("/{n}");
        let request = get(server.url(&path));
        let answer = read(client.clone().oneshot(request).await.unwrap()).await;
        assert_eq!(answer.unwrap().body, path);
    }
    assert_eq!((server.accepted(), server.requests()), (1, 20));
    at_rest(&handle).await;
}
