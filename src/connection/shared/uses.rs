//! The [`ConnShared`]s of a connection that several uses share: one for the connection, and one for each use.
//!
//! State of one exchange is in the use's: its activity, its number, whether it reached its end. State of the transport
//! is in the connection's.

use std::sync::Arc;

use super::kind::UseOf;
use super::{CloseHook, CloseState, ConnShared, Kind, MOVED, OF_USE, POISONED};
use crate::connection::close_reason::CloseReason;
#[cfg(feature = "http2")]
use crate::sync::atomic::AtomicU32;
use crate::sync::atomic::Ordering;

/// Dropping it runs the hooks of a use that has ended.
pub(crate) struct EndedUse(#[expect(dead_code, reason = "it is here to be dropped")] CloseState);

impl ConnShared {
    /// A new one for another use of the same connection.
    pub(crate) fn another(self: &Arc<Self>) -> Arc<Self> {
        let connection = self.connection().unwrap_or(self);
        let mut shared = Self::new();
        shared.id = connection.id;
        shared.key = connection.key.clone();
        shared.born = connection.born.clone();
        shared.activity.tighten_as(&connection.activity);
        shared.state.store(OF_USE, Ordering::Release);
        #[cfg(feature = "http2")]
        if connection.is_http2() {
            shared.set_http2();
        }
        if connection.is_observed() {
            shared.set_observed();
        }
        let use_of = UseOf {
            connection: connection.clone(),
            #[cfg(feature = "http2")]
            stream: AtomicU32::new(0),
        };
        let _ = shared.kind.set(Box::new(Kind::UseOf(use_of)));
        Arc::new(shared)
    }

    /// The connection's, if this belongs to one of its uses.
    #[inline]
    pub(crate) fn connection(&self) -> Option<&Arc<Self>> {
        if self.state.load(Ordering::Relaxed) & OF_USE == 0 {
            return None;
        }
        match &**self.kind.get()? {
            Kind::UseOf(one) => Some(&one.connection),
            Kind::Transport(_) => None,
        }
    }

    /// The connection's: this one, or the one of which this is a use.
    #[inline]
    pub(super) fn whole(&self) -> &Self {
        self.connection().map_or(self, |it| it)
    }

    /// Its address is left, so it has no further uses. One that nobody uses yet goes on: the caller that it was made for may be
    /// about to.
    pub(crate) fn leave_address(&self) {
        self.whole().state.fetch_or(MOVED, Ordering::AcqRel);
    }

    /// Why it may not be used again, if a caller poisoned or ended it, or its address was left.
    #[inline]
    pub(crate) fn excluded(&self) -> Option<CloseReason> {
        match self.state.load(Ordering::Acquire) & (POISONED | MOVED | OF_USE) {
            0 => None,
            OF_USE => self.whole().excluded(),
            flags if flags & POISONED != 0 => Some(CloseReason::Poisoned),
            _ => Some(CloseReason::Moved),
        }
    }

    /// Whether the exchange was given up before its end.
    #[inline]
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unfinished.load(Ordering::Relaxed)
    }

    pub(crate) fn set_unfinished(&self, unfinished: bool) {
        self.unfinished.store(unfinished, Ordering::Relaxed);
    }

    /// A time limit has ended this use, if it is one: it has no place in its pool any more, though its caller, which may
    /// not be polled, has it still. The result is to be dropped without a lock; the use counts as over then.
    pub(crate) fn end_use(&self, reason: CloseReason) -> Option<EndedUse> {
        self.connection()?;
        self.set_close_reason(reason);
        Some(EndedUse(self.set_gone()))
    }

    /// Drops the hooks without running them: the use was counted as over already.
    pub(crate) fn forget_hooks(&self) {
        let hooks = self.close_state().take_hooks();
        hooks.for_each(CloseHook::forget);
    }
}
