//! One wait is measured by one clock, whatever the caller is given meanwhile.

use std::pin::pin;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use futures_util::FutureExt;
use http::Uri;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep};
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    EventKind, KeepAliveLayer, TimeoutKind,
    connect::Destination,
    layers::{CheckinLayer, CheckoutError, CheckoutLayer, Denied, ExchangeLayer, PoolConfig},
};

use crate::fake::Maker;
use crate::support::agent::{agent_paused, at_rest, fetch, get, paused_clock, read};
use crate::support::{CountingConnector, Gate, Server, script};

const SECOND: Duration = Duration::from_secs(1);

fn limits() -> PoolConfig {
    PoolConfig::new()
        .clock(paused_clock())
        .max_connections_per_host(1)
        .checkout_timeout(4 * SECOND)
}

#[tokio::test(start_paused = true)]
async fn a_stale_hand_over_does_not_begin_the_checkout_timeout_anew() {
    let maker = Maker::default();
    let checkout = CheckoutLayer::new(limits());
    let handle = checkout.handle();
    let mut leases = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(checkout)
        .service(maker.clone());
    let target = Destination::try_from(Uri::from_static("http://a/")).unwrap();
    let lease = leases.call(target.clone()).await.unwrap();
    let begun = Instant::now();
    let waits = tokio::spawn(leases.call(target));
    sleep(3 * SECOND).await;
    maker.0.dead.store(true, SeqCst);
    // Handed over, and found stale; its transport stays, and so does its permit.
    drop(lease);
    let error = waits.await.unwrap().expect_err("nothing comes free");
    assert_eq!(begun.elapsed(), 4 * SECOND);
    let limit = Denied::CheckoutTimeout(4 * SECOND);
    assert!(
        matches!(&error, CheckoutError::Denied(denied) if *denied == limit),
        "{error:?}"
    );
    assert_eq!(handle.status().stale, 1);
    maker.0.transports.lock().unwrap().clear();
    assert_eq!((handle.status().created, handle.status().closed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn an_unsent_request_does_not_begin_the_checkout_timeout_anew() {
    let maker = Maker::default();
    let checkout = CheckoutLayer::new(limits());
    let handle = checkout.handle();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .service(maker.clone());
    let first = client.clone().oneshot(get("http://a/")).await.unwrap();
    let begun = Instant::now();
    let waits = tokio::spawn(client.clone().oneshot(get("http://a/")));
    sleep(3 * SECOND).await;
    // Handed over, and the request comes back unsent; the transport stays, and so does its permit.
    first.collect().await.unwrap();
    let error = waits.await.unwrap().expect_err("nothing comes free");
    assert_eq!(begun.elapsed(), 4 * SECOND);
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Checkout));
    assert_eq!(error.timeout(), Some(4 * SECOND));
    maker.0.transports.lock().unwrap().clear();
    assert_eq!((handle.status().created, handle.status().closed), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_wait_that_is_told_began_before_a_stale_hand_over() {
    let maker = Maker::default();
    let checkout = CheckoutLayer::new(limits().max_connections_per_host(2));
    let handle = checkout.handle();
    let (tell, told) = std::sync::mpsc::channel();
    handle.on_event(move |_, event| tell.send(event.kind).unwrap());
    let mut leases = ServiceBuilder::new()
        .layer(CheckinLayer::new())
        .layer(checkout)
        .service(maker.clone());
    let target = Destination::try_from(Uri::from_static("http://a/")).unwrap();
    let stale = leases.call(target.clone()).await.unwrap();
    let good = leases.call(target.clone()).await.unwrap();
    let waits = tokio::spawn(leases.call(target));
    sleep(SECOND).await;
    maker.0.dead.store(true, SeqCst);
    drop(stale);
    sleep(SECOND).await;
    maker.0.dead.store(false, SeqCst);
    drop(good);
    drop(waits.await.unwrap().unwrap());
    let waited = told.try_iter().filter_map(|kind| match kind {
        EventKind::HandedOver { waited, .. } => Some(waited),
        _ => None,
    });
    assert_eq!(waited.collect::<Vec<_>>(), [2 * SECOND]);
}

/// Nobody polls it while its own connection is made, and that goes to another caller.
#[tokio::test(start_paused = true)]
async fn the_time_of_its_own_connect_is_no_wait() {
    let server = Server::in_memory(script::ok);
    let connects = Gate::new();
    let connector = CountingConnector::new(server.connector()).gate(&connects);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let layer = layer
        .checkout_timeout(4 * SECOND)
        .connect_timeout(8 * SECOND);
    let (client, handle) = agent_paused(layer, connector);
    let mut unpolled = pin!(fetch(&client, server.url("/")));
    assert!(unpolled.as_mut().now_or_never().is_none());
    sleep(3 * SECOND).await;
    connects.open_for_all();
    let held = client.request(get(server.url("/"))).await.unwrap();
    let (answer, ()) = tokio::join!(unpolled, async {
        sleep(3 * SECOND).await;
        read(held).await.unwrap();
    });
    assert_eq!(answer.expect("it waited for 3 s").body, "ok");
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}
