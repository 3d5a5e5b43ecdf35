//! T. Counters and status.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::future::join_all;
use tower_keep_alive::{CloseReason, KeepAliveLayer, status::Status};

use crate::support::agent::{
    agent, agent_over, agent_paused, at_rest, fetch, get, post, read, send,
};
use crate::support::{
    CountingConnector, Gate, RefusingPort, Server, Sockets, eventually, not_over_h2, not_over_unix,
    not_tiny, script, settle,
};

/// agentkeepalive's six counters, in its order: created, create errors, closed, errors, timeouts, requests.
fn counters(status: &Status) -> [u64; 6] {
    [
        status.created,
        status.create_errors,
        status.closed,
        status.errors,
        status.timeouts,
        status.completed,
    ]
}

#[tokio::test]
async fn ak_31_a_connect_counts_when_it_begins() {
    let server = Server::ok().await;
    let gate = Gate::new();
    let counting = CountingConnector::new(Sockets).gate(&gate);
    let (client, handle) = agent_over(KeepAliveLayer::new(), counting.clone());
    let request = fetch(&client, server.url("/"));
    let steps = async {
        eventually("it connects", || gate.waiting() == 1).await;
        assert_eq!(counters(&handle.status()), [1, 0, 0, 0, 0, 0]);
        assert_eq!(server.accepted(), 0);
        gate.open(1);
    };
    let (answer, ()) = tokio::join!(request, steps);
    answer.unwrap();
    assert_eq!(counters(&handle.status()), [1, 0, 0, 0, 0, 1]);
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(counters(&handle.status()), [1, 0, 0, 0, 0, 2]);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_31_a_refused_connect_is_created_failed_and_closed() {
    let port = RefusingPort::new();
    let (client, handle) = agent(KeepAliveLayer::new());
    let error = fetch(&client, port.url("/")).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    let status = handle.status();
    assert_eq!(counters(&status), [1, 1, 1, 1, 0, 0]);
    assert_eq!(status.closes, [(CloseReason::Connect, 1)].into());
    assert!(status.active.is_empty() && status.pending.is_empty());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_32_every_connect_that_fails_counts() {
    let server = Server::in_memory(script::ok);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_paused(layer, counting.clone());
    // At once, and for who waited in line.
    counting.fail_next(5);
    let answers = join_all((0..6).map(|_| fetch(&client, server.url("/")))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_err()).count(), 5);
    let status = handle.status();
    assert_eq!(counters(&status), [6, 5, 5, 5, 0, 1]);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_32_a_connect_that_takes_too_long_counts_and_one_that_is_given_up_does_not() {
    let server = Server::in_memory(script::ok);
    let counting = CountingConnector::new(server.connector()).gate(&Gate::new());
    let layer = KeepAliveLayer::new().connect_timeout(Duration::from_millis(100));
    let (client, handle) = agent_paused(layer, counting.clone());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_connect() && error.is_timeout(), "{error:?}");
    assert_eq!(counters(&handle.status()), [1, 1, 1, 1, 1, 0]);
    let short = Duration::from_millis(50);
    let given_up = tokio::time::timeout(short, fetch(&client, server.url("/"))).await;
    assert!(given_up.is_err());
    let status = handle.status();
    assert_eq!(counters(&status), [2, 1, 2, 1, 1, 0]);
    assert_eq!(status.closes[&CloseReason::Cancelled], 1);
    assert_eq!(counting.alive(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_33_whatever_ends_a_connection_it_is_closed_once() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    if not_over_unix("a Unix socket has no RST") || not_tiny("a body that is dropped has come") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match &*head.target {
                "/fin" => {
                    conn.respond("ok").await;
                    return conn.fin().await;
                }
                "/rst" => return conn.rst(),
                "/close" => {
                    conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "ok")
                        .await;
                }
                "/part" => {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
                        .await;
                }
                _ => conn.respond("ok").await,
            }
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for (turn, (path, reason)) in [
        ("/fin", CloseReason::Peer),
        ("/rst", CloseReason::Error),
        ("/close", CloseReason::Final),
        ("/part", CloseReason::Abandoned),
    ]
    .into_iter()
    .enumerate()
    {
        // The answer is dropped with its body unread.
        let answer = client.request(get(server.url(path))).await;
        assert_eq!(answer.is_err(), path == "/rst", "{path}");
        drop(answer);
        eventually("it is closed", || handle.status().open() == 0).await;
        let status = handle.status();
        let ended = turn as u64 + 1;
        assert_eq!((status.created, status.closed), (ended, ended), "{path}");
        assert_eq!(status.closes.get(&reason), Some(&1), "{path}: {status:?}");
    }
    fetch(&client, server.url("/")).await.unwrap();
    handle.close_idle();
    eventually("it is closed", || handle.status().closed == 5).await;
    assert_eq!(server.accepted(), 5);
    assert_eq!(handle.status().closes[&CloseReason::Shutdown], 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_33_what_leaves_its_pool_is_detached_and_not_closed() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.send(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: upgrade\r\n\r\n",
        )
        .await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let mut request = get(server.url("/"));
    let headers = request.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "raw".parse().unwrap());
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status().as_u16(), 101);
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (1, 1, 0));
    assert_eq!(status.open(), 0);
    drop(response);
    eventually("it is closed", || server.open() == 0).await;
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (1, 1, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_34_a_reset_is_an_error_and_a_fin_is_none() {
    if not_over_unix("a Unix socket has no RST") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        let head = conn.request().await.unwrap();
        if head.target == "/rst" {
            return conn.rst();
        }
        conn.fin().await;
    })
    .await;
    for (path, errors) in [("/rst", 1), ("/fin", 0)] {
        let (client, handle) = agent(KeepAliveLayer::new());
        let error = fetch(&client, server.url(path)).await.unwrap_err();
        assert!(error.is_reset(), "{path}: {error:?}");
        assert!(!error.is_connect() && !error.is_timeout());
        eventually("it is closed", || handle.status().open() == 0).await;
        assert_eq!(
            counters(&handle.status()),
            [1, 0, 1, errors, 0, 0],
            "{path}"
        );
        at_rest(&handle).await;
    }
    assert_eq!(server.accepted(), 2);
}

#[tokio::test(start_paused = true)]
async fn ak_35_timeouts_are_counted_together_and_told_apart() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new()
        .idle_timeout(Duration::from_millis(100))
        .ttl(Duration::from_millis(150));
    let (client, handle) = agent_paused(layer, server.connector());
    // By its TTL: 70 ms are left of it.
    fetch(&client, server.url("/")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    fetch(&client, server.url("/")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(80)).await;
    settle().await;
    assert_eq!(handle.status().closes, [(CloseReason::Age, 1)].into());
    // By its idle timeout.
    fetch(&client, server.url("/")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(110)).await;
    settle().await;
    let status = handle.status();
    assert_eq!(
        status.closes,
        [(CloseReason::Idle, 1), (CloseReason::Age, 1)].into()
    );
    assert_eq!(counters(&status), [2, 0, 2, 0, 2, 3]);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_36_every_exchange_that_comes_to_its_end_counts() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match &*head.target {
                "/close" => {
                    conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "ok")
                        .await;
                }
                "/empty" => conn.respond_with("HTTP/1.1 204 No Content", "").await,
                "/rst" => return conn.rst(),
                "/part" => {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npart")
                        .await;
                }
                _ => conn.respond("ok").await,
            }
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for (path, requests) in [("/", 1), ("/empty", 2), ("/close", 3), ("/", 4)] {
        fetch(&client, server.url(path)).await.unwrap();
        eventually("it is counted", || handle.status().completed == requests).await;
    }
    send(&client, post(server.url("/"), "body")).await.unwrap();
    assert_eq!(handle.status().completed, 5);
    // Not so what fails, or is given up in the middle.
    fetch(&client, server.url("/rst")).await.unwrap_err();
    drop(client.request(get(server.url("/part"))).await.unwrap());
    eventually("it is closed", || handle.status().open() == 0).await;
    assert_eq!(handle.status().completed, 5);
    // A body kept after its end has ended.
    let response = client.request(get(server.url("/"))).await.unwrap();
    read(response).await.unwrap();
    assert_eq!(handle.status().completed, 6);
    at_rest(&handle).await;

    let (client, handle) = agent(KeepAliveLayer::new().keep_alive(false));
    for _ in 0..3 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    eventually("all are counted", || handle.status().completed == 3).await;
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_37_one_event_moves_its_own_counters_and_no_others() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = || {
        Server::in_memory(|mut conn| async move {
            while let Some(head) = conn.request().await {
                match &*head.target {
                    "/fin" => return conn.fin().await,
                    "/rst" => return conn.rst(),
                    "/close" => {
                        conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "ok")
                            .await;
                    }
                    "/hang" => {}
                    _ => conn.respond("ok").await,
                }
            }
        })
    };
    for (path, expected) in [
        // Created, create errors, closed, errors, timeouts, requests: 200 ms later.
        ("/idle", [1, 0, 1, 0, 1, 1]),
        ("/fin", [1, 0, 1, 0, 0, 0]),
        ("/rst", [1, 0, 1, 1, 0, 0]),
        ("/close", [1, 0, 1, 0, 0, 1]),
        ("/hang", [1, 0, 1, 0, 0, 0]),
    ] {
        let server = server();
        let layer = KeepAliveLayer::new().idle_timeout(Duration::from_millis(100));
        let (client, handle) = agent_paused(layer, server.connector());
        let given_up = Duration::from_millis(50);
        let answer = tokio::time::timeout(given_up, fetch(&client, server.url(path))).await;
        assert_eq!(answer.is_err(), path == "/hang", "{path}");
        tokio::time::sleep(Duration::from_millis(150)).await;
        settle().await;
        assert_eq!(counters(&handle.status()), expected, "{path}");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn ak_38_the_status_is_agentkeepalives_object() {
    if not_over_h2("the status names streams as well") {
        return;
    }
    let gate = Gate::new();
    let server = {
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
    };
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let json = || serde_json::to_string(&handle.status()).unwrap();
    let empty = json();
    let start = r#"{"createSocketCount":0,"createSocketErrorCount":0,"closeSocketCount":0,"errorSocketCount":0,"timeoutSocketCount":0,"requestCount":0,"freeSockets":{},"sockets":{},"requests":{},"#;
    assert!(empty.starts_with(start), "{empty}");
    let requests = join_all((0..3).map(|_| fetch(&client, server.url("/"))));
    let steps = async {
        eventually("one is in flight", || gate.waiting() == 1).await;
        let name = format!("{}:", server.addr());
        let (status, json) = (handle.status(), json());
        let present = format!(
            r#""requestCount":0,"freeSockets":{{}},"sockets":{{"{name}":1}},"requests":{{"{name}":2}},"#
        );
        assert!(json.contains(&present), "{json}");
        assert_eq!(status, status.clone());
        assert_eq!(
            status.to_string(),
            "requests: 1 started, 0 answered, 0 completed, 0 failed; \
             connections: 1 created (0 failed), 0 closed, 0 reused, 0 stale; 0 idle, 1 active, 2 pending"
        );
        gate.open_for_all();
    };
    let (answers, ()) = tokio::join!(requests, steps);
    assert!(answers.iter().all(Result::is_ok));
    let after = json();
    let present = format!(
        r#""requestCount":3,"freeSockets":{{"{}:":1}},"sockets":{{}},"requests":{{}},"reusedSocketCount":2,"#,
        server.addr()
    );
    assert!(after.contains(&present), "{after}");
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_39_a_change_is_said_once_to_each_handle() {
    let gate = Gate::new();
    let server = {
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
    };
    let port = RefusingPort::new();
    let (client, mut handle) = agent(KeepAliveLayer::new());
    let mut other = handle.clone();
    assert!(!handle.status_changed());
    // A request in flight is one change, by the connection that is created for it.
    let request = {
        let (client, url) = (client.clone(), server.url("/"));
        tokio::spawn(async move { fetch(&client, url).await })
    };
    eventually("it is in flight", || gate.waiting() == 1).await;
    assert!(handle.status_changed() && !handle.status_changed());
    gate.open_for_all();
    request.await.unwrap().unwrap();
    // The request.
    assert!(handle.status_changed() && !handle.status_changed());
    // The error, with what goes with it.
    fetch(&client, port.url("/")).await.unwrap_err();
    assert!(handle.status_changed() && !handle.status_changed());
    // The close.
    let mut copy = handle.clone();
    handle.close_idle();
    eventually("it is closed", || handle.status().closed == 2).await;
    assert!(handle.status_changed() && !handle.status_changed());
    assert!(copy.status_changed() && !copy.status_changed());
    assert!(other.status_changed() && !other.status_changed());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_40_three_hundred_requests_have_ten_ids_and_leave_five_idle() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            conn.respond("ok").await;
        }
    });
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(10)
        .max_idle_per_host(5);
    let (client, handle) = agent_paused(layer, counting.clone());
    let answers = join_all((0..300).map(|_| fetch(&client, server.url("/")))).await;
    let infos: Vec<_> = answers
        .into_iter()
        .map(|answer| answer.unwrap().info)
        .collect();
    let ids: HashSet<_> = infos
        .iter()
        .map(tower_keep_alive::ConnectionInfo::id)
        .collect();
    assert_eq!(ids.len(), 10);
    let text = format!("{:?}", infos[0]);
    assert!(text.contains(&format!("id: {}", infos[0].id())), "{text}");
    eventually("the rest is closed", || handle.status().closed == 5).await;
    let status = handle.status();
    assert_eq!(status.idle.values().sum::<usize>(), 5);
    assert_eq!(status.closes, [(CloseReason::Surplus, 5)].into());
    assert_eq!((status.completed, status.reused), (300, 290));
    assert_eq!((counting.made(), counting.max_alive()), (10, 10));
    at_rest(&handle).await;
}

#[tokio::test]
async fn ak_41_a_connection_knows_how_often_it_was_used() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    let uses = |answer: Result<crate::support::agent::Answer, _>| -> u64 {
        let answer: crate::support::agent::Answer =
            answer.map_err(|_: tower_keep_alive::Error| ()).unwrap();
        answer.info.uses()
    };
    let handed_over: Vec<_> = answers.into_iter().map(uses).collect();
    assert_eq!(handed_over, [1, 2, 3]);
    assert_eq!(handle.status().completed, 3);
    assert_eq!(uses(fetch(&client, server.url("/")).await), 4);
    assert_eq!(handle.status().completed, 4);
    handle.close_idle();
    eventually("it is closed", || handle.status().open() == 0).await;
    assert_eq!(uses(fetch(&client, server.url("/")).await), 1);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}
