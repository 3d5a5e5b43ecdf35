//! Counters, gauges and histograms of the `metrics` facade.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::future::ready;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{Ejection, FollowDns, KeepAliveLayer, Protocol, Spread};

use crate::support::agent::{agent_over, agent_paused, at_rest, fetch, get, read};
use crate::support::frames::setting;
use crate::support::{RefusingPort, Server, eventually, http2, script};

/// What has changed since the last look; of a histogram, its number of values.
struct Look(Vec<(String, Vec<String>, f64)>);

impl Look {
    fn at(snapshotter: &Snapshotter) -> Self {
        let metrics = snapshotter.snapshot().into_vec().into_iter();
        Self(
            metrics
                .map(|(key, _, _, value)| {
                    let labels = key.key().labels();
                    let labels: Vec<_> = labels
                        .map(|it| format!("{}={}", it.key(), it.value()))
                        .collect();
                    let value = match value {
                        DebugValue::Counter(count) => count as f64,
                        DebugValue::Gauge(value) => value.into_inner(),
                        DebugValue::Histogram(values) => values.len() as f64,
                    };
                    (key.key().name().to_owned(), labels, value)
                })
                .collect(),
        )
    }

    /// The sum of all that have this label.
    fn of(&self, name: &str, label: &str) -> f64 {
        self.with(name, &[label])
    }

    fn with(&self, name: &str, labels: &[&str]) -> f64 {
        let found = self.0.iter().filter(|(it, all, _)| {
            *it == name && labels.iter().all(|label| all.iter().any(|it| it == label))
        });
        found.map(|(_, _, value)| *value).sum()
    }
}

/// Runs a test whose metrics go to a recorder of its own.
fn recorded(test: impl AsyncFnOnce(&Snapshotter)) {
    recorded_in_time(true, test);
}

fn recorded_in_time(is_paused: bool, test: impl AsyncFnOnce(&Snapshotter)) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(is_paused)
            .build()
            .unwrap()
            .block_on(test(&snapshotter));
    });
}

#[test]
fn connections_are_counted_by_state_and_measured_to_their_end() {
    // With a limit over all keys, a returned connection becomes idle in another way.
    for layer in [KeepAliveLayer::new(), KeepAliveLayer::new().max_idle(10)] {
        recorded(async |snapshotter| counted(layer, snapshotter).await);
    }
}

#[test]
fn a_recorder_is_told_what_each_metric_means() {
    recorded(async |snapshotter| {
        let server = Server::in_memory(script::ok);
        let layer = KeepAliveLayer::new().idle_timeout(Duration::from_secs(2));
        let (client, handle) = agent_paused(layer, server.connector());
        fetch(&client, server.url("/")).await.unwrap();
        fetch(&client, server.url("/")).await.unwrap();
        eventually("it is evicted", || handle.status().closed == 1).await;
        let mut described = 0;
        for (key, unit, description, _) in snapshotter.snapshot().into_vec() {
            let name = key.key().name();
            assert!(description.is_some_and(|it| it.ends_with('.')), "{name}");
            let is_time = name.ends_with("duration") || name.ends_with("time_in_queue");
            let expected = match is_time {
                true => Unit::Seconds,
                false => Unit::Count,
            };
            assert_eq!(unit, Some(expected), "{name}");
            described += 1;
        }
        assert!(described >= 8, "{described}");
        at_rest(&handle).await;
    });
}

#[test]
fn the_agents_name_is_a_label() {
    recorded(async |snapshotter| {
        let server = Server::in_memory(script::ok);
        let (client, handle) =
            agent_paused(KeepAliveLayer::new().name("billing"), server.connector());
        fetch(&client, server.url("/")).await.unwrap();
        let look = Look::at(snapshotter);
        let created = look.of("tower_keep_alive.connections.created", "agent=billing");
        assert_eq!(created, 1.0);
        at_rest(&handle).await;
    });
}

#[test]
fn hosts_beyond_a_thousand_share_one_label() {
    recorded(async |snapshotter| {
        const CREATED: &str = "tower_keep_alive.connections.created";
        let server = Server::in_memory(script::ok);
        let layer = KeepAliveLayer::new().max_idle(10);
        let (client, handle) = agent_paused(layer, server.connector());
        for host in 0..1_010 {
            fetch(&client, format!("http://host-{host}.test/"))
                .await
                .unwrap();
        }
        // A host that has its labels keeps them.
        eventually("its connection is closed", || handle.status().open() <= 10).await;
        fetch(&client, "http://host-0.test/").await.unwrap();
        let look = Look::at(snapshotter);
        assert_eq!(look.of(CREATED, "server.address=host-0.test"), 2.0);
        assert_eq!(look.of(CREATED, "server.address=host-999.test"), 1.0);
        assert_eq!(look.of(CREATED, "server.address=host-1000.test"), 0.0);
        assert_eq!(look.of(CREATED, "server.address=_OTHER"), 10.0);
        at_rest(&handle).await;
    });
}

async fn counted(layer: KeepAliveLayer<Full<Bytes>>, snapshotter: &Snapshotter) {
    const OPEN: &str = "http.client.open_connections";
    const ACTIVE: &str = "http.connection.state=active";
    const IDLE: &str = "http.connection.state=idle";
    const HOST: &str = "server.address=in-memory.test";
    let server = Server::in_memory(script::ok);
    let layer = layer.idle_timeout(Duration::from_secs(2));
    let (client, handle) = agent_paused(layer, server.connector());
    let response = client.request(get(server.url("/"))).await.unwrap();
    let look = Look::at(snapshotter);
    assert_eq!((look.of(OPEN, ACTIVE), look.of(OPEN, IDLE)), (1.0, 0.0));
    let version = "network.protocol.version=1.1";
    assert_eq!(look.with(OPEN, &[ACTIVE, version]), 1.0);
    assert_eq!(look.of("tower_keep_alive.connections.created", HOST), 1.0);
    assert_eq!(look.of("http.client.request.time_in_queue", HOST), 1.0);
    read(response).await.unwrap();
    let look = Look::at(snapshotter);
    assert_eq!((look.of(OPEN, ACTIVE), look.of(OPEN, IDLE)), (-1.0, 1.0));
    fetch(&client, server.url("/")).await.unwrap();
    let look = Look::at(snapshotter);
    assert_eq!(look.of("tower_keep_alive.connections.reused", HOST), 1.0);
    eventually("it is evicted", || handle.status().closed == 1).await;
    let look = Look::at(snapshotter);
    assert_eq!((look.of(OPEN, ACTIVE), look.of(OPEN, IDLE)), (0.0, -1.0));
    let reason = "reason=idle for too long";
    assert_eq!(look.of("tower_keep_alive.connections.closed", reason), 1.0);
    assert_eq!(look.of("http.client.connection.duration", HOST), 1.0);
    at_rest(&handle).await;
}

/// A server of HTTP/2 that ends no response until `/end` is asked for, and allows as many streams as `/` and a number say.
fn holding() -> http2::Server {
    http2::Server::in_memory(async |mut conn: http2::Conn| {
        conn.open([(setting::MAX_CONCURRENT_STREAMS, 10)]).await;
        let mut held = Vec::new();
        while let Some(request) = conn.request().await {
            if let Ok(limit) = request.path()[1..].parse() {
                conn.settings([(setting::MAX_CONCURRENT_STREAMS, limit)])
                    .await;
            }
            let is_end = request.path() == "/end";
            let head = [(":status", "200")];
            conn.headers(request.stream, &head, is_end).await;
            match is_end {
                false => held.push(request.stream),
                true => {
                    for stream in held.drain(..) {
                        conn.data(stream, b"end", true).await;
                    }
                }
            }
        }
    })
}

#[test]
fn streams_are_counted_beside_their_connections_and_so_is_what_these_can_carry() {
    recorded(async |snapshotter| {
        const OPEN: &str = "http.client.open_connections";
        const STREAMS: &str = "tower_keep_alive.streams.in_use";
        const CAPACITY: &str = "tower_keep_alive.streams.capacity";
        const HTTP_2: &str = "network.protocol.version=2";
        let server = holding();
        let layer = KeepAliveLayer::new()
            .protocol(Protocol::Http2)
            .idle_timeout(Duration::from_secs(2));
        let (client, handle) = agent_paused(layer, server.connector());
        let fetch = |path: &str| client.request(get(server.url(path)));
        let mut sum = [0.0; 4];
        let mut look = || {
            let look = Look::at(snapshotter);
            for (sum, (name, label)) in sum.iter_mut().zip([
                (OPEN, "http.connection.state=active"),
                (OPEN, "http.connection.state=idle"),
                (STREAMS, "network.protocol.name=http"),
                (CAPACITY, "server.address=in-memory.test"),
            ]) {
                *sum += look.with(name, &[label, HTTP_2]);
            }
            sum
        };
        let held = [fetch("/").await.unwrap(), fetch("/").await.unwrap()];
        assert_eq!(look(), [1.0, 0.0, 2.0, 10.0]);
        let third = fetch("/3").await.unwrap();
        eventually("less is allowed", || look()[3] == 3.0).await;
        assert_eq!(look(), [1.0, 0.0, 3.0, 3.0]);
        drop(third);
        read(fetch("/end").await.unwrap()).await.unwrap();
        for response in held {
            read(response).await.unwrap();
        }
        assert_eq!(look(), [0.0, 1.0, 0.0, 3.0]);
        // One that drains carries nothing more.
        let one = fetch("/").await.unwrap();
        one.body().connection().poison();
        let other = fetch("/").await.unwrap();
        assert_eq!(look(), [2.0, 0.0, 2.0, 10.0]);
        drop((one, other));
        eventually("all are closed", || handle.status().open() == 0).await;
        assert_eq!(look(), [0.0; 4]);
        at_rest(&handle).await;
    });
}

#[test]
fn the_table_of_metrics_has_each_with_its_labels() {
    recorded(async |snapshotter| {
        let (one, many) = (Server::in_memory(script::ok), holding());
        let layer = KeepAliveLayer::new().max_uses(2);
        let (client, of_one) = agent_paused(layer.clone(), one.connector());
        for _ in 0..2 {
            fetch(&client, one.url("/")).await.unwrap();
        }
        eventually("it is closed", || of_one.status().closed == 1).await;
        let layer = layer.protocol(Protocol::Http2);
        let (client, of_many) = agent_paused(layer, many.connector());
        fetch(&client, many.url("/end")).await.unwrap();
        of_many.close_idle();
        eventually("it is closed", || of_many.status().closed >= 1).await;
        let look = Look::at(snapshotter);
        let mut seen = BTreeMap::<_, BTreeSet<_>>::new();
        for (name, labels, _) in &look.0 {
            let names = labels.iter().filter_map(|it| it.split_once('='));
            let own = names
                .map(|(name, _)| name.to_owned())
                .filter(|it| !["server.address", "server.port", "url.scheme"].contains(&&**it));
            seen.entry(name.clone()).or_default().extend(own);
        }
        let source = include_str!("../../src/lib.rs");
        let rows = source
            .lines()
            .filter_map(|line| line.strip_prefix("//! | `"));
        let rows = rows
            .filter(|row| row.starts_with("http.client.") || row.starts_with("tower_keep_alive."));
        let promised: BTreeMap<_, BTreeSet<_>> = rows
            .map(|row| {
                let cells: Vec<_> = row.split(" | ").collect();
                let mut labels: BTreeSet<String> = cells[2]
                    .split('`')
                    .filter(|it| ["http.connection.state", "reason"].contains(it))
                    .map(str::to_owned)
                    .collect();
                if cells[2].contains("the protocol") {
                    labels.extend(["name", "version"].map(|it| format!("network.protocol.{it}")));
                }
                (cells[0].trim_end_matches('`').to_owned(), labels)
            })
            .collect();
        for (name, labels) in &seen {
            assert_eq!(promised.get(name), Some(labels), "{name}");
        }
        // The rows are the names in the source, also those that nothing here makes happen.
        let source = include_str!("../../src/agent/metrics.rs");
        let names: BTreeSet<_> = source
            .lines()
            .filter(|line| line.starts_with("const "))
            .filter_map(|line| line.split('"').nth(1))
            .filter(|name| name.contains('.'))
            .collect();
        assert!(names.len() >= seen.len());
        assert!(promised.keys().map(String::as_str).eq(names));
        at_rest(&of_one).await;
        at_rest(&of_many).await;
    });
}

/// One address answers 503, one refuses connections, and two serve.
#[test]
fn addresses_that_are_left_out_are_counted_and_ejections_by_their_reason() {
    const EJECTED: &str = "tower_keep_alive.addresses.ejected";
    const LEFT_OUT: &str = "tower_keep_alive.addresses.left_out";
    const HOST: &str = "server.address=host.test";
    for (ejection, reason) in [
        (Ejection::new().consecutive(2), "reason=consecutive"),
        (
            Ejection::new().failure_share(1.0, 2),
            "reason=failure_share",
        ),
    ] {
        recorded_in_time(false, async |snapshotter| {
            let bad = Server::start_tcp(async |mut conn| {
                while conn.request().await.is_some() {
                    conn.respond_with("HTTP/1.1 503 Said", "ok").await;
                }
            })
            .await;
            let good = [
                Server::start_tcp(script::ok).await,
                Server::start_tcp(script::ok).await,
            ];
            let nobody = RefusingPort::new();
            let addresses = [bad.addr(), nobody.addr(), good[0].addr(), good[1].addr()];
            let names =
                tower::service_fn(move |_| ready(Ok::<_, Infallible>(addresses.into_iter())));
            let layer = KeepAliveLayer::new()
                .spread(Spread::InTurn)
                .eject(ejection.server_errors(true));
            let (client, handle) = agent_over(layer, TcpConnector::with_resolver(names));
            let (mut ejected, mut counted) = (0.0, 0.0);
            // Held, so that each needs a connection.
            let mut held = Vec::new();
            for _ in 0..40 {
                held.push(client.request(get("http://host.test/")).await.unwrap());
                let addresses = handle.status().addresses.into_values().flatten();
                let left_out: Vec<_> = addresses.filter_map(|(_, it)| it.left_out).collect();
                let look = Look::at(snapshotter);
                ejected += look.of(EJECTED, reason);
                counted += look.of(LEFT_OUT, HOST);
                let are_ejected = left_out.iter().filter(|it| it.is_ejected()).count();
                assert_eq!(ejected, are_ejected as f64, "{reason}");
                assert_eq!(counted, left_out.len() as f64);
                if are_ejected > 0 && left_out.len() == 2 {
                    break;
                }
            }
            assert!(ejected > 0.0 && counted > 1.0);
            for response in held {
                read(response).await.unwrap();
            }
            at_rest(&handle).await;
            // The key is in use no more.
            let is_none = || {
                counted += Look::at(snapshotter).of(LEFT_OUT, HOST);
                counted == 0.0
            };
            eventually("none is counted", is_none).await;
        });
    }
}

/// One address answers its first request with 503.
#[test]
fn an_address_that_serves_again_is_counted_as_readmitted() {
    const EJECTED: &str = "tower_keep_alive.addresses.ejected";
    const READMITTED: &str = "tower_keep_alive.addresses.readmitted";
    const HOST: &str = "server.address=host.test";
    recorded_in_time(false, async |snapshotter| {
        let has_failed = Arc::new(AtomicBool::new(false));
        let bad = Server::start_tcp(move |mut conn| {
            let has_failed = has_failed.clone();
            async move {
                while conn.request().await.is_some() {
                    match has_failed.swap(true, Ordering::SeqCst) {
                        false => conn.respond_with("HTTP/1.1 503 Said", "ok").await,
                        true => conn.respond("ok").await,
                    }
                }
            }
        })
        .await;
        let good = Server::start_tcp(script::ok).await;
        let addresses = [bad.addr(), good.addr()];
        let names = tower::service_fn(move |_| ready(Ok::<_, Infallible>(addresses.into_iter())));
        let ejection = Ejection::new().consecutive(1).server_errors(true);
        let layer = KeepAliveLayer::new()
            .spread(Spread::InTurn)
            .eject(ejection.base_time(Duration::from_millis(50)));
        let (client, handle) = agent_over(layer, TcpConnector::with_resolver(names));
        // Held, so that the other address has to be used as well.
        let held = client.request(get("http://host.test/")).await.unwrap();
        let (mut ejected, mut readmitted) = (0.0, 0.0);
        let begun = Instant::now();
        while readmitted == 0.0 {
            let is_in_time = begun.elapsed() < Duration::from_secs(30);
            assert!(is_in_time, "{ejected} ejected, {readmitted} readmitted");
            fetch(&client, "http://host.test/").await.unwrap();
            let look = Look::at(snapshotter);
            ejected += look.of(EJECTED, HOST);
            readmitted += look.of(READMITTED, HOST);
        }
        assert_eq!((ejected, readmitted), (1.0, 1.0));
        read(held).await.unwrap();
        handle.close_idle();
        at_rest(&handle).await;
    });
}

/// Nobody is at one of its two addresses. No connection is made or closed meanwhile, and no address is ejected.
#[test]
fn an_address_that_the_name_no_longer_has_is_not_counted_as_left_out() {
    const LEFT_OUT: &str = "tower_keep_alive.addresses.left_out";
    const HOST: &str = "server.address=host.test";
    recorded_in_time(false, async |snapshotter| {
        let (server, nobody) = (Server::start_tcp(script::ok).await, RefusingPort::new());
        let found = Arc::new(Mutex::new(vec![nobody.addr(), server.addr()]));
        let answer = found.clone();
        let names = tower::service_fn(move |_| {
            let found = answer.lock().unwrap().clone();
            ready(Ok::<_, Infallible>(found.into_iter()))
        });
        let layer = KeepAliveLayer::new()
            .spread(Spread::InTurn)
            .follow_dns(FollowDns::default().every(Duration::from_millis(50)));
        let (client, handle) = agent_over(layer, TcpConnector::with_resolver(names));
        // Held, so that each needs a connection, and the second one has both addresses to try.
        let first = client.request(get("http://host.test/")).await.unwrap();
        let second = client.request(get("http://host.test/")).await.unwrap();
        let mut counted = Look::at(snapshotter).of(LEFT_OUT, HOST);
        assert_eq!(counted, 1.0);
        *found.lock().unwrap() = vec![server.addr()];
        let is_none = || {
            counted += Look::at(snapshotter).of(LEFT_OUT, HOST);
            counted == 0.0
        };
        eventually("none is counted", is_none).await;
        assert_eq!((handle.status().created, handle.status().closed), (2, 0));
        for response in [first, second] {
            read(response).await.unwrap();
        }
        at_rest(&handle).await;
    });
}
