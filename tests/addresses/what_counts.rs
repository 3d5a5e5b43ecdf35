//! Which exchanges count for the ejection of their address, and as what.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt};
use tower_keep_alive::{
    Body, Ejection, EjectionReason, EventKind, Http2, KeepAliveLayer, Protocol, Spread,
    TimeoutKind,
    extensions::{InactivityTimeout, RequestTimeout, ResponseTimeout},
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

use crate::ejection::{
    CUTS, PROTOCOLS, SILENT, T, URL, changes, ejected, hosts, in_time, layer, names,
};
use crate::names::Names;
use crate::support::agent::{agent_over, at_rest, fetch, get, post, read, send};
use crate::support::frames::code;
use crate::support::http2;

/// While a response is held, the next request makes a connection to another address, over HTTP/2 too.
fn one_stream(layer: KeepAliveLayer<Full<Bytes>>) -> KeepAliveLayer<Full<Bytes>> {
    layer.http2(Http2::new().max_streams_per_connection(1))
}

/// Its heads are as they should be.
#[tokio::test]
async fn an_address_whose_bodies_break_off_is_ejected_and_each_exchange_counts_once() {
    for protocol in PROTOCOLS {
        let in_a_row = Ejection::new().consecutive(3);
        // If a head counted as a success beside its body, no three of three could fail.
        let all_of_three = Ejection::new().consecutive(100).failure_share(1.0, 3);
        for ejection in [in_a_row, all_of_three] {
            let hosts = hosts(protocol, &[200, CUTS]).await;
            let names = names(&hosts);
            let (client, handle) =
                agent_over(one_stream(layer(protocol, ejection)), names.connector());
            let changes = changes(&handle);
            let held = client.request(get(URL)).await.unwrap();
            for _ in 0..20 {
                // It succeeds, or its body does not.
                let _ = fetch(&client, URL).await;
                // Each request makes a connection.
                handle.close_idle();
            }
            assert_eq!(hosts[1].asked(), 3, "{protocol:?}");
            let reason = match changes.lock().unwrap()[..] {
                [EventKind::AddressEjected { reason, .. }] => reason,
                ref other => panic!("{other:?}"),
            };
            let failures = match reason {
                EjectionReason::Consecutive { failures, .. } => failures,
                EjectionReason::FailureShare {
                    failures, of: 3, ..
                } => failures,
                other => panic!("{other}"),
            };
            assert_eq!(failures, 3);
            read(held).await.unwrap();
            handle.close_idle();
            at_rest(&handle).await;
        }
    }
}

#[tokio::test]
async fn a_trial_whose_body_breaks_off_ejects_again() {
    let begun = Instant::now();
    for protocol in PROTOCOLS {
        let hosts = hosts(protocol, &[200, CUTS]).await;
        let ejection = Ejection::new().consecutive(1).base_time(T).max_time(T);
        let names = names(&hosts);
        let (client, handle) = agent_over(one_stream(layer(protocol, ejection)), names.connector());
        let changes = changes(&handle);
        let held = client.request(get(URL)).await.unwrap();
        while in_time(&begun) && changes.lock().unwrap().len() < 3 {
            let _ = fetch(&client, URL).await;
            tokio::time::sleep(T / 10).await;
        }
        for (change, expected) in changes.lock().unwrap().iter().zip(1..) {
            let EventKind::AddressEjected { times, .. } = change else {
                panic!("{change:?}");
            };
            assert_eq!(*times, expected, "{protocol:?}");
        }
        hosts[1].set(200);
        let is_readmitted = || {
            let changes = changes.lock().unwrap();
            matches!(changes.last(), Some(EventKind::AddressReadmitted { .. }))
        };
        while in_time(&begun) && !is_readmitted() {
            fetch(&client, URL).await.unwrap();
        }
        read(held).await.unwrap();
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// So a client that looks at heads alone has no address ejected by failures that lie days apart.
#[tokio::test]
async fn a_response_whose_body_is_dropped_is_a_success() {
    let begun = Instant::now();
    let hosts = hosts(Protocol::Http1, &[503, 200]).await;
    let ejection = Ejection::new()
        .server_errors(true)
        .consecutive(1)
        .base_time(T);
    let names = names(&hosts);
    let (client, handle) = agent_over(layer(Protocol::Http1, ejection), names.connector());
    while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
        drop(client.request(get(URL)).await.unwrap());
    }
    hosts[0].set(200);
    while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_some() {
        drop(client.request(get(URL)).await.unwrap());
    }
    handle.close_idle();
    at_rest(&handle).await;
}

/// Nothing has to be set beside `PoolConfig::eject`.
#[tokio::test]
async fn a_stack_by_hand_ejects_and_readmits() {
    let begun = Instant::now();
    let hosts = hosts(Protocol::Http1, &[503, 200]).await;
    let ejection = Ejection::new()
        .server_errors(true)
        .consecutive(1)
        .base_time(T);
    let config = PoolConfig::new().spread(Spread::InTurn).eject(ejection);
    let checkout = CheckoutLayer::new(config);
    let handle = checkout.handle();
    let names = names(&hosts);
    let connections = HandshakeLayer::<Full<Bytes>>::new().layer(names.connector());
    let leases = CheckinLayer::new().layer(checkout.layer(connections));
    let client = ExchangeLayer::new().layer(leases);
    let status = || async {
        let response: http::Response<Body> = client.clone().oneshot(get(URL)).await.unwrap();
        let status = response.status();
        response.into_body().collect().await.unwrap();
        status
    };
    while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
        status().await;
    }
    for _ in 0..4 {
        let is_trial = handle.status().open() > 1;
        assert!(status().await == 200 || is_trial);
    }
    hosts[0].set(200);
    while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_some() {
        status().await;
    }
    drop(client);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_limit_that_the_request_sets_itself_says_nothing_of_the_address() {
    for protocol in PROTOCOLS {
        let hosts = hosts(protocol, &[200, SILENT]).await;
        let ejection = Ejection::new().consecutive(1);
        let names = names(&hosts);
        let layer = one_stream(layer(protocol, ejection));
        let (client, handle) = agent_over(layer, names.connector());
        let changes = changes(&handle);
        let held = client.request(get(URL)).await.unwrap();
        hosts[0].set(SILENT);
        for kind in [
            TimeoutKind::Request,
            TimeoutKind::Response,
            TimeoutKind::Inactivity,
        ] {
            for _ in 0..2 {
                let mut request = post(URL, "once");
                let extensions = request.extensions_mut();
                match kind {
                    TimeoutKind::Request => drop(extensions.insert(RequestTimeout(T))),
                    TimeoutKind::Response => drop(extensions.insert(ResponseTimeout(T))),
                    _ => {
                        extensions.insert(ResponseTimeout(Duration::MAX));
                        extensions.insert(InactivityTimeout(T));
                    }
                }
                let error = send(&client, request).await.unwrap_err();
                assert_eq!(error.timeout_kind(), Some(kind), "{error:?}");
            }
            assert_eq!(changes.lock().unwrap().len(), 0, "{protocol:?} {kind:?}");
        }
        // The agent's own.
        let error = send(&client, post(URL, "once")).await.unwrap_err();
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Response));
        assert_eq!(changes.lock().unwrap().len(), 1, "{protocol:?}");
        read(held).await.unwrap();
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// A request that waited long in the queue leaves its server no time.
#[tokio::test]
async fn the_limit_of_a_request_says_nothing_of_a_server_that_had_less_than_half_of_it() {
    let begun = Instant::now();
    let limit = 8 * T;
    let hosts = hosts(Protocol::Http1, &[200, 200]).await;
    let layer = KeepAliveLayer::new()
        .spread(Spread::InTurn)
        .max_connections_per_host(2)
        .request_timeout(limit)
        .eject(Ejection::new().consecutive(1));
    let names = names(&hosts);
    let (client, handle) = agent_over(layer, names.connector());
    let changes = changes(&handle);
    let unlimited = || {
        let mut request = get(URL);
        request
            .extensions_mut()
            .insert(RequestTimeout(Duration::MAX));
        request
    };
    let kept = client.request(unlimited()).await.unwrap();
    for _ in 0..2 {
        hosts.iter().for_each(|it| it.set(200));
        let held = client.request(unlimited()).await.unwrap();
        hosts.iter().for_each(|it| it.set(SILENT));
        let waits = send(&client, post(URL, "once"));
        let frees = async {
            tokio::time::sleep(5 * T).await;
            read(held).await.unwrap();
        };
        let (late, ()) = tokio::join!(waits, frees);
        let kind = late.unwrap_err().timeout_kind();
        assert_eq!(kind, Some(TimeoutKind::Request));
        assert_eq!(changes.lock().unwrap().len(), 0);
    }
    // One that had all of it is ejected, with the same servers and the same limit.
    while in_time(&begun) && changes.lock().unwrap().is_empty() {
        let late = send(&client, post(URL, "once")).await.unwrap_err();
        assert_eq!(late.timeout_kind(), Some(TimeoutKind::Request));
    }
    read(kept).await.unwrap();
    handle.close_idle();
    at_rest(&handle).await;
}

/// What becomes of the requests on a connection whose server has sent its client away.
#[derive(Clone, Copy, Debug)]
enum Rest {
    AreReset,
    HaveNoAnswer,
    EndWithConnection,
}

/// Three requests at a time. A connection that drains may carry requests for hours, which fail one by one.
#[tokio::test]
async fn each_exchange_that_fails_on_a_connection_that_drains_counts_by_itself() {
    for (rest, failures_of_three) in [
        (Rest::AreReset, 3),
        (Rest::HaveNoAnswer, 3),
        (Rest::EndWithConnection, 1),
    ] {
        let bad = http2::Server::start_tcp(move |mut conn| async move {
            conn.open([]).await;
            let mut streams = Vec::new();
            while streams.len() < 3 {
                let Some(request) = conn.request().await else {
                    return;
                };
                streams.push(request.stream);
            }
            let last = streams.iter().copied().max().expect("there are three");
            conn.go_away(last, code::NO_ERROR, b"").await;
            if let Rest::AreReset = rest {
                for stream in streams {
                    conn.reset(stream, code::INTERNAL_ERROR).await;
                }
            }
            if !matches!(rest, Rest::EndWithConnection) {
                conn.closed().await;
            }
        })
        .await;
        let good = hosts(Protocol::Http2, &[200]).await;
        let names = Names::new(vec![bad.addr(), good[0].addr()]);
        let layer = layer(Protocol::Http2, Ejection::new().consecutive(3));
        let layer = layer.spread(Spread::AsResolved);
        let (client, handle) = agent_over(layer, names.connector());
        let changes = changes(&handle);
        let mut times = 0;
        while changes.lock().unwrap().is_empty() {
            let three = join_all((0..3).map(|_| fetch(&client, URL))).await;
            assert!(three.iter().all(Result::is_err), "{rest:?}: {three:?}");
            times += 1;
        }
        assert_eq!(times * failures_of_three, 3, "{rest:?}");
        assert_eq!(fetch(&client, URL).await.unwrap().status, 200);
        handle.close_idle();
        at_rest(&handle).await;
    }
}
