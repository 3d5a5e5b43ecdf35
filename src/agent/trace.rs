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
    macro_rules! trace_event {
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
        EventKind::Created => trace_event!("created"),
        EventKind::Connected { took } => trace_event!("connected", ?took),
        EventKind::Reused { idle_for } => trace_event!("reused", ?idle_for),
        EventKind::HandedOver { waited } => trace_event!("handed over", ?waited),
        EventKind::IdleLimitLearned { limit } => trace_event!("idle limit learned", ?limit),
        EventKind::LookupFailed { answer_age } => trace_event!("lookup failed", ?answer_age),
        EventKind::CapacityChanged { capacity, before } => {
            trace_event!("capacity changed", capacity, before)
        }
        EventKind::Draining { reason, streams } => trace_event!("draining", ?reason, streams),
        EventKind::AddressEjected {
            address,
            time,
            times,
            reason,
        } => trace_event!("address ejected", %address, ?time, times, %reason),
        EventKind::AddressReadmitted { address } => trace_event!("address readmitted", %address),
        EventKind::Stale => trace_event!("stale"),
        EventKind::Evicted { reason } => trace_event!("evicted", ?reason),
        EventKind::Detached => trace_event!("detached"),
        EventKind::Closed { reason, age } => trace_event!("closed", ?reason, ?age),
    }
}
