//! What happens, for the `metrics` facade.
//!
//! Names and units are OpenTelemetry's for HTTP clients where it has them (semantic conventions, "HTTP metrics"),
//! .NET's for the time in line, and our own for the rest.

use std::time::Duration;

use metrics::{Gauge, Label, counter, gauge, histogram};

use crate::agent::EventKind;
use crate::target::key::Key;

const OPEN: &str = "http.client.open_connections";
const DURATION: &str = "http.client.connection.duration";
const IN_LINE: &str = "http.client.request.time_in_queue";
const CREATED: &str = "tower_keep_alive.connections.created";
const CLOSED: &str = "tower_keep_alive.connections.closed";
const REUSED: &str = "tower_keep_alive.connections.reused";
const STALE: &str = "tower_keep_alive.connections.stale";

pub(super) fn event(key: &Key, kind: EventKind) {
    match kind {
        EventKind::Created => counter!(CREATED, labels(key)).increment(1),
        EventKind::Reused { .. } | EventKind::HandedOver { .. } => {
            counter!(REUSED, labels(key)).increment(1);
        }
        EventKind::Stale => counter!(STALE, labels(key)).increment(1),
        EventKind::Closed { reason, age } => {
            let mut labels = labels(key);
            histogram!(DURATION, labels.clone()).record(age);
            labels.push(Label::new("reason", reason.to_string()));
            counter!(CLOSED, labels).increment(1);
        }
        EventKind::Detached => {
            let mut labels = labels(key);
            labels.push(Label::from_static_parts("reason", "detached"));
            counter!(CLOSED, labels).increment(1);
        }
        EventKind::Connected { .. } | EventKind::Evicted { .. } => {}
    }
}

/// A caller has what it stood in line for.
pub(crate) fn waited(key: &Key, time: Duration) {
    histogram!(IN_LINE, labels(key)).record(time);
}

/// How many connections of one key are in use, and how many are idle.
pub(crate) struct OpenConnections {
    active: Gauge,
    idle: Gauge,
}

impl OpenConnections {
    pub(crate) fn of(key: &Key) -> Self {
        let of = |state| {
            let mut labels = labels(key);
            labels.push(Label::from_static_parts("http.connection.state", state));
            gauge!(OPEN, labels)
        };
        Self {
            active: of("active"),
            idle: of("idle"),
        }
    }

    /// By how much the connections that are open, and those of them that are idle, have become more.
    pub(crate) fn changed(&self, open: isize, idle: isize) {
        if idle != 0 {
            self.idle.increment(idle as f64);
        }
        if open != idle {
            self.active.increment((open - idle) as f64);
        }
    }
}

fn labels(key: &Key) -> Vec<Label> {
    vec![
        Label::new("server.address", key.host().to_owned()),
        Label::new("server.port", key.port().to_string()),
        Label::new("url.scheme", key.scheme().to_owned()),
    ]
}
