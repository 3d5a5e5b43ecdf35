//! The [`ConnShared`]s of a connection that several uses share: one of the connection, and one of each use.
//!
//! What is about one exchange is with the use's: its activity, its number, whether its end was reached. What is about the
//! transport is with the connection's, and asked of it there.

use std::sync::Arc;

use super::{Apart, CloseHook, ConnShared, OF_USE};
use crate::sync::atomic::Ordering;

impl ConnShared {
    /// Of one more use of the connection that this is of, or is a use of.
    pub(crate) fn another(self: &Arc<Self>) -> Arc<Self> {
        let connection = self.connection().unwrap_or(self);
        let mut shared = Self::new();
        shared.id = connection.id;
        shared.key = connection.key.clone();
        shared.born = connection.born.clone();
        shared.activity.tighten_as(&connection.activity);
        shared.state.store(OF_USE, Ordering::Release);
        let _ = shared.apart.set(Box::new(Apart::UseOf(connection.clone())));
        Arc::new(shared)
    }

    /// The connection's, where this is of one of its uses.
    #[inline]
    pub(crate) fn connection(&self) -> Option<&Arc<Self>> {
        if self.state.load(Ordering::Relaxed) & OF_USE == 0 {
            return None;
        }
        match &**self.apart.get()? {
            Apart::UseOf(connection) => Some(connection),
            Apart::Transport(_) => None,
        }
    }

    /// The connection's: this, or that of which this is a use.
    #[inline]
    pub(super) fn whole(&self) -> &Self {
        self.connection().map_or(self, |it| it)
    }

    /// The use goes, and whoever counts it has counted that.
    pub(crate) fn forget_hooks(&self) {
        let hooks = self.close_state().take_hooks();
        hooks.for_each(CloseHook::forget);
    }
}
