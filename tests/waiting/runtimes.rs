//! A runtime that is alive and that nobody drives keeps nobody of another runtime waiting.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Waker};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::time::{Instant, timeout};
use tower_keep_alive::{CloseReason, KeepAliveLayer};

use crate::support::agent::{Client, agent, agent_over, fetch, get};
use crate::support::{CountingConnector, Gate, Server, eventually, script};
use crate::undriven::{Kept, undriven};

type Layers = KeepAliveLayer<Full<Bytes>>;

const LONG: Duration = Duration::from_secs(20);

/// Its connection is idle, and its runtime is not driven.
fn leaves_one_idle(client: &Client, url: String) -> Kept {
    let (answer, runtime) = undriven(fetch(client, url));
    answer.unwrap();
    runtime
}

async fn is_served(client: &Client, url: String) {
    let begun = Instant::now();
    timeout(LONG, fetch(client, url))
        .await
        .expect("it hangs")
        .unwrap();
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_of_a_runtime_that_is_not_driven_makes_room() {
    let server = Server::ok().await;
    let other = Server::ok().await;
    for (layer, second) in [
        (Layers::new().max_connections_per_host(1), &server),
        (Layers::new().max_connections(1), &server),
        // Of another host.
        (Layers::new().max_connections(1), &other),
    ] {
        let (client, handle) = agent(layer);
        let runtime = leaves_one_idle(&client, server.url("/"));
        is_served(&client, second.url("/")).await;
        let status = handle.status();
        assert_eq!(
            (status.created, status.closed, status.open()),
            (2, 1, 1),
            "{status}"
        );
        assert_eq!(status.closes[&CloseReason::Room], 1, "{status}");
        // Whatever its driver still does says nothing twice.
        drop(runtime);
        is_served(&client, second.url("/")).await;
        assert_eq!(handle.status().closed, 1);
    }
}

/// The end comes to the server, too: no connection is open beside the limit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_makes_room_is_closed_in_the_network() {
    let server = Server::ok().await;
    let (client, _handle) = agent(Layers::new().max_connections_per_host(1));
    let _runtime = leaves_one_idle(&client, server.url("/"));
    is_served(&client, server.url("/")).await;
    eventually("one is open", || server.open() == 1).await;
    assert_eq!(server.accepted(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_checkout_timeout_is_enough_to_have_one_closed() {
    let server = Server::ok().await;
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent(layer.checkout_timeout(Duration::from_millis(1_000)));
    let _runtime = leaves_one_idle(&client, server.url("/"));
    is_served(&client, server.url("/")).await;
    assert_eq!(handle.status().created, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_dropped_outside_of_its_runtime_passes_its_place_on() {
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12")
                .await;
            if conn.request().await.is_none() {
                return;
            }
        }
    })
    .await;
    let ok = Server::ok().await;
    for inside in [false, true] {
        let (client, handle) = agent(Layers::new().max_connections(1));
        let request = client.request(get(server.url("/")));
        let (response, runtime) = undriven(async {
            let response = request.await.unwrap();
            // In its runtime, whose driver does not hear of it any more.
            (!inside).then_some(response)
        });
        // Or in none at all.
        thread::spawn(move || drop(response)).join().unwrap();
        is_served(&client, ok.url("/")).await;
        let status = handle.status();
        assert_eq!(
            (status.created, status.closed, status.open()),
            (2, 1, 1),
            "{status}"
        );
        drop(runtime);
        assert_eq!(handle.status().closed, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_in_a_runtime_that_is_not_driven_ends_with_its_time() {
    let server = Server::in_memory(script::ok);
    let connects = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&connects);
    let limit = Duration::from_millis(300);
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer.connect_timeout(limit), connector.clone());
    let mut request = Box::pin(client.request(get(server.url("/"))));
    let ([request], runtime) = undriven(async move {
        // It has begun, and is kept.
        let request_once = Pin::new(&mut request);
        assert!(
            request_once
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        [request]
    });
    assert_eq!(connects.waiting(), 1);
    connects.open(1);
    let begun = Instant::now();
    let url = server.url("/");
    let answer = tokio::spawn({
        let client = client.clone();
        async move { timeout(LONG, fetch(&client, url)).await }
    });
    eventually("the connect is given up", || {
        handle.status().create_errors == 1
    })
    .await;
    connects.open_for_all();
    answer.await.unwrap().expect("it hangs").unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let status = handle.status();
    assert_eq!(status.closes[&CloseReason::ConnectTimeout], 1, "{status}");
    drop((request, runtime));
    assert_eq!((handle.status().created, handle.status().closed), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drain_ends_though_a_runtime_is_not_driven() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new());
    let runtime = leaves_one_idle(&client, server.url("/"));
    timeout(LONG, handle.drain()).await.expect("it hangs");
    let status = handle.status();
    assert_eq!(
        (status.created, status.closed, status.open()),
        (1, 1, 0),
        "{status}"
    );
    drop((client, runtime));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn destroy_closes_what_is_in_use_in_a_runtime_that_is_not_driven() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12")
            .await;
        conn.request().await;
    })
    .await;
    let (client, handle) = agent(Layers::new());
    let request = client.request(get(server.url("/")));
    let (response, runtime) = undriven(async { request.await.unwrap() });
    assert_eq!(server.open(), 1);
    handle.destroy();
    let status = handle.status();
    assert_eq!(
        (status.created, status.closed, status.open()),
        (1, 1, 0),
        "{status}"
    );
    eventually("the server hears of it", || server.open() == 0).await;
    drop((response, runtime));
    assert_eq!(handle.status().closed, 1);
}

/// A caller whose future was handed a connection in a runtime that is not driven any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_to_a_runtime_that_is_not_driven_goes_to_the_next() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new().max_connections_per_host(1));
    let held = client.request(get(server.url("/"))).await.unwrap();
    let ([task], runtime) = undriven({
        let (client, url) = (client.clone(), server.url("/"));
        async move {
            let task = tokio::spawn(async move { fetch(&client, url).await });
            tokio::task::yield_now().await;
            [task]
        }
    });
    eventually("it waits", || {
        handle.status().pending.values().sum::<usize>() == 1
    })
    .await;
    let next = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { is_served(&client, url).await }
    });
    crate::support::agent::read(held).await.unwrap();
    next.await.unwrap();
    // It comes at last, and is served.
    let answer = tokio::task::spawn_blocking(move || runtime.drive(task));
    answer.await.unwrap().unwrap().unwrap();
}

/// It began to wait in a runtime that nobody drives any more. What it waits for has to be closed from where it is now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_who_moves_to_another_runtime_is_served_there() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new().max_connections_per_host(1));
    let idle = leaves_one_idle(&client, server.url("/"));
    let mut request = Box::pin(client.request(get(server.url("/"))));
    let ([request], runtime) = undriven(async move {
        let polled = request
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        [request]
    });
    let response = timeout(LONG, request).await.expect("it hangs").unwrap();
    crate::support::agent::read(response).await.unwrap();
    assert_eq!(handle.status().created, 2);
    drop((idle, runtime));
}
