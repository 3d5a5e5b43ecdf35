//! How many connections of one key are in use and how many idle, for the `metrics` facade; nothing without it.

#[cfg(feature = "metrics")]
use crate::agent::OpenConnections;
use crate::connection::poolable::Poolable;
use crate::pool::key_state::KeyState;
use crate::target::key::Key;

pub(super) struct Gauges {
    #[cfg(feature = "metrics")]
    open: OpenConnections,
}

/// What one step under the lock changes, or what there was before it.
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
    pub(super) fn new(key: &Key) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            open: OpenConnections::of(key),
        }
    }

    /// Not under the lock: what counts is not ours.
    #[inline]
    pub(super) fn change(&self, by: Counts) {
        #[cfg(feature = "metrics")]
        self.open.changed(by.open, by.idle);
    }
}

#[cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "nobody counts")
)]
impl Counts {
    /// An idle one is in use.
    pub(super) const TAKEN: Self = Self {
        #[cfg(feature = "metrics")]
        open: 0,
        #[cfg(feature = "metrics")]
        idle: -1,
    };

    /// One that was in use is idle.
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
