//! A server that falls silent: what is lost by it, and what is not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::support::agent::{agent, at_rest, fetch, post, send};
use crate::support::frames::Behaviour;
use crate::support::http2::Server;
use futures_util::future::join_all;
use tokio::time::timeout;
use tower_keep_alive::{CloseReason, Http2, KeepAliveLayer, Protocol};

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
    // The answer to the PING is waited for until long after this.
    let answer = timeout(Duration::from_secs(1), fetch(&client, server.url("/next")));
    assert_eq!(answer.await.expect("at once").unwrap().body, "/next");
    assert_eq!(server.log.executed("POST").len(), 1, "it is not sent twice");
    handle.destroy();
    at_rest(&handle).await;
}
