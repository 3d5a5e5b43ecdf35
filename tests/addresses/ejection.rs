//! Addresses whose connections or responses fail are ejected for a while.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::Full;
use tower_keep_alive::{
    AgentHandle, CloseReason, Ejection, EjectionReason, EventKind, FollowDns, KeepAliveLayer,
    Outcome, Protocol, Spread, Verdict,
    status::{LeftOut, LeftOutReason},
};

use crate::names::Names;
use crate::support::agent::{Req, agent_over, at_rest, fetch, get, post, read, send};
use crate::support::frames::{Conn as Http2Conn, Log};
use crate::support::{Conn, RefusingPort, Server, eventually};

pub(crate) const URL: &str = "http://host.test/";
pub(crate) const T: Duration = Duration::from_millis(100);
/// A server with this status never answers.
pub(crate) const SILENT: u16 = 0;
/// A server with this status answers 200, and cuts the body.
pub(crate) const CUTS: u16 = 1;

const INTERNAL_ERROR: u32 = 2;

/// A server whose status can be changed, and which counts its requests.
pub(crate) struct Host {
    server: Server,
    status: Arc<AtomicU16>,
    asked: Arc<AtomicUsize>,
}

impl Host {
    pub(crate) async fn new(protocol: Protocol, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let asked = Arc::new(AtomicUsize::new(0));
        let (of_conn, counted) = (status.clone(), asked.clone());
        let server = Server::start_tcp(move |conn| {
            let (status, asked) = (of_conn.clone(), counted.clone());
            async move {
                match protocol {
                    Protocol::Http1 => http1(conn, &status, &asked).await,
                    _ => http2(conn, &status, &asked).await,
                }
            }
        })
        .await;
        Self {
            server,
            status,
            asked,
        }
    }

    pub(crate) fn set(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(crate) fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.server.addr()
    }
}

async fn http1(mut conn: Conn, status: &AtomicU16, asked: &AtomicUsize) {
    while conn.request().await.is_some() {
        asked.fetch_add(1, Ordering::SeqCst);
        match status.load(Ordering::SeqCst) {
            SILENT => return conn.stall().await,
            CUTS => {
                let head = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf";
                conn.send(head).await;
                return conn.fin().await;
            }
            status => {
                let line = format!("HTTP/1.1 {status} Said");
                conn.respond_with(&line, "ok").await;
            }
        }
    }
}

async fn http2(conn: Conn, status: &AtomicU16, asked: &AtomicUsize) {
    let mut conn = Http2Conn::new(conn, &Log::default());
    if !conn.open([]).await {
        return;
    }
    while let Some(request) = conn.request().await {
        asked.fetch_add(1, Ordering::SeqCst);
        match status.load(Ordering::SeqCst) {
            SILENT => {}
            CUTS => {
                let head = [(":status", "200")];
                conn.headers(request.stream, &head, false).await;
                conn.reset(request.stream, INTERNAL_ERROR).await;
            }
            status => conn.respond(request.stream, status, b"ok").await,
        }
    }
}

pub(crate) async fn hosts(protocol: Protocol, statuses: &[u16]) -> Vec<Host> {
    join_all(statuses.iter().map(|&it| Host::new(protocol, it))).await
}

pub(crate) fn layer(protocol: Protocol, ejection: Ejection) -> KeepAliveLayer<Full<Bytes>> {
    KeepAliveLayer::new()
        .protocol(protocol)
        .spread(Spread::FewestOpenFirst)
        .response_timeout(5 * T)
        .eject(ejection)
}

/// An ejection of at least half an hour, which no test outlasts.
fn lasting(ejection: Ejection) -> Ejection {
    let hour = Duration::from_secs(3600);
    ejection.base_time(hour).max_time(hour)
}

/// Each of these tests takes a second or two.
pub(crate) fn in_time(begun: &Instant) -> bool {
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "it goes on for ever"
    );
    true
}

pub(crate) fn names(hosts: &[Host]) -> Names {
    Names::new(hosts.iter().map(Host::addr).collect())
}

pub(crate) fn ejected(handle: &AgentHandle, address: SocketAddr) -> Option<LeftOut> {
    let addresses = handle.status().addresses;
    let left_out = addresses.values().find_map(|it| it.get(&address)?.left_out);
    left_out.filter(LeftOut::is_ejected)
}

/// The events about addresses.
pub(crate) fn changes(handle: &AgentHandle) -> Arc<Mutex<Vec<EventKind>>> {
    let changes = Arc::new(Mutex::new(Vec::new()));
    let list = changes.clone();
    handle.on_event(move |_, event| {
        if let EventKind::AddressEjected { .. } | EventKind::AddressReadmitted { .. } = event.kind {
            list.lock().unwrap().push(event.kind);
        }
    });
    changes
}

pub(crate) const PROTOCOLS: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// One of ten refuses, one never answers, and one answers 503: once they are ejected, no POST fails.
#[tokio::test]
async fn of_ten_addresses_three_that_fail_are_ejected_and_nothing_fails_any_more() {
    for protocol in PROTOCOLS {
        let hosts = hosts(protocol, &[SILENT, 503, 200, 200, 200, 200, 200, 200, 200]).await;
        let nobody = RefusingPort::new();
        let mut addresses: Vec<_> = hosts.iter().map(Host::addr).collect();
        addresses.push(nobody.addr());
        let names = Names::new(addresses);
        let layer = layer(protocol, lasting(Ejection::new().server_errors(true)));
        let (client, handle) = agent_over(layer, names.connector());
        let bad = [hosts[0].addr(), hosts[1].addr()];
        for _ in 0..20 {
            let requests = (0..40).map(|_| send(&client, post(URL, "once")));
            for answer in join_all(requests).await {
                // It fails, or is answered by a server that may be ejected by now.
                drop(answer);
            }
            if bad.iter().all(|it| ejected(&handle, *it).is_some()) {
                break;
            }
        }
        for address in bad {
            let ejected = ejected(&handle, address).expect("it fails all the time");
            assert_eq!(ejected.times, 1);
            assert!(ejected.remaining > Duration::ZERO);
            let is_in_a_row = matches!(
                ejected.reason,
                LeftOutReason::Ejected(EjectionReason::Consecutive { .. })
            );
            assert!(is_in_a_row, "{ejected}");
        }
        let before = [hosts[0].asked(), hosts[1].asked()];
        for _ in 0..20 {
            let requests = (0..50).map(|_| send(&client, post(URL, "once")));
            for answer in join_all(requests).await {
                assert_eq!(answer.unwrap().status, 200);
            }
        }
        let after = [hosts[0].asked(), hosts[1].asked()];
        assert_eq!(
            after, before,
            "{protocol:?}: what is ejected gets no requests"
        );
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// After its time one request at a time tries it again, until one succeeds.
#[tokio::test]
async fn an_ejected_address_is_tried_by_one_request_and_readmitted_by_a_success() {
    let begun = Instant::now();
    for protocol in PROTOCOLS {
        let hosts = hosts(protocol, &[503, 200]).await;
        let ejection = Ejection::new()
            .server_errors(true)
            .consecutive(2)
            .base_time(T)
            .max_time(2 * T);
        let names = names(&hosts);
        let (client, handle) = agent_over(layer(protocol, ejection), names.connector());
        let changes = changes(&handle);
        while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
            fetch(&client, URL).await.unwrap();
        }
        let before = hosts[0].asked();
        let is_tried = || async {
            // There are idle connections to the other one, and it is tried all the same.
            let requests = (0..10).map(|_| fetch(&client, URL));
            let answers = join_all(requests).await;
            let failed = answers
                .iter()
                .filter(|it| it.as_ref().unwrap().status == 503);
            failed.count()
        };
        let mut tried = 0;
        while in_time(&begun) && tried < 3 {
            let failed = is_tried().await;
            tried += failed;
            assert_eq!(hosts[0].asked() - before, tried);
        }
        // Each failure has ejected it again, so there was one request at a time.
        let times = u32::try_from(tried).unwrap() + 1;
        let now = ejected(&handle, hosts[0].addr()).unwrap();
        assert_eq!(now.times, times, "{protocol:?}: {now}");
        hosts[0].set(200);
        while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_some() {
            assert_eq!(is_tried().await, 0);
        }
        let before = hosts[0].asked();
        let responses = join_all((0..10).map(|_| client.request(get(URL)))).await;
        assert!(hosts[0].asked() > before, "it serves again");
        for response in responses {
            read(response.unwrap()).await.unwrap();
        }
        let changes = changes.lock().unwrap().clone();
        let told: Vec<_> = changes
            .iter()
            .map(|it| match it {
                EventKind::AddressEjected { times, .. } => *times,
                _ => 0,
            })
            .collect();
        let expected: Vec<_> = (1..=times).chain([0]).collect();
        assert_eq!(told, expected, "{protocol:?}");
        handle.close_idle();
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn while_an_address_is_tried_no_other_request_goes_there() {
    for protocol in PROTOCOLS {
        let begun = Instant::now();
        let hosts = hosts(protocol, &[503, 200]).await;
        let ejection = Ejection::new()
            .server_errors(true)
            .consecutive(2)
            .base_time(T);
        // The one request that tries it lasts as long as the test.
        let layer = layer(protocol, ejection).response_timeout(Duration::from_secs(60));
        let names = names(&hosts);
        let (client, handle) = agent_over(layer, names.connector());
        while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
            fetch(&client, URL).await.unwrap();
        }
        hosts[0].set(SILENT);
        let before = hosts[0].asked();
        let mut begins = Vec::new();
        while in_time(&begun) && hosts[0].asked() == before {
            let client = client.clone();
            begins.push(tokio::spawn(async move { fetch(&client, URL).await }));
            tokio::time::sleep(T / 10).await;
        }
        join_all((0..10).map(|_| fetch(&client, URL))).await;
        assert_eq!(hosts[0].asked(), before + 1, "{protocol:?}");
        for request in begins {
            request.abort();
            drop(request.await);
        }
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// Where every connection is in use and callers wait, one of them makes the connection that tries it again.
#[tokio::test]
async fn an_ejected_address_is_tried_again_at_a_limit_too() {
    let begun = Instant::now();
    for protocol in PROTOCOLS {
        let hosts = hosts(protocol, &[503, 200]).await;
        let ejection = Ejection::new()
            .server_errors(true)
            .consecutive(1)
            .base_time(T)
            .max_time(T);
        let layer = layer(protocol, ejection).max_connections_per_host(2);
        let names = names(&hosts);
        let (client, handle) = agent_over(layer, names.connector());
        while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
            join_all((0..4).map(|_| fetch(&client, URL))).await;
        }
        hosts[0].set(200);
        while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_some() {
            let requests = (0..20).map(|_| fetch(&client, URL));
            for answer in join_all(requests).await {
                assert_eq!(answer.unwrap().status, 200);
            }
        }
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// Otherwise all requests would wait for the one that tries the address, whose server may not answer.
#[tokio::test]
async fn the_last_connection_that_serves_is_not_closed_to_try_an_ejected_address() {
    for protocol in PROTOCOLS {
        let begun = Instant::now();
        let hosts = hosts(protocol, &[503, 200]).await;
        // Long enough for a connection to be made to the other one.
        let ejection = Ejection::new()
            .server_errors(true)
            .consecutive(1)
            .base_time(10 * T);
        let layer = layer(protocol, ejection).max_connections_per_host(1);
        let names = names(&hosts);
        let (client, handle) = agent_over(layer, names.connector());
        while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
            handle.close_idle();
            fetch(&client, URL).await.unwrap();
        }
        hosts[0].set(SILENT);
        assert_eq!(fetch(&client, URL).await.unwrap().status, 200);
        let made = handle.status().created;
        let mut is_due = false;
        while in_time(&begun) && !is_due {
            let remaining = ejected(&handle, hosts[0].addr()).unwrap().remaining;
            is_due = remaining == Duration::ZERO;
            for answer in join_all((0..10).map(|_| fetch(&client, URL))).await {
                assert_eq!(answer.unwrap().status, 200);
            }
        }
        assert_eq!(handle.status().created, made, "{protocol:?}");
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// What is under way at the address goes on to its end, and its connection is used no more.
#[tokio::test]
async fn requests_under_way_at_an_ejected_address_finish() {
    let begun = Instant::now();
    let hosts = hosts(Protocol::Http1, &[200, 200]).await;
    let ejection = lasting(Ejection::new().server_errors(true).consecutive(1));
    let names = names(&hosts);
    let (client, handle) = agent_over(layer(Protocol::Http1, ejection), names.connector());
    let responses = join_all((0..4).map(|_| client.request(get(URL)))).await;
    hosts[0].set(503);
    while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
        fetch(&client, URL).await.unwrap();
    }
    for response in responses {
        assert_eq!(read(response.unwrap()).await.unwrap().body, "ok");
    }
    eventually("its connections are closed", || hosts[0].server.open() == 0).await;
    let closes = handle.status().closes;
    let reasons: Vec<_> = closes.keys().copied().collect();
    assert_eq!(reasons, [CloseReason::Moved], "idle or in use");
    handle.close_idle();
    at_rest(&handle).await;
}

/// By default it is connections that fail: a server that cuts them is ejected, and one that answers 503 is not.
#[tokio::test]
async fn by_default_a_status_is_no_failure_and_a_connection_that_is_cut_is() {
    let cuts = Server::start_tcp(|mut conn| async move {
        conn.request().await;
        conn.cut().await;
    })
    .await;
    let hosts = hosts(Protocol::Http1, &[503, 200]).await;
    let names = Names::new(vec![cuts.addr(), hosts[0].addr(), hosts[1].addr()]);
    let layer = layer(Protocol::Http1, lasting(Ejection::new()));
    let (client, handle) = agent_over(layer, names.connector());
    let (mut failed, mut unavailable) = (0, 0);
    for _ in 0..60 {
        match send(&client, post(URL, "once")).await {
            Ok(answer) => unavailable += usize::from(answer.status == 503),
            Err(_) => failed += 1,
        }
        // Each request makes a connection.
        handle.close_idle();
    }
    assert_eq!(failed, 5);
    assert!(unavailable >= 10, "{unavailable}");
    assert!(ejected(&handle, hosts[0].addr()).is_none());
    let ejected = ejected(&handle, cuts.addr()).unwrap();
    assert_eq!(ejected.reason.to_string(), "5 failures in a row");
    let status = handle.status();
    let told = format!("host.test:80: {} ejected for ", cuts.addr());
    assert!(status.to_string().contains(&told), "{status}");
    let json = serde_json::to_value(&status).unwrap();
    let of_key = &json["addresses"]["host.test:80:"];
    let of_address = &of_key[cuts.addr().to_string()]["leftOut"];
    assert_eq!(of_address["times"], 1);
    assert_eq!(of_address["reason"], "5 failures in a row");
    assert_eq!(of_address["isEjected"], true);
    assert!(of_address["remaining"].as_u64().unwrap() > 1_000);
    handle.close_idle();
    at_rest(&handle).await;
}

/// The one address of a name, and half of many, are never ejected.
#[tokio::test]
async fn half_of_the_addresses_stay_whatever_they_answer() {
    for (count, most) in [(1, 0), (4, 2)] {
        let hosts = hosts(Protocol::Http1, &[503; 4][..count]).await;
        let names = names(&hosts);
        let layer = layer(
            Protocol::Http1,
            lasting(Ejection::new().server_errors(true)),
        );
        let (client, handle) = agent_over(layer, names.connector());
        for _ in 0..60 {
            assert_eq!(fetch(&client, URL).await.unwrap().status, 503);
        }
        let out = hosts
            .iter()
            .filter(|it| ejected(&handle, it.addr()).is_some());
        assert_eq!(out.count(), most);
        handle.close_idle();
        at_rest(&handle).await;
    }
}

/// The name has fewer addresses than before, so one of those that were ejected has to serve.
#[tokio::test]
async fn an_address_that_a_smaller_answer_readmits_is_reported_and_serves() {
    let begun = Instant::now();
    let hosts = hosts(Protocol::Http1, &[503, 503, 200, 200]).await;
    let names = names(&hosts);
    let layer = layer(
        Protocol::Http1,
        lasting(Ejection::new().server_errors(true)),
    );
    let (client, handle) = agent_over(layer, names.connector());
    let changes = changes(&handle);
    let bad = [hosts[0].addr(), hosts[1].addr()];
    while in_time(&begun) && bad.iter().any(|it| ejected(&handle, *it).is_none()) {
        join_all((0..8).map(|_| fetch(&client, URL))).await;
    }
    names.set(Ok(bad.to_vec()));
    handle.close_idle();
    fetch(&client, URL).await.unwrap();
    let out = bad.iter().filter(|it| ejected(&handle, **it).is_some());
    assert_eq!(out.count(), 1);
    let readmitted = changes.lock().unwrap().clone().into_iter();
    let readmitted = readmitted.filter(|it| matches!(it, EventKind::AddressReadmitted { .. }));
    assert_eq!(readmitted.count(), 1);
    handle.close_idle();
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_host_may_have_its_addresses_ejected_and_others_not() {
    let hosts = hosts(Protocol::Http1, &[503, 200]).await;
    let layer = KeepAliveLayer::new().for_host("host.test", |host| {
        host.spread(Spread::InTurn)
            .eject(lasting(Ejection::new().server_errors(true).consecutive(2)))
    });
    let names = names(&hosts);
    let (client, handle) = agent_over(layer, names.connector());
    for (url, is_ejected) in [("http://other.test/", false), (URL, true)] {
        for _ in 0..6 {
            fetch(&client, url).await.unwrap();
            // By default the first address is taken, and its connection again.
            handle.close_idle();
        }
        let held = client.request(get(url)).await.unwrap();
        assert_eq!(ejected(&handle, hosts[0].addr()).is_some(), is_ejected);
        assert_eq!(held.status() == 200, is_ejected, "{url}");
        read(held).await.unwrap();
    }
    handle.close_idle();
    at_rest(&handle).await;
}

/// The agent ejects and follows, and one host does neither.
#[tokio::test]
async fn a_host_may_be_without_ejection_and_not_be_followed() {
    let hosts = hosts(Protocol::Http1, &[503, 200]).await;
    let every = FollowDns::default().every(T / 10);
    let ejection = lasting(Ejection::new().server_errors(true).consecutive(2));
    let layer = KeepAliveLayer::new()
        .spread(Spread::InTurn)
        .eject(ejection)
        .follow_dns(every)
        .for_host("other.test", |host| host.eject(None).follow_dns(None));
    let names = names(&hosts);
    let (client, handle) = agent_over(layer, names.connector());
    for (url, is_on) in [("http://other.test/", false), (URL, true)] {
        for _ in 0..6 {
            fetch(&client, url).await.unwrap();
            handle.close_idle();
        }
        assert_eq!(ejected(&handle, hosts[0].addr()).is_some(), is_on, "{url}");
        // Looked up again while it has a connection.
        fetch(&client, url).await.unwrap();
        let is_followed = handle.status().lookups.into_keys().next().is_some();
        assert_eq!(is_followed, is_on, "{url}");
        if is_on {
            let before = names.asked();
            eventually("it is looked up again", || names.asked() > before).await;
        }
        handle.close_idle();
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_classifier_that_panics_says_nothing_of_the_outcome() {
    let hosts = hosts(Protocol::Http1, &[SILENT, 200]).await;
    let names = names(&hosts);
    let ejection = Ejection::new()
        .consecutive(1)
        .classify(|_, _| panic!("the classifier's own fault"));
    let (client, handle) = agent_over(layer(Protocol::Http1, ejection), names.connector());
    let begun = Instant::now();
    let mut answers = 0;
    while in_time(&begun) && (answers < 2 || hosts[0].asked() < 2) {
        // The one that is dropped is judged too.
        let answer = tokio::time::timeout(T, fetch(&client, URL)).await;
        answers += usize::from(answer.is_ok_and(|it| it.unwrap().status == 200));
        handle.close_idle();
    }
    assert!(ejected(&handle, hosts[0].addr()).is_none());
    at_rest(&handle).await;
}

/// Its POST was dropped by a timeout above, which says nothing unless the classifier says so.
#[tokio::test]
async fn a_classifier_decides_what_counts() {
    let begun = Instant::now();
    let hosts = hosts(Protocol::Http1, &[SILENT, 200]).await;
    let failures = Arc::new(AtomicUsize::new(0));
    let count = failures.clone();
    let ejection =
        lasting(Ejection::new().consecutive(2)).classify(
            move |outcome, by_default| match outcome {
                Outcome::Abandoned { after, .. } if *after >= T => {
                    count.fetch_add(1, Ordering::SeqCst);
                    Verdict::Failure
                }
                _ => by_default,
            },
        );
    let names = names(&hosts);
    let (client, handle) = agent_over(layer(Protocol::Http1, ejection), names.connector());
    while in_time(&begun) && ejected(&handle, hosts[0].addr()).is_none() {
        let request: Req = post(URL, "once");
        let _ = tokio::time::timeout(3 * T, send(&client, request)).await;
        handle.close_idle();
    }
    assert_eq!(failures.load(Ordering::SeqCst), 2);
    assert!(hosts[0].asked() >= 2);
    handle.close_idle();
    at_rest(&handle).await;
}
