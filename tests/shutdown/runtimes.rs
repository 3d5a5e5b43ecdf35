//! Runtimes that end before their connections do, and handles outside of any runtime.

use std::error::Error as _;
use std::future::Future;
use std::time::Duration;

use super::{Belongings, Layers, alone, busy_runtime, closes, fd_count, gated, halves, runtime};
use crate::support::agent::{Client, agent, agent_over, at_rest, fetch, get, read};
use crate::support::{CountingConnector, Gate, Server, Sockets, eventually, script};
use bytes::Bytes;
use futures_util::FutureExt;
use http_body_util::{BodyExt, Full};
use tokio::runtime::Runtime;
use tower_keep_alive::CloseReason;

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

/// hyper reports this in the same way as a body that failed.
#[test]
fn a_request_that_loses_the_runtime_of_its_connection_has_failed_and_not_its_body() {
    alone(|| {
        let home = busy_runtime();
        let gate = Gate::new();
        let server = home.block_on(gated(&gate));
        for content in ["", "content"] {
            let (client, handle) = agent(Layers::new());
            let guest = runtime();
            let request = http::Request::post(server.url("/"));
            let request = request.body(Full::new(Bytes::from(content))).unwrap();
            let mut waits = Box::pin(client.request(request));
            let before = server.requests();
            guest.block_on(async {
                eventually("the request is there", || {
                    assert!((&mut waits).now_or_never().is_none());
                    server.requests() > before
                })
                .await;
            });
            drop(guest);
            let error = home.block_on(waits).unwrap_err();
            assert!(!error.is_request_body(), "{content:?}: {error:?}");
            assert!(!error.is_unsent() && !error.is_reset(), "{error:?}");
            let source = error.source().expect("it says why").to_string();
            assert!(source.contains("its runtime was shut down"), "{source}");
            let status = handle.status();
            assert_eq!((status.started, status.failed), (1, 1), "{status}");
            assert_eq!((status.open(), status.closed), (0, 1), "{status}");
        }
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
