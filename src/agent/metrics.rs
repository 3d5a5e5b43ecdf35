//! Reports to the `metrics` facade.
//!
//! Names and units are OpenTelemetry's for HTTP clients if it has them (semantic conventions, "HTTP metrics"), .NET's
//! for the time in the queue, and this crate's own for the rest.

use std::collections::HashSet;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Label, Unit, counter, describe_counter, describe_gauge,
    describe_histogram, gauge, histogram,
};

use crate::agent::{AgentState, EventKind};
use crate::target::key::Key;

const OPEN: &str = "http.client.open_connections";
const DURATION: &str = "http.client.connection.duration";
const IN_QUEUE: &str = "http.client.request.time_in_queue";
const CREATED: &str = "tower_keep_alive.connections.created";
const CLOSED: &str = "tower_keep_alive.connections.closed";
const REUSED: &str = "tower_keep_alive.connections.reused";
const STALE: &str = "tower_keep_alive.connections.stale";

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
    active: Gauge,
    idle: Gauge,
    created: Counter,
    reused: Counter,
    stale: Counter,
    in_queue: Histogram,
}

impl KeyMetrics {
    pub(crate) fn new(key: &Key, agent: &AgentState) -> Self {
        agent.labelled.described.get_or_init(describe);
        let labels = labels(key, agent);
        let open = |state| {
            let mut labels = labels.clone();
            labels.push(Label::from_static_parts("http.connection.state", state));
            gauge!(OPEN, labels)
        };
        Self {
            active: open("active"),
            idle: open("idle"),
            created: counter!(CREATED, labels.clone()),
            reused: counter!(REUSED, labels.clone()),
            stale: counter!(STALE, labels.clone()),
            in_queue: histogram!(IN_QUEUE, labels.clone()),
            labels,
        }
    }

    pub(crate) fn event(&self, kind: EventKind) {
        match kind {
            EventKind::Created => self.created.increment(1),
            EventKind::Reused { .. } | EventKind::HandedOver { .. } => self.reused.increment(1),
            EventKind::Stale => self.stale.increment(1),
            EventKind::Closed { reason, age } => {
                histogram!(DURATION, self.labels.clone()).record(age);
                self.closed(Label::new("reason", reason.to_string()));
            }
            EventKind::Detached => self.closed(Label::from_static_parts("reason", "detached")),
            _ => {}
        }
    }

    #[cold]
    fn closed(&self, reason: Label) {
        let mut labels = self.labels.clone();
        labels.push(reason);
        counter!(CLOSED, labels).increment(1);
    }

    /// A caller got its connection after this time in the queue.
    pub(crate) fn waited(&self, time: Duration) {
        self.in_queue.record(time);
    }

    /// The change in the number of open connections, and of idle ones.
    pub(crate) fn changed(&self, open: isize, idle: isize) {
        if idle != 0 {
            self.idle.increment(idle as f64);
        }
        if open != idle {
            self.active.increment((open - idle) as f64);
        }
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
        CLOSED,
        Unit::Count,
        "Connections that were closed, by reason."
    );
}
