//! P. The active timeout, as agentkeepalive has it.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::sleep;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{CloseReason, KeepAliveLayer, TimeoutKind};

use super::timeouts::{
    closes_after_silence, ended_by, late, ms, silence_ends_connection, silent_for, timed, took,
    within,
};
use crate::support::agent::{agent_paused, at_rest, fetch, get, post, send};
use crate::support::{CountingConnector, Server, eventually, not_over_h2, script};

fn timing_out(after: Duration) -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().active_timeout(after)
}

#[tokio::test(start_paused = true)]
async fn ak_11_silence_fails_a_first_use() {
    let server = Server::in_memory(late);
    let counting = CountingConnector::new(server.connector());
    let (client, handle) = agent_paused(timing_out(ms(100)), counting.clone());
    let (answer, elapsed) = timed(fetch(&client, server.url("/never"))).await;
    let error = silent_for(answer, ms(100));
    // At once: not when somebody comes to look.
    let status = handle.status();
    assert!(status.active.is_empty());
    let ended = ended_by(1);
    assert_eq!(counting.alive() as u64, 1 - ended);
    took(elapsed, ms(100));
    assert!(!error.is_reused());
    assert_eq!((status.timeouts, status.errors), (ended, ended));
    assert_eq!(status.closes, closes_after_silence());
    assert!(error.to_string().contains("100ms"), "{error}");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_11_silence_fails_a_reuse() {
    let server = Server::in_memory(late);
    let (client, handle) = agent_paused(timing_out(ms(100)), server.connector());
    let first = fetch(&client, server.url("/90")).await.unwrap();
    sleep(ms(50)).await;
    let (answer, elapsed) = timed(fetch(&client, server.url("/never"))).await;
    let error = silent_for(answer, ms(100));
    assert!(handle.status().active.is_empty());
    took(elapsed, ms(100));
    assert!(error.is_reused());
    let failed = error.connection().expect("it had one");
    assert_eq!((failed.id(), failed.uses()), (first.info.id(), 2));
    let ended = ended_by(1);
    assert_eq!(handle.status().timeouts, ended);
    // The next request has a connection of its own, if the silent one has ended.
    fetch(&client, server.url("/0")).await.unwrap();
    assert_eq!(server.accepted() as u64, 1 + ended);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_11_silence_in_a_body_fails_the_body() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome")
            .await;
        conn.closed().await;
    });
    let (client, handle) = agent_paused(timing_out(ms(100)), server.connector());
    let (answer, elapsed) = timed(fetch(&client, server.url("/"))).await;
    silent_for(answer, ms(100));
    took(elapsed, ms(100));
    let status = handle.status();
    assert_eq!((status.timeouts, status.completed), (ended_by(1), 0));
    assert_eq!(status.closes, closes_after_silence());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_11_silence_of_a_server_that_does_not_read_fails_the_upload() {
    let server = Server::in_memory(script::stall);
    let counting = CountingConnector::new(server.connector());
    let (client, handle) = agent_paused(timing_out(ms(100)), counting.clone());
    let request = post(server.url("/"), vec![b'u'; 1 << 20]);
    let (answer, elapsed) = timed(send(&client, request)).await;
    silent_for(answer, ms(100));
    took(elapsed, ms(100));
    let ended = ended_by(1);
    assert_eq!(counting.alive() as u64, 1 - ended);
    assert_eq!(handle.status().timeouts, ended);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_11_an_upload_that_goes_on_behind_its_answer_is_not_waited_for_in_vain() {
    // The head comes early, and then the server neither reads on nor sends the body.
    let server = Server::in_memory(|mut conn| async move {
        conn.head().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome")
            .await;
        conn.stall().await;
    });
    let counting = CountingConnector::new(server.connector());
    let (client, handle) = agent_paused(timing_out(ms(100)), counting.clone());
    let request = post(server.url("/"), vec![b'u'; 1 << 20]);
    let (answer, elapsed) = timed(send(&client, request)).await;
    silent_for(answer, ms(100));
    took(elapsed, ms(100));
    let ended = ended_by(1);
    assert_eq!(counting.alive() as u64, 1 - ended);
    assert_eq!(handle.status().timeouts, ended);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_12_a_name_that_never_resolves_is_in_the_timeout() {
    let resolver = service_fn(|_: Name| pending::<io::Result<std::vec::IntoIter<SocketAddr>>>());
    let connector = TcpConnector::with_resolver(resolver);
    let (client, handle) = agent_paused(timing_out(ms(150)), connector);
    let (answer, elapsed) = timed(fetch(&client, "http://nowhere.test/")).await;
    let error = answer.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
    assert_eq!(error.timeout(), Some(ms(150)));
    took(elapsed, ms(150));
    let status = handle.status();
    assert_eq!((status.timeouts, status.create_errors), (1, 1));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_13_it_is_silence_and_no_deadline() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n")
                .await;
            for byte in ["d", "r", "i", "p", "s", "."] {
                sleep(ms(60)).await;
                conn.send(byte).await;
            }
        }
    });
    let (client, handle) = agent_paused(timing_out(ms(100)), server.connector());
    for _ in 0..2 {
        let (answer, elapsed) = timed(fetch(&client, server.url("/"))).await;
        assert_eq!(answer.unwrap().body, "drips.");
        took(elapsed, ms(360));
    }
    // A deadline is tower's.
    let hasty = ServiceBuilder::new()
        .timeout(ms(30))
        .service(client.clone());
    let response = hasty.oneshot(get(server.url("/"))).await;
    drop(response.expect("its head comes at once"));
    assert_eq!((server.accepted(), handle.status().timeouts), (1, 0));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_14_a_callers_own_timeout_is_no_error_and_frees_the_slot() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    let server = Server::in_memory(late);
    let counting = CountingConnector::new(server.connector());
    let layer = timing_out(ms(1000)).max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, counting.clone());
    fetch(&client, server.url("/0")).await.unwrap();
    let impatient = ServiceBuilder::new()
        .timeout(ms(100))
        .service(client.clone());
    let next = async {
        sleep(ms(50)).await;
        timed(fetch(&client, server.url("/0"))).await
    };
    let given_up = impatient.oneshot(get(server.url("/never")));
    let (given_up, (next, elapsed)) = tokio::join!(given_up, next);
    assert!(given_up.unwrap_err().is::<tower::timeout::error::Elapsed>());
    assert!(!next.unwrap().info.is_reused());
    took(elapsed, ms(50));
    assert_eq!((counting.made(), counting.max_alive()), (2, 1));
    let status = handle.status();
    assert_eq!(
        (status.timeouts, status.errors, status.completed),
        (0, 0, 2)
    );
    assert_eq!(status.closes, [(CloseReason::Abandoned, 1)].into());
    // No timer of the first is left behind to end the second.
    sleep(ms(2000)).await;
    assert_eq!(handle.status().timeouts, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_15_a_request_can_have_more_time_or_less() {
    let server = Server::in_memory(late);
    let (client, handle) = agent_paused(timing_out(ms(1000)), server.connector());
    for own in [ms(50), ms(1500)] {
        // On its first use, and on a reuse.
        for warm in [false, true] {
            if warm {
                fetch(&client, server.url("/0")).await.unwrap();
            }
            let goes_on = server.accepted() > 0 && !silence_ends_connection();
            let request = within(own, server.url("/never"));
            let (answer, elapsed) = timed(send(&client, request)).await;
            assert_eq!(silent_for(answer, own).is_reused(), warm || goes_on);
            took(elapsed, own);
        }
    }
    send(&client, within(ms(1500), server.url("/1400")))
        .await
        .expect("within its own");
    let (answer, elapsed) = timed(fetch(&client, server.url("/1400"))).await;
    assert!(silent_for(answer, ms(1000)).is_reused());
    took(elapsed, ms(1000));
    assert_eq!(handle.status().timeouts, ended_by(5));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_16_there_may_be_no_active_timeout() {
    const DAY: u64 = 24 * 60 * 60 * 1000;
    let server = Server::in_memory(late);
    let path = format!("/{DAY}");
    let (client, handle) = agent_paused(timing_out(Duration::MAX), server.connector());
    let (answer, elapsed) = timed(fetch(&client, server.url(&path))).await;
    answer.unwrap();
    took(elapsed, ms(DAY));
    assert_eq!(handle.status().timeouts, 0);
    // Nor for one request of an agent that has one.
    let (client, handle) = agent_paused(timing_out(ms(100)), server.connector());
    let request = within(Duration::MAX, server.url(&path));
    let (answer, elapsed) = timed(send(&client, request)).await;
    answer.unwrap();
    took(elapsed, ms(DAY));
    assert_eq!(handle.status().timeouts, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn ak_17_each_in_line_has_its_own_time() {
    let server = Server::in_memory(late);
    let counting = CountingConnector::new(server.connector());
    let layer = timing_out(ms(100)).max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, counting.clone());
    let requests = (0..3).map(|_| timed(fetch(&client, server.url("/never"))));
    let mut before = Duration::ZERO;
    for (answer, elapsed) in join_all(requests).await {
        let is_reused = !before.is_zero() && !silence_ends_connection();
        assert_eq!(silent_for(answer, ms(100)).is_reused(), is_reused);
        took(elapsed - before, ms(100));
        before = elapsed;
    }
    let (made, left) = match silence_ends_connection() {
        true => (3, 0),
        false => (1, 1),
    };
    eventually("all others are closed", || counting.alive() == left).await;
    assert_eq!((counting.made(), counting.max_alive()), (made, 1));
    let status = handle.status();
    assert_eq!((status.created, status.open()), (made as u64, left));
    assert_eq!(status.timeouts, ended_by(3));
    at_rest(&handle).await;
}
