//! What the status counts of exchanges: begun, answered, completed, failed.

use std::time::Duration;

use crate::support::agent::{agent, agent_paused, at_rest, fetch, get, read};
use crate::support::frames::Behaviour;
use crate::support::{Conn, RefusingPort, Server, eventually, http2, script};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::timeout;
use tower_keep_alive::{AgentHandle, KeepAliveLayer, Protocol};

type Layers = KeepAliveLayer<Full<Bytes>>;

/// Started, answered, completed, failed.
fn counts(handle: &AgentHandle) -> [u64; 4] {
    let status = handle.status();
    [
        status.started,
        status.answered,
        status.completed,
        status.failed,
    ]
}

#[tokio::test]
async fn answers_whose_bodies_are_dropped_are_answers() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new());
    for done in 1..=10 {
        let response = client.request(get(server.url("/"))).await.unwrap();
        assert_eq!(handle.status().answered, done, "in the middle of it");
        drop(response);
        eventually("it is over", || handle.status().active.is_empty()).await;
        assert_eq!(counts(&handle), [done, done, 0, 0]);
    }
    fetch(&client, server.url("/")).await.unwrap();
    eventually("it is over", || handle.status().active.is_empty()).await;
    assert_eq!(counts(&handle), [11, 11, 1, 0]);
    let text = handle.status().to_string();
    let expected = "requests: 11 started, 11 answered, 1 completed, 0 failed; ";
    assert!(text.starts_with(expected), "{text}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_fails_is_counted_wherever_it_fails() {
    let refusing = RefusingPort::new();
    let server = Server::start(|mut conn: Conn| async move {
        if conn.request().await.is_some_and(|it| it.target == "/half") {
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nsome")
                .await;
        }
        conn.fin().await;
    })
    .await;
    let (client, handle) = agent(Layers::new());
    fetch(&client, refusing.url("/")).await.unwrap_err();
    assert_eq!(counts(&handle), [1, 0, 0, 1], "no connection");
    fetch(&client, server.url("/none")).await.unwrap_err();
    assert_eq!(counts(&handle), [2, 0, 0, 2], "no response");
    fetch(&client, server.url("/half")).await.unwrap_err();
    assert_eq!(counts(&handle), [3, 1, 0, 3], "a response without an end");
    at_rest(&handle).await;
    let json = serde_json::to_value(handle.status()).unwrap();
    assert_eq!(json["requestCount"], 0);
    assert_eq!(json["startedRequestCount"], 3);
    assert_eq!(json["answeredRequestCount"], 1);
    assert_eq!(json["failedRequestCount"], 3);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_has_not_failed_and_who_waits_has_not_started() {
    let server =
        Server::in_memory(|mut conn| async move { while conn.request().await.is_some() {} });
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent_paused(layer.max_pending_per_host(1), server.connector());
    let second = Duration::from_secs(1);
    {
        let held = client.request(get(server.url("/")));
        let waits = client.request(get(server.url("/")));
        let full = client.request(get(server.url("/")));
        let both = async { tokio::join!(held, waits, full) };
        assert!(timeout(second, both).await.is_err(), "two of them wait");
        assert_eq!(counts(&handle), [2, 0, 0, 1], "the line was full for one");
    }
    at_rest(&handle).await;
    assert_eq!(counts(&handle), [2, 0, 0, 1]);
}

#[tokio::test]
async fn every_exchange_ends_in_one_of_the_counts() {
    let server = Server::start(script::ok).await;
    let (client, handle) = agent(Layers::new());
    for turn in 0..6 {
        let response = client.request(get(server.url("/"))).await.unwrap();
        if turn % 2 == 0 {
            read(response).await.unwrap();
        }
    }
    at_rest(&handle).await;
    assert_eq!(counts(&handle), [6, 6, 3, 0]);
}

#[tokio::test]
async fn a_request_that_is_sent_again_unseen_counts_once_and_has_not_failed() {
    let server = http2::Server::behaving(Behaviour {
        refuse_every: Some(3),
        ..Behaviour::default()
    })
    .await;
    let (client, handle) = agent(Layers::new().protocol(Protocol::Http2));
    for _ in 0..8 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    at_rest(&handle).await;
    assert_eq!(counts(&handle), [8, 8, 8, 0]);
    let refused = server.log.seen(|seen| {
        let refused = seen.requests.iter().filter(|it| it.is_refused);
        refused.count() as u64
    });
    let status = handle.status();
    assert!(refused > 0);
    assert_eq!(status.resent, refused);
    let json = serde_json::to_value(status).unwrap();
    assert_eq!(json["resentRequestCount"], refused);
}
