//! What ends connections: the last clone, `close_idle`, `drain` and `destroy`.

use std::time::Duration;

use super::{Belongings, Layers, alone_on_runtime, closes, gated, halves};
use crate::support::agent::{Connector, agent, agent_over, at_rest, fetch, get, read};
use crate::support::{Conn, CountingConnector, Gate, Server, Sockets, eventually, script};
use futures_util::FutureExt;
use tower::Layer;
use tower_keep_alive::CloseReason;

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
        crate::support::settle().await;
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
        crate::support::settle().await;
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
        crate::support::settle().await;
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
        crate::support::settle().await;
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
        let upload = crate::support::agent::post(server.url("/"), vec![0; 16 << 20]);
        let sent = tokio::spawn({
            let client = client.clone();
            async move { crate::support::agent::send(&client, upload).await }
        });
        eventually("it uploads", || server.requests() == 1).await;
        handle.destroy();
        let error = sent.await.unwrap().unwrap_err();
        assert!(error.is_shut_down(), "{error:?}");
        at_rest(&handle).await;
        assert_eq!(handle.status().open(), 0);
    });
}
