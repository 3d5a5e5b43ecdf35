//! Ends of a connection that several requests share.

use std::future::Future;
use std::time::Duration;

use super::{Layers, alone, alone_on_runtime, busy_runtime, closes, runtime};
use crate::support::agent::{agent, at_rest, fetch, get, read};
use crate::support::frames::setting;
use crate::support::http2::Server;
use crate::support::{Gate, eventually};
use futures_util::FutureExt;
use tower_keep_alive::{CloseReason, Protocol};

fn layers() -> Layers {
    let layers = Layers::new().max_connections_per_host(1);
    layers.protocol(Protocol::Http2)
}

/// Has two streams at a time. Answers `/half` with half a body at once; the rest of it, and all else, when told.
async fn server(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn| {
        let gate = gate.clone();
        async move {
            conn.open([(setting::MAX_CONCURRENT_STREAMS, 2)]).await;
            let mut open = Vec::new();
            loop {
                conn.flush().await;
                tokio::select! {
                    frame = conn.next() => {
                        if frame.is_none() {
                            return;
                        }
                    }
                    () = gate.pass(), if !open.is_empty() => {
                        match open.remove(0) {
                            (stream, true) => conn.data(stream, b"lf", true).await,
                            (stream, false) => conn.respond(stream, 200, b"whole").await,
                        }
                    }
                }
                while let Some(request) = conn.take_request() {
                    let is_half = request.path() == "/half";
                    if is_half {
                        let head = [(":status", "200")];
                        conn.headers(request.stream, &head, false).await;
                        conn.data(request.stream, b"ha", false).await;
                    }
                    open.push((request.stream, is_half));
                }
            }
        }
    })
    .await
}

async fn soon<T>(it: impl Future<Output = T>) -> T {
    let it = tokio::time::timeout(Duration::from_secs(5), it);
    it.await.expect("it does not hang")
}

#[test]
fn destroy_fails_all_requests_of_a_shared_connection_with_shut_down() {
    alone_on_runtime(|| async {
        let server = server(&Gate::new()).await;
        let (client, handle) = agent(layers());
        let ask = |path| {
            let (client, url) = (client.clone(), server.url(path));
            tokio::spawn(async move { fetch(&client, url).await })
        };
        let half = client.request(get(server.url("/half"))).await.unwrap();
        let silent = ask("/silent");
        eventually("both are there", || server.log.requests().len() == 2).await;
        let in_line = ask("/in-line");
        eventually("one is in line", || {
            handle.status().pending.values().sum::<usize>() == 1
        })
        .await;
        handle.destroy();
        for failing in [silent, in_line] {
            let error = soon(failing).await.unwrap().unwrap_err();
            assert!(error.is_shut_down(), "{error:?}");
        }
        let error = soon(read(half)).await.unwrap_err();
        assert!(error.is_shut_down(), "{error:?}");
        eventually("the connection is closed", || server.open() == 0).await;
        let status = handle.status();
        assert_eq!((status.created, status.closed, status.open()), (1, 1, 0));
        assert_eq!(closes(&handle, CloseReason::Shutdown), 1);
        at_rest(&handle).await;
    });
}

#[test]
fn drain_lets_all_requests_of_a_shared_connection_finish() {
    alone_on_runtime(|| async {
        let gate = Gate::new();
        let server = server(&gate).await;
        let (client, handle) = agent(layers());
        let half = client.request(get(server.url("/half"))).await.unwrap();
        let whole = {
            let (client, url) = (client.clone(), server.url("/whole"));
            tokio::spawn(async move { fetch(&client, url).await })
        };
        eventually("both are there", || server.log.requests().len() == 2).await;
        let mut drained = Box::pin(handle.drain());
        assert!(drained.as_mut().now_or_never().is_none());
        let late = fetch(&client, server.url("/late")).now_or_never();
        assert!(late.expect("at once").unwrap_err().is_shut_down());
        gate.open(1);
        assert_eq!(soon(read(half)).await.unwrap().body, "half");
        assert!(drained.as_mut().now_or_never().is_none());
        gate.open(1);
        assert_eq!(soon(whole).await.unwrap().unwrap().body, "whole");
        soon(drained).await;
        let status = handle.status();
        assert_eq!((status.created, status.closed, status.open()), (1, 1, 0));
        assert_eq!(server.log.requests().len(), 2);
        at_rest(&handle).await;
    });
}

#[test]
fn a_runtime_that_dies_ends_all_requests_of_its_shared_connection() {
    alone(|| {
        let home = busy_runtime();
        let gate = Gate::new();
        let server = home.block_on(server(&gate));
        let (client, handle) = agent(layers());
        let guest = runtime();
        let (half, stuck) = guest.block_on(async {
            let half = client.request(get(server.url("/half"))).await.unwrap();
            let mut stuck = Box::pin(client.request(get(server.url("/stuck"))));
            assert!(stuck.as_mut().now_or_never().is_none());
            eventually("both are there", || server.log.requests().len() == 2).await;
            (half, stuck)
        });
        assert_eq!(handle.status().open(), 1);
        drop(guest);
        home.block_on(async {
            let error = soon(stuck).await.unwrap_err();
            assert!(error.is_reset() && !error.is_unsent(), "{error:?}");
            let error = soon(read(half)).await.unwrap_err();
            assert!(error.to_string().contains("to its end"), "{error:?}");
            let status = handle.status();
            assert_eq!((status.created, status.closed, status.open()), (1, 1, 0));
            // Their place is free, and the next request has another connection.
            gate.open_for_all();
            let next = soon(fetch(&client, server.url("/next"))).await.unwrap();
            assert_eq!((&*next.body, next.info.is_reused()), ("whole", false));
            assert_eq!(handle.status().created, 2);
            drop(client);
            eventually("the server sees it go", || server.open() == 0).await;
            at_rest(&handle).await;
        });
    });
}
