//! C. Limits: the queue, connects that fail, and names of pools without anything in them.

use super::limits::{SECOND, gated_in_memory, gated_server, idle, no_empty_keys, pending};
use crate::support::agent::{Connector, agent, agent_over, at_rest, fetch, protocol, read};
use crate::support::{
    Conn, CountingConnector, Gate, Over, RefusingPort, Server, Sockets, eventually, not_over_h2,
    over, settle,
};
use bytes::Bytes;
use futures_util::future::join_all;
use std::error::Error as StdError;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tower::util::MapResponseLayer;
use tower::{Service, ServiceBuilder};
use tower_keep_alive::{
    Error, KeepAliveLayer, TimeoutKind,
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, HttpConnection, PoolConfig,
    },
};

#[tokio::test]
async fn node_28_first_come_first_served_and_nobody_barges() {
    let gate = Gate::new();
    let server = gated_server(&gate).await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    tokio::join!(
        async {
            fetch(&client, server.url("/1")).await.unwrap();
            fetch(&client, server.url("/1b")).await.unwrap();
        },
        async { fetch(&client, server.url("/2")).await.unwrap() },
        async { fetch(&client, server.url("/3")).await.unwrap() },
        async {
            eventually("two are in line", || pending(&handle) == 2).await;
            for (served, in_line) in [(1, 2), (2, 2), (3, 1), (4, 0)] {
                eventually("the next has come", || {
                    server.requests() == served && pending(&handle) == in_line
                })
                .await;
                gate.open(1);
            }
        },
    );
    let heads = server.heads();
    let order: Vec<_> = heads.iter().map(|head| &*head.target).collect();
    assert_eq!(order, ["/1", "/2", "/3", "/1b"]);
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().reused, 3);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_28_the_line_has_no_end_and_no_clock_by_default() {
    let gate = Gate::new();
    let server = gated_in_memory(&gate);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, server.connector());
    let urls = (0..1000).map(|index| server.url(&format!("/{index}")));
    let (answers, ()) = tokio::join!(join_all(urls.map(|url| fetch(&client, url))), async {
        eventually("all others are in line", || pending(&handle) == 999).await;
        tokio::time::advance(3600 * SECOND).await;
        settle().await;
        assert_eq!(pending(&handle), 999);
        gate.open_for_all();
    });
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    let heads = server.heads();
    let in_order = (0..1000).all(|index| heads[index].target == format!("/{index}"));
    assert!(in_order);
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_28_the_line_can_be_bounded_in_length_and_in_time() {
    if not_over_h2("a key's first connection is made once for all who wait") {
        return;
    }
    let gate = Gate::new();
    let server = gated_in_memory(&gate);
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .max_pending_per_host(1)
        .checkout_timeout(3 * SECOND);
    let (client, handle) = agent_over(layer, server.connector());
    let start = Instant::now();
    let (first, second, third, ()) = tokio::join!(
        fetch(&client, server.url("/1")),
        async {
            let outcome = fetch(&client, server.url("/2")).await;
            (outcome, start.elapsed())
        },
        async {
            let outcome = fetch(&client, server.url("/3")).await;
            (outcome, start.elapsed())
        },
        async {
            tokio::time::sleep(4 * SECOND).await;
            assert_eq!(pending(&handle), 0);
            gate.open_for_all();
        },
    );
    first.unwrap();
    let (second, after) = second;
    let second = second.unwrap_err();
    assert_eq!(second.timeout_kind(), Some(TimeoutKind::Checkout));
    assert_eq!(after.as_secs(), 3);
    assert!(second.is_unsent());
    let (third, after) = third;
    assert!(third.unwrap_err().is_queue_full());
    assert_eq!(after, Duration::ZERO);
    assert_eq!(server.requests(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_29_a_caller_that_connects_takes_what_comes_free_first() {
    let (answers, connects) = (Gate::new(), Gate::new());
    let server = gated_server(&answers).await;
    let connector = CountingConnector::new(Connector).gate(&connects);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    connects.open(1);
    let (before, late, ()) = tokio::join!(
        fetch(&client, server.url("/before")),
        async {
            eventually("the first is sent", || server.requests() == 1).await;
            fetch(&client, server.url("/late")).await
        },
        async {
            eventually("the second connects", || connects.waiting() == 1).await;
            answers.open_for_all();
        },
    );
    let (before, late) = (before.unwrap(), late.unwrap());
    assert_eq!(
        late.info.id(),
        before.info.id(),
        "served before its connect"
    );
    assert!(late.info.is_reused());
    assert_eq!(connects.waiting(), 1, "its connect goes on");
    assert_eq!((connector.made(), connector.connected()), (2, 1));
    connects.open(1);
    eventually("its connect is for the pool", || idle(&handle) == 2).await;
    assert_eq!(connector.connected(), 2);
    let status = handle.status();
    assert_eq!((status.created, status.reused, status.closed), (2, 1, 0));
    at_rest(&handle).await;
    assert_eq!(server.accepted(), 2);
}

#[tokio::test]
async fn node_29_a_connect_left_behind_that_fails_is_nobodys_error() {
    let (answers, connects) = (Gate::new(), Gate::new());
    let server = gated_server(&answers).await;
    let connector = CountingConnector::new(Connector).gate(&connects);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    connects.open(1);
    let (before, late, ()) = tokio::join!(
        fetch(&client, server.url("/before")),
        async {
            eventually("the first is sent", || server.requests() == 1).await;
            connector.fail_next(1);
            fetch(&client, server.url("/late")).await
        },
        async {
            eventually("the second connects", || connects.waiting() == 1).await;
            answers.open_for_all();
        },
    );
    assert_eq!(before.unwrap().info.id(), late.unwrap().info.id());
    connects.open(1);
    eventually("its connect has failed", || {
        handle.status().create_errors == 1
    })
    .await;
    assert_eq!((connector.made(), connector.alive()), (2, 1));
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_30_slow_connects_do_not_defeat_the_limit() {
    if not_over_h2("a key's first connection is made once for all who wait") {
        return;
    }
    let server = Server::in_memory(crate::support::script::echo);
    let connector = CountingConnector::new(server.connector()).delay(Duration::from_millis(50));
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, connector.clone());
    let answers = join_all((0..6).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!((connector.made(), connector.max_alive()), (2, 2));
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().created, 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_31_a_connect_that_fails_fails_its_own_request_only() {
    let server = Server::echo().await;
    let connector = CountingConnector::new(Sockets);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    connector.fail_next(1);
    let (failed, one, two) = tokio::join!(
        fetch(&client, server.url("/failed")),
        fetch(&client, server.url("/one")),
        fetch(&client, server.url("/two")),
    );
    let error = failed.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    assert!(error.connection().is_none());
    assert_eq!(one.unwrap().body, "/one");
    assert_eq!(two.unwrap().body, "/two");
    assert_eq!(server.requests(), 2);
    eventually("two are idle", || idle(&handle) == 2).await;
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (3, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_31_sixteen_refused_requests_are_sixteen_errors() {
    let refusing = RefusingPort::new();
    let connector = CountingConnector::new(Sockets);
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector.clone());
    let outcomes = join_all((0..16).map(|_| fetch(&client, refusing.url("/")))).await;
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        assert_eq!(io_error(&error), Some(io::ErrorKind::ConnectionRefused));
    }
    assert_eq!((connector.made(), connector.alive()), (16, 0));
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (16, 16));
    assert_eq!(status.closed, 16);
    at_rest(&handle).await;
}

fn io_error(error: &Error) -> Option<io::ErrorKind> {
    let first = error.source();
    std::iter::successors(first, |&error| error.source())
        .find_map(|error| error.downcast_ref::<io::Error>())
        .map(io::Error::kind)
}

#[tokio::test]
async fn node_32_each_in_line_is_refused_by_a_connect_of_its_own_in_order() {
    let refusing = RefusingPort::new();
    let connector = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, connector.clone());
    let order = Mutex::new(Vec::new());
    join_all((1..=3).map(|index| {
        let (client, order, refusing) = (&client, &order, &refusing);
        async move {
            let error = fetch(client, refusing.url("/")).await.unwrap_err();
            assert_eq!(io_error(&error), Some(io::ErrorKind::ConnectionRefused));
            order.lock().unwrap().push(index);
        }
    }))
    .await;
    assert_eq!(*order.lock().unwrap(), [1, 2, 3]);
    assert_eq!((connector.made(), connector.max_alive()), (3, 1));
    assert_eq!(handle.status().create_errors, 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_33_no_key_without_something_behind_it() {
    let (connects, answers) = (Gate::new(), Gate::new());
    let server = gated_server(&answers).await;
    let connector = CountingConnector::new(Sockets).gate(&connects);
    let layer = KeepAliveLayer::new().max_connections(1);
    let (client, handle) = agent_over(layer, connector.clone());

    connector.fail_next(1);
    let (failed, ()) = tokio::join!(fetch(&client, server.url("/")), async {
        eventually("it connects", || connects.waiting() == 1).await;
        assert_eq!(handle.status().active.len(), 1);
        connects.open_for_all();
    });
    failed.unwrap_err();
    assert!(handle.status().active.is_empty());

    let elsewhere = gated_server(&answers).await;
    let (one, two, ()) = tokio::join!(
        fetch(&client, server.url("/")),
        fetch(&client, elsewhere.url("/")),
        async {
            eventually("one is sent", || answers.waiting() == 1).await;
            let status = handle.status();
            // In line for the total, and for nothing else.
            let here = format!("{}:", server.addr());
            let there = format!("{}:", elsewhere.addr());
            let names = |map: &std::collections::BTreeMap<tower_keep_alive::Key, usize>| {
                map.keys().map(|key| key.to_string()).collect::<Vec<_>>()
            };
            assert_eq!(names(&status.active), [here]);
            assert_eq!(names(&status.pending), [there]);
            no_empty_keys(&handle);
            answers.open_for_all();
        },
    );
    one.unwrap();
    two.unwrap();
    no_empty_keys(&handle);
    eventually("one is idle", || idle(&handle) == 1).await;
    handle.close_idle();
    eventually("it is closed", || handle.status().open() == 0).await;
    assert!(handle.status().idle.is_empty());
    at_rest(&handle).await;
}

tokio::task_local! {
    static CALLER: &'static str;
}

type Sightings = Arc<Mutex<Vec<(&'static str, Option<&'static str>)>>>;

fn sighted(sightings: &Sightings, place: &'static str) {
    let caller = CALLER.try_with(|caller| *caller).ok();
    sightings.lock().unwrap().push((place, caller));
}

/// A request body that notes whose task-local is current where it is read.
struct Noting(Sightings, Option<Bytes>);

impl http_body::Body for Noting {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        sighted(&self.0, "body");
        std::task::Poll::Ready(self.1.take().map(|data| Ok(http_body::Frame::data(data))))
    }
}

/// Two callers, the second in line behind the first: what each layer saw, in order.
async fn callers_seen(closes: bool) -> Vec<(&'static str, Option<&'static str>)> {
    let gate = Gate::new();
    let held = gate.clone();
    let server = Server::start(move |mut conn: Conn| {
        let gate = held.clone();
        async move {
            while conn.request().await.is_some() {
                gate.pass().await;
                if closes {
                    conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "ok")
                        .await;
                } else {
                    conn.respond("ok").await;
                }
            }
        }
    })
    .await;
    let seen = Sightings::default();
    let (on_connect, on_checkout) = (seen.clone(), seen.clone());
    let checkout =
        CheckoutLayer::<HttpConnection<Noting>>::new(PoolConfig::new().max_connections_per_host(1));
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new().protocol(protocol()))
        .layer(MapResponseLayer::new(move |lease| {
            sighted(&on_checkout, "checkout");
            lease
        }))
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::new().protocol(protocol()))
        .service(tower::service_fn(
            move |target: tower_keep_alive::connect::Destination| {
                sighted(&on_connect, "connector");
                Sockets.call(target)
            },
        ));
    let fetch = |name, path| {
        let mut client = client.clone();
        let body = Noting(seen.clone(), Some(Bytes::from_static(b"x")));
        let request = http::Request::post(server.url(path)).body(body).unwrap();
        CALLER.scope(name, async move {
            let response = client.call(request).await.unwrap();
            read(response).await.unwrap()
        })
    };
    tokio::join!(fetch("one", "/1"), fetch("two", "/2"), async {
        eventually("the second is in line", || {
            gate.waiting() == 1 && pending(&handle) == 1
        })
        .await;
        gate.open_for_all();
    });
    assert_eq!(server.accepted(), if closes { 2 } else { 1 });
    at_rest(&handle).await;
    let seen = seen.lock().unwrap().clone();
    let (bodies, seen): (Vec<_>, Vec<_>) = seen.into_iter().partition(|it| it.0 == "body");
    let mut readers: Vec<_> = bodies.into_iter().map(|(_, caller)| caller).collect();
    readers.dedup();
    match over() {
        // Until the response begins, the caller itself reads the body as the window of its stream opens.
        Over::Http2 => assert_eq!(readers, [Some("one"), Some("two")]),
        _ => assert_eq!(readers, [None], "the driver reads bodies, and is nobody's"),
    }
    seen
}

#[tokio::test]
async fn node_34_a_hand_over_is_in_the_context_of_its_caller() {
    assert_eq!(
        callers_seen(false).await,
        [
            ("connector", Some("one")),
            ("checkout", Some("one")),
            ("checkout", Some("two")),
        ]
    );
}

#[tokio::test]
async fn node_34_a_connect_after_waiting_is_in_the_context_of_its_caller() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    assert_eq!(
        callers_seen(true).await,
        [
            ("connector", Some("one")),
            ("checkout", Some("one")),
            ("connector", Some("two")),
            ("checkout", Some("two")),
        ]
    );
}
