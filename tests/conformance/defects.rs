//! S. Known defects of agentkeepalive.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{CloseReason, KeepAliveLayer};

use super::timeouts::{
    closes_after_silence, ended_by, late, ms, silence_ends_connection, silent_for, timed, took,
};
use crate::support::agent::{agent_paused, at_rest, fetch, get, read};
use crate::support::{CountingConnector, Server, eventually, not_over_h2, script, settle};

/// The idle timeout of 100 ms and a service of 400 ms, as reported upstream.
async fn a_queued_request_outlasts_the_idle_timeout(head: &'static str, connections: usize) {
    let server = Server::in_memory(move |mut conn| async move {
        while conn.request().await.is_some() {
            sleep(ms(400)).await;
            conn.respond_with(head, "ok").await;
        }
    });
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .idle_timeout(ms(100));
    let (client, handle) = agent_paused(layer, counting.clone());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    settle().await;
    assert_eq!((counting.made(), counting.max_alive()), (connections, 1));
    let status = handle.status();
    assert_eq!((status.completed, status.timeouts), (3, 0));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_28_the_idle_timeout_does_not_touch_a_connection_that_was_handed_over() {
    a_queued_request_outlasts_the_idle_timeout("HTTP/1.1 200 OK", 1).await;
}

#[tokio::test(start_paused = true)]
async fn ak_28_the_idle_timeout_does_not_touch_a_connection_that_replaces_another() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    a_queued_request_outlasts_the_idle_timeout("HTTP/1.1 200 OK\r\nConnection: close", 3).await;
}

#[tokio::test(start_paused = true)]
async fn ak_28_a_server_hint_does_not_touch_a_connection_that_was_handed_over() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let hint = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2";
    let server = Server::in_memory(move |mut conn| async move {
        while conn.request().await.is_some() {
            sleep(ms(4000)).await;
            conn.respond_with(hint, "ok").await;
        }
    });
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, server.connector());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().timeouts, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_28_the_idle_timeout_does_not_touch_the_replacement_of_a_failed_one() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            sleep(ms(400)).await;
            if conn.index == 0 {
                return conn.rst();
            }
            conn.respond("ok").await;
        }
    });
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .idle_timeout(ms(100));
    let (client, handle) = agent_paused(layer, counting.clone());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers[0].is_err());
    assert!(answers[1..].iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((counting.made(), counting.max_alive()), (2, 1));
    assert_eq!(handle.status().timeouts, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_29_callers_that_time_out_do_not_raise_the_limit() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    let server = Server::in_memory(script::stall);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, counting.clone());
    let impatient = ServiceBuilder::new().timeout(ms(100)).service(client);
    // One after the other in line: each hangs for its own 100 ms, or never comes to be sent.
    let requests = (0..4).map(|n| {
        let (impatient, server) = (impatient.clone(), &server);
        async move {
            sleep(ms(30 * n)).await;
            impatient.oneshot(get(server.url("/"))).await
        }
    });
    for answer in join_all(requests).await {
        let error = answer.expect_err("nobody answers");
        assert!(error.is::<tower::timeout::error::Elapsed>(), "{error:?}");
    }
    eventually("all are closed", || counting.alive() == 0).await;
    assert!(counting.made() >= 2, "the next in line has its turn");
    assert_eq!(counting.max_alive(), 1);
    let status = handle.status();
    assert_eq!(status.created, status.closed);
    assert_eq!(status.completed, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_29_callers_that_go_do_not_raise_the_limit() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/body" {
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome")
                    .await;
            } else if head.target == "/ok" {
                conn.respond("ok").await;
            }
        }
    });
    // Some go while they connect, some while they wait for a head, some in the middle of a body.
    let counting = CountingConnector::new(server.connector()).delay(ms(20));
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, counting.clone());
    let requests = (0..40).map(|n: u64| {
        let (client, server) = (&client, &server);
        async move {
            let path = ["/ok", "/hang", "/body"][n as usize % 3];
            let exchange = async {
                let response = client.request(get(server.url(path))).await.unwrap();
                read(response).await.unwrap()
            };
            // Never before its turn: at different times of its own connect or exchange.
            tokio::time::timeout(ms(40 * n + n % 7 * 6), exchange)
                .await
                .is_ok()
        }
    });
    let served = join_all(requests).await;
    assert!(served.contains(&true) && served.contains(&false));
    assert_eq!(counting.max_alive(), 1);
    // No permit is lost.
    fetch(&client, server.url("/ok")).await.unwrap();
    settle().await;
    assert_eq!(counting.alive(), 1);
    assert_eq!(handle.status().idle.len(), 1);
    assert!(!handle.status().closes.contains_key(&CloseReason::Connect));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_28_only_the_active_timeout_ends_a_connection_in_use() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .idle_timeout(ms(100))
        .active_timeout(ms(1000));
    let (client, handle) = agent_paused(layer, server.connector());
    let (first, second, (third, elapsed)) = tokio::join!(
        fetch(&client, server.url("/0")),
        fetch(&client, server.url("/400")),
        timed(fetch(&client, server.url("/never"))),
    );
    first.unwrap();
    assert!(second.unwrap().info.is_reused());
    assert!(silent_for(third, ms(1000)).is_reused());
    took(elapsed, ms(1400));
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().closes, closes_after_silence());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_28_the_idle_timeout_does_not_touch_the_replacement_of_a_silent_one() {
    let server = Server::in_memory(late);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .idle_timeout(ms(100))
        .active_timeout(ms(1000));
    let (client, handle) = agent_paused(layer, server.connector());
    let (first, (second, elapsed)) = tokio::join!(
        fetch(&client, server.url("/never")),
        timed(fetch(&client, server.url("/400"))),
    );
    silent_for(first, ms(1000));
    let ended = ended_by(1);
    assert_eq!(second.unwrap().info.is_reused(), ended == 0);
    took(elapsed, ms(1400));
    assert_eq!(server.accepted() as u64, 1 + ended);
    assert_eq!(handle.status().timeouts, ended);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_29_active_timeouts_do_not_raise_the_limit() {
    // Silent before the head, and in the middle of a body.
    let server = Server::in_memory(|mut conn| async move {
        let mut number = conn.index;
        while conn.request().await.is_some() {
            if number % 2 == 1 {
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome")
                    .await;
            }
            number += 1;
        }
    });
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .active_timeout(ms(100));
    let (client, handle) = agent_paused(layer, counting.clone());
    let requests = (0..8).map(|_| timed(fetch(&client, server.url("/"))));
    let mut before = Duration::ZERO;
    for (answer, elapsed) in join_all(requests).await {
        silent_for(answer, ms(100));
        took(elapsed - before, ms(100));
        before = elapsed;
    }
    let (made, left) = match silence_ends_connection() {
        true => (8, 0),
        false => (1, 1),
    };
    eventually("all others are closed", || counting.alive() == left).await;
    assert_eq!((counting.made(), counting.max_alive()), (made, 1));
    let status = handle.status();
    assert_eq!((status.created, status.open()), (made as u64, left));
    assert_eq!(status.timeouts, ended_by(8));
    at_rest(&handle).await;
}
