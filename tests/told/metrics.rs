//! Counters, gauges and histograms of the `metrics` facade.

use std::time::Duration;

use metrics::Unit;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tower_keep_alive::KeepAliveLayer;

use crate::support::agent::{agent_paused, at_rest, fetch, get, read};
use crate::support::{Server, eventually, script};

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

    fn of(&self, name: &str, label: &str) -> f64 {
        let mut found = self
            .0
            .iter()
            .filter(|(it, labels, _)| *it == name && labels.iter().any(|it| it == label));
        found.next().map_or(0.0, |(_, _, value)| *value)
    }
}

/// Runs a test whose metrics go to a recorder of its own.
fn recorded(test: impl AsyncFnOnce(&Snapshotter)) {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(test(&snapshotter));
    });
}

#[test]
fn connections_are_counted_by_state_and_measured_to_their_end() {
    recorded(counted);
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
        assert!(described >= 7, "{described}");
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

async fn counted(snapshotter: &Snapshotter) {
    const OPEN: &str = "http.client.open_connections";
    const ACTIVE: &str = "http.connection.state=active";
    const IDLE: &str = "http.connection.state=idle";
    const HOST: &str = "server.address=in-memory.test";
    let server = Server::in_memory(script::ok);
    let layer = KeepAliveLayer::new().idle_timeout(Duration::from_secs(2));
    let (client, handle) = agent_paused(layer, server.connector());
    let response = client.request(get(server.url("/"))).await.unwrap();
    let look = Look::at(snapshotter);
    assert_eq!((look.of(OPEN, ACTIVE), look.of(OPEN, IDLE)), (1.0, 0.0));
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
