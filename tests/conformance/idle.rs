//! F. Idle connections.

use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tower_keep_alive::{
    CloseReason, KeepAliveLayer,
    custom::{Clock, Moment},
};

use crate::support::agent::{agent, agent_over, agent_paused, at_rest, fetch, get, read};
use crate::support::{
    Gate, Server, alive_tasks, eventually, not_over_h2, not_over_unix, script, settle,
};

#[tokio::test]
async fn node_55_a_fin_while_idle_removes_it_at_once() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        if conn.index == 0 {
            return conn.fin().await;
        }
        conn.closed().await;
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let first = fetch(&client, server.url("/")).await.unwrap();
    eventually("it is gone from the pool", || handle.status().open() == 0).await;
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert!(!second.info.is_reused());
    assert_ne!(first.info.id(), second.info.id());
    assert_eq!(server.accepted(), 2);
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Peer, 1)].into());
    assert_eq!((status.errors, status.stale), (0, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_56_an_error_while_idle_is_nobodys() {
    if not_over_unix("a Unix socket has no RST") {
        return;
    }
    let gate = Gate::new();
    let server = {
        let gate = gate.clone();
        Server::start(move |mut conn| {
            let gate = gate.clone();
            async move {
                conn.request().await;
                conn.respond("ok").await;
                if conn.index == 0 {
                    gate.pass().await;
                    return conn.rst();
                }
                conn.closed().await;
            }
        })
        .await
    };
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(handle.status().idle.len(), 1);
    gate.open(1);
    eventually("it is gone from the pool", || handle.status().open() == 0).await;
    assert!(
        !fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!(server.accepted(), 2);
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Error, 1)].into());
    assert_eq!((status.closed, status.errors, status.completed), (1, 1, 2));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_57_one_whose_time_is_up_is_not_taken_even_in_that_instant() {
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(Duration::from_millis(50));
    let (client, handle) = agent_paused(layer, server.connector());
    let first = fetch(&client, server.url("/")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(49)).await;
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(first.info.id(), second.info.id());
    tokio::time::sleep(Duration::from_millis(50)).await;
    let third = fetch(&client, server.url("/")).await.unwrap();
    assert_ne!(second.info.id(), third.info.id());
    assert!(!third.info.is_reused());
    settle().await;
    assert_eq!(server.accepted(), 2);
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Idle, 1)].into());
    assert_eq!((status.timeouts, status.errors), (1, 0));
    at_rest(&handle).await;
}

const STRAY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";

#[tokio::test]
async fn node_58_stray_bytes_while_idle_are_never_an_answer() {
    if not_over_h2("bytes that nobody asked for are a broken frame") {
        return;
    }
    let gate = Gate::new();
    let server = {
        let gate = gate.clone();
        Server::start(move |mut conn| {
            let gate = gate.clone();
            async move {
                conn.request().await;
                conn.respond("ok").await;
                if conn.index == 0 {
                    gate.pass().await;
                    conn.send(STRAY).await;
                }
                while conn.request().await.is_some() {
                    conn.respond("ok").await;
                }
            }
        })
        .await
    };
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/")).await.unwrap();
    gate.open(1);
    eventually("it is gone from the pool", || handle.status().open() == 0).await;
    let answer = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(answer.body, "ok");
    assert!(!answer.info.is_reused());
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes, [(CloseReason::Error, 1)].into());
    at_rest(&handle).await;
}

/// A server on a thread of its own, of two connections. On the first it answers once, and at the word sends stray
/// bytes; who waits for that with `recv` blocks the runtime, which so has no turn to hear of them.
fn straying_server() -> (String, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (url, urls) = mpsc::channel();
    let (word, words) = mpsc::channel();
    let (done, dones) = mpsc::channel();
    let words = Arc::new(Mutex::new(words));
    let over = Gate::new();
    let serve = async move {
        let all = over.clone();
        let server = Server::start(move |mut conn| {
            let (words, done, over) = (words.clone(), done.clone(), over.clone());
            async move {
                conn.request().await;
                conn.respond("ok").await;
                if conn.index == 0 {
                    words.lock().unwrap().recv().unwrap();
                    conn.send(STRAY).await;
                    done.send(()).unwrap();
                }
                conn.closed().await;
                over.open(1);
            }
        });
        let server = server.await;
        url.send(server.url("/")).unwrap();
        // Both connections.
        all.pass().await;
        all.pass().await;
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(serve);
    });
    (urls.recv().unwrap(), word, dones)
}

#[tokio::test]
async fn node_58_stray_bytes_are_seen_before_a_reuse() {
    if not_over_h2("bytes that nobody asked for are a broken frame") {
        return;
    }
    let (url, word, done) = straying_server();
    let (client, handle) = agent(KeepAliveLayer::new());
    let first = fetch(&client, &url).await.unwrap();
    word.send(()).unwrap();
    done.recv().unwrap();
    let second = fetch(&client, &url).await.unwrap();
    assert_eq!((&*first.body, &*second.body), ("ok", "ok"));
    assert!(!second.info.is_reused());
    assert_eq!(handle.status().stale, 1);
    eventually("the first is closed", || handle.status().closed == 1).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_58_stray_bytes_are_seen_before_a_hand_over_too() {
    if not_over_h2("bytes that nobody asked for are a broken frame") {
        return;
    }
    let (url, word, done) = straying_server();
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let first = client.request(get(&url)).await.unwrap();
    let second = {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move { fetch(&client, url).await })
    };
    eventually("the second is in line", || {
        !handle.status().pending.is_empty()
    })
    .await;
    settle().await;
    word.send(()).unwrap();
    done.recv().unwrap();
    assert_eq!(read(first).await.unwrap().body, "ok");
    let second = second.await.unwrap().unwrap();
    assert_eq!(second.body, "ok");
    assert!(!second.info.is_reused());
    assert_eq!(handle.status().created, 2);
    at_rest(&handle).await;
}

/// Three callers for one connection, and a server that sends `answer` to each.
async fn through_a_line_of_three(
    answer: &'static str,
) -> (Server, Vec<String>, tower_keep_alive::AgentHandle) {
    let server = Server::start(move |mut conn| async move {
        while conn.request().await.is_some() {
            conn.send(answer).await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let url = server.url("/");
    let answers = futures_util::future::join_all((0..3).map(|_| fetch(&client, &url))).await;
    let bodies = answers.into_iter().map(|answer| answer.unwrap().body);
    let bodies = bodies.collect();
    drop(client);
    (server, bodies, handle)
}

#[tokio::test]
async fn node_58_stray_bytes_in_the_packet_of_the_response_end_before_a_hand_over() {
    if not_over_h2("bytes that nobody asked for are a broken frame") {
        return;
    }
    let twice = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";
    let (server, bodies, handle) = through_a_line_of_three(twice).await;
    assert_eq!(bodies, ["ok", "ok", "ok"]);
    assert_eq!(server.accepted(), 3);
    eventually("all are closed", || handle.status().closed == 3).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_59_what_follows_a_response_in_its_packet_is_never_delivered() {
    if not_over_h2("bytes that nobody asked for are a broken frame") {
        return;
    }
    for (rest, kept) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray", false),
        ("garbage", false),
        ("\r\n", false),
        ("", true),
    ] {
        let gate = Gate::new();
        let server = {
            let gate = gate.clone();
            Server::start(move |mut conn| {
                let gate = gate.clone();
                async move {
                    while conn.request().await.is_some() {
                        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                        conn.send(format!("{answer}{rest}")).await;
                    }
                    gate.open(1);
                }
            })
            .await
        };
        let (client, handle) = agent(KeepAliveLayer::new());
        let first = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(first.body, "ok", "{rest:?}");
        if !kept {
            eventually("it is closed", || handle.status().open() == 0).await;
        }
        let second = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(second.body, "ok", "{rest:?}");
        assert_eq!(second.info.is_reused(), kept, "{rest:?}");
        assert_eq!(server.accepted(), if kept { 1 } else { 2 }, "{rest:?}");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn node_60_nothing_outlives_the_service() {
    let server = Server::ok().await;
    let before = alive_tasks();
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(handle.status().idle.len(), 1);
    drop(client);
    eventually("its connection is closed", || server.open() == 0).await;
    // The server's script for the connection is gone with it.
    eventually("its tasks have ended", || alive_tasks() == before).await;
    assert_eq!(handle.status().closes, [(CloseReason::Shutdown, 1)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_61_a_blocked_runtime_does_not_make_an_idle_connection_younger() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new().idle_timeout(Duration::from_millis(50));
    let (client, handle) = agent(layer);
    let first = fetch(&client, server.url("/")).await.unwrap();
    // No timer and no task runs.
    std::thread::sleep(Duration::from_millis(60));
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert!(!second.info.is_reused());
    assert_ne!(first.info.id(), second.info.id());
    assert_eq!(server.accepted(), 2);
    eventually("the first is closed", || handle.status().closed >= 1).await;
    assert_eq!(handle.status().stale, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_61_the_instant_decides_at_the_pick() {
    let server = Server::in_memory(script::ok);
    let now = Arc::new(Mutex::new(Moment::now()));
    let clock = {
        let now = now.clone();
        Clock::new(move || *now.lock().unwrap())
    };
    let pass = |time: Duration| {
        let mut now = now.lock().unwrap();
        *now = now.checked_add(time).unwrap();
    };
    let layer = KeepAliveLayer::new()
        .idle_timeout(Duration::from_millis(100))
        .clock(clock);
    let (client, handle) = agent_over(layer, server.connector());
    let first = fetch(&client, server.url("/")).await.unwrap();
    pass(Duration::from_millis(99));
    let second = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(first.info.id(), second.info.id());
    assert_eq!(second.info.idle_for(), Duration::from_millis(99));
    // Not one tick of the runtime's own time passes.
    pass(Duration::from_millis(100));
    let third = fetch(&client, server.url("/")).await.unwrap();
    assert_ne!(second.info.id(), third.info.id());
    assert!(!third.info.is_reused());
    settle().await;
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes, [(CloseReason::Idle, 1)].into());
    at_rest(&handle).await;
}
