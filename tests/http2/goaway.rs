//! Servers that send their clients away: nothing is lost, and nothing is carried out twice.

use std::time::Duration;

use crate::support::agent::{Client, Req, agent, at_rest, fetch, get, post, send};
use crate::support::eventually;
use crate::support::frames::{Behaviour, GoAway, NO_LAST_STREAM, code};
use crate::support::http2::Server;
use futures_util::future::join_all;
use http::Method;
use http_body_util::BodyExt;
use tower_keep_alive::{AgentHandle, KeepAliveLayer, Protocol};

fn http2() -> (Client, AgentHandle) {
    agent(KeepAliveLayer::new().protocol(Protocol::Http2))
}

const CALLERS: usize = 50;
const EACH: usize = 40;

fn request(method: &Method, url: String) -> Req {
    match *method {
        Method::POST => post(url, "once only"),
        _ => get(url),
    }
}

/// Every request of a crowd has its answer, and the server has carried out each once.
async fn nothing_is_lost(behaviour: Behaviour) {
    let server = Server::behaving(Behaviour {
        delay: Duration::from_millis(1),
        ..behaviour
    })
    .await;
    for method in [Method::GET, Method::POST] {
        let (client, handle) = http2();
        let callers = (0..CALLERS).map(|caller| {
            let (client, server, method) = (&client, &server, &method);
            async move {
                for number in 0..EACH {
                    let path = format!("/{caller}/{number}");
                    let answer = send(client, request(method, server.url(&path))).await;
                    let answer = answer.unwrap_or_else(|it| panic!("{method} {path}: {it:?}"));
                    assert_eq!(answer.body, path);
                }
            }
        });
        join_all(callers).await;
        let executed = server.log.executed(method.as_str());
        assert_eq!(executed.len(), CALLERS * EACH, "{method}");
        assert_eq!(server.log.executed_twice(method.as_str()), 0, "{method}");
        at_rest(&handle).await;
    }
    let connections = server.log.seen(|seen| seen.connections);
    assert!(connections >= 2 * CALLERS * EACH / 100, "{connections}");
}

#[tokio::test]
async fn nothing_is_lost_where_the_last_stream_is_named() {
    nothing_is_lost(Behaviour {
        go_away: Some((100, GoAway::Named)),
        ..Behaviour::default()
    })
    .await;
}

#[tokio::test]
async fn nothing_is_lost_where_a_stream_is_named_that_is_twenty_back() {
    nothing_is_lost(Behaviour {
        go_away: Some((100, GoAway::Back(20))),
        ..Behaviour::default()
    })
    .await;
}

#[tokio::test]
async fn nothing_is_lost_where_the_end_is_announced() {
    nothing_is_lost(Behaviour {
        go_away: Some((100, GoAway::Announced(Duration::from_millis(1)))),
        ..Behaviour::default()
    })
    .await;
}

#[tokio::test]
async fn nothing_is_lost_where_few_streams_are_allowed_as_well() {
    nothing_is_lost(Behaviour {
        limit: Some(10),
        go_away: Some((50, GoAway::Back(5))),
        ..Behaviour::default()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_two_threads() {
    let server = Server::behaving(Behaviour {
        go_away: Some((100, GoAway::Back(20))),
        ..Behaviour::default()
    })
    .await;
    let (client, handle) = http2();
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let (client, url) = (client.clone(), server.url(""));
            tokio::spawn(async move {
                for number in 0..EACH {
                    let path = format!("/{caller}/{number}");
                    let answer = send(&client, post(format!("{url}{path}"), "once only")).await;
                    assert_eq!(answer.unwrap().body, path);
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    assert_eq!(server.log.executed("POST").len(), CALLERS * EACH);
    assert_eq!(server.log.executed_twice("POST"), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_is_under_way_ends_on_the_old_connection_and_what_is_new_goes_to_another() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        let first = conn.request().await.unwrap();
        if conn.index > 0 {
            conn.respond(first.stream, 200, b"new").await;
            return conn.closed().await;
        }
        conn.headers(first.stream, &[(":status", "200")], false)
            .await;
        conn.go_away(first.stream, code::NO_ERROR, b"").await;
        conn.data(first.stream, b"old, ", false).await;
        eventually("the other connection has answered", || {
            conn.log().requests().len() == 2
        })
        .await;
        conn.data(first.stream, b"to its end", true).await;
        // The client closes what has no streams any more.
        conn.closed().await;
    })
    .await;
    let (client, handle) = http2();
    let mut response = client.request(get(server.url("/old"))).await.unwrap();
    // The client has heard what came before it.
    let begun = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(begun.into_data().unwrap(), "old, ");
    let new = fetch(&client, server.url("/new")).await.unwrap();
    assert_eq!(new.body, "new");
    let old = crate::support::agent::read(response).await.unwrap();
    assert_eq!(old.body, "to its end");
    eventually("the old connection is closed", || server.open() == 1).await;
    at_rest(&handle).await;
    let connections: Vec<_> = server
        .log
        .requests()
        .iter()
        .map(|it| it.connection)
        .collect();
    assert_eq!(connections, [0, 1]);
}

#[tokio::test]
async fn an_end_that_is_only_announced_is_no_end_of_what_is_under_way() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        conn.go_away(NO_LAST_STREAM, code::NO_ERROR, b"soon").await;
        while let Some(request) = conn.request().await {
            let path = request.path().to_owned();
            conn.respond(request.stream, 200, path.as_bytes()).await;
        }
    })
    .await;
    let (client, handle) = http2();
    for number in 0..5 {
        let path = format!("/{number}");
        let answer = fetch(&client, server.url(&path)).await.unwrap();
        assert_eq!(answer.body, path);
    }
    assert_eq!(server.log.requests().len(), 5, "none was sent twice");
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_looks_at_nothing_is_asked_a_few_times_and_no_more() {
    let server = Server::start(|mut conn| async move {
        conn.open([]).await;
        while conn.open_streams() == 0 {
            if conn.next().await.is_none() {
                return;
            }
        }
        conn.go_away(0, code::NO_ERROR, b"").await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = http2();
    let refused = send(&client, post(server.url("/"), "never looked at")).await;
    let refused = refused.unwrap_err();
    assert!(refused.is_refused() && refused.is_unsent(), "{refused:?}");
    let tries = server.log.requests().len();
    assert!((2..=8).contains(&tries), "{tries}");
    at_rest(&handle).await;
}
