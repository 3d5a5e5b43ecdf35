//! A server that falls silent: what is lost by it, and what is not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::agent::{agent, agent_paused, at_rest, fetch, get, post, send};
use crate::support::eventually;
use crate::support::frames::{Behaviour, kind};
use crate::support::http2::{Conn, Server};
use futures_util::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use tower_keep_alive::{
    AgentHandle, CloseReason, Http2, KeepAliveLayer, Protocol, TimeoutKind,
    extensions::RequestTimeout,
};

const CALLERS: usize = 50;

#[tokio::test]
async fn a_silent_connection_costs_what_is_under_way_on_it_and_no_more() {
    let server = Server::behaving(Behaviour {
        delay: Duration::from_millis(1),
        silent_after: Some(200),
        ..Behaviour::default()
    })
    .await;
    let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
    let pings = Http2::new().ping_timeout(Duration::from_millis(50));
    let (client, handle) = agent(layer.http2(pings));
    let (next, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let callers = (0..CALLERS).map(|_| async {
        while next.fetch_add(1, Ordering::Relaxed) < 1_000 {
            let number = next.load(Ordering::Relaxed);
            let answer = fetch(&client, server.url(&format!("/{number}")));
            if timeout(Duration::from_millis(300), answer).await.is_err() {
                lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    join_all(callers).await;
    let lost = lost.into_inner();
    assert!((1..=CALLERS).contains(&lost), "{lost} are lost");
    server.log.seen(|seen| assert_eq!(seen.connections, 2));
    at_rest(&handle).await;
    let closes = handle.status().closes;
    assert_eq!(closes.get(&CloseReason::Silence), Some(&1), "{closes:?}");
}

#[tokio::test]
async fn while_it_is_not_known_whether_the_server_lives_others_have_another_connection() {
    let server = Server::behaving(Behaviour {
        silent_after: Some(2),
        ..Behaviour::default()
    })
    .await;
    let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
    let (client, handle) = agent(layer);
    fetch(&client, server.url("/first")).await.unwrap();
    let lost = send(&client, post(server.url("/lost"), "once only"));
    assert!(timeout(Duration::from_millis(50), lost).await.is_err());
    // Callers wait for 100 ms. The answer to the PING is waited for until long after this.
    let answer = timeout(Duration::from_secs(1), fetch(&client, server.url("/next")));
    assert_eq!(answer.await.expect("soon").unwrap().body, "/next");
    assert_eq!(server.log.executed("POST").len(), 1, "it is not sent twice");
    handle.destroy();
    at_rest(&handle).await;
}

const SECOND: Duration = Duration::from_secs(1);
/// How long callers wait for an answer.
const PATIENCE: Duration = Duration::from_millis(500);
/// How many callers there are in the tests below.
const FEW: usize = 10;

/// Answers each request with its path.
async fn answer_all(conn: &mut Conn) {
    while let Some(request) = conn.request().await {
        let path = request.path().to_owned();
        conn.respond(request.stream, 200, path.as_bytes()).await;
    }
}

/// Answers `answered` requests, and holds the next ones until `FEW` are in progress. The youngest of these is answered, so that
/// something is read after all the others were sent. Then it is silent; the next connections are not.
async fn falls_silent(mut conn: Conn, answered: usize) {
    conn.open([]).await;
    if conn.index > 0 {
        return answer_all(&mut conn).await;
    }
    for _ in 0..answered {
        let request = conn.request().await.expect("a request");
        let path = request.path().to_owned();
        conn.respond(request.stream, 200, path.as_bytes()).await;
    }
    let mut held = None;
    for _ in 0..FEW {
        held = conn.request().await;
    }
    if let Some(request) = held {
        let path = request.path().to_owned();
        conn.respond(request.stream, 200, path.as_bytes()).await;
    }
    conn.silence().await;
}

#[tokio::test(start_paused = true)]
async fn what_was_sent_before_the_last_answer_counts_as_well() {
    for method in ["GET", "POST"] {
        for by_limit in [false, true] {
            let server = Server::in_memory(|conn| falls_silent(conn, 25));
            let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
            let (client, handle) = agent_paused(layer, server.connector());
            let (next, lost) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let callers = (0..FEW).map(|_| async {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= 100 {
                        return;
                    }
                    let url = server.url(&format!("/{number}"));
                    let mut request = match method {
                        "GET" => get(url),
                        _ => post(url, "once only"),
                    };
                    if by_limit {
                        request.extensions_mut().insert(RequestTimeout(PATIENCE));
                    }
                    let patience = if by_limit { PATIENCE * 2 } else { PATIENCE };
                    match timeout(patience, send(&client, request)).await {
                        Ok(Ok(answer)) => assert_eq!(answer.body, format!("/{number}")),
                        _ => drop(lost.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
            join_all(callers).await;
            assert_eq!(lost.into_inner(), FEW, "{method}, {by_limit}");
            server.log.seen(|seen| assert_eq!(seen.connections, 2));
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_ping_without_an_answer_is_a_limit_of_its_own() {
    // The ping timeout, what it is without a setting, and the active timeout.
    for (set, is, active) in [
        (Some(3 * SECOND), 3 * SECOND, 60 * SECOND),
        (None, 15 * SECOND, 60 * SECOND),
        (None, 5 * SECOND, Duration::MAX),
    ] {
        let server = Server::in_memory(|mut conn| async move {
            conn.open([]).await;
            conn.silence().await;
        });
        let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
        let http2 = set.map_or(Http2::new(), |it| Http2::new().ping_timeout(it));
        let layer = layer.active_timeout(active).http2(http2);
        let (client, handle) = agent_paused(layer, server.connector());
        let begun = Instant::now();
        let mut waits = Box::pin(fetch(&client, server.url("/waits")));
        assert!(timeout(SECOND, &mut waits).await.is_err());
        // Its caller has no patience, and so the server is asked by a PING.
        assert!(
            timeout(SECOND, fetch(&client, server.url("/given-up")))
                .await
                .is_err()
        );
        let error = waits.await.unwrap_err();
        assert_eq!(begun.elapsed().as_secs(), (2 * SECOND + is).as_secs());
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Ping), "{error:?}");
        assert_eq!(error.timeout(), Some(is));
        let expected = format!(
            "the server did not answer an HTTP/2 PING within {is:?}: it is gone, or needs a longer Http2::ping_timeout"
        );
        assert_eq!(error.to_string(), expected);
        handle.destroy();
        at_rest(&handle).await;
    }
}

/// An agent that has found out that its server has become silent, and how many PINGs it has sent. The server was asked by
/// some of them before, 10 s apart, and has answered each.
async fn found_out_after(pings: usize) -> (AgentHandle, usize) {
    let server = Server::in_memory(move |mut conn| async move {
        conn.open([]).await;
        if conn.index > 0 {
            return answer_all(&mut conn).await;
        }
        let first = conn.request().await.expect("a request");
        conn.respond(first.stream, 200, b"first").await;
        // They are not answered, and PINGs are.
        for _ in 0..pings {
            conn.request().await;
        }
        for _ in 0..FEW {
            conn.request().await;
        }
        conn.silence().await;
    });
    let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
    let layer = layer.idle_timeout(60 * SECOND);
    let (client, handle) = agent_paused(layer, server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    for _ in 0..pings {
        let given_up = fetch(&client, server.url("/slow"));
        assert!(timeout(PATIENCE, given_up).await.is_err());
        sleep(10 * SECOND).await;
    }
    let crowd = || async {
        let calls = (0..FEW).map(|_| timeout(PATIENCE, fetch(&client, server.url("/crowd"))));
        let answers = join_all(calls).await.into_iter();
        answers.filter(|it| matches!(it, Ok(Ok(_)))).count()
    };
    assert_eq!(crowd().await, 0, "the server is silent");
    assert_eq!(crowd().await, FEW, "no more of them are lost");
    // The time for an answer to the PING is over.
    sleep(10 * SECOND).await;
    eventually("the connection is closed", || handle.status().closed == 1).await;
    server.log.seen(|seen| assert_eq!(seen.connections, 2));
    let sent = server
        .log
        .seen(|seen| seen.frames.get(&kind::PING).copied());
    at_rest(&handle).await;
    (handle, sent.unwrap_or(0))
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_is_found_out_whether_or_not_another_ping_may_be_sent() {
    for before in 0..=2 {
        let (handle, sent) = found_out_after(before).await;
        let closes = handle.status().closes;
        assert_eq!(closes, [(CloseReason::Silence, 1)].into(), "{before}");
        assert_eq!(sent, (before + 1).min(2), "{before}");
    }
}
