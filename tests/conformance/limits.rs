//! C. Admission: pick, create or queue.

use crate::support::agent::{Connector, Req, agent, agent_over, at_rest, fetch, get, read};
use crate::support::{
    Conn, CountingConnector, Gate, RefusingPort, Server, Sockets, eventually, settle,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Response, Uri};
use http_body_util::Full;
use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::Instant;
use tower::util::MapResponseLayer;
use tower::{Service, ServiceBuilder};
use tower_keep_alive::connect::UriConnector;
use tower_keep_alive::{
    AgentHandle, Body, CheckinLayer, CheckoutLayer, CloseReason, Error, ExchangeLayer,
    HandshakeLayer, HttpConnection, KeepAliveLayer, PoolConfig, Scheduling, TimeoutKind,
};

const SECOND: Duration = Duration::from_secs(1);

fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}

fn active(handle: &AgentHandle) -> usize {
    handle.status().active.values().sum()
}

fn pending(handle: &AgentHandle) -> usize {
    handle.status().pending.values().sum()
}

fn no_empty_keys(handle: &AgentHandle) {
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

async fn gated_server(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |conn| gated(conn, gate.clone())).await
}

fn gated_in_memory(gate: &Gate) -> Server {
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

#[tokio::test]
async fn node_28_first_come_first_served_and_nobody_barges() {
    let gate = Gate::new();
    let server = gated_server(&gate).await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    tokio::join!(
        async {
            fetch(&client, server.url("/1")).await.unwrap();
            fetch(&client, server.url("/1b")).await.unwrap();
        },
        async { fetch(&client, server.url("/2")).await.unwrap() },
        async { fetch(&client, server.url("/3")).await.unwrap() },
        async {
            eventually("two are in line", || pending(&handle) == 2).await;
            for (served, in_line) in [(1, 2), (2, 2), (3, 1), (4, 0)] {
                eventually("the next has come", || {
                    server.requests() == served && pending(&handle) == in_line
                })
                .await;
                gate.open(1);
            }
        },
    );
    let heads = server.heads();
    let order: Vec<_> = heads.iter().map(|head| &*head.target).collect();
    assert_eq!(order, ["/1", "/2", "/3", "/1b"]);
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().reused, 3);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_28_the_line_has_no_end_and_no_clock_by_default() {
    let gate = Gate::new();
    let server = gated_in_memory(&gate);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, server.connector());
    let urls = (0..1000).map(|index| server.url(&format!("/{index}")));
    let (answers, ()) = tokio::join!(join_all(urls.map(|url| fetch(&client, url))), async {
        eventually("all others are in line", || pending(&handle) == 999).await;
        tokio::time::advance(3600 * SECOND).await;
        settle().await;
        assert_eq!(pending(&handle), 999);
        gate.open_for_all();
    });
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    let heads = server.heads();
    let in_order = (0..1000).all(|index| heads[index].target == format!("/{index}"));
    assert!(in_order);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_28_the_line_can_be_bounded_in_length_and_in_time() {
    let gate = Gate::new();
    let server = gated_in_memory(&gate);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .max_pending_per_host(1)
        .checkout_timeout(3 * SECOND);
    let (client, handle) = agent_over(layer, server.connector());
    let start = Instant::now();
    let (first, second, third, ()) = tokio::join!(
        fetch(&client, server.url("/1")),
        async {
            let outcome = fetch(&client, server.url("/2")).await;
            (outcome, start.elapsed())
        },
        async {
            let outcome = fetch(&client, server.url("/3")).await;
            (outcome, start.elapsed())
        },
        async {
            tokio::time::sleep(4 * SECOND).await;
            assert_eq!(pending(&handle), 0);
            gate.open_for_all();
        },
    );
    first.unwrap();
    let (second, after) = second;
    let second = second.unwrap_err();
    assert_eq!(second.timeout_kind(), Some(TimeoutKind::Checkout));
    assert_eq!(after.as_secs(), 3);
    assert!(second.is_unsent());
    let (third, after) = third;
    assert!(third.unwrap_err().is_queue_full());
    assert_eq!(after, Duration::ZERO);
    assert_eq!(server.requests(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_29_a_caller_that_connects_takes_what_comes_free_first() {
    let (answers, connects) = (Gate::new(), Gate::new());
    let server = gated_server(&answers).await;
    let connector = CountingConnector::new(Connector).gate(&connects);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    connects.open(1);
    let (before, late, ()) = tokio::join!(
        fetch(&client, server.url("/before")),
        async {
            eventually("the first is sent", || server.requests() == 1).await;
            fetch(&client, server.url("/late")).await
        },
        async {
            eventually("the second connects", || connects.waiting() == 1).await;
            answers.open_for_all();
        },
    );
    let (before, late) = (before.unwrap(), late.unwrap());
    assert_eq!(
        late.info.id(),
        before.info.id(),
        "served before its connect"
    );
    assert!(late.info.is_reused());
    assert_eq!(connects.waiting(), 1, "its connect goes on");
    assert_eq!((connector.made(), connector.connected()), (2, 1));
    connects.open(1);
    eventually("its connect is for the pool", || idle(&handle) == 2).await;
    assert_eq!(connector.connected(), 2);
    let status = handle.status();
    assert_eq!((status.created, status.reused, status.closed), (2, 1, 0));
    at_rest(&handle).await;
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn node_29_a_connect_left_behind_that_fails_is_nobodys_error() {
    let (answers, connects) = (Gate::new(), Gate::new());
    let server = gated_server(&answers).await;
    let connector = CountingConnector::new(Connector).gate(&connects);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    connects.open(1);
    let (before, late, ()) = tokio::join!(
        fetch(&client, server.url("/before")),
        async {
            eventually("the first is sent", || server.requests() == 1).await;
            connector.fail_next(1);
            fetch(&client, server.url("/late")).await
        },
        async {
            eventually("the second connects", || connects.waiting() == 1).await;
            answers.open_for_all();
        },
    );
    assert_eq!(before.unwrap().info.id(), late.unwrap().info.id());
    connects.open(1);
    eventually("its connect has failed", || {
        handle.status().create_errors == 1
    })
    .await;
    assert_eq!((connector.made(), connector.alive()), (2, 1));
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_30_slow_connects_do_not_defeat_the_limit() {
    let server = Server::in_memory(crate::support::script::echo);
    let connector = CountingConnector::new(server.connector()).delay(Duration::from_millis(50));
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, connector.clone());
    let answers = join_all((0..6).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!((connector.made(), connector.max_alive()), (2, 2));
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().created, 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_31_a_connect_that_fails_fails_its_own_request_only() {
    let server = Server::echo().await;
    let connector = CountingConnector::new(Sockets);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    connector.fail_next(1);
    let (failed, one, two) = tokio::join!(
        fetch(&client, server.url("/failed")),
        fetch(&client, server.url("/one")),
        fetch(&client, server.url("/two")),
    );
    let error = failed.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    assert!(error.connection().is_none());
    assert_eq!(one.unwrap().body, "/one");
    assert_eq!(two.unwrap().body, "/two");
    assert_eq!(server.requests(), 2);
    eventually("two are idle", || idle(&handle) == 2).await;
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (3, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_31_sixteen_refused_requests_are_sixteen_errors() {
    let refusing = RefusingPort::new();
    let connector = CountingConnector::new(Sockets);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    let outcomes = join_all((0..16).map(|_| fetch(&client, refusing.url("/")))).await;
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        assert_eq!(io_error(&error), Some(io::ErrorKind::ConnectionRefused));
    }
    assert_eq!((connector.made(), connector.alive()), (16, 0));
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (16, 16));
    assert_eq!(status.closed, 16);
    at_rest(&handle).await;
}

fn io_error(error: &Error) -> Option<io::ErrorKind> {
    let first = error.source();
    std::iter::successors(first, |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}

#[tokio::test]
async fn node_32_each_in_line_is_refused_by_a_connect_of_its_own_in_order() {
    let refusing = RefusingPort::new();
    let connector = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, connector.clone());
    let order = Mutex::new(Vec::new());
    join_all((1..=3).map(|index| {
        let (client, order, refusing) = (&client, &order, &refusing);
        async move {
            let error = fetch(client, refusing.url("/")).await.unwrap_err();
            assert_eq!(io_error(&error), Some(io::ErrorKind::ConnectionRefused));
            order.lock().unwrap().push(index);
        }
    }))
    .await;
    assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
    assert_eq!((connector.made(), connector.max_alive()), (3, 1));
    assert_eq!(handle.status().create_errors, 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_33_no_key_without_something_behind_it() {
    let (connects, answers) = (Gate::new(), Gate::new());
    let server = gated_server(&answers).await;
    let connector = CountingConnector::new(Sockets).gate(&connects);
    let layer = KeepAliveLayer::new().max_connections(1);
    let (client, handle) = agent_over(layer, connector.clone());

    connector.fail_next(1);
    let (failed, ()) = tokio::join!(fetch(&client, server.url("/")), async {
        eventually("it connects", || connects.waiting() == 1).await;
        assert_eq!(handle.status().active.len(), 1);
        connects.open_for_all();
    });
    failed.unwrap_err();
    assert!(handle.status().active.is_empty());

    let elsewhere = gated_server(&answers).await;
    let (one, two, ()) = tokio::join!(
        fetch(&client, server.url("/")),
        fetch(&client, elsewhere.url("/")),
        async {
            eventually("one is sent", || answers.waiting() == 1).await;
            let status = handle.status();
            // In line for the total, and for nothing else.
            let here = format!("{}:", server.addr());
            let there = format!("{}:", elsewhere.addr());
            let names = |map: &std::collections::BTreeMap<tower_keep_alive::Key, usize>| {
                map.keys().map(|key| key.to_string()).collect::<Vec<_>>()
            };
            assert_eq!(names(&status.active), [here]);
            assert_eq!(names(&status.pending), [there]);
            no_empty_keys(&handle);
            answers.open_for_all();
        },
    );
    one.unwrap();
    two.unwrap();
    no_empty_keys(&handle);
    eventually("one is idle", || idle(&handle) == 1).await;
    handle.close_idle();
    eventually("it is closed", || handle.status().open() == 0).await;
    assert!(handle.status().idle.is_empty());
    at_rest(&handle).await;
}

tokio::task_local! {
    static CALLER: &'static str;
}

type Sightings = Arc<Mutex<Vec<(&'static str, Option<&'static str>)>>>;

fn sighted(sightings: &Sightings, place: &'static str) {
    let caller = CALLER.try_with(|caller| *caller).ok();
    sightings.lock().unwrap().push((place, caller));
}

/// A request body that notes whose task-local is current where it is read: in the connection's driver.
struct Noting(Sightings, Option<Bytes>);

impl http_body::Body for Noting {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        sighted(&self.0, "driver");
        std::task::Poll::Ready(self.1.take().map(|data| Ok(http_body::Frame::data(data))))
    }
}

/// Two callers, the second in line behind the first: what each layer saw, in order.
async fn callers_seen(closes: bool) -> Vec<(&'static str, Option<&'static str>)> {
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::start(move |mut conn: Conn| {
        let gate = held.clone();
        async move {
            while conn.request().await.is_some() {
                gate.pass().await;
                if closes {
                    conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "ok")
                        .await;
                } else {
                    conn.respond("ok").await;
                }
            }
        }
    })
    .await;
    let seen = Sightings::default();
    let (on_connect, on_checkout) = (seen.clone(), seen.clone());
    let checkout =
        CheckoutLayer::<HttpConnection<Noting>>::new(PoolConfig::new().max_connections_per_host(1));
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(MapResponseLayer::new(move |lease| {
            sighted(&on_checkout, "checkout");
            lease
        }))
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::new())
        .service(tower::service_fn(
            move |target: tower_keep_alive::Destination| {
                sighted(&on_connect, "connector");
                Sockets.call(target)
            },
        ));
    let fetch = |name, path| {
        let mut client = client.clone();
        let body = Noting(seen.clone(), Some(Bytes::from_static(b"x")));
        let request = http::Request::post(server.url(path)).body(body).unwrap();
        CALLER.scope(name, async move {
            let response = client.call(request).await.unwrap();
            read(response).await.unwrap()
        })
    };
    tokio::join!(fetch("one", "/1"), fetch("two", "/2"), async {
        eventually("the second is in line", || {
            gate.waiting() == 1 && pending(&handle) == 1
        })
        .await;
        gate.open_for_all();
    });
    assert_eq!(server.accepted(), if closes { 2 } else { 1 });
    at_rest(&handle).await;
    let mut seen = seen.lock().unwrap().clone();
    assert!(seen.contains(&("driver", None)), "the driver is nobody's");
    seen.retain(|&sighting| sighting != ("driver", None));
    seen
}

#[tokio::test]
async fn node_34_a_hand_over_is_in_the_context_of_its_caller() {
    assert_eq!(
        callers_seen(false).await,
        [
            ("connector", Some("one")),
            ("checkout", Some("one")),
            ("checkout", Some("two")),
        ]
    );
}

#[tokio::test]
async fn node_34_a_connect_after_waiting_is_in_the_context_of_its_caller() {
    assert_eq!(
        callers_seen(true).await,
        [
            ("connector", Some("one")),
            ("checkout", Some("one")),
            ("connector", Some("two")),
            ("checkout", Some("two")),
        ]
    );
}
