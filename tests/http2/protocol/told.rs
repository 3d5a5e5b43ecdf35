//! What callers and operators are told of HTTP/2.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Response, Version};
use http_body_util::{BodyExt, Full};
use serde_json::json;
use tower::ServiceExt;
use tower_keep_alive::{
    AgentHandle, Body, CloseReason, EventKind, KeepAliveLayer, Protocol,
    extensions::{OneShot, Route},
    status::ProtocolStatus,
};

use crate::support::agent::{agent, at_rest, fetch, get, read};
use crate::support::frames::{code, setting};
use crate::support::{Server, eventually, http2};

fn layer() -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new().protocol(Protocol::Http2)
}

/// A server that sends the head of each response, and the rest of all when `/end` is asked for. It resets the stream of
/// `/reset`, sends the connection of `/away` away, and allows as many streams as a number for a path says.
async fn holding(limit: u32) -> http2::Server {
    http2::Server::start(move |mut conn: http2::Conn| async move {
        conn.open([(setting::MAX_CONCURRENT_STREAMS, limit)]).await;
        let mut held = Vec::new();
        while let Some(request) = conn.request().await {
            match request.path() {
                "/reset" => conn.reset(request.stream, code::INTERNAL_ERROR).await,
                "/end" => {
                    for stream in held.drain(..) {
                        conn.data(stream, b"end", true).await;
                    }
                    conn.respond(request.stream, 200, b"").await;
                }
                path => {
                    if path == "/away" {
                        conn.go_away(request.stream, code::NO_ERROR, b"").await;
                    }
                    if let Ok(limit) = path[1..].parse() {
                        conn.settings([(setting::MAX_CONCURRENT_STREAMS, limit)])
                            .await;
                    }
                    conn.headers(request.stream, &[(":status", "200")], false)
                        .await;
                    held.push(request.stream);
                }
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_response_tells_its_stream_and_how_many_are_in_use() {
    let server = holding(100).await;
    let (client, handle) = agent(layer());
    let mut held = Vec::new();
    for (place, stream) in [1, 3, 5].into_iter().enumerate() {
        let response = client.request(get(server.url("/"))).await.unwrap();
        let info = response.body().connection();
        assert_eq!(info.stream_id(), Some(stream));
        assert_eq!(info.streams(), place + 1);
        let uses = place as u64 + 1;
        assert_eq!((info.uses(), info.is_reused()), (uses, uses > 1));
        assert_eq!(
            info.id(),
            held.first().map_or(info.id(), |it: &Response<Body>| {
                it.body().connection().id()
            })
        );
        held.push(response);
    }
    let first = held[0].body().connection().clone();
    assert_eq!(first.streams(), 3);
    let end = fetch(&client, server.url("/end")).await.unwrap();
    assert_eq!(end.info.stream_id(), Some(7));
    for response in held {
        read(response).await.unwrap();
    }
    assert_eq!(first.streams(), 0);
    // Its use carries other streams now, and the info stays with its exchange.
    let last = fetch(&client, server.url("/end")).await.unwrap();
    assert_eq!(last.info.stream_id(), Some(9));
    assert_eq!((first.stream_id(), first.uses()), (Some(1), 1));
    assert!(
        format!("{first:?}").contains("stream_id: Some(1)"),
        "{first:?}"
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_error_tells_its_stream() {
    let server = holding(100).await;
    let (client, handle) = agent(layer());
    fetch(&client, server.url("/end")).await.unwrap();
    let error = fetch(&client, server.url("/reset")).await.unwrap_err();
    let info = error.connection().unwrap();
    assert_eq!((info.stream_id(), info.uses()), (Some(3), 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connection_of_its_own_has_a_stream_too() {
    let server = holding(100).await;
    let (client, handle) = agent(layer());
    let mut request = get(server.url("/"));
    request.extensions_mut().insert(OneShot);
    let response = client.clone().oneshot(request).await.unwrap();
    let info = response.body().connection().clone();
    assert_eq!((info.stream_id(), info.streams()), (Some(1), 1));
    drop(response);
    eventually("its stream is over", || info.streams() == 0).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn over_http_1_there_is_one_exchange_and_no_stream() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(get(server.url("/"))).await.unwrap();
    let info = response.body().connection().clone();
    assert_eq!((info.stream_id(), info.streams()), (None, 1));
    response.into_body().collect().await.unwrap();
    assert_eq!(info.streams(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn the_status_tells_what_is_spoken_and_carried_for_each_key() {
    let shared = holding(10).await;
    let single = Server::ok().await;
    let (client, handle) = agent(layer());
    let over = |protocol, url: String| {
        let mut request = get(url);
        request
            .extensions_mut()
            .insert(Route::new().with_protocol(protocol));
        client.clone().oneshot(request)
    };
    let held = [
        client.request(get(shared.url("/"))).await.unwrap(),
        client.request(get(shared.url("/"))).await.unwrap(),
    ];
    let one = over(Protocol::Http1, single.url("/")).await.unwrap();
    let status = handle.status();
    let key = |response: &Response<Body>| response.body().connection().key().unwrap().clone();
    let (of_two, of_one) = (key(&held[0]), key(&one));
    let told = |it: &ProtocolStatus| (it.http1, it.http2, it.draining, it.streams, it.capacity);
    assert_eq!(told(&status.protocols[&of_two]), (0, 1, 0, 2, 10));
    assert_eq!(told(&status.protocols[&of_one]), (1, 0, 0, 1, 1));
    // agentkeepalive's numbers count sockets.
    assert_eq!((status.active[&of_two], status.active[&of_one]), (1, 1));
    let text = status.to_string();
    assert!(
        text.ends_with("2 active, 0 pending; 2 of 10 streams on 1 connection of HTTP/2"),
        "{text}"
    );
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(
        json["protocols"][of_two.to_string()],
        json!({ "http1": 0, "http2": 1, "draining": 0, "streams": 2, "capacity": 10 })
    );
    assert_eq!(json["sockets"][of_two.to_string()], 1);

    read(one).await.unwrap();
    fetch(&client, shared.url("/end")).await.unwrap();
    for response in held {
        read(response).await.unwrap();
    }
    let status = handle.status();
    assert_eq!(told(&status.protocols[&of_two]), (0, 1, 0, 0, 10));
    assert_eq!(told(&status.protocols[&of_one]), (1, 0, 0, 0, 1));
    handle.close_idle();
    eventually("they are closed", || handle.status().protocols.is_empty()).await;
    let json = serde_json::to_value(handle.status()).unwrap();
    assert_eq!(json.get("protocols"), None);
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_only_ends_its_streams_is_told_as_draining_and_carries_nothing() {
    let server = holding(10).await;
    let (client, handle) = agent(layer());
    let held = client.request(get(server.url("/"))).await.unwrap();
    let info = held.body().connection().clone();
    info.poison();
    let next = client.request(get(server.url("/"))).await.unwrap();
    assert_ne!(next.body().connection().id(), info.id());
    let status = handle.status();
    let told = status.protocols[info.key().unwrap()];
    assert_eq!((told.http2, told.draining), (2, 1));
    assert_eq!((told.streams, told.capacity), (2, 10));
    drop((held, next));
    at_rest(&handle).await;
}

type Heard = Arc<Mutex<Vec<(Option<Version>, EventKind)>>>;

fn listen(handle: &AgentHandle) -> Heard {
    let heard = Heard::default();
    let list = heard.clone();
    handle.on_event(move |_, event| list.lock().unwrap().push((event.version, event.kind)));
    heard
}

/// The events that this finds something in.
fn told<T>(heard: &Heard, find: impl Fn(EventKind) -> Option<T>) -> Vec<T> {
    let heard = heard.lock().unwrap();
    heard.iter().filter_map(|it| find(it.1)).collect()
}

fn draining(kind: EventKind) -> Option<(CloseReason, usize)> {
    match kind {
        EventKind::Draining {
            reason, streams, ..
        } => Some((reason, streams)),
        _ => None,
    }
}

fn closed(kind: EventKind) -> Option<CloseReason> {
    match kind {
        EventKind::Closed { reason, .. } => Some(reason),
        _ => None,
    }
}

#[tokio::test]
async fn a_server_that_allows_more_or_fewer_streams_is_an_event() {
    let server = holding(10).await;
    let (client, handle) = agent(layer());
    let heard = listen(&handle);
    let changes = || {
        told(&heard, |kind| match kind {
            EventKind::CapacityChanged {
                capacity, before, ..
            } => Some((capacity, before)),
            _ => None,
        })
    };
    let one = client.request(get(server.url("/2"))).await.unwrap();
    eventually("less is allowed", || changes().len() == 2).await;
    let two = client.request(get(server.url("/50"))).await.unwrap();
    eventually("more is allowed", || changes().len() == 3).await;
    // What is no change is none.
    let three = client.request(get(server.url("/50"))).await.unwrap();
    fetch(&client, server.url("/end")).await.unwrap();
    for response in [one, two, three] {
        read(response).await.unwrap();
    }
    assert_eq!(changes(), [(10, None), (2, Some(10)), (50, Some(2))]);
    assert!(told(&heard, draining).is_empty());
    let versions: Vec<_> = heard.lock().unwrap().iter().map(|it| it.0).collect();
    assert_eq!(versions[0], None, "it is not connected yet");
    assert!(versions[1..].iter().all(|&it| it == Some(Version::HTTP_2)));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_goaway_is_told_once_with_the_streams_that_are_left() {
    let server = holding(10).await;
    let (client, handle) = agent(layer());
    let heard = listen(&handle);
    let one = client.request(get(server.url("/"))).await.unwrap();
    let two = client.request(get(server.url("/away"))).await.unwrap();
    eventually("it drains", || !told(&heard, draining).is_empty()).await;
    assert_eq!(told(&heard, closed), []);
    drop((one, two));
    eventually("it is closed", || !told(&heard, closed).is_empty()).await;
    assert_eq!(told(&heard, draining), [(CloseReason::GoAway, 2)]);
    assert_eq!(told(&heard, closed), [CloseReason::GoAway]);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_drain_for_a_reason_of_our_own_is_told_too() {
    let server = holding(10).await;
    let (client, handle) = agent(layer().max_uses(2));
    let heard = listen(&handle);
    let one = client.request(get(server.url("/"))).await.unwrap();
    let two = client.request(get(server.url("/"))).await.unwrap();
    let three = client.request(get(server.url("/"))).await.unwrap();
    three.body().connection().poison();
    let four = client.request(get(server.url("/"))).await.unwrap();
    assert_eq!(
        told(&heard, draining),
        [(CloseReason::Uses, 2), (CloseReason::Poisoned, 1)]
    );
    drop((one, two, three, four));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_connection_without_streams_is_closed_and_does_not_drain() {
    let server = holding(10).await;
    let (client, handle) = agent(layer());
    let heard = listen(&handle);
    let response = client.request(get(server.url("/"))).await.unwrap();
    let info = response.body().connection().clone();
    drop(response);
    eventually("it is idle", || handle.status().active.is_empty()).await;
    info.poison();
    eventually("it is closed", || !told(&heard, closed).is_empty()).await;
    assert_eq!(told(&heard, draining), []);
    assert_eq!(told(&heard, closed), [CloseReason::Poisoned]);
    at_rest(&handle).await;
}
