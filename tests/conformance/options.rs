//! A. Options, defaults, validation.

use crate::support::agent::{Connector, agent, agent_over, at_rest, fetch, get, read, send};
use crate::support::{
    Conn, CountingConnector, Gate, Server, eventually, not_over_h2, not_over_tls, only_over_tcp,
    settle,
};
use futures_util::future::join_all;
use http::Uri;
use std::net::IpAddr;
use std::time::Duration;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{
    AgentHandle, CloseReason, ConnectionInfo, KeepAliveLayer, Key, Scheduling,
    custom::Target,
    extensions::{OneShot, Partition},
};

const SECOND: Duration = Duration::from_secs(1);

fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}

/// Answers each request when the gate lets it.
async fn gated(mut conn: Conn, gate: Gate) {
    while conn.request().await.is_some() {
        gate.pass().await;
        conn.respond("ok").await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_01_by_default_connections_are_unlimited_and_256_are_kept() {
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::in_memory(move |conn| gated(conn, held.clone()));
    let connector = CountingConnector::new(server.connector());
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    let answers = tokio::join!(
        join_all((0..300).map(|_| fetch(&client, server.url("/")))),
        async {
            eventually("all wait for their answers", || gate.waiting() == 300).await;
            assert!(handle.status().pending.is_empty());
            gate.open_for_all();
        }
    )
    .0;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(connector.made(), 300);
    eventually("all are given back", || handle.status().open() == 256).await;
    let status = handle.status();
    assert_eq!(idle(&handle), 256);
    assert_eq!(status.closes[&CloseReason::Surplus], 44);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_01_by_default_the_one_used_last_is_taken() {
    assert_eq!(Scheduling::default(), Scheduling::Lifo);
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let first = client.request(get(server.url("/"))).await.unwrap();
    let second = fetch(&client, server.url("/")).await.unwrap();
    // Given back after the second, and so used last.
    let first = read(first).await.unwrap();
    eventually("both are idle", || idle(&handle) == 2).await;
    let third = fetch(&client, server.url("/")).await.unwrap();
    assert_ne!(first.info.id(), second.info.id());
    assert_eq!(third.info.id(), first.info.id());
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_02_a_one_shot_says_close_and_is_never_pooled() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/kept")).await.unwrap();
    eventually("the first is idle", || idle(&handle) == 1).await;
    for _ in 0..2 {
        let mut request = get(server.url("/alone"));
        request.extensions_mut().insert(OneShot);
        let answer = send(&client, request).await.unwrap();
        assert!(!answer.info.is_reused());
    }
    let kept = fetch(&client, server.url("/kept")).await.unwrap();
    assert!(kept.info.is_reused());
    let said: Vec<_> = server
        .heads()
        .iter()
        .map(|head| {
            (
                head.connection,
                head.header("connection").map(str::to_owned),
            )
        })
        .collect();
    let close = || Some("close".to_owned());
    assert_eq!(said, [(0, None), (1, close()), (2, close()), (0, None)]);
    eventually("only the first is open", || handle.status().open() == 1).await;
    assert_eq!(handle.status().closed, 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_03_zero_max_idle_per_host_keeps_none() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_idle_per_host(0));
    for _ in 0..3 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert!(!answer.info.is_reused());
        eventually("it is closed", || handle.status().open() == 0).await;
    }
    assert_eq!(server.accepted(), 3);
    assert_eq!(handle.status().closes[&CloseReason::Surplus], 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_03_zero_max_idle_keeps_none() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_idle(0));
    for _ in 0..3 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert!(!answer.info.is_reused());
        eventually("it is closed", || handle.status().open() == 0).await;
    }
    assert_eq!(server.accepted(), 3);
    assert_eq!(handle.status().closes[&CloseReason::Surplus], 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_03_zero_idle_timeout_keeps_none() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().idle_timeout(Duration::ZERO));
    for _ in 0..3 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert!(!answer.info.is_reused());
        eventually("it is closed", || handle.status().open() == 0).await;
    }
    assert_eq!(server.accepted(), 3);
    assert_eq!(handle.status().closes[&CloseReason::Idle], 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_03_zero_max_pending_per_host_lets_nobody_wait() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .max_pending_per_host(0);
    let (client, handle) = agent(layer);
    let held = client.request(get(server.url("/"))).await.unwrap();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_queue_full(), "{error:?}");
    assert!(error.is_unsent());
    read(held).await.unwrap();
    assert_eq!(server.requests(), 1);
    at_rest(&handle).await;
}

#[test]
#[should_panic(expected = "max_connections_per_host must not be 0")]
fn node_03_zero_max_connections_per_host_cannot_be_set() {
    let _ = KeepAliveLayer::<()>::new().max_connections_per_host(0);
}

#[test]
#[should_panic(expected = "max_uses must not be 0")]
fn node_03_zero_max_uses_cannot_be_set() {
    let _ = KeepAliveLayer::<()>::new().max_uses(0);
}

#[test]
#[should_panic(expected = "max_connections must not be 0")]
fn node_04_zero_max_connections_cannot_be_set() {
    let _ = KeepAliveLayer::<()>::new().max_connections(0);
}

#[tokio::test]
async fn node_04_one_is_the_least_of_max_connections() {
    let server = Server::ok().await;
    let connector = CountingConnector::new(Connector);
    let (client, handle) = agent_over(KeepAliveLayer::new().max_connections(1), connector.clone());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(connector.max_alive(), 1);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

/// How long a connection is kept after `Keep-Alive: timeout=2`, to 10 ms.
async fn kept_for(layer: KeepAliveLayer<http_body_util::Full<bytes::Bytes>>, expected: Duration) {
    let server = Server::in_memory(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.respond_with("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2", "ok")
                .await;
        }
    });
    let (client, handle) = agent_over(layer.idle_timeout(60 * SECOND), server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    settle().await;
    let step = Duration::from_millis(10);
    if expected > step {
        assert_eq!(idle(&handle), 1);
        tokio::time::advance(expected - step).await;
        settle().await;
        assert_eq!(idle(&handle), 1, "it is kept until {expected:?}");
        tokio::time::advance(2 * step).await;
        settle().await;
    }
    assert_eq!(idle(&handle), 0, "it is not kept after {expected:?}");
    assert_eq!(handle.status().closes[&CloseReason::Idle], 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_06_the_margin_is_a_second_by_default() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    kept_for(KeepAliveLayer::new(), SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn node_06_the_margin_can_be_set_and_be_zero() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    for (margin, expected) in [
        (Duration::from_millis(1500), Duration::from_millis(500)),
        (Duration::ZERO, 2 * SECOND),
        (2 * SECOND, Duration::ZERO),
        (Duration::MAX, Duration::ZERO),
    ] {
        kept_for(KeepAliveLayer::new().server_hint_margin(margin), expected).await;
    }
}

#[test]
fn node_07_the_scheme_gives_the_port() {
    for (uri, port) in [
        ("http://h/", 80),
        ("https://h/", 443),
        ("http://h:443/", 443),
        ("https://h:80/", 80),
        ("http://h:8080/", 8080),
    ] {
        assert_eq!(Key::from(Uri::from_static(uri).key()).port(), port, "{uri}");
    }
}

#[tokio::test]
async fn node_07_a_connector_for_http_refuses_https_before_any_io() {
    if not_over_tls("it is about a connector without TLS") {
        return;
    }
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let url = format!("https://{}/", server.addr());
    let error = fetch(&client, url).await.unwrap_err();
    assert!(error.is_target(), "{error:?}");
    assert!(error.is_unsent());
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(server.accepted(), 1, "only the second request came");
    assert_eq!(handle.status().create_errors, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_07_a_scheme_that_is_not_http_is_refused_without_a_connect() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let url = format!("ftp://{}/", server.addr());
    let error = fetch(&client, url).await.unwrap_err();
    assert!(error.is_target(), "{error:?}");
    assert_eq!(server.accepted(), 0);
    assert_eq!(handle.status().created, 0);
    at_rest(&handle).await;
}

#[cfg(target_os = "linux")] // Elsewhere only 127.0.0.1 is ours without further ado.
#[tokio::test]
async fn node_09_the_connectors_local_address_stands_for_every_request() {
    if only_over_tcp("it is about IP addresses") {
        return;
    }
    let server = Server::ok().await;
    let ours = [127, 0, 0, 5].into();
    let connector = TcpConnector::new().local_address(Some(ours));
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let plain = fetch(&client, server.url("/")).await.unwrap();
    let mut request = get(server.url("/"));
    request.extensions_mut().insert(Partition::new("other"));
    let other = send(&client, request).await.unwrap();
    assert_eq!(plain.info.local_addr().unwrap().ip(), ours);
    assert_eq!(other.info.local_addr().unwrap().ip(), ours);
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

/// The kernel's own word on a socket: how long until its keep-alive timer fires, if that runs.
#[cfg(target_os = "linux")]
fn keepalive_timer(info: &ConnectionInfo) -> Option<Duration> {
    let ends = [info.local_addr()?, info.remote_addr()?].map(|addr| {
        let IpAddr::V4(ip) = addr.ip() else {
            panic!("an IPv4 address");
        };
        let ip = u32::from_ne_bytes(ip.octets());
        format!("{ip:08X}:{:04X}", addr.port())
    });
    let table = std::fs::read_to_string("/proc/self/net/tcp").expect("procfs");
    let timer = table.lines().find_map(|row| {
        let columns: Vec<_> = row.split_whitespace().collect();
        (columns[1..3] == ends).then(|| columns[5].to_owned())
    })?;
    let (kind, ticks) = timer.split_once(':')?;
    let ticks = u64::from_str_radix(ticks, 16).ok()?;
    // 2 is the socket's own timer; a tick is a hundredth of a second, whatever the kernel counts in.
    (kind == "02").then(|| Duration::from_millis(10 * ticks))
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn node_10_tcp_keepalive_is_as_the_connector_says() {
    if only_over_tcp("it is about TCP's own keep-alive") {
        return;
    }
    let server = Server::ok().await;
    for (connector, range) in [
        (TcpConnector::new(), Some(0..=1)),
        (
            TcpConnector::new().keepalive(Some(Duration::from_millis(300))),
            Some(0..=1),
        ),
        (
            TcpConnector::new().keepalive(Some(Duration::from_secs(60))),
            Some(30..=60),
        ),
        (TcpConnector::new().keepalive(None), None),
    ] {
        let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
        let answer = fetch(&client, server.url("/")).await.unwrap();
        eventually("the timer is as expected", || {
            match (keepalive_timer(&answer.info), &range) {
                (Some(timer), Some(range)) => range.contains(&timer.as_secs()),
                (timer, range) => timer.is_none() && range.is_none(),
            }
        })
        .await;
        assert_eq!(idle(&handle), 1);
        at_rest(&handle).await;
    }
}
