//! Streams: never more than the server allows, and callers in their order.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use crate::support::CountingConnector;
use crate::support::agent::{Answer, Client, agent, agent_paused, at_rest, fetch, post, send};
use crate::support::eventually;
use crate::support::frames::{Behaviour, setting};
use crate::support::http2::{Conn, Server};
use futures_util::future::join_all;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tower_keep_alive::{AgentHandle, Error, Http2, KeepAliveLayer, Protocol};

const STREAMS: u16 = setting::MAX_CONCURRENT_STREAMS;

fn http2(layer: KeepAliveLayer<http_body_util::Full<bytes::Bytes>>) -> (Client, AgentHandle) {
    agent(layer.protocol(Protocol::Http2))
}

/// Answers a request with its path, the oldest first, whenever there is a turn.
async fn by_turns(conn: &mut Conn, turns: &Semaphore) {
    let mut waiting = VecDeque::new();
    loop {
        conn.flush().await;
        tokio::select! {
            frame = conn.next() => {
                if frame.is_none() {
                    return;
                }
                while let Some(request) = conn.take_request() {
                    waiting.push_back((request.stream, request.path().to_owned()));
                }
            }
            turn = turns.acquire(), if !waiting.is_empty() => {
                turn.expect("it is not closed").forget();
                let (stream, path) = waiting.pop_front().expect("asked above");
                conn.respond(stream, 200, path.as_bytes()).await;
            }
        }
    }
}

/// A server that allows so many streams, and answers when it is told.
async fn server_by_turns(limit: u32) -> (Server, Arc<Semaphore>) {
    let turns = Arc::new(Semaphore::new(0));
    let its = turns.clone();
    let server = Server::start(move |mut conn| {
        let turns = its.clone();
        async move {
            conn.open([(STREAMS, limit)]).await;
            by_turns(&mut conn, &turns).await;
        }
    });
    (server.await, turns)
}

/// Callers in their order, each in a task of its own.
fn callers(
    client: &Client,
    server: &Server,
    numbers: std::ops::Range<usize>,
) -> Vec<JoinHandle<Result<Answer, Error>>> {
    let call = |number| {
        let (client, url) = (client.clone(), server.url(&format!("/{number}")));
        tokio::spawn(async move { fetch(&client, url).await })
    };
    numbers.map(call).collect()
}

/// All of them were answered, each with its own answer.
async fn all_answered(callers: Vec<JoinHandle<Result<Answer, Error>>>, from: usize) {
    for (caller, number) in callers.into_iter().zip(from..) {
        let answer = caller.await.unwrap().unwrap();
        assert_eq!(answer.body, format!("/{number}"));
    }
}

async fn arrived(server: &Server, requests: usize) {
    eventually("the requests arrive", || {
        server.log.seen(|seen| seen.requests.len()) >= requests
    })
    .await;
}

fn paths(server: &Server) -> Vec<String> {
    let requests = server.log.requests();
    requests.iter().map(|it| it.path().to_owned()).collect()
}

#[tokio::test]
async fn a_thousand_callers_have_four_hundred_streams_in_their_order() {
    let (server, turns) = server_by_turns(100).await;
    let (client, handle) = http2(KeepAliveLayer::new().max_connections_per_host(4));
    let callers = callers(&client, &server, 0..1_000);
    arrived(&server, 400).await;
    let first: BTreeSet<_> = paths(&server).into_iter().collect();
    let those_who_came_first = (0..400).map(|it| format!("/{it}")).collect();
    assert_eq!(first, those_who_came_first);
    for next in 400..1_000 {
        turns.add_permits(1);
        arrived(&server, next + 1).await;
        assert_eq!(paths(&server)[next..], [format!("/{next}")]);
    }
    turns.add_permits(400);
    all_answered(callers, 0).await;
    server.log.seen(|seen| {
        assert_eq!((seen.connections, seen.most_open), (4, 400));
        assert_eq!((seen.most_open_on_one, seen.beyond_limit), (100, 0));
    });
    at_rest(&handle).await;
}

#[tokio::test]
async fn callers_that_are_gone_have_no_streams() {
    let (server, turns) = server_by_turns(1).await;
    let (client, handle) = http2(KeepAliveLayer::new().max_connections_per_host(1));
    let first = callers(&client, &server, 0..1);
    arrived(&server, 1).await;
    let gone = callers(&client, &server, 1..10_000);
    let last = callers(&client, &server, 10_000..10_001);
    eventually("all of them wait", || {
        handle.status().pending.values().sum::<usize>() == 10_000
    })
    .await;
    for caller in gone {
        caller.abort();
    }
    eventually("one of them waits", || {
        handle.status().pending.values().sum::<usize>() == 1
    })
    .await;
    turns.add_permits(2);
    all_answered(first, 0).await;
    all_answered(last, 10_000).await;
    assert_eq!(paths(&server), ["/0", "/10000"]);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_hundred_at_once_on_a_cold_pool_share_one_connection() {
    let server = Server::behaving(Behaviour {
        delay: Duration::from_millis(5),
        ..Behaviour::default()
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    all_answered(callers(&client, &server, 0..100), 0).await;
    server.log.seen(|seen| assert_eq!(seen.connections, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_hundred_at_once_have_as_many_connections_as_they_need() {
    let (server, turns) = server_by_turns(10).await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let callers = callers(&client, &server, 0..100);
    arrived(&server, 100).await;
    turns.add_permits(100);
    all_answered(callers, 0).await;
    server.log.seen(|seen| {
        assert_eq!((seen.connections, seen.most_open), (10, 100));
        assert_eq!((seen.most_open_on_one, seen.beyond_limit), (10, 0));
    });
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_limit_of_our_own_is_kept_where_the_server_has_none() {
    let turns = Arc::new(Semaphore::new(0));
    let its = turns.clone();
    let server = Server::start(move |mut conn| {
        let turns = its.clone();
        async move {
            conn.open([]).await;
            by_turns(&mut conn, &turns).await;
        }
    })
    .await;
    let two = Http2::new().max_streams_per_connection(2);
    let (client, handle) = http2(KeepAliveLayer::new().http2(two));
    let callers = callers(&client, &server, 0..6);
    arrived(&server, 6).await;
    turns.add_permits(6);
    all_answered(callers, 0).await;
    server.log.seen(|seen| {
        assert_eq!((seen.connections, seen.most_open_on_one), (3, 2));
    });
    at_rest(&handle).await;
}

/// Until the server has answered this PING, it has heard all that came before.
async fn round_trip(conn: &mut Conn, waiting: &mut VecDeque<u32>) {
    conn.ping(*b"are you?").await;
    loop {
        let frame = conn.next().await.expect("the client stays");
        while let Some(request) = conn.take_request() {
            waiting.push_back(request.stream);
        }
        if frame.payload == b"are you?" {
            return;
        }
    }
}

#[tokio::test]
async fn a_limit_lowered_below_what_is_open_takes_nothing_away_and_gives_nothing_out() {
    let server = Server::start(|mut conn| async move {
        conn.open([(STREAMS, 10)]).await;
        let mut waiting = VecDeque::new();
        while waiting.len() < 10 {
            waiting.push_back(conn.request().await.unwrap().stream);
        }
        conn.settings([(STREAMS, 3)]).await;
        for _ in 0..7 {
            let stream = waiting.pop_front().unwrap();
            conn.respond(stream, 200, b"").await;
            round_trip(&mut conn, &mut waiting).await;
        }
        assert_eq!(conn.log().requests().len(), 10, "three are open");
        for next in 11..=15 {
            let stream = waiting.pop_front().unwrap();
            conn.respond(stream, 200, b"").await;
            while conn.log().requests().len() < next {
                waiting.push_back(conn.request().await.unwrap().stream);
            }
            assert_eq!(conn.open_streams(), 3);
        }
        while let Some(stream) = waiting.pop_front() {
            conn.respond(stream, 200, b"").await;
        }
        conn.closed().await;
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new().max_connections_per_host(1));
    let callers = callers(&client, &server, 0..15);
    for caller in callers {
        caller.await.unwrap().unwrap();
    }
    let in_their_order: Vec<_> = (0..15).map(|it| format!("/{it}")).collect();
    assert_eq!(paths(&server), in_their_order);
    server.log.seen(|seen| assert_eq!(seen.beyond_limit, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_server_that_allows_nothing_for_a_while_keeps_its_callers_and_gets_no_crowd() {
    let server = Server::start(|mut conn| async move {
        conn.open([(STREAMS, 100)]).await;
        let first = conn.request().await.unwrap();
        conn.settings([(STREAMS, 0)]).await;
        round_trip(&mut conn, &mut VecDeque::new()).await;
        conn.respond(first.stream, 200, b"/0").await;
        // Time for a crowd of connects.
        tokio::time::sleep(Duration::from_millis(50)).await;
        conn.settings([(STREAMS, 100)]).await;
        while let Some(request) = conn.request().await {
            let path = request.path().to_owned();
            conn.respond(request.stream, 200, path.as_bytes()).await;
        }
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    let first = fetch(&client, server.url("/0")).await.unwrap();
    assert_eq!(first.body, "/0");
    all_answered(callers(&client, &server, 1..101), 1).await;
    server.log.seen(|seen| {
        assert_eq!((seen.connections, seen.beyond_limit), (1, 0));
    });
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_limit_that_is_told_late_is_kept_from_the_start() {
    let server = Server::behaving(Behaviour {
        delay: Duration::from_millis(2),
        limit: Some(10),
        settings_after: Duration::from_millis(50),
        ..Behaviour::default()
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new().max_connections_per_host(2));
    all_answered(callers(&client, &server, 0..100), 0).await;
    server.log.seen(|seen| {
        assert!(seen.connections <= 2, "{}", seen.connections);
        assert_eq!(seen.beyond_limit, 0);
        assert_eq!(seen.requests.len(), 100, "none was refused");
    });
    at_rest(&handle).await;
}

#[tokio::test]
async fn refused_requests_are_sent_again_whatever_their_method() {
    let server = Server::behaving(Behaviour {
        delay: Duration::from_millis(2),
        refuse_every: Some(10),
        ..Behaviour::default()
    })
    .await;
    let (client, handle) = http2(KeepAliveLayer::new());
    for round in 0..10 {
        let posts = (0..100).map(|number| {
            let url = server.url(&format!("/{}", round * 100 + number));
            let client = &client;
            async move { send(client, post(url, "once only")).await }
        });
        for (answer, number) in join_all(posts).await.into_iter().zip(round * 100..) {
            assert_eq!(answer.unwrap().body, format!("/{number}"));
        }
    }
    assert_eq!(server.log.executed("POST").len(), 1_000);
    assert_eq!(server.log.executed_twice("POST"), 0);
    let refused = server.log.seen(|seen| seen.requests.len()) - 1_000;
    assert!(refused > 50, "{refused}");
    at_rest(&handle).await;
}

/// A caller that is served by another's stream leaves its connect to the pool, and the next caller waits for that.
#[tokio::test(start_paused = true)]
async fn callers_of_a_server_that_allows_one_stream_make_no_more_connections_than_they_need() {
    const CALLERS: usize = 4;
    let server = Server::in_memory(|conn| async move {
        let behaviour = Behaviour {
            delay: Duration::from_millis(2),
            limit: Some(1),
            ..Behaviour::default()
        };
        behaviour.serve(conn).await;
    });
    let layer = KeepAliveLayer::new().protocol(Protocol::Http2);
    let connector = CountingConnector::new(server.connector());
    let (client, handle) = agent_paused(layer, connector.delay(Duration::from_millis(100)));
    fetch(&client, server.url("/first")).await.unwrap();
    join_all((0..CALLERS).map(|_| async {
        for _ in 0..200 {
            assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "/");
        }
    }))
    .await;
    let created = handle.status().created;
    assert_eq!(created, CALLERS as u64);
    at_rest(&handle).await;
}
