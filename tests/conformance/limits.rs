//! C. Admission: pick, create or queue.

use crate::support::agent::{Connector, Req, agent, agent_over, at_rest, fetch, get, read};
use crate::support::{
    Conn, CountingConnector, Gate, Server, Sockets, eventually, not_over_h2, settle,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, Uri};
use http_body_util::Full;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::Instant;
use tower::Service;
use tower_keep_alive::connect::UriConnector;
use tower_keep_alive::{AgentHandle, Body, CloseReason, Error, KeepAliveLayer, Scheduling};

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}

pub(super) fn active(handle: &AgentHandle) -> usize {
    handle.status().active.values().sum()
}

pub(super) fn pending(handle: &AgentHandle) -> usize {
    handle.status().pending.values().sum()
}

pub(super) fn no_empty_keys(handle: &AgentHandle) {
    let status = handle.status();
    for map in [&status.idle, &status.active, &status.pending] {
        assert!(map.values().all(|&count| count > 0), "{status:?}");
    }
}

/// Answers each request with its target when the gate lets it.
async fn gated(mut conn: Conn, gate: Gate) {
    while let Some(head) = conn.request().await {
        gate.pass().await;
        conn.respond(&head.target).await;
    }
}

pub(super) async fn gated_server(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |conn| gated(conn, gate.clone())).await
}

pub(super) fn gated_in_memory(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::in_memory(move |conn| gated(conn, gate.clone()))
}

/// Leaves `n` connections idle, given back in the order in which they were made; their numbers.
async fn leave_idle<S>(client: &S, handle: &AgentHandle, url: &str, n: usize) -> Vec<u64>
where
    S: Service<Req, Response = Response<Body>, Error = Error> + Clone,
{
    let mut responses = Vec::new();
    for _ in 0..n {
        responses.push(client.clone().call(get(url)).await.unwrap());
    }
    let mut ids = Vec::new();
    for response in responses {
        ids.push(read(response).await.unwrap().info.id());
        eventually("it is idle", || idle(handle) == ids.len()).await;
    }
    ids
}

#[tokio::test]
async fn node_22_sequential_requests_share_one_connection() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let mut ids = Vec::new();
    for index in 0..10 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(answer.info.is_reused(), index > 0);
        assert_eq!(answer.info.uses(), index + 1);
        ids.push(answer.info.id());
        eventually("it is idle", || idle(&handle) == 1).await;
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(server.accepted(), 1);
    assert!(server.heads().iter().all(|head| head.connection == 0));
    let status = handle.status();
    assert_eq!(
        (status.created, status.reused, status.completed),
        (1, 9, 10)
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_22_idle_comes_before_create_and_create_before_queue() {
    let gate = Gate::new();
    let server = gated_server(&gate).await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(2));
    gate.open(1);
    fetch(&client, server.url("/idle")).await.unwrap();
    eventually("it is idle", || idle(&handle) == 1).await;
    let answers = tokio::join!(
        fetch(&client, server.url("/takes")),
        fetch(&client, server.url("/creates")),
        fetch(&client, server.url("/waits")),
        async {
            eventually("two wait for the server", || gate.waiting() == 2).await;
            assert_eq!((active(&handle), pending(&handle)), (2, 1));
            gate.open_for_all();
        },
    );
    let takes = answers.0.unwrap();
    let creates = answers.1.unwrap();
    let waits = answers.2.unwrap();
    assert!(takes.info.is_reused());
    assert!(!creates.info.is_reused());
    assert!(waits.info.is_reused());
    assert_ne!(takes.info.id(), creates.info.id());
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().created, 2);
    at_rest(&handle).await;
}

async fn order_taken(layer: KeepAliveLayer<Full<Bytes>>) -> Vec<usize> {
    let server = Server::ok().await;
    let (client, handle) = agent(layer);
    let ids = leave_idle(&client, &handle, &server.url("/"), 3).await;
    let mut order = Vec::new();
    for _ in 0..4 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        order.extend(ids.iter().position(|&id| id == answer.info.id()));
        eventually("it is idle", || idle(&handle) == 3).await;
    }
    assert_eq!(server.accepted(), 3);
    at_rest(&handle).await;
    order
}

#[tokio::test]
async fn node_23_lifo_takes_the_one_used_last() {
    assert_eq!(order_taken(KeepAliveLayer::new()).await, [2, 2, 2, 2]);
    let layer = KeepAliveLayer::new().scheduling(Scheduling::Lifo);
    assert_eq!(order_taken(layer).await, [2, 2, 2, 2]);
}

#[tokio::test]
async fn node_23_fifo_takes_the_one_idle_for_longest() {
    let layer = KeepAliveLayer::new().scheduling(Scheduling::Fifo);
    assert_eq!(order_taken(layer).await, [0, 1, 2, 0]);
}

/// Closes the connections `dead` of three idle ones behind the agent's back, then sends a request.
fn dead_when_picked(scheduling: Scheduling, dead: &'static [usize], expected: Option<usize>) {
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
                let again = !dead.contains(&conn.index);
                conn.request().await;
                conn.respond("ok").await;
                if again {
                    while conn.request().await.is_some() {
                        conn.respond("ok").await;
                    }
                } else {
                    gate.pass().await;
                    conn.fin().await;
                }
            }
        })
        .await;
        let (client, handle) = agent(KeepAliveLayer::new().scheduling(scheduling));
        let ids = leave_idle(&client, &handle, &server.url("/"), 3).await;
        eventually("they are about to close", || gate.waiting() == dead.len()).await;
        gate.open_for_all();
        while gate.waiting() > 0 {
            yield_now().await;
        }
        assert_eq!(idle(&handle), 3, "nothing was heard yet");
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(
            ids.iter().position(|&id| id == answer.info.id()),
            expected,
            "{scheduling:?}"
        );
        assert_eq!(answer.info.is_reused(), expected.is_some());
        let status = handle.status();
        assert!(status.stale > 0, "{status:?}");
        eventually("the dead are gone", || {
            let open = 3 - dead.len() + usize::from(expected.is_none());
            handle.status().open() == open
        })
        .await;
        assert_eq!(handle.status().closed, dead.len() as u64);
        assert_eq!(handle.status().errors, 0);
        at_rest(&handle).await;
    });
}

#[test]
fn node_24_lifo_passes_over_the_dead() {
    dead_when_picked(Scheduling::Lifo, &[2], Some(1));
    dead_when_picked(Scheduling::Lifo, &[1, 2], Some(0));
}

#[test]
fn node_24_fifo_passes_over_the_dead() {
    dead_when_picked(Scheduling::Fifo, &[0], Some(1));
    dead_when_picked(Scheduling::Fifo, &[0, 1], Some(2));
}

#[test]
fn node_24_when_all_are_dead_a_new_one_is_made() {
    dead_when_picked(Scheduling::Lifo, &[0, 1, 2], None);
    dead_when_picked(Scheduling::Fifo, &[0, 1, 2], None);
}

#[tokio::test]
async fn node_25_max_sockets_is_kept_to() {
    let gate = Gate::new();
    let server = gated_server(&gate).await;
    let connector = CountingConnector::new(Connector);
    let layer = KeepAliveLayer::new().max_connections_per_host(10);
    let (client, handle) = agent_over(layer, connector.clone());
    let urls = (0..20).map(|index| server.url(&format!("/{index}")));
    let (answers, ()) = tokio::join!(join_all(urls.map(|url| fetch(&client, url))), async {
        eventually("ten wait for the server", || gate.waiting() == 10).await;
        assert_eq!((active(&handle), pending(&handle)), (10, 10));
        gate.open_for_all();
    });
    for (index, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().body, format!("/{index}"));
    }
    assert_eq!((connector.made(), connector.max_alive()), (10, 10));
    assert_eq!(server.accepted(), 10);
    eventually("all are idle", || idle(&handle) == 10).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_25_connecting_counts() {
    if not_over_h2("a key's first connection is made once for all who wait") {
        return;
    }
    let gate = Gate::new();
    let server = Server::ok().await;
    let connector = CountingConnector::new(Connector).gate(&gate);
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, connector.clone());
    let (answers, ()) = tokio::join!(
        join_all((0..5).map(|_| fetch(&client, server.url("/")))),
        async {
            eventually("two connect", || gate.waiting() == 2).await;
            settle().await;
            assert_eq!(connector.alive(), 2);
            assert_eq!((active(&handle), pending(&handle)), (2, 3));
            gate.open_for_all();
        }
    );
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(connector.max_alive(), 2);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_26_both_limits_are_kept_to() {
    for (per_host, total) in [(2, 3), (3, 2), (2, 2)] {
        let (here, there) = (Server::echo().await, Server::echo().await);
        let each = [0, 1].map(|_| CountingConnector::new(Sockets));
        let [to_here, to_there] = each.clone();
        let port = here.addr().port();
        let both = UriConnector::new(tower::service_fn(move |uri: Uri| match uri.port_u16() {
            Some(to) if to == port => to_here.clone().call(uri),
            _ => to_there.clone().call(uri),
        }));
        let connector = CountingConnector::new(both);
        let layer = KeepAliveLayer::new()
            .max_connections_per_host(per_host)
            .max_connections(total);
        let (client, handle) = agent_over(layer, connector.clone());
        let urls = (0..12).map(|index| {
            let server = [&here, &there][index % 2];
            server.url(&format!("/{index}"))
        });
        let answers = join_all(urls.map(|url| fetch(&client, url))).await;
        for (index, answer) in answers.into_iter().enumerate() {
            assert_eq!(answer.unwrap().body, format!("/{index}"));
        }
        assert_eq!(here.requests() + there.requests(), 12);
        assert!(connector.max_alive() <= total, "{}", connector.max_alive());
        for one in &each {
            assert!(one.max_alive() <= per_host, "{}", one.max_alive());
        }
        assert!(handle.status().pending.is_empty());
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn node_26_an_idle_connection_counts_until_it_is_closed() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections(1));
    let response = client.request(get(server.url("/"))).await.unwrap();
    assert_eq!((active(&handle), handle.status().open()), (1, 1));
    read(response).await.unwrap();
    eventually("it is idle", || idle(&handle) == 1).await;
    assert_eq!((active(&handle), handle.status().open()), (0, 1));
    handle.close_idle();
    eventually("it is closed", || handle.status().open() == 0).await;
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_27_an_idle_connection_of_another_origin_makes_room_at_once() {
    let server = Server::in_memory(crate::support::script::ok);
    let connector = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new()
        .max_connections(1)
        .idle_timeout(Duration::MAX);
    let (client, handle) = agent_over(layer, connector.clone());
    let start = Instant::now();
    for url in ["http://a.test/", "http://b.test/", "http://a.test/"] {
        let answer = fetch(&client, url).await.unwrap();
        assert!(!answer.info.is_reused());
        settle().await;
        assert_eq!(idle(&handle), 1);
    }
    assert_eq!(Instant::now(), start, "nobody waited");
    assert_eq!((connector.made(), connector.max_alive()), (3, 1));
    assert_eq!(handle.status().closes[&CloseReason::Room], 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_27_the_least_recently_used_makes_room() {
    let server = Server::in_memory(crate::support::script::ok);
    let layer = KeepAliveLayer::new()
        .max_connections(3)
        .idle_timeout(Duration::MAX);
    let (client, handle) = agent_over(layer, server.connector());
    // "a" is the oldest, but "b" was used before it.
    for host in ["a", "b", "c", "a", "d"] {
        fetch(&client, format!("http://{host}.test/"))
            .await
            .unwrap();
        settle().await;
    }
    let status = handle.status();
    let kept: Vec<_> = status.idle.keys().map(|key| key.host()).collect();
    assert_eq!(kept, ["a.test", "c.test", "d.test"]);
    assert_eq!(server.accepted(), 4);
    assert_eq!(status.closes[&CloseReason::Room], 1);
    at_rest(&handle).await;
}
