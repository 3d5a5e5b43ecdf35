//! Settings for some hosts, in the place of those for all.

use std::time::Duration;

use crate::support::agent::{
    agent_over, agent_paused, at_rest, belongs_here, fetch, get, read, send,
};
use crate::support::{Conn, CountingConnector, Gate, Server, eventually, script};
use bytes::Bytes;
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower::ServiceBuilder;
use tower_keep_alive::{
    CloseReason, HostSettings, KeepAliveLayer, TimeoutKind,
    extensions::{Partition, RequestTimeout},
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, IdleEvictionLayer, PoolConfig,
    },
};

type Layers = KeepAliveLayer<Full<Bytes>>;

/// The host with settings of its own, on two ports, and another.
const OWN: &str = "http://own.test/";
const OWN_TOO: &str = "http://OWN.test:8080/";
const OTHER: &str = "http://other.test/";

const T: Duration = Duration::from_millis(100);

/// Reads requests, and never answers.
async fn silent(mut conn: Conn) {
    while conn.request().await.is_some() {}
}

fn with(set: impl FnOnce(HostSettings) -> HostSettings) -> Layers {
    Layers::new().for_host("own.test", set)
}

#[tokio::test(start_paused = true)]
async fn limits_hold_for_each_key_of_the_host_and_for_no_other() {
    let server = Server::in_memory(script::ok);
    let layer = with(|host| host.max_connections(1).max_pending(0));
    let (client, handle) = agent_paused(layer, server.connector());
    let mut held = Vec::new();
    for (url, at_once) in [(OWN, 1), (OWN_TOO, 1), (OTHER, 3)] {
        for _ in 0..at_once {
            held.push(client.request(get(url)).await.unwrap());
        }
    }
    for url in [OWN, OWN_TOO] {
        let error = client.request(get(url)).await.unwrap_err();
        assert!(error.is_queue_full(), "{error:?}");
    }
    for response in held {
        read(response).await.unwrap();
    }
    assert_eq!(handle.status().created, 5);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_limited_by_the_hosts_own_number() {
    let server = Server::in_memory(script::ok);
    let layer = with(|host| host.max_idle(1)).max_idle_per_host(2);
    let (client, handle) = agent_paused(layer, server.connector());
    for (url, kept) in [(OWN, 1), (OTHER, 2)] {
        let mut held = Vec::new();
        for _ in 0..3 {
            held.push(client.request(get(url)).await.unwrap());
        }
        for response in held {
            read(response).await.unwrap();
        }
        let idle = handle.status().idle;
        let idle = idle.iter().find(|(key, _)| url.contains(key.host()));
        assert_eq!(idle.map(|(_, count)| *count), Some(kept), "{url}");
    }
    at_rest(&handle).await;
}

/// Shorter than what is said for all, and longer: a limit that only tightens would not do.
#[tokio::test(start_paused = true)]
async fn expiry_is_the_hosts_own_be_it_longer_or_shorter() {
    type Setting = fn(HostSettings, Duration) -> HostSettings;
    let settings: [(Setting, fn(Layers, Duration) -> Layers, CloseReason); 2] = [
        (
            HostSettings::idle_timeout,
            Layers::idle_timeout,
            CloseReason::Idle,
        ),
        (HostSettings::ttl, Layers::ttl, CloseReason::Age),
    ];
    for (set_own, set, reason) in settings {
        for (own, for_all) in [(T, T * 3), (T * 3, T)] {
            let server = Server::in_memory(script::ok);
            let layer = with(|host| set_own(host, own)).idle_timeout(T * 9);
            let (client, handle) = agent_paused(set(layer, for_all), server.connector());
            for url in [OWN, OTHER] {
                fetch(&client, url).await.unwrap();
            }
            sleep(T * 2).await;
            let status = handle.status();
            assert_eq!(status.closes, [(reason, 1)].into(), "{status}");
            let left = status.idle.into_keys().next().expect("one is left");
            assert_eq!(left.host() == "own.test", own > for_all);
            sleep(T * 2).await;
            assert_eq!(handle.status().open(), 0);
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn uses_are_counted_by_the_hosts_own_number() {
    let server = Server::in_memory(script::ok);
    let layer = with(|host| host.max_uses(3)).max_uses(1);
    let (client, handle) = agent_paused(layer, server.connector());
    for (url, connections) in [(OWN, 2), (OTHER, 6)] {
        let before = handle.status().created;
        for _ in 0..6 {
            fetch(&client, url).await.unwrap();
        }
        assert_eq!(handle.status().created - before, connections, "{url}");
    }
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn each_timeout_is_the_hosts_own() {
    let kinds = [
        TimeoutKind::Inactivity,
        TimeoutKind::Request,
        TimeoutKind::Response,
        TimeoutKind::Connect,
        TimeoutKind::Checkout,
    ];
    for kind in kinds {
        for (own, for_all) in [(T, T * 2), (T * 2, T)] {
            let server = Server::in_memory(silent);
            let counting = CountingConnector::new(server.connector());
            let layer = Layers::new()
                .active_timeout(T * 100)
                .max_connections_per_host(1);
            let set = move |host: HostSettings| match kind {
                TimeoutKind::Inactivity => host.active_timeout(own),
                TimeoutKind::Request => host.request_timeout(own),
                TimeoutKind::Response => host.response_timeout(own),
                TimeoutKind::Connect => host.connect_timeout(own),
                _ => host.checkout_timeout(own),
            };
            let layer = layer.for_host("own.test", set);
            let (layer, connector) = match kind {
                TimeoutKind::Inactivity => (layer.active_timeout(for_all), counting),
                TimeoutKind::Request => (layer.request_timeout(for_all), counting),
                TimeoutKind::Response => (layer.response_timeout(for_all), counting),
                TimeoutKind::Connect => {
                    (layer.connect_timeout(for_all), counting.gate(&Gate::new()))
                }
                _ => (layer.checkout_timeout(for_all), counting),
            };
            let (client, handle) = agent_paused(layer, connector);
            for (url, limit) in [(OWN, own), (OTHER, for_all)] {
                let held = (kind == TimeoutKind::Checkout).then(|| {
                    let client = client.clone();
                    tokio::spawn(async move { fetch(&client, url).await })
                });
                if held.is_some() {
                    let requests = server.requests();
                    eventually("it holds the connection", || server.requests() > requests).await;
                }
                let start = Instant::now();
                let error = fetch(&client, url).await.unwrap_err();
                assert_eq!(error.timeout_kind(), Some(kind), "{url}: {error:?}");
                assert_eq!(error.timeout(), Some(limit), "{url}");
                let took = start.elapsed();
                assert!(
                    (limit..limit + limit / 5).contains(&took),
                    "{kind:?} {took:?}"
                );
                if let Some(held) = held {
                    held.abort();
                }
            }
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_has_the_last_word_and_a_key_is_seen_whole() {
    let server = Server::in_memory(silent);
    let layer = Layers::new()
        .for_key(
            |key| key.partition() == Some("slow"),
            |host| host.request_timeout(T * 3),
        )
        .for_key(|key| key.port() == 8080, |host| host.request_timeout(T * 2));
    let (client, handle) = agent_paused(layer.request_timeout(T), server.connector());
    for (url, partition, own, limit) in [
        (OTHER, None, None, T),
        (OTHER, Some("slow"), None, T * 3),
        (OTHER, Some("quick"), None, T),
        (OWN_TOO, Some("slow"), None, T * 2),
        (OWN_TOO, Some("slow"), Some(T * 4), T * 4),
    ] {
        let mut request = get(url);
        if let Some(partition) = partition {
            request.extensions_mut().insert(Partition::new(partition));
        }
        if let Some(own) = own {
            request.extensions_mut().insert(RequestTimeout(own));
        }
        let error = send(&client, request).await.unwrap_err();
        assert_eq!(error.timeout(), Some(limit), "{url} {partition:?} {own:?}");
    }
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_layers_keeps_to_them_too() {
    let server = Server::in_memory(script::ok);
    let config = PoolConfig::new()
        .clock(crate::support::agent::paused_clock())
        .for_host("own.test", |host| {
            host.max_connections(1).idle_timeout(T * 3)
        });
    let checkout = CheckoutLayer::new(config.checkout_timeout(T));
    let handle = checkout.handle();
    belongs_here(&handle);
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new())
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(IdleEvictionLayer::new(T))
        .layer(HandshakeLayer::<Full<Bytes>>::new())
        .service(server.connector());
    for url in [OWN, OTHER] {
        let held = send(&client, get(url)).await.unwrap();
        assert_eq!(held.body, "ok");
    }
    sleep(T * 2).await;
    assert_eq!(handle.status().open(), 1, "the other is gone");
    sleep(T * 2).await;
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_status_shows_what_a_host_has_for_itself_and_whose_it_is() {
    let server = Server::in_memory(script::ok);
    let layer = with(|host| host.max_connections(10).ttl(T * 10)).name("billing");
    let (client, handle) = agent_over(layer, server.connector());
    for url in [OWN, OTHER] {
        fetch(&client, url).await.unwrap();
    }
    let status = handle.status();
    assert_eq!(status.name.as_deref(), Some("billing"));
    assert!(
        status
            .to_string()
            .starts_with("billing: requests: 2 started"),
        "{status}"
    );
    let (key, own) = status.hosts.iter().next().expect("one has its own");
    assert_eq!((status.hosts.len(), key.host()), (1, "own.test"));
    assert_eq!(
        *own,
        HostSettings::default().max_connections(10).ttl(T * 10)
    );
    assert_eq!(own.get_max_connections(), Some(10));
    assert_eq!((own.get_ttl(), own.get_max_idle()), (Some(T * 10), None));
    let json = serde_json::to_value(&status).unwrap();
    assert_eq!(json["name"], "billing");
    let expected = serde_json::json!({"own.test:80:": {"maxConnections": 10, "ttl": 1000}});
    assert_eq!(json["hosts"], expected);
    // Nothing of it where nothing is said.
    let plain = serde_json::to_value(Layers::new().handle().status()).unwrap();
    assert!(plain.get("name").is_none() && plain.get("hosts").is_none());
    handle.close_idle();
    at_rest(&handle).await;
}

#[test]
fn what_is_no_host_or_makes_no_sense_is_refused_when_it_is_set() {
    for host in ["", "http://own.test", "own.test:80", "bücher.example"] {
        let refused = std::panic::catch_unwind(|| Layers::new().for_host(host, |host| host));
        assert!(refused.is_err(), "{host}");
    }
    type Set = fn(HostSettings) -> HostSettings;
    let sets: [Set; 5] = [
        |host| host.max_connections(0),
        |host| host.max_uses(0),
        |host| host.active_timeout(Duration::ZERO),
        |host| host.request_timeout(Duration::ZERO),
        |host| host.response_timeout(Duration::ZERO),
    ];
    let names = [
        "max_connections",
        "max_uses",
        "active_timeout",
        "request_timeout",
        "response_timeout",
    ];
    for (set, name) in sets.into_iter().zip(names) {
        let refused = std::panic::catch_unwind(|| with(set)).unwrap_err();
        let text = refused.downcast_ref::<&str>().expect("a message");
        let said = format!("{name} must not be zero: use ");
        assert!(
            text.starts_with(&said) && text.ends_with("::MAX for no limit"),
            "{text}"
        );
    }
}
