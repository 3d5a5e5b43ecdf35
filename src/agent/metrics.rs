//! Reports to the `metrics` facade.
//!
//! Names and units are OpenTelemetry's for HTTP clients if it has them (semantic conventions, "HTTP metrics"), .NET's
//! for the time in the queue, and this crate's own for the rest.

use std::collections::HashSet;
use std::mem;
use std::sync::{OnceLock, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

use crate::agent::open_counts::States;
use crate::agent::{AgentState, EjectionReason, EventKind, OpenCounts, Spoken};
use crate::connection::shared::ConnShared;
use crate::sync::Mutex;
use crate::target::key::Key;

const OPEN: &str = "http.client.open_connections";
const DURATION: &str = "http.client.connection.duration";
const IN_QUEUE: &str = "http.client.request.time_in_queue";
const CREATED: &str = "tower_keep_alive.connections.created";
const CLOSED: &str = "tower_keep_alive.connections.closed";
const REUSED: &str = "tower_keep_alive.connections.reused";
const STALE: &str = "tower_keep_alive.connections.stale";
#[cfg(feature = "http2")]
const STREAMS: &str = "tower_keep_alive.streams.in_use";
const CAPACITY: &str = "tower_keep_alive.streams.capacity";
const EJECTED: &str = "tower_keep_alive.addresses.ejected";
const READMITTED: &str = "tower_keep_alive.addresses.readmitted";
const LEFT_OUT: &str = "tower_keep_alive.addresses.left_out";
const LEARNED: &str = "tower_keep_alive.idle_limits.learned";

/// How many hosts have labels of their own: a recorder keeps every label, and hosts may come from untrusted URLs.
const MAX_HOSTS: usize = 1000;

/// The address of all further hosts, as OpenTelemetry names it.
const OTHER: &str = "_OTHER";

/// For one agent: which hosts have labels, and whether the recorder knows the descriptions.
#[derive(Default)]
pub(super) struct Labelled {
    described: OnceLock<()>,
    hosts: Mutex<HashSet<(String, u16)>>,
}

impl Labelled {
    /// Whether this host has labels of its own.
    fn names(&self, host: &str, port: u16) -> bool {
        // Nothing that can panic runs under this lock, so it is never poisoned.
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = (host.to_owned(), port);
        hosts.contains(&host) || hosts.len() < MAX_HOSTS && hosts.insert(host)
    }
}

/// The metrics of one key. They are looked up once; without a recorder they cost almost nothing.
pub(crate) struct KeyMetrics {
    labels: Vec<Label>,
    /// Connects under way, whose protocol is not known yet.
    connecting: Gauge,
    /// Looked up when the first connection is of that version, so that nobody sees metrics of a version that is not used.
    http1: OnceLock<ProtocolMetrics>,
    http2: OnceLock<ProtocolMetrics>,
    created: Counter,
    reused: Counter,
    stale: Counter,
    /// How many addresses the gauge counts as left out.
    left_out: Mutex<usize>,
}

/// The metrics of the connections of one version.
struct ProtocolMetrics {
    labels: Vec<Label>,
    active: Gauge,
    idle: Gauge,
    capacity: Gauge,
    in_queue: Histogram,
}

impl KeyMetrics {
    pub(crate) fn new(key: &Key, agent: &AgentState) -> Self {
        agent.labelled.described.get_or_init(describe);
        let labels = labels(key, agent);
        Self {
            connecting: open(&labels, "active"),
            http1: OnceLock::new(),
            http2: OnceLock::new(),
            created: counter!(CREATED, labels.clone()),
            reused: counter!(REUSED, labels.clone()),
            stale: counter!(STALE, labels.clone()),
            left_out: Mutex::default(),
            labels,
        }
    }

    #[inline]
    fn of(&self, spoken: Spoken) -> &ProtocolMetrics {
        let (metrics, version) = match spoken {
            Spoken::Http1 => (&self.http1, "1.1"),
            Spoken::Http2 => (&self.http2, "2"),
        };
        metrics.get_or_init(|| ProtocolMetrics::new(&self.labels, version))
    }

    pub(crate) fn event(&self, connection: Option<&ConnShared>, kind: EventKind) {
        match kind {
            EventKind::Created => self.created.increment(1),
            EventKind::Stale => self.stale.increment(1),
            EventKind::Closed { reason, age } => {
                let labels = match connection {
                    Some(connection) => &self.of(Spoken::on(connection)).labels,
                    None => &self.labels,
                };
                histogram!(DURATION, labels.clone()).record(age);
                self.closed(Label::new("reason", reason.to_string()));
            }
            EventKind::AddressEjected { reason, .. } => {
                let reason = match reason {
                    EjectionReason::Consecutive { .. } => "consecutive",
                    EjectionReason::FailureShare { .. } => "failure_share",
                };
                let mut labels = self.labels.clone();
                labels.push(Label::from_static_parts("reason", reason));
                counter!(EJECTED, labels).increment(1);
            }
            EventKind::AddressReadmitted { .. } => {
                counter!(READMITTED, self.labels.clone()).increment(1);
            }
            EventKind::IdleLimitLearned { .. } => {
                counter!(LEARNED, self.labels.clone()).increment(1);
            }
            EventKind::Detached => self.closed(Label::from_static_parts("reason", "detached")),
            _ => {}
        }
    }

    /// As many addresses are left out now as `count` says.
    pub(crate) fn left_out(&self, count: impl FnOnce() -> usize) {
        let (before, now) = {
            // Together, so that of two at the same time the later count stays.
            let mut reported = self.left_out.lock().unwrap_or_else(PoisonError::into_inner);
            let now = count();
            (mem::replace(&mut *reported, now), now)
        };
        if before != now {
            gauge!(LEFT_OUT, self.labels.clone()).increment(now as f64 - before as f64);
        }
    }

    /// A caller got a connection that was not made for it.
    #[inline]
    pub(crate) fn reused(&self) {
        self.reused.increment(1);
    }

    #[cold]
    fn closed(&self, reason: Label) {
        let mut labels = self.labels.clone();
        labels.push(reason);
        counter!(CLOSED, labels).increment(1);
    }

    /// A caller got its connection after this time in the queue.
    pub(crate) fn waited(&self, time: Duration, spoken: Spoken) {
        self.of(spoken).in_queue.record(time);
    }

    #[inline]
    pub(crate) fn taken(&self, spoken: Spoken) {
        let metrics = self.of(spoken);
        metrics.idle.decrement(1.0);
        metrics.active.increment(1.0);
    }

    #[inline]
    pub(crate) fn kept(&self, spoken: Spoken) {
        let metrics = self.of(spoken);
        metrics.active.decrement(1.0);
        metrics.idle.increment(1.0);
    }

    /// The numbers have changed.
    pub(crate) fn change(&self, before: &OpenCounts, now: &OpenCounts) {
        let of_states = |spoken, before: States, now: States| {
            if before != now {
                let metrics = self.of(spoken);
                change(&metrics.active, before.active, now.active);
                change(&metrics.idle, before.idle, now.idle);
            }
        };
        change(&self.connecting, before.connecting, now.connecting);
        of_states(Spoken::Http1, before.http1, now.http1);
        of_states(Spoken::Http2, before.http2, now.http2);
        if before.capacity != now.capacity {
            let metrics = self.of(Spoken::Http2);
            change(&metrics.capacity, before.capacity, now.capacity);
        }
    }

    /// The gauge of streams in use.
    #[cfg(feature = "http2")]
    pub(crate) fn streams(&self) -> Gauge {
        gauge!(STREAMS, self.of(Spoken::Http2).labels.clone())
    }
}

/// Nobody knows of its addresses any more.
impl Drop for KeyMetrics {
    fn drop(&mut self) {
        self.left_out(|| 0);
    }
}

impl ProtocolMetrics {
    #[cold]
    fn new(labels: &[Label], version: &'static str) -> Self {
        let mut labels = labels.to_vec();
        labels.push(Label::from_static_parts("network.protocol.name", "http"));
        labels.push(Label::from_static_parts(
            "network.protocol.version",
            version,
        ));
        Self {
            active: open(&labels, "active"),
            idle: open(&labels, "idle"),
            capacity: gauge!(CAPACITY, labels.clone()),
            in_queue: histogram!(IN_QUEUE, labels.clone()),
            labels,
        }
    }
}

fn open(labels: &[Label], state: &'static str) -> Gauge {
    let mut labels = labels.to_vec();
    labels.push(Label::from_static_parts("http.connection.state", state));
    gauge!(OPEN, labels)
}

#[inline]
fn change(gauge: &Gauge, before: isize, now: isize) {
    if before != now {
        gauge.increment((now - before) as f64);
    }
}

fn labels(key: &Key, agent: &AgentState) -> Vec<Label> {
    let mut labels = match agent.labelled.names(key.host(), key.port()) {
        true => vec![
            Label::new("server.address", key.host().to_owned()),
            Label::new("server.port", key.port().to_string()),
        ],
        false => vec![Label::from_static_parts("server.address", OTHER)],
    };
    labels.push(Label::new("url.scheme", key.scheme().to_owned()));
    if let Some(name) = agent.name() {
        labels.push(Label::new("agent", name));
    }
    labels
}

/// Describes the metrics to the recorder, for the HELP lines of a scrape.
fn describe() {
    describe_gauge!(
        OPEN,
        Unit::Count,
        "Connections that are open now, by state."
    );
    describe_histogram!(DURATION, Unit::Seconds, "How long a connection was open.");
    describe_histogram!(
        IN_QUEUE,
        Unit::Seconds,
        "How long a caller waited in the queue for its connection."
    );
    #[cfg(feature = "http2")]
    describe_gauge!(STREAMS, Unit::Count, "HTTP/2 streams that are in use now.");
    describe_gauge!(
        CAPACITY,
        Unit::Count,
        "HTTP/2 streams that the open connections can carry at the same time."
    );
    describe_counter!(CREATED, Unit::Count, "Connects that were begun.");
    describe_counter!(
        REUSED,
        Unit::Count,
        "Checkouts that got a connection that was not made for them."
    );
    describe_counter!(
        STALE,
        Unit::Count,
        "Connections that were found closed just before they were used again."
    );
    describe_counter!(
        EJECTED,
        Unit::Count,
        "How often an address was ejected because too much failed there."
    );
    describe_counter!(
        READMITTED,
        Unit::Count,
        "How often an ejected address was found to serve again."
    );
    describe_gauge!(
        LEFT_OUT,
        Unit::Count,
        "Addresses that get no new connections now, because connects to them fail or they are ejected."
    );
    describe_counter!(
        LEARNED,
        Unit::Count,
        "How often a limit for idle connections was learned from the server."
    );
    describe_counter!(
        CLOSED,
        Unit::Count,
        "Connections that were closed, by reason."
    );
}
