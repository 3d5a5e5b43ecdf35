//! O. What agentkeepalive's options are when nobody sets them.

use std::time::Duration;

use futures_util::future::join_all;
use tower_keep_alive::{CloseReason, KeepAliveLayer, TimeoutKind};

use super::idle_timeout::{idle_life, saying};
use crate::support::agent::{agent, agent_over, agent_paused, at_rest, fetch};
use crate::support::{
    CountingConnector, Gate, Server, Sockets, eventually, not_over_h2, script, settle,
};

#[tokio::test]
async fn ak_01_connections_are_kept_unless_told_otherwise() {
    let server = Server::ok().await;
    for (layer, accepted) in [
        (KeepAliveLayer::new(), 1),
        (KeepAliveLayer::default(), 2),
        (KeepAliveLayer::new().keep_alive(true), 3),
        (KeepAliveLayer::new().keep_alive(false), 6),
    ] {
        let (client, handle) = agent(layer);
        for _ in 0..3 {
            fetch(&client, server.url("/")).await.unwrap();
        }
        assert_eq!(server.accepted(), accepted);
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ak_02_the_idle_timeout_is_four_seconds() {
    let (life, reason) = idle_life(KeepAliveLayer::new(), &saying("")).await.unwrap();
    let off = life.abs_diff(Duration::from_secs(4));
    assert!(off <= Duration::from_millis(2), "{life:?}");
    assert_eq!(reason, CloseReason::Idle);
}

#[tokio::test(start_paused = true)]
async fn ak_03_the_active_timeout_is_twice_the_idle_one_and_eight_seconds_at_least() {
    for (idle, expected) in [(4000, 8000), (1000, 8000), (4001, 8002), (10_000, 20_000)] {
        let expected = Some(Duration::from_millis(expected));
        let layer = || KeepAliveLayer::new().idle_timeout(Duration::from_millis(idle));

        let server = Server::in_memory(script::stall);
        let (client, handle) = agent_paused(layer(), server.connector());
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
        assert_eq!(error.timeout(), expected);
        at_rest(&handle).await;

        // The connect timeout is the same.
        let never = CountingConnector::new(server.connector()).gate(&Gate::new());
        let (client, handle) = agent_paused(layer(), never);
        let error = fetch(&client, server.url("/")).await.unwrap_err();
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
        assert_eq!(error.timeout(), expected);
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn ak_06_there_is_no_ttl() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(KeepAliveLayer::new(), server.connector());
    let first = fetch(&client, server.url("/")).await.unwrap();
    // An hour of a request every three seconds.
    for _ in 0..1200 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        fetch(&client, server.url("/")).await.unwrap();
    }
    let last = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(first.info.id(), last.info.id());
    assert!(last.info.age() >= Duration::from_secs(3600));
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().closed, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_09_in_use_there_is_no_limit_and_idle_it_is_256_a_host() {
    let gate = Gate::new();
    let server = {
        let gate = gate.clone();
        Server::in_memory(move |mut conn| {
            let gate = gate.clone();
            async move {
                while conn.request().await.is_some() {
                    gate.pass().await;
                    conn.respond("ok").await;
                }
            }
        })
    };
    let (client, handle) = agent_paused(KeepAliveLayer::new(), server.connector());
    let urls = ["http://a.test/", "http://b.test/"];
    let requests = join_all((0..600).map(|n| fetch(&client, urls[n % 2])));
    let steps = async {
        eventually("all are in use", || gate.waiting() == 600).await;
        let status = handle.status();
        assert_eq!(status.active.values().sum::<usize>(), 600);
        assert!(status.pending.is_empty());
        gate.open_for_all();
    };
    let (answers, ()) = tokio::join!(requests, steps);
    assert!(answers.iter().all(Result::is_ok));
    eventually("all are given back", || handle.status().closed == 88).await;
    let status = handle.status();
    let idle: Vec<_> = status.idle.values().copied().collect();
    assert_eq!(idle, [256, 256]);
    assert_eq!(status.closes, [(CloseReason::Surplus, 88)].into());
    assert_eq!(server.accepted(), 600);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_09_the_one_used_last_is_used_first() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let service = head.target[1..].parse().unwrap();
            tokio::time::sleep(Duration::from_millis(service)).await;
            conn.respond("ok").await;
        }
    });
    let (client, handle) = agent_paused(KeepAliveLayer::new(), server.connector());
    let first = ["/10", "/30", "/20"].map(|path| server.url(path));
    let first = join_all(first.iter().map(|url| fetch(&client, url))).await;
    let longest = first[1].as_ref().unwrap().info.id();
    for _ in 0..4 {
        let next = fetch(&client, server.url("/0")).await.unwrap();
        assert_eq!(next.info.id(), longest);
    }
    assert_eq!(server.accepted(), 3);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_09_the_margin_of_a_hint_is_a_second() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let life = idle_life(KeepAliveLayer::new(), &saying("Keep-Alive: timeout=3")).await;
    let (life, _) = life.unwrap();
    let off = life.abs_diff(Duration::from_secs(2));
    assert!(off <= Duration::from_millis(2), "{life:?}");
}

#[tokio::test]
async fn ak_10_without_keep_alive_each_request_has_a_connection_of_its_own() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().keep_alive(false));
    for turn in 1..=3 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert!(!answer.info.is_reused());
        eventually("it is closed", || handle.status().closed == turn).await;
        eventually("the server sees it", || server.open() == 0).await;
    }
    assert_eq!(server.accepted(), 3);
    for head in server.heads() {
        assert_eq!(head.header("connection"), Some("close"));
    }
    assert_eq!(handle.status().completed, 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_10_without_keep_alive_nothing_is_handed_over_and_the_limit_is_kept_to() {
    let server = Server::ok().await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new()
        .keep_alive(false)
        .max_connections_per_host(2);
    let (client, handle) = agent_over(layer, counting.clone());
    let answers = join_all((0..4).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        assert!(!answer.unwrap().info.is_reused());
    }
    eventually("all are closed", || handle.status().open() == 0).await;
    settle().await;
    assert_eq!((counting.made(), counting.max_alive()), (4, 2));
    assert_eq!(server.accepted(), 4);
    assert_eq!(handle.status().closes, [(CloseReason::Final, 4)].into());
    at_rest(&handle).await;
}
