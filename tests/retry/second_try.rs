//! What the second try is sent on, and that there is no third.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{once_each, resetting, retrying};
use crate::support::agent::{
    Req, agent, agent_over, agent_paused, at_rest, fetch, get, paused_clock, post, read, send,
};
use crate::support::{
    Conn, CountingConnector, Fault, Server, Sockets, TrapConnector, eventually, not_over_unix,
    settle,
};
use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request};
use http_body_util::{Channel, Full};
use tokio::time::sleep;
use tower::{Layer, ServiceExt, service_fn};
use tower_keep_alive::{CloseReason, KeepAliveLayer};

#[tokio::test]
async fn what_fails_again_is_the_callers() {
    if not_over_unix("a Unix socket has no RST") {
        return;
    }
    let executed = Arc::default();
    let server = resetting(&executed).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    let warm = fetch(&agent, server.url("/warm")).await.unwrap();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_reset() && !error.is_reused(), "{error:?}");
    assert_ne!(error.connection().unwrap().id(), warm.info.id());
    assert_eq!(executed.load(Ordering::SeqCst), 2);
    let status = handle.status();
    assert_eq!((status.created, status.closed, status.errors), (2, 2, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let executed = Arc::default();
    let server = resetting(&executed).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    for n in 1..=20 {
        fetch(&agent, server.url("/warm")).await.unwrap();
        let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
        assert!(error.is_reset() && error.is_reused(), "{error:?}");
        assert!(!error.is_unsent(), "{error:?}");
        assert_eq!(executed.load(Ordering::SeqCst), n);
    }
    assert_eq!(handle.status().created, 20);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_unsent_is_sent_again_with_the_body_it_had() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.respond(&String::from_utf8_lossy(&head.body)).await;
        }
    });
    let trap = TrapConnector::new(server.connector());
    let layer = KeepAliveLayer::<Channel<Bytes>>::new().max_connections_per_host(1);
    let handle = layer.handle();
    // A body that nobody could clone, and no policy.
    let agent = layer.clock(paused_clock()).layer(trap.clone());
    let request = |method| {
        let (upload, body) = Channel::<Bytes>::new(4);
        let request = Request::builder().method(method).uri(server.url("/"));
        (upload, request.body(body).unwrap())
    };
    let (upload, warm) = request(Method::GET);
    drop(upload);
    let warm = read(agent.request(warm).await.unwrap()).await.unwrap();
    settle().await;
    trap.set(Fault {
        accepts: 0,
        write: None,
        read: Some((b"", None)),
    });
    let (mut upload, streamed) = request(Method::POST);
    let uploading = async {
        for piece in ["in ", "three ", "pieces"] {
            sleep(Duration::from_millis(10)).await;
            upload.send_data(piece.into()).await.unwrap();
        }
        drop(upload);
    };
    let sending = async { read(agent.request(streamed).await?).await };
    let (answer, ()) = tokio::join!(sending, uploading);
    let answer = answer.unwrap();
    assert_eq!(answer.body, "in three pieces");
    assert!(!answer.info.is_reused());
    assert_ne!(answer.info.id(), warm.info.id());
    assert_eq!((trap.made(), server.requests()), (2, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn every_reused_connection_that_is_reset_is_retried_once_on_a_new_one() {
    const N: usize = 20;
    let server = Server::start(once_each).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    let warm = join_all((0..N).map(|_| fetch(&agent, server.url("/")))).await;
    let warm: Vec<_> = warm.into_iter().map(|it| it.unwrap().info.id()).collect();
    eventually("all are idle", || {
        handle.status().idle.values().sum::<usize>() == N
    })
    .await;
    let answers = join_all((0..N).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert!(!answer.info.is_reused() && !warm.contains(&answer.info.id()));
    }
    assert_eq!(server.accepted(), 2 * N);
    assert_eq!(server.requests(), 3 * N);
    at_rest(&handle).await;
}

#[tokio::test]
async fn at_the_limit_the_second_try_comes_first_and_takes_nothing_used() {
    let server = Server::start(resets_once).await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (agent, handle) = agent_over(layer, counting.clone());
    let client = retrying(agent.clone());
    let url = |path: &str| server.url(path);
    let warm = fetch(&agent, url("/warm")).await.unwrap();
    let order = Mutex::new(Vec::new());
    let noted = async |path: &str| {
        let answer = fetch(&client, url(path)).await.unwrap();
        order.lock().unwrap().push(path.to_owned());
        answer
    };
    let (again, a, b) = tokio::join!(noted("/reset"), noted("/a"), noted("/b"));
    assert!(!again.info.is_reused());
    assert_ne!(again.info.id(), warm.info.id());
    assert_eq!((a.body.as_str(), b.body.as_str()), ("/a", "/b"));
    assert_eq!(counting.max_alive(), 1);
    // Who was given the permit in between keeps its turn, and nobody else comes before the second try.
    let order = order.into_inner().unwrap();
    assert_ne!(order[2], "/reset", "{order:?}");
    assert!(counting.made() <= 3, "{}", counting.made());
    at_rest(&handle).await;
}

/// A second try finds the limit kept by an idle connection that somebody else made in between, for `other`.
async fn second_try_finds_the_limit_reached(layer: KeepAliveLayer<Full<Bytes>>, other: &str) {
    let server = Server::in_memory(resets_once);
    let counting = CountingConnector::new(server.connector());
    let (agent, handle) = agent_paused(layer, counting.clone());
    let warm = fetch(&agent, server.url("/warm")).await.unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let meanwhile = {
        let (agent, url, handle) = (agent.clone(), other.to_owned(), handle.clone());
        service_fn(move |request: Req| {
            let (agent, url, handle) = (agent.clone(), url.clone(), handle.clone());
            let again = tries.fetch_add(1, Ordering::SeqCst) > 0;
            async move {
                if again {
                    fetch(&agent, url).await.unwrap();
                    eventually("it is idle", || !handle.status().idle.is_empty()).await;
                }
                agent.oneshot(request).await
            }
        })
    };
    let client = retrying(meanwhile);
    let response = client.oneshot(get(server.url("/reset"))).await.unwrap();
    let again = read(response).await.unwrap();
    assert!(!again.info.is_reused());
    assert_ne!(again.info.id(), warm.info.id());
    assert_eq!(handle.status().closes.get(&CloseReason::Room), Some(&1));
    assert_eq!((counting.made(), counting.max_alive()), (3, 1));
    at_rest(&handle).await;
}

async fn resets_once(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        if head.target == "/reset" && conn.index == 0 {
            return conn.rst();
        }
        conn.respond(&head.target).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_an_idle_connection_makes_room_for_the_second_try() {
    let same = "http://in-memory.test/other";
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    second_try_finds_the_limit_reached(layer, same).await;
    // Of the same host, and of another one.
    for other in [same, "http://other.test/other"] {
        let layer = KeepAliveLayer::new().max_connections(1);
        second_try_finds_the_limit_reached(layer, other).await;
    }
}
