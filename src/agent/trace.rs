//! Reports to `tracing`.

use http::Version;
use tracing::{Level, debug, enabled};

use crate::agent::{Event, EventKind};

/// The target of every span and event here.
pub(crate) const TARGET: &str = "tower_keep_alive";

/// OpenTelemetry's `network.protocol.name` of all connections.
pub(crate) const PROTOCOL: &str = "http";

pub(super) fn is_wanted() -> bool {
    enabled!(target: TARGET, Level::DEBUG)
}

/// OpenTelemetry's `network.protocol.version`.
pub(crate) fn protocol_version(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

pub(super) fn event(agent: Option<&str>, event: &Event<'_>) {
    let &Event {
        key,
        connection,
        version,
        kind,
    } = event;
    let name = version.map(|_| PROTOCOL);
    let version = version.map(protocol_version);
    macro_rules! say {
        ($what:literal $(, $($field:tt)+)?) => {
            debug!(
                target: TARGET,
                agent,
                %key,
                connection.id = connection,
                network.protocol.name = name,
                network.protocol.version = version,
                $($($field)+,)?
                $what
            )
        };
    }
    match kind {
        EventKind::Created => say!("created"),
        EventKind::Connected { took } => say!("connected", ?took),
        EventKind::Reused { idle_for } => say!("reused", ?idle_for),
        EventKind::HandedOver { waited } => say!("handed over", ?waited),
        EventKind::IdleLimitLearned { limit } => say!("idle limit learned", ?limit),
        EventKind::LookupFailed { answer_age } => say!("lookup failed", ?answer_age),
        EventKind::CapacityChanged { capacity, before } => {
            say!("capacity changed", capacity, before)
        }
        EventKind::Draining { reason, streams } => say!("draining", ?reason, streams),
        EventKind::Stale => say!("stale"),
        EventKind::Evicted { reason } => say!("evicted", ?reason),
        EventKind::Detached => say!("detached"),
        EventKind::Closed { reason, age } => say!("closed", ?reason, ?age),
    }
}
