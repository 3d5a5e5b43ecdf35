//! Spare connections are kept ready while a host is in use, within all limits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::names::Names;
use crate::spread::{call_until, http2_servers};
#[cfg(target_os = "linux")]
use crate::support::SwallowingPort;
use crate::support::agent::{agent_over, agent_paused, at_rest, fetch, get, read};
use crate::support::{Server, eventually, script, settle};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::sleep;
use tower_keep_alive::{AgentHandle, CloseReason, KeepAliveLayer, Protocol, Spread};

type Layers = KeepAliveLayer<Full<Bytes>>;

const URL: &str = "http://host.test/";
const SECOND: Duration = Duration::from_secs(1);

fn layers() -> Layers {
    Layers::new().min_idle_per_host(2).idle_timeout(10 * SECOND)
}

fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}

/// Idle and active.
fn open(handle: &AgentHandle) -> (usize, usize) {
    let idle = idle(handle);
    (idle, handle.status().open() - idle)
}

/// The task that makes them goes on until it has made enough.
async fn made() {
    settle().await;
    sleep(Duration::from_millis(50)).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_request_finds_a_spare_connection_also_after_a_minute() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(layers(), server.connector());
    let first = client.request(get(URL)).await.unwrap();
    made().await;
    assert_eq!(open(&handle), (2, 1), "made at nobody's cost");
    read(first).await.unwrap();
    sleep(60 * SECOND).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        let response = client.request(get(URL)).await.unwrap();
        assert!(response.body().connection().is_reused());
        held.push(response);
    }
    made().await;
    assert_eq!(open(&handle), (2, 2), "those in use are made good");
    for response in held {
        read(response).await.unwrap();
    }
    drop(client);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn they_are_replaced_before_their_time_is_up() {
    let server = Server::in_memory(script::ok);
    let layers = layers().ttl(5 * SECOND).ttl_jitter(0.5);
    let (client, handle) = agent_paused(layers, server.connector());
    read(client.request(get(URL)).await.unwrap()).await.unwrap();
    made().await;
    for millisecond in 0..6000 {
        assert!(idle(&handle) >= 2, "at {millisecond} of 10 ms");
        sleep(Duration::from_millis(10)).await;
    }
    let status = handle.status();
    assert!(status.closes[&CloseReason::Age] >= 20);
    // About two in each five seconds: none is replaced long before its time.
    assert!(status.created <= 60, "{}", status.created);
    drop(client);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn five_minutes_after_the_last_request_none_is_made() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(layers(), server.connector());
    read(client.request(get(URL)).await.unwrap()).await.unwrap();
    sleep(290 * SECOND).await;
    assert!(idle(&handle) >= 2);
    sleep(30 * SECOND).await;
    assert_eq!(open(&handle), (0, 0));
    // And from the next request on they are there again.
    read(client.request(get(URL)).await.unwrap()).await.unwrap();
    made().await;
    assert!(idle(&handle) >= 2);
    drop(client);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn no_limit_is_passed_for_them() {
    for (layers, expected) in [
        (layers().max_connections_per_host(2), (1, 1)),
        (layers().max_connections(1), (0, 1)),
        (layers().max_idle_per_host(1), (1, 1)),
        // Closed by its server when it has answered.
        (layers().keep_alive(false), (0, 0)),
    ] {
        let server = Server::in_memory(script::ok);
        let (client, handle) = agent_paused(layers, server.connector());
        let held = client.request(get(URL)).await.unwrap();
        made().await;
        assert_eq!(open(&handle), expected);
        read(held).await.unwrap();
        drop(client);
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_that_fails_is_not_tried_without_a_pause() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(layers(), server.connector());
    let held = client.request(get(URL)).await.unwrap();
    made().await;
    assert_eq!(open(&handle), (2, 1));
    drop(server);
    handle.close_idle();
    sleep(60 * SECOND).await;
    let failed = handle.status().create_errors;
    // 20 ms, 40 ms, 80 ms, … up to 30 s.
    assert!((10..60).contains(&failed), "{failed}");
    drop(held);
    drop(client);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_them() {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(layers(), server.connector());
    read(client.request(get(URL)).await.unwrap()).await.unwrap();
    made().await;
    handle.drain().await;
    sleep(10 * SECOND).await;
    assert_eq!(open(&handle), (0, 0));
    at_rest(&handle).await;
    drop(client);
}

#[tokio::test]
async fn a_host_may_have_spare_connections_and_others_none() {
    let server = Server::start_tcp(script::ok).await;
    let layer = Layers::new().for_host("own.test", |host| host.min_idle(3));
    let names = Names::of(std::slice::from_ref(&server));
    let (client, handle) = agent_over(layer, names.connector());
    for url in ["http://own.test/", "http://other.test/"] {
        fetch(&client, url).await.unwrap();
    }
    let idle_of = |host: &str| -> usize {
        let idle = handle.status().idle;
        let of_host = idle.iter().filter(|(key, _)| key.host() == host);
        of_host.map(|(_, count)| count).sum()
    };
    eventually("the host has its own", || idle_of("own.test") >= 3).await;
    assert_eq!(idle_of("other.test"), 1);
    drop(client);
    at_rest(&handle).await;
}

/// One address never answers, and the connect to it that spreads the load takes as long as a connect may.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn they_are_made_good_while_an_address_does_not_answer_the_connect_that_spreads_the_load() {
    let server = http2_servers(1).await.pop().unwrap();
    let hole = SwallowingPort::new().await;
    let names = Names::new(vec![server.addr(), hole.addr()]);
    let layer = Layers::new()
        .min_idle_per_host(2)
        .spread(Spread::FewestOpenFirst)
        .protocol(Protocol::Http2)
        .connect_timeout(600 * SECOND);
    let (client, handle) = agent_over(layer, names.connector());
    let is_over = AtomicBool::new(false);
    let load = call_until(&client, 20, || is_over.load(Ordering::SeqCst));
    let test = async {
        // The one that the server does not have is being made.
        let spreads = || idle(&handle) == 2 && handle.status().open() == server.open() + 1;
        eventually("the connect that spreads the load is under way", spreads).await;
        handle.close_idle();
        eventually("there are two again", || idle(&handle) >= 2).await;
        is_over.store(true, Ordering::SeqCst);
    };
    let (load, ()) = tokio::join!(load, test);
    load.unwrap();
    handle.destroy();
    drop(client);
    at_rest(&handle).await;
}

/// Each answer ends its connection, so each request takes a spare one for good.
#[tokio::test(start_paused = true)]
async fn where_no_connection_is_used_twice_each_request_finds_one() {
    let server = Server::in_memory(script::ok);
    let layers = layers().max_uses(1);
    let (client, handle) = agent_paused(layers, server.connector());
    read(client.request(get(URL)).await.unwrap()).await.unwrap();
    for request in 0..1000 {
        sleep(Duration::from_millis(30)).await;
        let response = client.request(get(URL)).await.unwrap();
        assert!(response.body().connection().is_reused(), "{request}");
        read(response).await.unwrap();
    }
    drop(client);
    at_rest(&handle).await;
}
