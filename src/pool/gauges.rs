//! The gauges of one key for the `metrics` facade; empty without the feature.

use std::time::Duration;

#[cfg(feature = "metrics")]
use crate::agent::KeyMetrics;
use crate::agent::{AgentState, EventKind};
use crate::connection::poolable::Poolable;
use crate::pool::key_state::KeyState;
use crate::target::key::Key;

pub(super) struct Gauges {
    #[cfg(feature = "metrics")]
    key: KeyMetrics,
}

/// The numbers of a key: their change by one step, or their values before it.
#[derive(Clone, Copy)]
pub(super) struct Counts {
    #[cfg(feature = "metrics")]
    open: isize,
    #[cfg(feature = "metrics")]
    idle: isize,
}

#[cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "nobody counts")
)]
impl Gauges {
    pub(super) fn new(key: &Key, agent: &AgentState) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            key: KeyMetrics::new(key, agent),
        }
    }

    /// Not under the lock: the recorder is foreign code.
    #[inline]
    pub(super) fn change(&self, by: Counts) {
        #[cfg(feature = "metrics")]
        self.key.changed(by.open, by.idle);
    }

    #[inline]
    pub(super) fn event(&self, kind: impl FnOnce() -> EventKind) {
        #[cfg(feature = "metrics")]
        self.key.event(kind());
    }

    #[inline]
    pub(super) fn waited(&self, time: Duration) {
        #[cfg(feature = "metrics")]
        self.key.waited(time);
    }
}

#[cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "nobody counts")
)]
impl Counts {
    /// An idle connection is taken.
    pub(super) const TAKEN: Self = Self {
        #[cfg(feature = "metrics")]
        open: 0,
        #[cfg(feature = "metrics")]
        idle: -1,
    };

    /// A connection in use becomes idle.
    pub(super) const KEPT: Self = Self {
        #[cfg(feature = "metrics")]
        open: 0,
        #[cfg(feature = "metrics")]
        idle: 1,
    };

    #[inline]
    pub(super) fn of<C: Poolable>(state: &KeyState<C>) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            open: state.open_len().cast_signed(),
            #[cfg(feature = "metrics")]
            idle: state.idle_len().cast_signed(),
        }
    }

    #[inline]
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            open: self.open - before.open,
            #[cfg(feature = "metrics")]
            idle: self.idle - before.idle,
        }
    }
}
