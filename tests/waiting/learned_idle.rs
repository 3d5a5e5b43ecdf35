//! After how long a server closes idle connections is learned, and requests are not lost to that.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::agent::{agent_paused, at_rest, fetch, get, post, read, send};
use crate::support::{Conn, InMemory, Server, only_over_tcp, script, settle};
use bytes::Bytes;
use fastrand::Rng;
use futures_util::future::join_all;
use http_body_util::Full;
use tokio::time::{sleep, timeout};
use tower_keep_alive::{AgentHandle, CloseReason, EventKind, KeepAlive, KeepAliveLayer};

type Layers = KeepAliveLayer<Full<Bytes>>;
type Agent = KeepAlive<InMemory, Full<Bytes>>;

/// For how long the server waits for a request.
const WAITS: Duration = Duration::from_secs(3);

/// How long it takes a client to hear that the server has closed; what it sends meanwhile is lost.
const WAY: Duration = Duration::from_millis(5);

/// Says nothing of how long it waits.
async fn closes(mut conn: Conn) {
    while let Ok(request) = timeout(WAITS, conn.request()).await {
        let Some(_) = request else { return };
        conn.respond("ok").await;
    }
    sleep(WAY).await;
    conn.fin().await;
}

fn layers() -> Layers {
    Layers::new().idle_timeout(Duration::from_secs(60))
}

/// How many of so many POSTs fail, the first `spared` aside: five callers send one each, and again after 2 to 4 s.
async fn failed(client: &Agent, posts: usize, spared: usize) -> usize {
    const CALLERS: usize = 5;
    let mut pauses = Rng::with_seed(17);
    let mut failed = 0;
    for round in 0..posts / CALLERS {
        let answers = (0..CALLERS).map(|_| send(client, post("http://host.test/", "x")));
        for answer in join_all(answers).await {
            failed += usize::from(answer.is_err() && round * CALLERS >= spared);
        }
        sleep(Duration::from_millis(pauses.u64(2000..4000))).await;
    }
    failed
}

fn learned(handle: &AgentHandle) -> Vec<String> {
    let learned = handle.status().learned;
    learned.values().map(ToString::to_string).collect()
}

/// Idle for as long as the server lets them be, one after the other.
async fn lose(client: &Agent, times: usize) {
    for _ in 0..times {
        let response = client.request(get("http://host.test/")).await.unwrap();
        read(response).await.unwrap();
        sleep(WAITS + 2 * WAY).await;
        settle().await;
    }
}

#[tokio::test(start_paused = true)]
async fn posts_are_not_lost_once_it_is_learned_when_the_server_closes() {
    if only_over_tcp("it is long, and its transport is in memory") {
        return;
    }
    let server = Server::in_memory(closes);
    let (client, handle) = agent_paused(layers().learn_idle_limit(false), server.connector());
    let without = failed(&client, 20_000, 100).await;
    at_rest(&handle).await;
    assert!(handle.status().learned.is_empty());
    let server = Server::in_memory(closes);
    let (client, handle) = agent_paused(layers(), server.connector());
    let with = failed(&client, 20_000, 100).await;
    println!("of 20,000 POSTs {without} fail, and {with} with what is learned");
    assert!(without > 10, "the way takes time: {without}");
    assert!(with <= 2, "{with} of 20,000");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn no_connection_is_closed_where_the_server_never_closes() {
    let server = Server::in_memory(script::ok);
    let layers = layers().idle_timeout(Duration::MAX);
    let (client, handle) = agent_paused(layers, server.connector());
    assert_eq!(failed(&client, 2000, 0).await, 0);
    let status = handle.status();
    assert_eq!((status.closed, status.learned.len()), (0, 0));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_learned_is_told_and_kept_to() {
    let server = Server::in_memory(closes);
    let (client, handle) = agent_paused(layers(), server.connector());
    let limits = Arc::new(Mutex::new(Vec::new()));
    let heard = limits.clone();
    handle.on_event(move |_, event| {
        if let EventKind::IdleLimitLearned { limit, .. } = event.kind {
            heard.lock().unwrap().push((event.key.to_string(), limit));
        }
    });
    lose(&client, 2).await;
    assert!(learned(&handle).is_empty() && limits.lock().unwrap().is_empty());
    lose(&client, 1).await;
    let limit = limits.lock().unwrap()[0].1;
    // A tenth is taken off.
    let expected = (WAITS + WAY).mul_f64(0.9);
    assert!(limit <= expected && limit > expected - 2 * WAY, "{limit:?}");
    assert_eq!(handle.status().closes[&CloseReason::Peer], 3);
    // Nothing was open in between: it is remembered.
    let response = client.request(get("http://host.test/")).await.unwrap();
    read(response).await.unwrap();
    assert_eq!(
        learned(&handle),
        ["idle limit 2.7 s, learned from 3 closes"]
    );
    let text = handle.status().to_string();
    let expected = "; host.test:80: idle limit 2.7 s, learned from 3 closes";
    assert!(text.ends_with(expected), "{text}");
    let json = serde_json::to_value(handle.status()).unwrap();
    let json = &json["learned"]["host.test:80:"];
    assert_eq!(json["closes"], 3);
    assert!(
        json["limit"].as_u64().unwrap().abs_diff(2700) < 50,
        "{json}"
    );
    sleep(WAITS - 2 * WAY).await;
    settle().await;
    assert_eq!(handle.status().closes[&CloseReason::Idle], 1);
    assert_eq!(server.open(), 0);
    assert_eq!(limits.lock().unwrap().len(), 1, "told once");
    at_rest(&handle).await;
}

/// It holds for what is idle at the moment when it is learned.
#[tokio::test(start_paused = true)]
async fn it_holds_for_connections_that_are_idle_already() {
    let server = Server::in_memory(|mut conn: Conn| async move {
        let is_kept = conn.request().await.is_some_and(|it| it.target == "/kept");
        conn.respond("ok").await;
        if is_kept {
            return script::ok(conn).await;
        }
        closes(conn).await;
    });
    let (client, handle) = agent_paused(layers(), server.connector());
    lose(&client, 2).await;
    let both = ["/", "/kept"].map(|path| client.request(get(format!("http://host.test{path}"))));
    for response in join_all(both).await {
        read(response.unwrap()).await.unwrap();
    }
    sleep(WAITS + 2 * WAY).await;
    settle().await;
    let closes = handle.status().closes;
    assert_eq!(closes.get(&CloseReason::Peer), Some(&3));
    assert_eq!(closes.get(&CloseReason::Idle), Some(&1));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn it_is_forgotten_when_no_connection_was_closed_for_ten_minutes() {
    let server = Server::in_memory(closes);
    let (client, handle) = agent_paused(layers(), server.connector());
    lose(&client, 3).await;
    sleep(Duration::from_secs(600)).await;
    let response = client.request(get("http://host.test/")).await.unwrap();
    read(response).await.unwrap();
    assert!(learned(&handle).is_empty());
    sleep(WAITS + 2 * WAY).await;
    settle().await;
    assert_eq!(handle.status().closes[&CloseReason::Peer], 4);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_server_says_goes_before_what_was_learned() {
    let server = Server::in_memory(|mut conn: Conn| async move {
        while let Ok(Some(head)) = timeout(WAITS, conn.request()).await {
            let says = match head.target.as_str() {
                "/says" => "HTTP/1.1 200 OK\r\nkeep-alive: timeout=30",
                _ => "HTTP/1.1 200 OK",
            };
            conn.respond_with(says, "ok").await;
        }
        conn.fin().await;
    });
    let (client, handle) = agent_paused(layers(), server.connector());
    lose(&client, 3).await;
    fetch(&client, "http://host.test/says").await.unwrap();
    assert!(learned(&handle).is_empty());
    // Nor is anything learned of one that says so, and does otherwise.
    for _ in 0..3 {
        sleep(WAITS + WAY).await;
        fetch(&client, "http://host.test/says").await.unwrap();
    }
    assert!(learned(&handle).is_empty());
    at_rest(&handle).await;
}
