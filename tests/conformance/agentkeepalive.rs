//! U. What is left of agentkeepalive's own tests.

use std::time::Duration;

use futures_util::future::join_all;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{CloseReason, KeepAliveLayer};

use crate::support::agent::{agent, agent_over, at_rest, fetch, get};
use crate::support::{
    CountingConnector, Gate, Server, Sockets, eventually, not_over_h2, only_over_tcp,
};

/// Answers each request when `gate` lets it.
async fn gated(gate: &Gate) -> Server {
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
async fn ak_42_the_next_request_uses_the_same_connection() {
    if only_over_tcp("it is about IP addresses") {
        return;
    }
    let server = Server::ok().await;
    let (client, handle) = agent_over(KeepAliveLayer::new(), TcpConnector::new());
    let first = fetch(&client, server.url("/")).await.unwrap();
    let second = fetch(&client, server.url("/foo")).await.unwrap();
    assert!(first.info.local_addr().is_some());
    assert_eq!(first.info.local_addr(), second.info.local_addr());
    assert_eq!(second.info.remote_addr(), Some(server.addr()));
    assert!(!first.info.is_reused() && second.info.is_reused());
    let status = handle.status();
    assert_eq!((status.created, status.closed, status.completed), (1, 0, 2));
    assert_eq!(status.idle.values().sum::<usize>(), 1);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_43_an_idle_connection_that_is_closed_is_not_missed() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let first = fetch(&client, server.url("/")).await.unwrap();
    handle.close_idle();
    // At once: the close may still be under way.
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert_ne!(first.info.id(), second.info.id());
    assert!(!second.info.is_reused());
    assert_eq!(server.accepted(), 2);
    eventually("the first is closed", || handle.status().closed == 1).await;
    assert_eq!(handle.status().created, 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_44_a_server_that_closes_on_a_reused_connection_leaves_nothing() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        conn.request().await;
        conn.fin().await;
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/")).await.unwrap();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_reset() && error.is_reused(), "{error:?}");
    assert_eq!(error.connection().map(|info| info.uses()), Some(2));
    eventually("it is closed", || handle.status().open() == 0).await;
    assert_eq!((server.accepted(), server.requests()), (1, 2));
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Peer, 1)].into());
    assert_eq!(status.completed, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_45_an_abort_in_flight_leaves_nothing() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    let gate = Gate::new();
    let server = gated(&gate).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let request = tokio::spawn(client.request(get(server.url("/"))));
    eventually("it is in flight", || gate.waiting() == 1).await;
    request.abort();
    eventually("it is closed", || handle.status().open() == 0).await;
    gate.open_for_all();
    eventually("the server sees it", || server.open() == 0).await;
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Abandoned, 1)].into());
    assert_eq!((status.completed, status.errors), (0, 0));
    assert!(
        !fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_46_one_connection_serves_a_line() {
    let server = Server::ok().await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    let ids: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().info.id())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert_eq!((counting.made(), counting.max_alive()), (1, 1));
    let status = handle.status();
    assert_eq!(status.idle.values().sum::<usize>(), 1);
    assert_eq!((status.completed, status.reused), (3, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_47_as_many_stay_idle_as_may() {
    for max_idle in [1, 2] {
        let gate = Gate::new();
        let server = gated(&gate).await;
        let layer = KeepAliveLayer::new().max_idle_per_host(max_idle);
        let (client, handle) = agent(layer);
        let requests = join_all((0..2).map(|_| fetch(&client, server.url("/"))));
        let steps = async {
            eventually("both are in flight", || gate.waiting() == 2).await;
            gate.open_for_all();
        };
        let (answers, ()) = tokio::join!(requests, steps);
        assert!(answers.iter().all(Result::is_ok));
        let surplus = 2 - max_idle;
        eventually("the rest is closed", || {
            handle.status().closed == surplus as u64
        })
        .await;
        assert_eq!(handle.status().idle.values().sum::<usize>(), max_idle);
        eventually("the server sees it", || server.open() == max_idle).await;
        assert_eq!(server.accepted(), 2);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn ak_48_two_serve_three_and_one_of_them_the_fourth() {
    let gate = Gate::new();
    let server = gated(&gate).await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, counting.clone());
    let requests = join_all((0..3).map(|_| fetch(&client, server.url("/"))));
    let steps = async {
        eventually("two are in flight", || gate.waiting() == 2).await;
        let status = handle.status();
        assert_eq!(status.active.values().sum::<usize>(), 2);
        assert_eq!(status.pending.values().sum::<usize>(), 1);
        gate.open_for_all();
    };
    let (answers, ()) = tokio::join!(requests, steps);
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(handle.status().idle.values().sum::<usize>(), 2);
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!((counting.made(), counting.max_alive()), (2, 2));
    assert_eq!(handle.status().completed, 4);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_49_who_is_in_line_behind_an_error_gets_a_new_connection_that_is_kept() {
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/error" {
                return conn.fin().await;
            }
            conn.respond("ok").await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let (first, second) = tokio::join!(
        fetch(&client, server.url("/error")),
        fetch(&client, server.url("/"))
    );
    let error = first.expect_err("closed by the server");
    assert!(error.is_reset() && !error.is_reused(), "{error:?}");
    let second = second.unwrap();
    assert_eq!(second.info.uses(), 1);
    assert_eq!(server.accepted(), 2);
    let status = handle.status();
    assert_eq!(status.idle.values().sum::<usize>(), 1);
    assert_eq!((status.created, status.closed, status.completed), (2, 1, 1));
    let third = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(third.info.id(), second.info.id());
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_50_destroy_closes_two_in_use() {
    let gate = Gate::new();
    let server = gated(&gate).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let requests = join_all((0..2).map(|_| fetch(&client, server.url("/"))));
    let steps = async {
        eventually("both are in flight", || gate.waiting() == 2).await;
        assert!(handle.status().idle.is_empty());
        handle.destroy();
    };
    let (answers, ()) = tokio::join!(requests, steps);
    for answer in answers {
        let error = answer.expect_err("destroyed");
        assert!(error.is_shut_down(), "{error:?}");
    }
    eventually("both are closed", || handle.status().open() == 0).await;
    gate.open_for_all();
    eventually("the server sees it", || server.open() == 0).await;
    assert_eq!(handle.status().closes, [(CloseReason::Shutdown, 2)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_51_a_connection_the_policy_refuses_is_not_used_again() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    // The policy of Node's core is the server's word: a second and less is not worth keeping.
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.respond_with("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1", "ok")
                .await;
        }
    })
    .await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        assert!(!answer.unwrap().info.is_reused());
    }
    assert!(
        !fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    eventually("all are closed", || handle.status().closed == 4).await;
    assert_eq!((counting.made(), counting.max_alive()), (4, 1));
    assert_eq!(handle.status().closes, [(CloseReason::Idle, 4)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_52_a_connectors_error_reaches_the_caller() {
    let connector = tower::service_fn(|_: tower_keep_alive::connect::Destination| async {
        tokio::time::sleep(Duration::from_millis(1)).await;
        Err::<tokio::io::DuplexStream, _>(std::io::Error::other("mock createConnection error"))
    });
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let error = fetch(&client, "http://localhost/").await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let mut chain = std::iter::successors(Some(&error as &dyn std::error::Error), |it| it.source());
    assert!(chain.any(|it| it.to_string() == "mock createConnection error"));
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (1, 1));
    assert_eq!(status.open(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_55_an_ipv6_literal_works_and_pools() {
    let server = Server::start_ipv6(crate::support::script::ok).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    assert_eq!(server.accepted(), 1);
    let status = handle.status();
    let name = status.idle.keys().next().unwrap().to_string();
    assert!(name.contains("::1"), "{name}");
    assert_eq!((status.created, status.completed), (1, 2));
    let host = server.heads()[0].header("host").map(str::to_owned);
    assert_eq!(host, Some(server.addr().to_string()));
    at_rest(&handle).await;
}
