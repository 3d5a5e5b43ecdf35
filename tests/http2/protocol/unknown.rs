//! Callers of a host of which it is not known yet what it speaks.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Version;
use http_body_util::Full;
use tokio::sync::Barrier;
use tower::Layer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAliveLayer, Protocol};

use super::server::speaking;
use crate::support::agent::{agent, agent_over, at_rest, fetch};
use crate::support::tls::{CA, localhost};
use crate::support::{Conn, Gate, RefusingPort, Server, eventually, script};

fn layer() -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().protocol(Protocol::Auto)
}

/// Speaks HTTP/1.1, and answers when so many requests have come.
async fn of_http_1(together: usize) -> Server {
    let mut config = localhost().server();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let all = Arc::new(Barrier::new(together));
    Server::start_tls(config, move |mut conn: Conn| {
        let all = all.clone();
        async move {
            while conn.request().await.is_some() {
                all.wait().await;
                conn.respond("ok").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_hundred_are_served_at_once_when_their_connect_turns_out_to_be_http_1() {
    for (limit, together) in [(None, 100), (Some(1), 1), (Some(7), 7)] {
        let all = together * (100 / together);
        let server = of_http_1(together).await;
        let layer = limit.map_or_else(layer, |it| layer().max_connections_per_host(it));
        let (client, handle) = agent_over(layer, CA.trusted().layer(TcpConnector::new()));
        let answers = join_all((0..all).map(|_| fetch(&client, server.url("/")))).await;
        for answer in answers {
            assert_eq!(answer.unwrap().info.version(), Version::HTTP_11);
        }
        at_rest(&handle).await;
        // With fewer of them, it would not have answered.
        assert_eq!(server.max_open(), together, "limit {limit:?}");
    }
}

#[tokio::test]
async fn a_hundred_share_the_first_connection_when_it_turns_out_to_be_http_2() {
    let server = speaking(&["h2", "http/1.1"]).await;
    let (client, handle) = agent_over(layer(), CA.trusted().layer(TcpConnector::new()));
    for answer in join_all((0..100).map(|_| fetch(&client, server.url("/")))).await {
        assert_eq!(answer.unwrap().info.version(), Version::HTTP_2);
    }
    at_rest(&handle).await;
    assert_eq!(handle.status().created, 1);
}

/// Begins its part of the handshake when the gate opens.
async fn reluctant(gate: &Gate) -> Server {
    let config = Arc::new(localhost().server());
    let gate = gate.clone();
    Server::start_tcp(move |mut conn: Conn| {
        let (config, gate) = (config.clone(), gate.clone());
        async move {
            gate.pass().await;
            conn.secure(config).await;
        }
    })
    .await
}

#[tokio::test]
async fn one_connect_is_under_way_unless_they_may_race() {
    for (race, connects) in [(false, 1), (true, 10)] {
        let gate = Gate::new();
        let server = reluctant(&gate).await;
        let layer = layer().race_connects(race);
        let (client, handle) = agent_over(layer, CA.trusted().layer(TcpConnector::new()));
        let url = format!("https://{}/", server.addr());
        let callers = join_all((0..10).map(|_| fetch(&client, url.as_str())));
        let connected = async {
            eventually("they connect", || gate.waiting() == connects).await;
            assert_eq!(handle.status().created, connects as u64);
            gate.open_for_all();
        };
        let (ended, ()) = tokio::join!(callers, connected);
        for ended in ended {
            assert!(ended.is_err(), "the server has no more to say");
        }
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn what_a_host_speaks_is_remembered_when_its_connections_are_gone() {
    let mut config = localhost().server();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let (config, gate) = (Arc::new(config), Gate::new());
    let at_gate = gate.clone();
    let server = Server::start_tcp(move |mut conn: Conn| {
        let (config, gate) = (config.clone(), at_gate.clone());
        async move {
            gate.pass().await;
            if conn.secure(config).await {
                script::ok(conn).await;
            }
        }
    })
    .await;
    let (client, handle) = agent_over(layer(), CA.trusted().layer(TcpConnector::new()));
    let url = format!("https://{}/", server.addr());
    gate.open(1);
    fetch(&client, &url).await.unwrap();
    handle.close_idle();
    at_rest(&handle).await;
    let callers = join_all((0..10).map(|_| fetch(&client, &url)));
    let connected = async {
        eventually("each connects", || gate.waiting() == 10).await;
        gate.open_for_all();
    };
    let (answers, ()) = tokio::join!(callers, connected);
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    at_rest(&handle).await;
}

#[tokio::test]
async fn without_tls_each_caller_connects_at_once() {
    for protocol in [Protocol::Auto, Protocol::Http1] {
        let all = Arc::new(Barrier::new(50));
        let server = Server::start(move |mut conn: Conn| {
            let all = all.clone();
            async move {
                while conn.request().await.is_some() {
                    all.wait().await;
                    conn.respond("ok").await;
                }
            }
        })
        .await;
        let (client, handle) = agent(KeepAliveLayer::new().protocol(protocol));
        let answers = join_all((0..50).map(|_| fetch(&client, server.url("/")))).await;
        assert!(answers.into_iter().all(|answer| answer.is_ok()));
        at_rest(&handle).await;
        assert_eq!(handle.status().created, 50);
    }
}

#[tokio::test]
async fn a_connect_that_fails_holds_nobody_up() {
    let port = RefusingPort::new();
    let (client, handle) = agent_over(layer(), CA.trusted().layer(TcpConnector::new()));
    let url = format!("https://{}/", port.addr());
    let ended = join_all((0..20).map(|_| fetch(&client, url.as_str()))).await;
    for ended in ended {
        let error = ended.unwrap_err();
        assert!(error.is_connect() && !error.is_protocol(), "{error:?}");
    }
    at_rest(&handle).await;
    assert_eq!(handle.status().create_errors, 20);
}
