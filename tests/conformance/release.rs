//! D. Release rules.

use crate::support::agent::{Connector, agent, agent_over, at_rest, fetch, get, post, read, send};
use crate::support::{
    Conn, CountingConnector, Gate, InMemory, Server, eventually, not_over_h2, not_tiny, script,
    settle,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use std::time::{Duration, Instant};
use tokio::task::yield_now;
use tower_keep_alive::{AgentHandle, CloseReason, KeepAliveLayer};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}

fn active(handle: &AgentHandle) -> usize {
    handle.status().active.values().sum()
}

pub(super) fn pending(handle: &AgentHandle) -> usize {
    handle.status().pending.values().sum()
}

/// Answers each request when the gate lets it.
pub(super) async fn gated(mut conn: Conn, gate: Gate) {
    while conn.request().await.is_some() {
        gate.pass().await;
        conn.respond("ok").await;
    }
}

/// Answers an upload at once, and reads it when the gate opens.
async fn hasty(mut conn: Conn, gate: Gate) {
    while let Some(head) = conn.head().await {
        conn.respond("ok").await;
        if head.method == "POST" {
            gate.pass().await;
            conn.body().await;
        }
    }
}

/// Waits for sockets while paused time stands still: it goes on only when the runtime has nothing to do.
async fn busily(what: &str, condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < 5 * SECOND, "not within 5 s: {what}");
        yield_now().await;
    }
}

// Time stands still, so that the second that the connection has for it does not end.
#[tokio::test(start_paused = true)]
async fn node_35_a_connection_is_not_reused_before_its_upload_is_drained() {
    const MORE_THAN_SOCKETS_HOLD: usize = 64 << 20;
    let busy = tokio::spawn(async {
        loop {
            yield_now().await;
        }
    });
    let never = Gate::new();
    let server = Server::start(move |conn| hasty(conn, never.clone())).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let upload = post(server.url("/upload"), vec![b'x'; MORE_THAN_SOCKETS_HOLD]);
    let first = send(&client, upload).await.unwrap();
    let second = fetch(&client, server.url("/2")).await.unwrap();
    busily("the second is idle", || idle(&handle) == 1).await;
    let third = fetch(&client, server.url("/3")).await.unwrap();
    busily("the third is idle", || idle(&handle) == 1).await;
    assert_ne!(second.info.id(), first.info.id());
    assert_eq!(third.info.id(), second.info.id());
    assert_eq!((active(&handle), idle(&handle)), (1, 1));
    assert_eq!((server.accepted(), server.requests()), (2, 3));
    busy.abort();
    at_rest(&handle).await;
}

// Time stands still, so that the second that the connection has for it is long enough.
#[tokio::test(start_paused = true)]
async fn node_35_a_connection_comes_back_when_its_upload_is_drained() {
    const MORE_THAN_SOCKETS_HOLD: usize = 64 << 20;
    let busy = tokio::spawn(async {
        loop {
            yield_now().await;
        }
    });
    let gate = Gate::new();
    let drains = gate.clone();
    let server = Server::start(move |conn| hasty(conn, drains.clone())).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let upload = post(server.url("/upload"), vec![b'x'; MORE_THAN_SOCKETS_HOLD]);
    let first = send(&client, upload).await.unwrap();
    let second = fetch(&client, server.url("/2")).await.unwrap();
    busily("the second is idle", || idle(&handle) == 1).await;
    let third = fetch(&client, server.url("/3")).await.unwrap();
    busily("the third is idle", || idle(&handle) == 1).await;
    assert_ne!(second.info.id(), first.info.id());
    assert_eq!(third.info.id(), second.info.id());
    assert_eq!((active(&handle), idle(&handle)), (1, 1));
    gate.open_for_all();
    busily("the first is drained", || idle(&handle) == 2).await;
    let fourth = fetch(&client, server.url("/4")).await.unwrap();
    assert_eq!(fourth.info.id(), first.info.id(), "the one used last");
    assert_eq!(server.accepted(), 2);
    assert_eq!(server.heads()[0].body.len(), MORE_THAN_SOCKETS_HOLD);
    busy.abort();
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_35_an_upload_that_is_never_drained_costs_its_connection() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    let never = Gate::new();
    let server = Server::in_memory(move |conn| hasty(conn, never.clone()));
    let connector = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, connector.clone());
    let upload = post(server.url("/upload"), vec![b'x'; 1 << 20]);
    let first = send(&client, upload).await.unwrap();
    let second = fetch(&client, server.url("/2")).await.unwrap();
    assert!(!second.info.is_reused());
    assert_ne!(second.info.id(), first.info.id());
    assert_eq!((connector.made(), connector.max_alive()), (2, 1));
    assert_eq!(handle.status().closes[&CloseReason::Abandoned], 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_36_an_unread_body_holds_its_connection() {
    let server = Server::in_memory(script::echo);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, server.connector());
    let unread = client.request(get(server.url("/1"))).await.unwrap();
    let (second, ()) = tokio::join!(fetch(&client, server.url("/2")), async {
        settle().await;
        for _ in 0..60 {
            tokio::time::advance(SECOND).await;
            settle().await;
        }
        assert_eq!((active(&handle), pending(&handle)), (1, 1));
        assert_eq!(server.requests(), 1);
        assert_eq!(read(unread).await.unwrap().body, "/1");
    });
    let second = second.unwrap();
    assert_eq!(second.body, "/2");
    assert!(second.info.is_reused());
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_37_an_abandoned_body_costs_its_connection_and_frees_its_slot() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    if not_tiny("the first frame is what came in one piece") {
        return;
    }
    let server = Server::start(|mut conn: Conn| async move {
        if conn.index > 0 {
            return script::ok(conn).await;
        }
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nsome of it")
            .await;
        conn.stall().await;
    })
    .await;
    let connector = CountingConnector::new(Connector);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, connector.clone());
    let mut abandoned = client.request(get(server.url("/1"))).await.unwrap();
    let first = abandoned.body().connection().id();
    let some = abandoned.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(some.into_data().unwrap(), "some of it");
    let (second, ()) = tokio::join!(fetch(&client, server.url("/2")), async {
        eventually("the second is in line", || pending(&handle) == 1).await;
        drop(abandoned);
    });
    // Not by whether it was made for this caller: where that was slow, the pool made it and handed it over.
    assert_ne!(second.unwrap().info.id(), first);
    assert_eq!((connector.made(), connector.max_alive()), (2, 1));
    eventually("the server sees it go", || server.open() == 1).await;
    eventually("the second is idle", || idle(&handle) == 1).await;
    let status = handle.status();
    assert_eq!(status.closed, 1);
    assert_eq!(status.completed, 1, "only the second came to its end");
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_37_an_abandoned_body_that_had_arrived_costs_nothing() {
    if not_tiny("a body that is dropped has come") {
        return;
    }
    let server = Server::echo().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let abandoned = client.request(get(server.url("/1"))).await.unwrap();
    let id = abandoned.body().connection().id();
    drop(abandoned);
    eventually("it is idle", || idle(&handle) == 1).await;
    let second = fetch(&client, server.url("/2")).await.unwrap();
    assert_eq!((second.info.id(), second.body), (id, "/2".to_owned()));
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_39_each_use_is_given_back_once() {
    let server = Server::start(|mut conn: Conn| async move {
        while let Some(head) = conn.head().await {
            if head.header("expect").is_some() {
                conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
            }
            conn.body().await;
            match &*head.method {
                "PUT" => conn.respond_with("HTTP/1.1 204 No Content", "").await,
                _ => conn.respond("").await,
            }
        }
    })
    .await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent(layer);
    for index in 0..100 {
        let request = Request::builder().uri(server.url("/"));
        let request = match index % 4 {
            0 => request
                .method(Method::POST)
                .header("expect", "100-continue"),
            1 => request.method(Method::PUT).header("expect", "100-continue"),
            2 => request.method(Method::HEAD),
            _ => request,
        };
        let body = if index % 4 < 2 { "body" } else { "" };
        let answer = send(&client, request.body(Full::from(body)).unwrap()).await;
        assert!(answer.unwrap().status.is_success());
        assert!(handle.status().open() <= 1);
    }
    assert_eq!((server.accepted(), server.requests()), (1, 100));
    eventually("it is idle", || idle(&handle) == 1).await;
    let status = handle.status();
    assert_eq!((status.created, status.completed), (1, 100));
    assert_eq!(status.open(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_40_dropping_a_body_after_its_end_disturbs_nobody() {
    if not_tiny("the first frame is the last") {
        return;
    }
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::start(move |conn| gated(conn, held.clone())).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    gate.open(1);
    let mut response = client.request(get(server.url("/1"))).await.unwrap();
    let mut data = Vec::new();
    // And asks for no more, knowing the length.
    while !response.body().is_end_stream() {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        data.extend(frame.into_data().unwrap());
    }
    assert_eq!(data, b"ok");
    let id = response.body().connection().id();
    eventually("it is idle while the body is kept", || idle(&handle) == 1).await;
    let (second, ()) = tokio::join!(fetch(&client, server.url("/2")), async {
        eventually("the second is under way", || gate.waiting() == 1).await;
        drop(response);
        settle().await;
        gate.open_for_all();
    });
    let second = second.unwrap();
    assert_eq!((second.info.id(), &*second.body), (id, "ok"));
    eventually("it is idle again", || idle(&handle) == 1).await;
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_40_detaching_after_the_end_disturbs_nobody() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::start(move |conn| gated(conn, held.clone())).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    gate.open(1);
    let first = fetch(&client, server.url("/1")).await.unwrap();
    eventually("it is idle", || idle(&handle) == 1).await;
    first.info.detach();
    assert_eq!(idle(&handle), 1, "idle, it is nobody's");
    let (second, ()) = tokio::join!(fetch(&client, server.url("/2")), async {
        eventually("the second is under way", || gate.waiting() == 1).await;
        first.info.detach();
        assert_eq!(active(&handle), 1, "in use, it is the second's");
        gate.open_for_all();
    });
    assert_eq!(second.unwrap().info.id(), first.info.id());
    eventually("it is idle again", || idle(&handle) == 1).await;
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().detached, 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_41_active_until_the_end_of_the_body_and_idle_soon_after() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(get(server.url("/"))).await.unwrap();
    assert_eq!((active(&handle), idle(&handle)), (1, 0));
    read(response).await.unwrap();
    eventually("it is idle", || (active(&handle), idle(&handle)) == (0, 1)).await;
    assert_eq!(server.open(), 1);
    assert_eq!(handle.status().completed, 1);
    at_rest(&handle).await;
}

/// `n` requests at once over one connection at a time: which were on a reused one, and how many were made. Whatever was
/// kept is closed with the service.
async fn one_at_a_time(
    server: &Server,
    layer: KeepAliveLayer<Full<Bytes>>,
    n: usize,
) -> (Vec<bool>, usize, AgentHandle) {
    let connector: CountingConnector<InMemory> = CountingConnector::new(server.connector());
    let layer = layer.max_connections_per_host(1);
    let (client, handle) = agent_over(layer, connector.clone());
    let answers = join_all((0..n).map(|_| fetch(&client, server.url("/")))).await;
    let reused = answers
        .into_iter()
        .map(|answer| answer.unwrap().info.is_reused())
        .collect();
    assert_eq!(server.requests(), n);
    assert_eq!(connector.max_alive(), 1);
    settle().await;
    drop(client);
    settle().await;
    assert_eq!(connector.alive(), 0);
    (reused, connector.made(), handle)
}

#[tokio::test(start_paused = true)]
async fn node_42_a_freed_connection_is_handed_over() {
    let server = Server::in_memory(script::ok);
    let (reused, made, handle) = one_at_a_time(&server, KeepAliveLayer::new(), 4).await;
    assert_eq!(reused, [false, true, true, true]);
    assert_eq!(made, 1);
    let heads = server.heads();
    assert!(heads.iter().all(|head| head.header("connection").is_none()));
    assert_eq!(handle.status().reused, 3);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_42_with_no_place_for_idle_ones_connections_are_still_handed_over() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().max_idle_per_host(0);
    let (reused, made, handle) = one_at_a_time(&server, layer, 4).await;
    assert_eq!(reused, [false, true, true, true]);
    assert_eq!(made, 1);
    assert_eq!(handle.status().closes[&CloseReason::Surplus], 1);
    at_rest(&handle).await;
}

/// Says in every response that it closes after a second.
async fn hinting(mut conn: Conn) {
    while conn.request().await.is_some() {
        conn.respond_with("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=1", "ok")
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_42_a_hand_over_heeds_the_servers_hint() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = Server::in_memory(hinting);
    let (reused, made, handle) = one_at_a_time(&server, KeepAliveLayer::new(), 4).await;
    assert_eq!(reused, [false; 4], "a second is within the margin");
    assert_eq!(made, 4);
    assert_eq!(handle.status().closes[&CloseReason::Idle], 4);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_42_a_hint_beyond_the_margin_hinders_no_hand_over() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = Server::in_memory(hinting);
    let layer = KeepAliveLayer::new().server_hint_margin(Duration::ZERO);
    let (reused, made, handle) = one_at_a_time(&server, layer, 4).await;
    assert_eq!(reused, [false, true, true, true]);
    assert_eq!(made, 1);
    assert_eq!(handle.status().reused, 3);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_42_a_hand_over_heeds_the_ttl() {
    let server = Server::in_memory(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            tokio::time::sleep(Duration::from_millis(600)).await;
            conn.respond("ok").await;
        }
    });
    let layer = KeepAliveLayer::new().ttl(SECOND);
    let (reused, made, handle) = one_at_a_time(&server, layer, 4).await;
    assert_eq!(reused, [false, true, false, true]);
    assert_eq!(made, 2);
    assert_eq!(handle.status().closes[&CloseReason::Age], 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_42_a_hand_over_heeds_max_uses() {
    if not_over_h2("a connection on its last use drains, and counts in no limit") {
        return;
    }
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().max_uses(2);
    let (reused, made, handle) = one_at_a_time(&server, layer, 4).await;
    assert_eq!(reused, [false, true, false, true]);
    assert_eq!(made, 2);
    assert_eq!(handle.status().closes[&CloseReason::Uses], 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_42_without_keep_alive_nothing_is_handed_over() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().keep_alive(false);
    let (reused, made, handle) = one_at_a_time(&server, layer, 4).await;
    assert_eq!(reused, [false; 4]);
    assert_eq!(made, 4);
    for (index, head) in server.heads().iter().enumerate() {
        assert_eq!(head.connection, index);
        assert_eq!(head.header("connection"), Some("close"));
    }
    assert_eq!(handle.status().reused, 0);
    at_rest(&handle).await;
}

/// The server closes before its first response is read to the end; a second caller is in line.
fn closed_by_its_release(close: fn(Conn)) {
    if not_tiny("who reads a response in pieces hears what comes after it") {
        return;
    }
    // The runtime hears nothing of sockets while it has other things to do: so the agent has to look by itself.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .event_interval(u32::MAX)
        .build()
        .unwrap();
    runtime.block_on(async {
        let gate = Gate::new();
        let closes = gate.clone();
        let server = Server::start(move |mut conn: Conn| {
            let gate = closes.clone();
            async move {
                if conn.index > 0 {
                    return script::ok(conn).await;
                }
                conn.request().await;
                conn.respond("ok").await;
                gate.pass().await;
                close(conn);
            }
        })
        .await;
        let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
        let first = client.request(get(server.url("/1"))).await.unwrap();
        let id = first.body().connection().id();
        eventually("the server is about to close", || gate.waiting() == 1).await;
        let (second, ()) = tokio::join!(fetch(&client, server.url("/2")), async {
            busily("the second is in line", || pending(&handle) == 1).await;
            gate.open_for_all();
            busily("the server has closed", || gate.waiting() == 0).await;
            assert_eq!(active(&handle), 1, "nothing was heard yet");
            read(first).await.unwrap();
        });
        let second = second.unwrap();
        assert!(!second.info.is_reused());
        assert_ne!(second.info.id(), id);
        assert_eq!(server.accepted(), 2);
        let status = handle.status();
        assert_eq!((status.created, status.stale), (2, 1));
        at_rest(&handle).await;
    });
}

#[test]
fn node_43_a_connection_ended_before_its_release_is_not_handed_over() {
    // Dropped with nothing unread: a FIN.
    closed_by_its_release(drop);
}

#[test]
fn node_43_a_connection_reset_before_its_release_is_not_handed_over() {
    closed_by_its_release(Conn::rst);
}

#[tokio::test]
async fn node_44_the_one_given_back_beyond_max_free_is_closed() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_idle_per_host(1));
    let first = client.request(get(server.url("/1"))).await.unwrap();
    let second = client.request(get(server.url("/2"))).await.unwrap();
    let first = read(first).await.unwrap();
    eventually("the first is idle", || idle(&handle) == 1).await;
    let second = read(second).await.unwrap();
    eventually("the second is closed", || handle.status().open() == 1).await;
    let third = fetch(&client, server.url("/3")).await.unwrap();
    assert_ne!(second.info.id(), first.info.id());
    assert_eq!(third.info.id(), first.info.id());
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes[&CloseReason::Surplus], 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_44_max_free_is_for_each_key() {
    let (here, there) = (Server::ok().await, Server::ok().await);
    let (client, handle) = agent(KeepAliveLayer::new().max_idle_per_host(1));
    for server in [&here, &there, &here, &there] {
        fetch(&client, server.url("/")).await.unwrap();
        eventually("nothing is in use", || active(&handle) == 0).await;
    }
    assert_eq!((here.accepted(), there.accepted()), (1, 1));
    assert_eq!(idle(&handle), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_45_the_worked_numbers() {
    let server = Server::echo().await;
    let connector = CountingConnector::new(Connector);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(5)
        .max_idle_per_host(2);
    let (client, handle) = agent_over(layer, connector.clone());
    for made in [5, 8] {
        let urls = (0..10).map(|index| server.url(&format!("/{index}")));
        let answers = join_all(urls.map(|url| fetch(&client, url))).await;
        for (index, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap().body, format!("/{index}"));
        }
        eventually("two are left", || handle.status().open() == 2).await;
        assert_eq!((idle(&handle), active(&handle)), (2, 0));
        assert_eq!(connector.made(), made);
    }
    assert_eq!((server.accepted(), server.requests()), (8, 20));
    assert_eq!(connector.max_alive(), 5);
    assert_eq!(handle.status().closes[&CloseReason::Surplus], 6);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_46_equal_limits_keep_all() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::start(move |conn| gated(conn, held.clone())).await;
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(2)
        .max_idle_per_host(2);
    let (client, handle) = agent(layer);
    for _ in 0..2 {
        let (one, two, ()) = tokio::join!(
            fetch(&client, server.url("/1")),
            fetch(&client, server.url("/2")),
            async {
                eventually("both are under way", || gate.waiting() == 2).await;
                gate.open(2);
            },
        );
        assert_ne!(one.unwrap().info.id(), two.unwrap().info.id());
        eventually("both are idle", || idle(&handle) == 2).await;
    }
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closed, 0);
    at_rest(&handle).await;
}
