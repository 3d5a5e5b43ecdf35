//! A future that is not polled keeps nobody waiting, and loses nothing.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt, iter};
use http_body_util::{BodyExt, Full};
use tokio::time::{sleep, timeout};
use tower::{Service, ServiceBuilder, service_fn};
use tower_keep_alive::layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, PoolConfig};
use tower_keep_alive::{CloseReason, EventKind, KeepAliveLayer, connect::Destination};

use crate::fake::Maker;
use crate::support::agent::{agent, agent_over, agent_paused, at_rest, fetch, get, post};
use crate::support::{CountingConnector, Gate, Server, eventually, script};

type Layers = KeepAliveLayer<Full<Bytes>>;

const LONG: Duration = Duration::from_secs(20);

/// Polls it once: it waits, and then nobody polls it.
fn poll_once<F: Future>(future: Pin<&mut F>) {
    let polled = future.poll(&mut Context::from_waker(Waker::noop()));
    assert!(polled.is_pending(), "it has to wait");
}

/// Answers with a first half, and with the second when the gate is open.
async fn halves(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn| {
        let gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
                    .await;
                gate.pass().await;
                conn.send("k").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_connection_that_a_caller_does_not_come_for_goes_to_the_next() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new().max_connections_per_host(1));
    let held = client.request(get(server.url("/"))).await.unwrap();
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    poll_once(unpolled.as_mut());
    let next = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { fetch(&client, url).await }
    });
    eventually("two wait", || {
        handle.status().pending.values().sum::<usize>() == 2
    })
    .await;
    crate::support::agent::read(held).await.unwrap();
    let answer = timeout(LONG, next).await.expect("served").unwrap().unwrap();
    assert!(answer.info.is_reused());
    // The one who did not come is first in line again as soon as it is polled.
    assert_eq!(unpolled.await.unwrap().body, "ok");
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_right_to_connect_that_a_caller_does_not_come_for_goes_to_the_next() {
    for layer in [
        Layers::new().max_connections_per_host(1),
        Layers::new().max_connections(1),
    ] {
        let gate = Gate::new();
        let server = halves(&gate).await;
        let (client, handle) = agent(layer.keep_alive(false));
        let held = client.request(get(server.url("/"))).await.unwrap();
        let mut unpolled = pin!(fetch(&client, server.url("/")));
        poll_once(unpolled.as_mut());
        let next = tokio::spawn({
            let (client, url) = (client.clone(), server.url("/"));
            async move { fetch(&client, url).await }
        });
        eventually("two wait", || {
            handle.status().pending.values().sum::<usize>() == 2
        })
        .await;
        gate.open_for_all();
        crate::support::agent::read(held).await.unwrap();
        timeout(LONG, next).await.expect("served").unwrap().unwrap();
        assert_eq!(unpolled.await.unwrap().body, "ok");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_connect_goes_on_for_others_when_its_caller_is_not_polled() {
    let connects = Gate::new();
    let server = Server::in_memory(script::ok);
    let connector = CountingConnector::new(server.connector()).gate(&connects);
    let (client, handle) = agent_over(Layers::new().max_connections_per_host(1), connector.clone());
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    poll_once(unpolled.as_mut());
    let next = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { fetch(&client, url).await }
    });
    eventually("one waits", || {
        handle.status().pending.values().sum::<usize>() == 1
    })
    .await;
    connects.open(1);
    let answer = timeout(LONG, next).await.expect("served").unwrap().unwrap();
    assert_eq!(answer.body, "ok");
    // What was made for it is another's by now; it asks again by itself.
    assert_eq!(unpolled.await.unwrap().body, "ok");
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_caller_that_lost_the_connection_made_for_it_makes_another() {
    let server = Server::in_memory(script::ok);
    let connects = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&connects);
    let layer = Layers::new().idle_timeout(Duration::from_millis(50));
    let (client, handle) = agent_over(layer, connector.clone());
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    poll_once(unpolled.as_mut());
    connects.open_for_all();
    // Nobody else wants it: it is idle, and its time is up.
    eventually("it is closed", || handle.status().closed == 1).await;
    assert_eq!(handle.status().closes[&CloseReason::Idle], 1);
    assert_eq!(unpolled.await.unwrap().body, "ok");
    assert_eq!(handle.status().created, 2);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_comes_for_is_idle_and_ages() {
    let server = Server::in_memory(script::ok);
    let idle = Duration::from_secs(1);
    let layer = Layers::new().max_connections_per_host(1).idle_timeout(idle);
    let (client, handle) = agent_paused(layer, server.connector());
    let held = client.request(get(server.url("/"))).await.unwrap();
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    poll_once(unpolled.as_mut());
    crate::support::agent::read(held).await.unwrap();
    sleep(Duration::from_millis(20)).await;
    let status = handle.status();
    let count = |of: &std::collections::BTreeMap<_, usize>| of.values().sum::<usize>();
    assert_eq!(
        (count(&status.idle), count(&status.pending)),
        (1, 1),
        "{status}"
    );
    sleep(idle).await;
    let status = handle.status();
    assert_eq!(
        (status.open(), status.closes[&CloseReason::Idle]),
        (0, 1),
        "{status}"
    );
    assert_eq!(unpolled.await.unwrap().body, "ok");
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_arm_of_select_that_is_not_polled_keeps_nobody_waiting() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new().max_connections_per_host(1));
    let held = client.request(get(server.url("/"))).await.unwrap();
    let mut arm = pin!(fetch(&client, server.url("/arm")));
    tokio::select! {
        biased;
        _ = &mut arm => panic!("it has to wait"),
        () = async {} => {
            // In a handler no arm is polled.
            let other = fetch(&client, server.url("/other"));
            let (read, other) = tokio::join!(crate::support::agent::read(held), timeout(LONG, other));
            read.unwrap();
            other.expect("served").unwrap();
        }
    }
    arm.await.unwrap();
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn requests_in_a_buffered_stream_keep_nobody_waiting() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new().max_connections_per_host(1));
    let urls: Vec<_> = (0..6).map(|at| server.url(&format!("/{at}"))).collect();
    let mut answers = iter(urls).map(|url| fetch(&client, url)).buffered(3);
    let mut count = 0;
    let all = async {
        while let Some(answer) = answers.next().await {
            answer.unwrap();
            // Meanwhile nobody polls the others.
            fetch(&client, server.url("/between")).await.unwrap();
            count += 1;
        }
    };
    timeout(LONG, all).await.expect("nobody hangs");
    assert_eq!((count, handle.status().created), (6, 1));

    let mut unordered: FuturesUnordered<_> =
        (0..4).map(|_| fetch(&client, server.url("/"))).collect();
    let all = async {
        while let Some(answer) = unordered.next().await {
            answer.unwrap();
            fetch(&client, server.url("/between")).await.unwrap();
        }
    };
    timeout(LONG, all).await.expect("nobody hangs");
    drop(unordered);
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_hand_over_can_be_kept_for_its_caller() {
    let server = Server::ok().await;
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent(layer.hand_over_timeout(Duration::MAX));
    let held = client.request(get(server.url("/"))).await.unwrap();
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    poll_once(unpolled.as_mut());
    let mut next = pin!(fetch(&client, server.url("/")));
    poll_once(next.as_mut());
    crate::support::agent::read(held).await.unwrap();
    let waits = timeout(Duration::from_millis(200), next.as_mut()).await;
    assert!(waits.is_err(), "it is another's");
    unpolled.await.unwrap();
    next.await.unwrap();
    at_rest(&handle).await;
}

#[tokio::test]
async fn connections_made_ahead_do_not_wait_for_who_asked_for_them() {
    let server = Server::ok().await;
    let (client, handle) = agent(Layers::new().max_connections_per_host(2));
    let target = Destination::try_from(server.url("/").parse::<http::Uri>().unwrap()).unwrap();
    let mut unpolled = Box::pin(handle.prewarm(target, 2));
    let polled = unpolled
        .as_mut()
        .poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Pending));
    eventually("both are idle", || {
        handle.status().idle.values().sum::<usize>() == 2
    })
    .await;
    timeout(LONG, fetch(&client, server.url("/")))
        .await
        .expect("served")
        .unwrap();
    assert_eq!(unpolled.await.unwrap(), 2);
    at_rest(&handle).await;
}

/// What was made for it goes idle and dies there; it is handed that when it is polled, and no connect of its own is under
/// way any more.
#[tokio::test]
async fn who_is_handed_a_dead_connection_after_its_own_was_taken_back_asks_again() {
    let shut = Gate::new();
    let served = std::sync::atomic::AtomicUsize::new(0);
    let server = {
        let shut = shut.clone();
        Server::in_memory(move |mut conn| {
            let shut = shut.clone();
            let number = served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            async move {
                if number == 0 {
                    return shut.pass().await;
                }
                while conn.request().await.is_some() {
                    conn.respond("ok").await;
                }
            }
        })
    };
    let connects = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&connects);
    let (client, handle) = agent_over(Layers::new(), connector);
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    poll_once(unpolled.as_mut());
    connects.open_for_all();
    eventually("what was made is idle", || {
        handle.status().idle.values().sum::<usize>() == 1
    })
    .await;
    // It is handed the idle one, and looks whether that is open.
    poll_once(unpolled.as_mut());
    shut.open_for_all();
    eventually("the server has closed", || handle.status().closed == 1).await;
    let answer = timeout(LONG, unpolled).await.expect("it does not hang");
    assert_eq!(answer.unwrap().body, "ok");
    at_rest(&handle).await;
}

/// Its permit is another's by then.
#[tokio::test]
async fn who_finds_something_better_than_a_connect_that_has_failed_leaves_nothing_behind() {
    let gate = Gate::new();
    let server = Server::in_memory(script::ok);
    let begun = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let connector = {
        let (gate, inner) = (gate.clone(), server.connector());
        tower::service_fn(move |to: Destination| {
            let number = begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let (gate, inner) = (gate.clone(), inner.clone());
            async move {
                if number == 1 {
                    gate.pass().await;
                    return Err(std::io::Error::other("the second fails"));
                }
                tower::ServiceExt::oneshot(inner, to).await
            }
        })
    };
    let layer = Layers::new().max_connections_per_host(2);
    let (client, handle) = agent_over(layer, connector);
    let held = client.request(get(server.url("/"))).await.unwrap();
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    poll_once(unpolled.as_mut());
    gate.open_for_all();
    eventually("its connect has failed", || {
        handle.status().create_errors == 1
    })
    .await;
    crate::support::agent::read(held).await.unwrap();
    let answer = timeout(LONG, unpolled).await.expect("served").unwrap();
    assert!(answer.info.is_reused());
    at_rest(&handle).await;
}

/// Nobody polls the caller, and the task of its connect is over.
#[tokio::test]
async fn a_connector_that_panics_keeps_no_permit() {
    let server = Server::in_memory(script::ok);
    let begun = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let connector = {
        let inner = server.connector();
        tower::service_fn(move |to: Destination| {
            let number = begun.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            let inner = inner.clone();
            async move {
                if number == 0 {
                    tokio::task::yield_now().await;
                    panic!("the connector's own");
                }
                tower::ServiceExt::oneshot(inner, to).await
            }
        })
    };
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, connector);
    {
        let mut unpolled = Box::pin(fetch(&client, server.url("/")));
        poll_once(unpolled.as_mut());
        let next = timeout(Duration::from_secs(4), fetch(&client, server.url("/"))).await;
        assert_eq!(next.expect("served in time").unwrap().body, "ok");
        drop(unpolled);
    }
    at_rest(&handle).await;
}

/// It would make one after the other: none is of use to it but its own.
#[tokio::test]
async fn a_fresh_connection_is_kept_for_a_caller_who_is_polled_seldom() {
    let server = Server::in_memory(script::ok);
    let connects = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&connects);
    let layer = Layers::new().fresh_for_non_idempotent(true);
    let (client, handle) = agent_over(layer, connector);
    let mut seldom = pin!(client.request(post(server.url("/"), "upload")));
    poll_once(seldom.as_mut());
    connects.open_for_all();
    eventually("it is made", || handle.status().created == 1).await;
    for _ in 0..4 {
        // Much longer than a hand-over is kept for.
        sleep(Duration::from_millis(60)).await;
        assert_eq!(handle.status().idle.len(), 0, "nobody else wants it");
    }
    let response = seldom.await.unwrap();
    assert!(!response.body().connection().is_reused());
    crate::support::agent::read(response).await.unwrap();
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

/// Its server may have closed it in the meantime.
#[tokio::test(start_paused = true)]
async fn a_fresh_connection_whose_caller_comes_late_is_looked_at() {
    let (connects, maker) = (Gate::new(), Maker::default());
    let make = service_fn({
        let (connects, maker) = (connects.clone(), maker.clone());
        move |target: Destination| {
            let (connects, mut maker) = (connects.clone(), maker.clone());
            async move {
                connects.pass().await;
                maker.call(target).await
            }
        }
    });
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let mut client = ServiceBuilder::new()
        .layer(ExchangeLayer::new().fresh_for_non_idempotent(true))
        .layer(CheckinLayer::new())
        .layer(checkout)
        .service(make);
    let mut late = pin!(client.call(post("http://a/", "upload")));
    poll_once(late.as_mut());
    connects.open_for_all();
    eventually("it is made", || handle.status().created == 1).await;
    sleep(Duration::from_secs(2)).await;
    maker.0.dead.store(true, SeqCst);
    drop(late.await.unwrap());
    maker.0.transports.lock().unwrap().clear();
    let status = handle.status();
    assert_eq!(status.created, 2, "{status}");
    assert_eq!(status.closes.get(&CloseReason::Stale), Some(&1), "{status}");
}

#[tokio::test]
async fn a_fresh_connection_that_is_kept_goes_to_whoever_needs_its_place() {
    let server = Server::in_memory(script::ok);
    for layer in [
        Layers::new().max_connections_per_host(1),
        Layers::new().max_connections(1),
    ] {
        let connects = Gate::new();
        let connector = CountingConnector::new(server.connector()).gate(&connects);
        let layer = layer.fresh_for_non_idempotent(true);
        let (client, handle) = agent_over(layer, connector);
        let mut seldom = pin!(client.request(post(server.url("/"), "upload")));
        poll_once(seldom.as_mut());
        connects.open_for_all();
        eventually("it is made", || handle.status().created == 1).await;
        sleep(Duration::from_millis(60)).await;
        let next = timeout(LONG, fetch(&client, server.url("/"))).await;
        assert_eq!(next.expect("served").unwrap().body, "ok");
        assert_eq!(handle.status().created, 1, "it was that one");
        let response = timeout(LONG, seldom).await.expect("served").unwrap();
        crate::support::agent::read(response).await.unwrap();
        at_rest(&handle).await;
    }
}

/// A transport in memory cannot be looked at: the runtime has two turns to say that it has closed, if it is polled for so long.
#[tokio::test]
async fn a_connection_that_is_looked_at_for_who_is_not_polled_goes_to_the_next() {
    for layer in [
        Layers::new().max_connections_per_host(1),
        Layers::new().max_connections(1),
    ] {
        let server = Server::in_memory(script::ok);
        let (client, handle) = agent_over(layer, server.connector());
        fetch(&client, server.url("/")).await.unwrap();
        let mut unpolled = pin!(fetch(&client, server.url("/")));
        poll_once(unpolled.as_mut());
        let next = timeout(LONG, fetch(&client, server.url("/"))).await;
        assert!(next.expect("served").unwrap().info.is_reused());
        assert!(unpolled.await.unwrap().info.is_reused());
        let status = handle.status();
        assert_eq!((status.created, status.reused), (1, 2), "{status}");
        at_rest(&handle).await;
    }
}

/// What was seen of a connection before another caller used it says nothing of it afterwards.
#[tokio::test]
async fn a_connection_that_another_used_since_is_looked_at_again_and_is_a_hand_over() {
    let gate = Gate::new();
    let server = Server::in_memory({
        let gate = gate.clone();
        move |mut conn| {
            let gate = gate.clone();
            async move {
                while conn.request().await.is_some() {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
                        .await;
                    gate.pass().await;
                    conn.send("k").await;
                }
            }
        }
    });
    let layer = Layers::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, server.connector());
    let (tell, told) = std::sync::mpsc::channel();
    handle.on_event(move |_, event| tell.send(event.kind).unwrap_or_default());
    gate.open(1);
    fetch(&client, server.url("/")).await.unwrap();
    let mut seldom = pin!(fetch(&client, server.url("/")));
    poll_once(seldom.as_mut());
    let held = timeout(LONG, client.request(get(server.url("/")))).await;
    let held = held.expect("served").unwrap();
    // The two turns of its look end here, with nothing to be had.
    poll_once(seldom.as_mut());
    poll_once(seldom.as_mut());
    gate.open_for_all();
    crate::support::agent::read(held).await.unwrap();
    timeout(LONG, seldom).await.expect("served").unwrap();
    let served = told.try_iter().filter_map(|kind| match kind {
        EventKind::HandedOver { .. } => Some("handed over"),
        EventKind::Reused { .. } => Some("reused"),
        _ => None,
    });
    assert_eq!(served.collect::<Vec<_>>(), ["handed over"; 2]);
    at_rest(&handle).await;
}

/// Counts how often a task is woken.
#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, SeqCst);
    }
}

#[tokio::test]
async fn a_request_that_comes_back_unsent_goes_out_at_the_next_poll_and_asks_for_it() {
    let maker = Maker::default();
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let mut client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .service(maker.clone());
    let first = client.call(get("http://a/")).await.unwrap();
    first.collect().await.unwrap();
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let mut cx = Context::from_waker(&waker);
    let mut second = pin!(client.call(get("http://a/")));
    // The connection is taken again, and takes no second request.
    assert!(second.as_mut().poll(&mut cx).is_pending());
    assert_eq!((handle.status().created, woken.0.load(SeqCst)), (1, 1));
    let Poll::Ready(answer) = second.as_mut().poll(&mut cx) else {
        panic!("it is sent on a new connection, which answers");
    };
    assert!(answer.is_ok());
    assert_eq!((handle.status().created, handle.status().resent), (2, 1));
    maker.0.transports.lock().unwrap().clear();
}
