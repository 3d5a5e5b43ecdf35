//! An exchange in a runtime that nobody drives keeps its place no longer than its own limits say.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use tokio::time::timeout;
use tower_keep_alive::{
    CloseReason, KeepAliveLayer, Protocol, TimeoutKind,
    extensions::{InactivityTimeout, RequestTimeout, ResponseTimeout, Route},
};

use crate::support::agent::{agent, at_rest, fetch, get, send};
use crate::support::{Server, eventually, http2};
use crate::undriven::undriven;

type Layers = KeepAliveLayer<Full<Bytes>>;

const LIMIT: Duration = Duration::from_millis(300);
const LONG: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_that_nobody_drives_ends_with_its_limits_when_others_wait() {
    let ok = Server::ok().await;
    for (reason, kind) in [
        (CloseReason::Silence, TimeoutKind::Inactivity),
        (CloseReason::RequestTimeout, TimeoutKind::Request),
        (CloseReason::ResponseTimeout, TimeoutKind::Response),
    ] {
        // It answers nothing.
        let silent = Server::start(|mut conn| async move {
            conn.request().await;
            conn.request().await;
        })
        .await;
        let (client, handle) = agent(Layers::new().max_connections(1));
        let mut request = get(silent.url("/"));
        let said = request.extensions_mut();
        match kind {
            TimeoutKind::Inactivity => drop(said.insert(InactivityTimeout(LIMIT))),
            TimeoutKind::Request => drop(said.insert(RequestTimeout(LIMIT))),
            _ => drop(said.insert(ResponseTimeout(LIMIT))),
        }
        let ([task], runtime) = undriven({
            let (client, silent) = (client.clone(), &silent);
            async move {
                let task = tokio::spawn(async move { send(&client, request).await });
                eventually("it is sent", || silent.requests() == 1).await;
                [task]
            }
        });
        let next = timeout(LONG, fetch(&client, ok.url("/"))).await;
        next.expect("it hangs").unwrap();
        let status = handle.status();
        assert_eq!(status.closes[&reason], 1, "{status}");
        eventually("the server hears of it", || silent.open() == 0).await;
        // Its caller comes at last, and is told.
        let answer = tokio::task::spawn_blocking(move || runtime.drive(task));
        let error = answer.await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.timeout_kind(), Some(kind), "{error}");
        assert_eq!(handle.status().closed, 1);
        at_rest(&handle).await;
    }
}

/// While somebody is blocked, looks are taken at it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_response_that_goes_on_is_not_ended_for_who_waits() {
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")
                .await;
            for _ in 0..10 {
                tokio::time::sleep(LIMIT / 3).await;
                conn.send("x").await;
            }
        }
    })
    .await;
    let (client, handle) = agent(Layers::new().max_connections(1).active_timeout(LIMIT));
    let both = || timeout(LONG, fetch(&client, server.url("/")));
    let (first, second) = tokio::join!(both(), both());
    first.expect("it hangs").unwrap();
    second.expect("it hangs").unwrap();
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

/// The driver of the connection is not driven either, so nobody else ends the exchange.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_drives_keeps_its_connection_for_its_time_and_no_longer() {
    let ok = Server::ok().await;
    for kind in [
        TimeoutKind::Inactivity,
        TimeoutKind::Request,
        TimeoutKind::Response,
    ] {
        // It answers nothing.
        let silent = http2::Server::start(|mut conn| async move {
            conn.open([]).await;
            conn.silence().await;
        })
        .await;
        let (client, handle) = agent(Layers::new().max_connections(1));
        let route = Route::new().with_protocol(Protocol::Http2);
        let mut request = get(silent.url("/"));
        let said = request.extensions_mut();
        said.insert(route);
        match kind {
            TimeoutKind::Inactivity => drop(said.insert(InactivityTimeout(LIMIT))),
            TimeoutKind::Request => drop(said.insert(RequestTimeout(LIMIT))),
            _ => drop(said.insert(ResponseTimeout(LIMIT))),
        }
        let ([task], runtime) = undriven({
            let (client, silent) = (client.clone(), &silent);
            async move {
                let task = tokio::spawn(async move { send(&client, request).await });
                eventually("it is sent", || silent.log.requests().len() == 1).await;
                [task]
            }
        });
        let next = timeout(LONG, fetch(&client, ok.url("/"))).await;
        next.expect("it hangs").unwrap();
        eventually("the server hears of it", || silent.open() == 0).await;
        // Its caller comes at last, and is told.
        let answer = tokio::task::spawn_blocking(move || runtime.drive(task));
        let error = answer.await.unwrap().unwrap().unwrap_err();
        assert_eq!(error.timeout_kind(), Some(kind), "{error:?}");
        assert_eq!(handle.status().closed, 1);
        at_rest(&handle).await;
    }
}
