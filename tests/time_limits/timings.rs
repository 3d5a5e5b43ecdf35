//! How long the parts of an exchange took, for those who ask.

use std::time::Duration;

use crate::support::Server;
use crate::support::agent::{agent, agent_over, at_rest, fetch, get, send};
use bytes::Bytes;
use http::Request;
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use tokio::time::sleep;
use tower::ServiceExt;
use tower_keep_alive::{
    ConnectionInfo, KeepAliveLayer, TimeoutKind, connect::Destination, extensions::RecordTimings,
};

const S: Duration = Duration::from_secs(1);

fn timed(url: impl AsRef<str>) -> Request<Full<Bytes>> {
    let mut request = get(url);
    request.extensions_mut().insert(RecordTimings);
    request
}

/// The head after one second, the end of the body after two more.
fn slow() -> Server {
    Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            sleep(S).await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
                .await;
            sleep(2 * S).await;
            conn.send("k").await;
        }
    })
}

#[tokio::test(start_paused = true)]
async fn response_body_and_total_are_told() {
    let server = slow();
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    for reused in [false, true] {
        let response = client.request(timed(server.url("/"))).await.unwrap();
        let early: ConnectionInfo = response.extensions().get().cloned().unwrap();
        let timings = early.timings().unwrap();
        assert_eq!((timings.response(), timings.body()), (Some(S), None));
        assert_eq!(timings.total(), S);
        response.into_body().collect().await.unwrap();
        // A clone of before the end knows about it.
        assert_eq!(early.is_reused(), reused);
        let timings = early.timings().unwrap();
        assert_eq!((timings.response(), timings.body()), (Some(S), Some(2 * S)));
        assert_eq!((timings.queue(), timings.total()), (Duration::ZERO, 3 * S));
        sleep(S).await;
        assert_eq!(early.timings(), Some(timings));
    }
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_told_where_nobody_asks() {
    let server = slow();
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    assert!(
        send(&client, timed(server.url("/")))
            .await
            .unwrap()
            .info
            .timings()
            .is_some()
    );
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .timings()
            .is_none()
    );
    at_rest(&handle).await;
    let (client, handle) = agent_over(KeepAliveLayer::new().timings(true), server.connector());
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .timings()
            .is_some()
    );
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_others_is_the_queue_and_the_own_connect_is_not() {
    let server = slow();
    let memory = server.connector();
    let connector = tower::service_fn(move |destination: Destination| {
        let memory = memory.clone();
        async move {
            sleep(5 * S).await;
            memory.oneshot(destination).await
        }
    });
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .timings(true);
    let (client, handle) = agent_over(layer, connector);
    let url = server.url("/");
    let (first, second) = tokio::join!(fetch(&client, &url), fetch(&client, &url));
    let (first, second) = (first.unwrap().info, second.unwrap().info);
    assert!(!first.is_reused() && second.is_reused());
    let (first, second) = (first.timings().unwrap(), second.timings().unwrap());
    assert_eq!((first.queue(), first.total()), (Duration::ZERO, 8 * S));
    assert_eq!((second.queue(), second.total()), (8 * S, 11 * S));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_tells_how_long_it_took() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.closed().await;
    });
    let layer = KeepAliveLayer::new().active_timeout(4 * S).timings(true);
    let (client, handle) = agent_over(layer, server.connector());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
    let timings = error.connection().unwrap().timings().unwrap();
    assert_eq!((timings.response(), timings.body()), (None, None));
    assert!(timings.total() >= 4 * S, "{timings:?}");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_dropped_or_fails_has_ended() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\no")
            .await;
        sleep(2 * S).await;
        conn.fin().await;
    });
    let layer = KeepAliveLayer::new().timings(true);
    let (client, handle) = agent_over(layer, server.connector());
    for drops in [true, false] {
        let response = client.request(get(server.url("/"))).await.unwrap();
        let info = response.body().connection().clone();
        if drops {
            sleep(S).await;
            drop(response);
        } else {
            response.into_body().collect().await.unwrap_err();
        }
        let expected = if drops { S } else { 2 * S };
        assert_eq!(info.timings().unwrap().body(), Some(expected));
    }
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_has_read_the_announced_length_is_at_the_end() {
    let server = slow();
    let (client, handle) = agent_over(KeepAliveLayer::new(), server.connector());
    let response = client.request(timed(server.url("/"))).await.unwrap();
    let mut body = response.into_body();
    while !body.is_end_stream() {
        body.frame().await.expect("the rest").unwrap();
    }
    // The connection returned to the pool with the last frame.
    assert_eq!(handle.status().idle.values().sum::<usize>(), 1);
    assert_eq!(body.connection().timings().unwrap().body(), Some(2 * S));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_response_without_a_body_ends_with_its_head() {
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(timed(server.url("/"))).await.unwrap();
    let timings = response.body().connection().timings().unwrap();
    assert!(timings.body().is_some(), "{timings:?}");
    let waited = timings.queue() + timings.response().unwrap() + timings.body().unwrap();
    assert!(waited <= timings.total(), "{timings:?}");
    at_rest(&handle).await;
}
