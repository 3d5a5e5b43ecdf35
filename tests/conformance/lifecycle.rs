//! N. Lifecycle and observability.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::Uri;
use tower::service_fn;
use tower_keep_alive::connect::UriConnector;
use tower_keep_alive::{AgentHandle, CloseReason, KeepAliveLayer};

use crate::support::agent::{Client, agent, agent_over, agent_paused, at_rest, fetch, get};
use crate::support::{CountingConnector, Gate, Server, Sockets, eventually, not_over_h2, script};

/// Answers what is not `/held` at once, and the rest when `gate` lets it.
async fn holding(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn| {
        let gate = gate.clone();
        async move {
            while let Some(head) = conn.request().await {
                if head.target == "/held" {
                    gate.pass().await;
                }
                conn.respond("ok").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn node_103_destroy_closes_what_is_idle_and_what_is_in_use() {
    let gate = Gate::new();
    let server = holding(&gate).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let (a, b) = tokio::join!(
        fetch(&client, server.url("/")),
        fetch(&client, server.url("/"))
    );
    assert!(a.is_ok() && b.is_ok());
    let in_flight = tokio::spawn(client.request(get(server.url("/held"))));
    eventually("one is in use", || gate.waiting() == 1).await;
    let status = handle.status();
    let occupied = |map: &std::collections::BTreeMap<_, usize>| map.values().sum::<usize>();
    assert_eq!((occupied(&status.idle), occupied(&status.active)), (1, 1));
    handle.destroy();
    let error = in_flight.await.unwrap().expect_err("destroyed");
    assert!(error.is_shut_down(), "{error:?}");
    eventually("all are closed", || handle.status().open() == 0).await;
    gate.open_for_all();
    eventually("the server sees it", || server.open() == 0).await;
    assert_eq!(handle.status().closes, [(CloseReason::Shutdown, 2)].into());
    at_rest(&handle).await;
}

/// One in flight and two in line for the one connection there may be.
async fn one_and_two() -> (Gate, Server, Client, AgentHandle, Vec<Request>) {
    let gate = Gate::new();
    let server = holding(&gate).await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let mut requests = Vec::new();
    for waiting in 0..3 {
        let (client, url) = (client.clone(), server.url("/held"));
        requests.push(tokio::spawn(async move { fetch(&client, url).await }));
        eventually("it is in line", || {
            handle.status().pending.values().sum::<usize>() == waiting
                && handle.status().active.len() == 1
        })
        .await;
    }
    eventually("one is in flight", || gate.waiting() == 1).await;
    (gate, server, client, handle, requests)
}

type Request =
    tokio::task::JoinHandle<Result<crate::support::agent::Answer, tower_keep_alive::Error>>;

#[tokio::test]
async fn node_104_destroy_refuses_who_is_in_line_and_who_comes() {
    let (gate, server, client, handle, requests) = one_and_two().await;
    handle.destroy();
    for request in requests {
        let error = request.await.unwrap().expect_err("destroyed");
        assert!(error.is_shut_down(), "{error:?}");
    }
    let late = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(late.is_shut_down() && late.is_unsent(), "{late:?}");
    gate.open_for_all();
    eventually("it is closed", || server.open() == 0).await;
    assert_eq!((server.accepted(), server.requests()), (1, 1));
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_104_drain_finishes_who_is_in_line_and_refuses_who_comes() {
    let (gate, server, client, handle, requests) = one_and_two().await;
    let drained = handle.drain();
    let late = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(late.is_shut_down(), "{late:?}");
    gate.open_for_all();
    drained.await;
    assert_eq!(handle.status().open(), 0);
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().body, "ok");
    }
    eventually("the server sees it", || server.open() == 0).await;
    assert_eq!((server.accepted(), server.requests()), (1, 3));
    assert_eq!(handle.status().closes, [(CloseReason::Shutdown, 1)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_104_close_idle_is_not_the_end() {
    let (gate, server, client, handle, requests) = one_and_two().await;
    handle.close_idle();
    gate.open_for_all();
    for request in requests {
        assert!(request.await.unwrap().is_ok());
    }
    assert_eq!(handle.status().idle.len(), 1);
    handle.close_idle();
    eventually("it is closed", || handle.status().open() == 0).await;
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    assert_eq!((server.accepted(), server.requests()), (2, 5));
    assert_eq!(handle.status().closes, [(CloseReason::Shutdown, 1)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_105_status_has_a_map_of_each_by_name() {
    if not_over_h2("a key's first connection is made once for all who wait") {
        return;
    }
    let gate = Gate::new();
    let server = holding(&gate).await;
    let other = Server::ok().await;
    let connects = Gate::new();
    let counting = CountingConnector::new(Sockets).gate(&connects);
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, counting);
    let names = |server: &Server, count: usize| vec![(format!("{}:", server.addr()), count)];
    let read = |map: &std::collections::BTreeMap<tower_keep_alive::Key, usize>| {
        let entries = map.iter().map(|(key, count)| (key.to_string(), *count));
        entries.collect::<Vec<_>>()
    };
    let idle = fetch(&client, other.url("/"));
    let busy = join_all((0..5).map(|_| fetch(&client, server.url("/held"))));
    let steps = async {
        eventually("three connect", || connects.waiting() == 3).await;
        // Connecting is in use.
        assert_eq!(handle.status().active.values().sum::<usize>(), 3);
        connects.open_for_all();
        eventually("two are held", || gate.waiting() == 2).await;
        eventually("one is idle", || !handle.status().idle.is_empty()).await;
        let status = handle.status();
        assert_eq!(read(&status.active), names(&server, 2));
        assert_eq!(read(&status.idle), names(&other, 1));
        assert_eq!(read(&status.pending), names(&server, 3));
        assert_eq!(status.open(), 3);
        gate.open_for_all();
    };
    let (idle, busy, ()) = tokio::join!(idle, busy, steps);
    assert!(idle.is_ok() && busy.iter().all(Result::is_ok));
    assert_eq!((server.accepted(), other.accepted()), (2, 1));
    let status = handle.status();
    assert!(status.active.is_empty() && status.pending.is_empty());
    assert_eq!(status.idle.len(), 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_106_a_connector_is_any_function_to_any_stream_called_once_a_connection() {
    if not_over_h2("its stream is a server of HTTP/1.1 itself") {
        return;
    }
    for delay in [Duration::ZERO, Duration::from_millis(70)] {
        let calls = Arc::new(AtomicUsize::new(0));
        let connector = {
            let calls = calls.clone();
            UriConnector::new(service_fn(move |uri: Uri| {
                let call = calls.fetch_add(1, Ordering::SeqCst);
                async move {
                    assert_eq!(uri.host(), Some("in-memory.test"));
                    if !delay.is_zero() {
                        tokio::time::sleep(delay).await;
                    }
                    if call == 2 {
                        return Err(io::Error::other("no third one"));
                    }
                    let (ours, theirs) = tokio::io::duplex(1024);
                    tokio::spawn(answer(theirs));
                    Ok(ours)
                }
            }))
        };
        let layer = KeepAliveLayer::new().max_connections_per_host(2);
        let (client, handle) = agent_paused(layer, connector);
        let url = "http://in-memory.test/";
        let answers = join_all((0..6).map(|_| fetch(&client, url))).await;
        assert!(
            answers
                .iter()
                .all(|answer| answer.as_ref().unwrap().body == "ok")
        );
        assert_eq!(calls.load(Ordering::SeqCst), 2);
        handle.close_idle();
        eventually("both are closed", || handle.status().open() == 0).await;
        let error = fetch(&client, url).await.expect_err("it fails");
        assert!(error.is_connect(), "{error:?}");
        assert_eq!(calls.load(Ordering::SeqCst), 3);
        at_rest(&handle).await;
    }
}

/// A server on a stream without an address, a socket or a look at it.
async fn answer(mut stream: tokio::io::DuplexStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut request = Vec::new();
    while matches!(stream.read_buf(&mut request).await, Ok(1..)) {
        if request.ends_with(b"\r\n\r\n") {
            request.clear();
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn node_106_a_connect_that_hangs_holds_up_nobody_for_longer_than_its_timeout() {
    let server = Server::in_memory(script::ok);
    let gate = Gate::new();
    let counting = CountingConnector::new(server.connector()).gate(&gate);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .connect_timeout(Duration::from_millis(100));
    let (client, handle) = agent_paused(layer, counting.clone());
    let (first, second, ()) = tokio::join!(
        fetch(&client, server.url("/")),
        fetch(&client, server.url("/")),
        async {
            eventually("the first connects", || gate.waiting() == 1).await;
            eventually("it is given up", || handle.status().create_errors == 1).await;
            gate.open_for_all();
        }
    );
    let error = first.expect_err("it hangs");
    assert!(error.is_connect() && error.is_timeout(), "{error:?}");
    assert_eq!(error.timeout(), Some(Duration::from_millis(100)));
    assert!(second.is_ok());
    assert_eq!((counting.made(), counting.max_alive()), (2, 1));
    at_rest(&handle).await;
}
