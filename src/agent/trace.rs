//! Reports to `tracing`.

use tracing::{Level, debug, enabled};

use crate::agent::EventKind;
use crate::target::key::Key;

/// The target of every span and event here.
pub(crate) const TARGET: &str = "tower_keep_alive";

pub(super) fn is_wanted() -> bool {
    enabled!(target: TARGET, Level::DEBUG)
}

pub(super) fn event(agent: Option<&str>, key: &Key, connection: Option<u64>, kind: EventKind) {
    macro_rules! say {
        ($what:literal $(, $($field:tt)+)?) => {
            debug!(target: TARGET, agent, %key, connection.id = connection, $($($field)+,)? $what)
        };
    }
    match kind {
        EventKind::Created => say!("created"),
        EventKind::Connected { took } => say!("connected", ?took),
        EventKind::Reused { idle_for } => say!("reused", ?idle_for),
        EventKind::HandedOver { waited } => say!("handed over", ?waited),
        EventKind::IdleLimitLearned { limit } => say!("idle limit learned", ?limit),
        EventKind::LookupFailed { answer_age } => say!("lookup failed", ?answer_age),
        EventKind::Stale => say!("stale"),
        EventKind::Evicted { reason } => say!("evicted", ?reason),
        EventKind::Detached => say!("detached"),
        EventKind::Closed { reason, age } => say!("closed", ?reason, ?age),
    }
}
