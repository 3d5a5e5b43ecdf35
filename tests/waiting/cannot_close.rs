//! A connection whose runtime is not driven, and whose transport has no way to be closed from outside: who needs its place
//! hears so, within the time of a connect.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tower_keep_alive::connect::Probe;
use tower_keep_alive::{
    Body, Error, KeepAliveLayer, TimeoutKind,
    custom::Liveness,
    extensions::InactivityTimeout,
    layers::{CheckoutError, Denied},
};

use crate::support::agent::{agent_over, at_rest, fetch, get};
use crate::support::{MemoryStream, Server, script};
use crate::undriven::{Kept, undriven};

type Layers = KeepAliveLayer<Full<Bytes>>;

const LIMIT: Duration = Duration::from_secs(1);

/// What a caller hears who needs the place of a connection that cannot be closed.
fn is_told_so(error: &Error, within: Duration, begun: Instant) {
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Close), "{error:?}");
    assert!(error.is_unsent() && error.is_timeout(), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("its runtime is not driven"), "{text}");
    assert!(text.contains("Probe::with_close"), "{text}");
    assert!(begun.elapsed() < within, "after {:?}", begun.elapsed());
}

/// Its transport goes when its runtime runs.
fn run(runtime: &Kept) {
    thread::scope(|scope| {
        let run = || runtime.drive(async { sleep(Duration::from_millis(10)).await });
        scope.spawn(run).join().expect("no panic");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_that_cannot_be_closed_fails_those_whom_it_blocks() {
    let server = Server::in_memory(script::ok);
    for (layer, host) in [
        (Layers::new().max_connections_per_host(1), "one.test"),
        (Layers::new().max_connections(1), "one.test"),
        (Layers::new().max_connections(1), "another.test"),
    ] {
        let layer = layer.connect_timeout(LIMIT).idle_timeout(10 * LIMIT);
        let (client, handle) = agent_over(layer, server.connector());
        let (answer, runtime) = undriven(fetch(&client, "http://one.test/"));
        answer.unwrap();
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..3 {
            let (client, url) = (client.clone(), format!("http://{host}/"));
            callers.spawn(async move { fetch(&client, url).await });
        }
        while let Some(answer) = callers.join_next().await {
            is_told_so(&answer.unwrap().unwrap_err(), LIMIT, begun);
        }
        assert_eq!(handle.status().created, 1);
        // Whoever is blocked when it goes is served.
        let caller = tokio::spawn({
            let (client, url) = (client.clone(), format!("http://{host}/"));
            async move { fetch(&client, url).await }
        });
        run(&runtime);
        assert_eq!(caller.await.unwrap().unwrap().body, "ok");
        drop(runtime);
        at_rest(&handle).await;
        assert_eq!((handle.status().created, handle.status().closed), (2, 1));
    }
}

/// Half of it, and no more.
async fn half(mut conn: crate::support::Conn) {
    while conn.request().await.is_some() {
        let half = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n12";
        conn.send(half).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_dropped_outside_of_its_runtime_fails_those_whom_it_blocks() {
    let server = Server::in_memory(half);
    for (layer, host) in [
        (Layers::new().max_connections_per_host(1), "one.test"),
        (Layers::new().max_connections(1), "another.test"),
    ] {
        for inside in [false, true] {
            let layer = layer.clone().connect_timeout(LIMIT);
            let (client, handle) = agent_over(layer, server.connector());
            let request = client.request(get("http://one.test/"));
            let (response, runtime) = undriven(async {
                let response: Response<Body> = request.await.unwrap();
                // In its runtime, whose driver does not hear of it any more.
                (!inside).then_some(response)
            });
            // Or in none at all.
            thread::spawn(move || drop(response)).join().unwrap();
            let begun = Instant::now();
            let blocked = fetch(&client, format!("http://{host}/")).await;
            is_told_so(&blocked.unwrap_err(), LIMIT, begun);
            drop(runtime);
            let served = client
                .request(get(format!("http://{host}/")))
                .await
                .unwrap();
            drop(served);
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_connect_timeout_of_a_request_counts_for_it() {
    let server = Server::in_memory(script::ok);
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer.idle_timeout(10 * LIMIT), server.connector());
    let (answer, runtime) = undriven(fetch(&client, server.url("/")));
    answer.unwrap();
    let begun = Instant::now();
    let mut request = get(server.url("/"));
    request.extensions_mut().insert(InactivityTimeout(LIMIT));
    let error = client.request(request).await.unwrap_err();
    is_told_so(&error, LIMIT, begun);
    assert_eq!(error.timeout(), Some(LIMIT * 3 / 4));
    drop(runtime);
    at_rest(&handle).await;
}

/// One of two places is lost, and the other one serves its turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_its_turn_beside_one_that_cannot_be_closed_is_served() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            sleep(Duration::from_millis(50)).await;
            conn.respond("ok").await;
        }
    });
    let limit = Duration::from_millis(600);
    for layer in [
        Layers::new().max_connections_per_host(2),
        Layers::new().max_connections(2),
    ] {
        let layer = layer.connect_timeout(limit).idle_timeout(10 * LIMIT);
        let (client, handle) = agent_over(layer, server.connector());
        let (answer, runtime) = undriven(fetch(&client, server.url("/")));
        answer.unwrap();
        let begun = Instant::now();
        let mut callers = JoinSet::new();
        for _ in 0..24 {
            let (client, url) = (client.clone(), server.url("/"));
            callers.spawn(async move { fetch(&client, url).await });
        }
        while let Some(answer) = callers.join_next().await {
            answer.unwrap().unwrap();
        }
        assert!(begun.elapsed() > limit, "the line is long");
        drop(runtime);
        at_rest(&handle).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transport_of_your_own_that_can_be_closed_makes_room() {
    let server = Server::in_memory(script::ok);
    let closed = Arc::new(AtomicUsize::new(0));
    let layer = Layers::new().max_connections_per_host(1).probe_with({
        let closed = closed.clone();
        move |_: &MemoryStream| {
            let closed = closed.clone();
            let close = move || {
                closed.fetch_add(1, Ordering::SeqCst);
            };
            Probe::new(|| Liveness::Open).with_close(close)
        }
    });
    let layer = layer.connect_timeout(LIMIT).idle_timeout(10 * LIMIT);
    let (client, handle) = agent_over(layer, server.connector());
    let (answer, runtime) = undriven(fetch(&client, server.url("/")));
    answer.unwrap();
    let answer = timeout(LIMIT, fetch(&client, server.url("/"))).await;
    answer.expect("served in time").unwrap();
    assert_eq!(closed.load(Ordering::SeqCst), 1);
    drop(runtime);
    at_rest(&handle).await;
    assert_eq!((handle.status().created, handle.status().closed), (2, 1));
}

/// For who asks a `Checkout` of its own.
#[test]
fn what_cannot_be_closed_is_named_by_the_checkout_too() {
    let denied = Denied::CannotClose(LIMIT);
    let text = CheckoutError::from(denied).to_string();
    assert!(text.contains("was not closed within 1s"), "{text}");
}
