//! An end is an end: connections close, tasks stop, descriptors come back, and whoever waits is told.
//!
//! The tests run one at a time: they count what the whole process has.

mod support;

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use support::agent::{Client, Connector, agent, agent_over, at_rest, fetch, get, read};
use support::{Conn, CountingConnector, Gate, Server, Sockets, alive_tasks, eventually, script};
use tokio::runtime::{Builder, Runtime};
use tower::Layer;
use tower_keep_alive::{AgentHandle, CloseReason, KeepAliveLayer};

#[cfg(target_os = "linux")]
use support::fd_count;
#[cfg(not(target_os = "linux"))]
fn fd_count() -> usize {
    0
}

type Layers = KeepAliveLayer<Full<Bytes>>;

/// Runs a test while no other one does.
fn alone(test: impl FnOnce()) {
    static HOUSE: Mutex<()> = Mutex::new(());
    let _house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    test();
}

/// Runs a test on a runtime that only it has, while no other one runs.
fn alone_on_runtime<F>(test: impl FnOnce() -> F)
where
    F: Future<Output = ()>,
{
    alone(|| runtime().block_on(test()));
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A runtime of which a thread of its own is always at work.
fn busy_runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Answers with half a body at once, and with the rest when told.
async fn halves(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
                    .await;
                tokio::select! {
                    () = gate.pass() => conn.send("lf").await,
                    () = conn.gone() => return,
                }
            }
        }
    })
    .await
}

/// Answers when told.
async fn gated(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                tokio::select! {
                    () = gate.pass() => conn.respond("ok").await,
                    () = conn.gone() => return,
                }
            }
        }
    })
    .await
}

/// What the process and the runtime have, to come back to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Belongings {
    fds: usize,
    tasks: usize,
}

impl Belongings {
    fn now() -> Self {
        Self {
            fds: fd_count(),
            tasks: alive_tasks(),
        }
    }

    async fn are_back(self) {
        // Without the tasks of the server that wait for the client to close, and its sockets: they go with ours.
        eventually("all descriptors and tasks are back", || Self::now() == self).await;
    }
}

fn closes(handle: &AgentHandle, reason: CloseReason) -> u64 {
    handle.status().closes.get(&reason).copied().unwrap_or(0)
}

#[test]
fn last_clone_dropped_closes_idle_connections_and_ends_tasks() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = gated(&gate).await;
        let before = Belongings::now();
        // Longer than anybody here waits: no timer is to do what the drop has to.
        let (client, handle) = agent(Layers::new().idle_timeout(Duration::from_secs(60)));
        let clone = client.clone();
        let fetches: Vec<_> = (0..5)
            .map(|_| {
                let (client, url) = (client.clone(), server.url("/"));
                tokio::spawn(async move { fetch(&client, url).await })
            })
            .collect();
        eventually("five in flight", || server.requests() == 5).await;
        gate.open_for_all();
        for fetch in fetches {
            fetch.await.unwrap().unwrap();
        }
        assert_eq!(handle.status().open(), 5);
        assert_ne!(Belongings::now(), before);

        drop(client);
        support::settle().await;
        assert_eq!(handle.status().open(), 5, "there is another clone");
        assert!(
            fetch(&clone, server.url("/"))
                .await
                .unwrap()
                .info
                .is_reused()
        );

        drop(clone);
        before.are_back().await;
        let status = handle.status();
        assert_eq!((status.created, status.closed, status.open()), (5, 5, 0));
        assert_eq!(closes(&handle, CloseReason::Shutdown), 5);
        assert_eq!(server.open(), 0);
        at_rest(&handle).await;
    });
}

/// The layer, its clones and the handle make services and show them; they keep none alive.
#[test]
fn neither_layer_nor_handle_keeps_connections() {
    alone_on_runtime(|| async {
        let server = Server::ok().await;
        let before = Belongings::now();
        let layer = Layers::new();
        let (handle, other) = (layer.handle(), layer.clone());
        let client = layer.layer(Connector);
        fetch(&client, server.url("/")).await.unwrap();
        drop(client);
        before.are_back().await;
        assert_eq!(other.handle().status().closed, 1);
        at_rest(&handle).await;
    });
}

#[test]
fn a_body_outlives_its_service_and_its_status_stays_true() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = halves(&gate).await;
        let before = Belongings::now();
        let (client, handle) = agent(Layers::new());
        let response = client.request(get(server.url("/"))).await.unwrap();
        drop(client);
        support::settle().await;
        let status = handle.status();
        assert_eq!(status.active.values().sum::<usize>(), 1, "{status}");
        assert_eq!(status.completed, 0);

        gate.open(1);
        assert_eq!(read(response).await.unwrap().body, "half");
        before.are_back().await;
        let status = handle.status();
        assert_eq!((status.completed, status.closed, status.open()), (1, 1, 0));
        assert_eq!(
            closes(&handle, CloseReason::Shutdown),
            1,
            "nobody could use it again"
        );
        at_rest(&handle).await;
    });
}

/// So does a response that has not begun.
#[test]
fn a_request_outlives_its_service() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = gated(&gate).await;
        let before = Belongings::now();
        let (client, handle) = agent(Layers::new().max_connections_per_host(1));
        let mut first = Box::pin(client.request(get(server.url("/1"))));
        let mut second = Box::pin(client.request(get(server.url("/2"))));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(second.as_mut().now_or_never().is_none());
        drop(client);
        gate.open_for_all();
        assert_eq!(read(first.await.unwrap()).await.unwrap().body, "ok");
        assert_eq!(read(second.await.unwrap()).await.unwrap().body, "ok");
        before.are_back().await;
        at_rest(&handle).await;
        assert_eq!(handle.status().open(), 0);
    });
}

#[test]
fn close_idle_leaves_what_is_in_flight() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = halves(&gate).await;
        let (client, handle) = agent(Layers::new());
        let first = client.request(get(server.url("/"))).await.unwrap();
        let second = client.request(get(server.url("/"))).await.unwrap();
        gate.open(1);
        read(first).await.unwrap();
        assert_eq!(handle.status().idle.values().sum::<usize>(), 1);

        handle.close_idle();
        eventually("one is closed", || server.open() == 1).await;
        let status = handle.status();
        assert!(status.idle.is_empty());
        assert_eq!((status.closed, status.open()), (1, 1));
        assert_eq!(closes(&handle, CloseReason::Shutdown), 1);

        gate.open_for_all();
        assert_eq!(read(second).await.unwrap().body, "half");
        let third = fetch(&client, server.url("/")).await.unwrap();
        assert!(third.info.is_reused(), "what came back later is kept");
        assert_eq!(server.accepted(), 2);
        handle.close_idle();
        eventually("all are closed", || server.open() == 0).await;
        at_rest(&handle).await;
    });
}

#[test]
fn drain_finishes_what_is_let_in_and_refuses_what_is_not() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = halves(&gate).await;
        let before = Belongings::now();
        let (client, handle) = agent(Layers::new().max_connections_per_host(2));
        let in_flight = client.request(get(server.url("/1"))).await.unwrap();
        let mut waiting = Vec::new();
        for at in 2..5 {
            let (client, url) = (client.clone(), server.url(&format!("/{at}")));
            waiting.push(tokio::spawn(async move { fetch(&client, url).await }));
        }
        eventually("two in flight, two in line", || {
            server.requests() == 2 && handle.status().pending.values().sum::<usize>() == 2
        })
        .await;

        let mut drained = Box::pin(handle.drain());
        let refused = fetch(&client, server.url("/")).now_or_never();
        let refused = refused.expect("at once").unwrap_err();
        assert!(refused.is_shut_down() && refused.is_unsent(), "{refused:?}");
        let refused = fetch(&client, "http://localhost:9/").now_or_never();
        assert!(refused.expect("at once").unwrap_err().is_shut_down());
        assert!(drained.as_mut().now_or_never().is_none());

        // The unread one, and one whose connection goes on to the next in line.
        gate.open(2);
        eventually("the third is sent", || server.requests() == 3).await;
        assert!(drained.as_mut().now_or_never().is_none(), "not all are");
        gate.open_for_all();
        for fetch in waiting {
            assert_eq!(fetch.await.unwrap().unwrap().body, "half");
        }
        assert!(
            drained.as_mut().now_or_never().is_none(),
            "one body is unread"
        );
        assert_eq!(read(in_flight).await.unwrap().body, "half");
        tokio::time::timeout(Duration::from_secs(5), drained)
            .await
            .expect("drained");
        let status = handle.status();
        assert_eq!(status.open(), 0, "{status}");
        assert_eq!((status.completed, status.created, status.closed), (4, 2, 2));
        eventually("the server sees it", || server.open() == 0).await;
        assert!(
            fetch(&client, server.url("/"))
                .await
                .unwrap_err()
                .is_shut_down()
        );
        before.are_back().await;
        at_rest(&handle).await;
    });
}

#[test]
fn drain_with_nothing_open_is_done() {
    alone_on_runtime(|| async {
        let (client, handle) = agent(Layers::new());
        assert!(handle.drain().now_or_never().is_some());
        assert!(handle.drain().now_or_never().is_some(), "again");
        let error = fetch(&client, "http://localhost:9/").await.unwrap_err();
        assert!(error.is_shut_down());
        assert_eq!(handle.status().created, 0);
        at_rest(&handle).await;

        let (client, handle) = agent(Layers::new());
        drop(client);
        assert!(
            handle.drain().now_or_never().is_some(),
            "no service is left"
        );
        let handle = Layers::new().handle();
        assert!(
            handle.drain().now_or_never().is_some(),
            "none was ever made"
        );
    });
}

#[test]
fn drain_closes_idle_connections_and_can_be_left() {
    alone_on_runtime(|| async {
        let server = Server::ok().await;
        let (client, handle) = agent(Layers::new());
        fetch(&client, server.url("/")).await.unwrap();
        drop(handle.drain());
        eventually("closed without anybody waiting for it", || {
            server.open() == 0
        })
        .await;
        assert!(
            fetch(&client, server.url("/"))
                .await
                .unwrap_err()
                .is_shut_down()
        );
        tokio::time::timeout(Duration::from_secs(5), handle.drain())
            .await
            .expect("drained");
        at_rest(&handle).await;
    });
}

/// One agent, many services: the handle sums over them, and drains them all.
#[test]
fn drain_waits_for_every_service_of_its_layer() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = halves(&gate).await;
        let layer = Layers::new();
        let handle = layer.handle();
        let one = layer.layer(Connector);
        let two = layer.clone().layer(Connector);
        let first = one.request(get(server.url("/"))).await.unwrap();
        let second = two.request(get(server.url("/"))).await.unwrap();
        let mut drained = Box::pin(handle.drain());
        gate.open_for_all();
        read(first).await.unwrap();
        support::settle().await;
        assert!(drained.as_mut().now_or_never().is_none());
        read(second).await.unwrap();
        tokio::time::timeout(Duration::from_secs(5), drained)
            .await
            .expect("drained");
        at_rest(&handle).await;
    });
}

#[test]
fn destroy_fails_everything_with_shut_down() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        // The first answers half, the second nothing, the third does not connect, and the fourth is in line.
        let server = halves(&gate).await;
        let silent = Server::start(script::stall).await;
        let connects = Gate::new();
        let connector = CountingConnector::new(Sockets).gate(&connects);
        let before = Belongings::now();
        let layer = Layers::new().max_connections_per_host(2);
        let (client, handle) = agent_over(layer, connector.clone());
        let ask = |url: String| {
            let client = client.clone();
            tokio::spawn(async move { fetch(&client, url).await })
        };

        connects.open(3);
        let idle = Server::ok().await;
        fetch(&client, idle.url("/")).await.unwrap();
        let unread = client.request(get(server.url("/"))).await.unwrap();
        let mut failing = vec![ask(silent.url("/"))];
        eventually("the second is connected", || connector.connected() == 3).await;
        failing.push(ask(silent.url("/")));
        eventually("the third connects", || connects.waiting() == 1).await;
        failing.push(ask(silent.url("/")));
        eventually("the fourth is in line", || {
            handle.status().pending.values().sum::<usize>() == 1
        })
        .await;
        let status = handle.status();
        assert_eq!((status.created, status.open()), (4, 4), "{status}");

        handle.destroy();
        for failing in failing {
            let error = tokio::time::timeout(Duration::from_secs(5), failing);
            let error = error.await.expect("soon").unwrap().unwrap_err();
            assert!(error.is_shut_down(), "{error:?}");
            assert!(!error.is_reset() && !error.is_connect(), "{error:?}");
        }
        let error = read(unread).await.unwrap_err();
        assert!(error.is_shut_down(), "{error:?}");
        eventually("all sockets are closed", || {
            connector.alive() == 0 && server.open() + silent.open() + idle.open() == 0
        })
        .await;
        let status = handle.status();
        assert_eq!((status.created, status.closed, status.open()), (4, 4, 0));

        for url in [server.url("/"), "http://localhost:9/".to_owned()] {
            let error = fetch(&client, url).now_or_never().expect("at once");
            assert!(error.unwrap_err().is_shut_down());
        }
        handle.destroy();
        assert!(handle.drain().now_or_never().is_some());
        assert_eq!(connector.made(), 4);
        drop((client, server, silent, idle));
        // Less than there was: the servers' own have gone as well.
        eventually("no task and no descriptor is left", || {
            let now = Belongings::now();
            now.tasks == 0 && now.fds < before.fds
        })
        .await;
        at_rest(&handle).await;
    });
}

/// Detached connections are nobody's, but an agent that is destroyed ends them too.
#[test]
fn destroy_ends_detached_connections() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = halves(&gate).await;
        let (client, handle) = agent(Layers::new());
        let response = client.request(get(server.url("/"))).await.unwrap();
        response.body().connection().detach();
        let status = handle.status();
        assert_eq!((status.detached, status.open()), (1, 0));
        assert!(
            handle.drain().now_or_never().is_some(),
            "they do not hold it up"
        );
        handle.destroy();
        let failed = tokio::time::timeout(Duration::from_secs(5), read(response));
        let error = failed.await.expect("it is told").unwrap_err();
        assert!(error.is_shut_down(), "{error:?}");
        eventually("it is closed", || server.open() == 0).await;
        at_rest(&handle).await;
    });
}

/// A connection that was to close anyway has not closed yet.
#[test]
fn destroy_is_heard_on_a_last_exchange() {
    alone_on_runtime(|| async {
        let server = Server::start(script::stall).await;
        let (client, handle) = agent(Layers::new().keep_alive(false));
        let mut sent = Box::pin(client.request(get(server.url("/"))));
        eventually("it is sent", || {
            assert!((&mut sent).now_or_never().is_none());
            server.accepted() == 1
        })
        .await;
        support::settle().await;
        handle.destroy();
        let error = sent.await.unwrap_err();
        assert!(error.is_shut_down(), "{error:?}");
        eventually("it is closed", || server.open() == 0).await;
        at_rest(&handle).await;
        assert_eq!(closes(&handle, CloseReason::Shutdown), 1);
    });
}

#[test]
fn destroy_is_heard_in_the_body_of_a_last_answer() {
    alone_on_runtime(|| async {
        let server = Server::start(|mut conn: Conn| async move {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\nha")
                .await;
            conn.gone().await;
        })
        .await;
        let (client, handle) = agent(Layers::new());
        let response = client.request(get(server.url("/"))).await.unwrap();
        handle.destroy();
        let error = read(response).await.unwrap_err();
        assert!(error.is_shut_down(), "{error:?}");
        at_rest(&handle).await;
        assert_eq!(handle.status().closes, [(CloseReason::Shutdown, 1)].into());
    });
}

#[test]
fn destroy_is_heard_in_the_middle_of_an_upload() {
    alone_on_runtime(|| async {
        let server = Server::start(|mut conn: Conn| async move {
            conn.head().await;
            conn.stall().await;
        })
        .await;
        let (client, handle) = agent(Layers::new());
        let upload = support::agent::post(server.url("/"), vec![0; 16 << 20]);
        let sent = tokio::spawn({
            let client = client.clone();
            async move { support::agent::send(&client, upload).await }
        });
        eventually("it uploads", || server.requests() == 1).await;
        handle.destroy();
        let error = sent.await.unwrap().unwrap_err();
        assert!(error.is_shut_down(), "{error:?}");
        at_rest(&handle).await;
        assert_eq!(handle.status().open(), 0);
    });
}

#[test]
fn a_runtime_that_dies_takes_its_connections_with_it() {
    alone(|| {
        let home = busy_runtime();
        let gate = Gate::new();
        let server = home.block_on(halves(&gate));
        let before = fd_count();
        let (client, handle) = agent(Layers::new());
        let url = server.url("/");

        let guest = runtime();
        let with_guest = fd_count();
        gate.open(1);
        let (unread, stuck) = guest.block_on(async {
            fetch(&client, &url).await.unwrap();
            let idle = client.request(get(&url)).await.unwrap();
            assert!(idle.body().connection().is_reused());
            let mut stuck = Box::pin(client.request(get(&url)));
            assert!(stuck.as_mut().now_or_never().is_none());
            (idle, stuck)
        });
        assert_eq!(handle.status().open(), 2);
        drop(guest);
        home.block_on(async {
            let unread = tokio::time::timeout(Duration::from_secs(5), read(unread));
            unread.await.expect("it does not hang").unwrap_err();
        });
        drop(stuck);
        let status = handle.status();
        assert_eq!(status.open(), 0, "{status}");
        assert_eq!((status.created, status.closed), (2, 2));

        // And on another runtime everything goes on, eviction too.
        gate.open_for_all();
        home.block_on(async {
            eventually("the server sees them go", || server.open() == 0).await;
            let answer = fetch(&client, &url).await.unwrap();
            assert_eq!(
                (answer.body.as_str(), answer.info.is_reused()),
                ("half", false)
            );
            assert!(fetch(&client, &url).await.unwrap().info.is_reused());
            drop(client);
            eventually("the server sees it go", || server.open() == 0).await;
            at_rest(&handle).await;
        });
        assert!(fd_count() <= before, "{} {before} {with_guest}", fd_count());
    });
}

/// The task that closes idle connections dies with its runtime; the next connection given back starts another.
#[test]
fn eviction_goes_on_after_its_runtime_died() {
    alone(|| {
        let home = busy_runtime();
        let server = home.block_on(Server::ok());
        let (client, handle) = agent(Layers::new().idle_timeout(Duration::from_millis(50)));
        let guest = runtime();
        guest.block_on(async { fetch(&client, server.url("/")).await.unwrap() });
        drop(guest);
        home.block_on(async {
            let answer = fetch(&client, server.url("/")).await.unwrap();
            assert!(!answer.info.is_reused());
            eventually("it is evicted", || handle.status().open() == 0).await;
            assert_eq!(closes(&handle, CloseReason::Idle), 1);
            eventually("the server sees it go", || server.open() == 0).await;
            at_rest(&handle).await;
        });
        drop(client);
    });
}

/// A caller in line on a runtime that dies leaves its place, and what it was given, to the next.
#[test]
fn callers_of_a_runtime_that_died_are_out_of_line() {
    alone(|| {
        let home = busy_runtime();
        let gate = Gate::new();
        let server = home.block_on(gated(&gate));
        let (client, handle) = agent(Layers::new().max_connections_per_host(1));
        let url = server.url("/");
        let ask = |runtime: &Runtime, client: &Client| {
            let (client, url) = (client.clone(), url.clone());
            runtime.spawn(async move { fetch(&client, url).await })
        };
        let first = ask(&home, &client);
        home.block_on(eventually("one in flight", || server.requests() == 1));
        let guest = runtime();
        let lost = ask(&guest, &client);
        guest.block_on(eventually("one in line", || {
            handle.status().pending.values().sum::<usize>() == 1
        }));
        let last = ask(&home, &client);
        home.block_on(eventually("two in line", || {
            handle.status().pending.values().sum::<usize>() == 2
        }));
        drop(guest);
        gate.open_for_all();
        home.block_on(async {
            assert!(lost.await.unwrap_err().is_cancelled());
            first.await.unwrap().unwrap();
            let last = tokio::time::timeout(Duration::from_secs(5), last);
            assert_eq!(last.await.expect("soon").unwrap().unwrap().body, "ok");
            at_rest(&handle).await;
        });
        assert_eq!(server.accepted(), 1);
    });
}

/// A connect that goes on for the pool goes with its runtime, and its permit does not.
#[test]
fn a_connect_dies_with_its_runtime_and_passes_its_slot_on() {
    alone(|| {
        let home = busy_runtime();
        let server = home.block_on(Server::ok());
        let connects = Gate::new();
        let connector = CountingConnector::new(Sockets).gate(&connects);
        let layer = Layers::new().max_connections_per_host(1);
        let (client, handle) = agent_over(layer, connector.clone());
        let url = server.url("/");
        let guest = runtime();
        let lost = guest.spawn({
            let (client, url) = (client.clone(), url.clone());
            async move { fetch(&client, url).await }
        });
        guest.block_on(eventually("it connects", || connects.waiting() == 1));
        let next = home.spawn({
            let (client, url) = (client.clone(), url.clone());
            async move { fetch(&client, url).await }
        });
        home.block_on(eventually("one in line", || {
            handle.status().pending.values().sum::<usize>() == 1
        }));
        drop(guest);
        connects.open_for_all();
        home.block_on(async {
            assert!(lost.await.unwrap_err().is_cancelled());
            let next = tokio::time::timeout(Duration::from_secs(5), next);
            next.await.expect("it was its turn").unwrap().unwrap();
            at_rest(&handle).await;
        });
        assert_eq!((connector.made(), connector.max_alive()), (2, 1));
        let status = handle.status();
        assert_eq!((status.created, status.closed, status.open()), (2, 1, 1));
    });
}

#[test]
fn everything_can_be_dropped_outside_of_a_runtime() {
    alone(|| {
        let home = busy_runtime();
        let gate = Gate::new();
        let (server, half, silent) = home.block_on(async {
            let silent = Server::start(script::stall).await;
            (Server::ok().await, halves(&gate).await, silent)
        });
        let before = home.block_on(async { Belongings::now() });
        let (client, handle) = agent(Layers::new().max_connections_per_host(1));
        let (unread, stuck, in_line) = home.block_on(async {
            fetch(&client, server.url("/")).await.unwrap();
            let unread = client.request(get(half.url("/"))).await.unwrap();
            let mut stuck = Box::pin(client.request(get(silent.url("/"))));
            assert!(stuck.as_mut().now_or_never().is_none());
            let mut in_line = Box::pin(client.request(get(silent.url("/"))));
            assert!(in_line.as_mut().now_or_never().is_none());
            (unread, stuck, in_line)
        });
        eventually_outside(|| handle.status().idle.len() == 1);
        let status = handle.status();
        assert_eq!((status.open(), status.pending.len()), (3, 1), "{status}");
        drop(unread);
        // Its connect would go on for the one in line, if there were a runtime to go on in.
        drop(stuck);
        drop(in_line);
        drop(client);
        home.block_on(async {
            before.are_back().await;
            assert_eq!(handle.status().open(), 0);
            at_rest(&handle).await;
        });
    });
}

/// As `eventually`, where no runtime is.
fn eventually_outside(condition: impl FnMut() -> bool) {
    runtime().block_on(eventually("it becomes so", condition));
}

/// Also the handle's own doings.
#[test]
fn handles_work_outside_of_a_runtime() {
    alone(|| {
        let home = busy_runtime();
        let server = home.block_on(Server::ok());
        let (client, handle) = agent(Layers::new());
        home.block_on(async { fetch(&client, server.url("/")).await.unwrap() });
        eventually_outside(|| handle.status().idle.len() == 1);
        handle.close_idle();
        home.block_on(eventually("closed", || server.open() == 0));
        home.block_on(async { fetch(&client, server.url("/")).await.unwrap() });
        let drained = handle.drain();
        home.block_on(drained);
        handle.destroy();
        assert_eq!(handle.status().closed, 2);
        home.block_on(at_rest(&handle));
    });
}

/// Where no runtime is, nothing is waited for: the connection is kept if it is free by then, and closed if not.
#[test]
fn a_body_can_be_read_outside_of_a_runtime() {
    alone(|| {
        let home = busy_runtime();
        let server = home.block_on(Server::ok());
        let (client, handle) = agent(Layers::new());
        let response = home.block_on(client.request(get(server.url("/")))).unwrap();
        // As soon as it has come.
        let body = block_on_thread(response.into_body().collect());
        assert_eq!(body.unwrap().to_bytes(), "ok");
        eventually_outside(|| handle.status().active.is_empty());
        drop(client);
        home.block_on(async {
            eventually("the server sees it go", || server.open() == 0).await;
            at_rest(&handle).await;
        });
    });
}

/// Polls on this thread, which is no runtime's.
fn block_on_thread<F: Future>(future: F) -> F::Output {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            std::task::Poll::Ready(output) => return output,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}
