//! What happens when a connection's transport goes.

use std::fmt;
use std::sync::Arc;

use super::ConnShared;
use crate::connection::close_reason::CloseReason;

/// What stands for a connection's transport: kept beside it, and dropped after it.
///
/// A connection whose transport lives in a task of its own takes this from its
/// [`Lifespan`](crate::Lifespan::take_transport_guard) and moves it into that task. When it is dropped, by whatever way the
/// task ends, the connection leaves its pool and its permit passes on.
#[derive(Debug)]
#[must_use = "dropping it says that the transport is gone"]
pub struct TransportGuard(pub(super) Arc<ConnShared>);

impl TransportGuard {
    pub(crate) fn new(shared: Arc<ConnShared>) -> Self {
        Self(shared)
    }

    #[inline]
    pub(crate) fn shared(&self) -> &ConnShared {
        &self.0
    }

    /// Says why the transport ends. The first word stands, whoever says it.
    pub fn set_close_reason(&self, reason: CloseReason) {
        self.0.set_close_reason(reason);
    }
}

impl Drop for TransportGuard {
    fn drop(&mut self) {
        self.0.transport_gone();
    }
}

/// What is to be done when a connection's transport is gone. Dropping it does it.
#[must_use = "dropping it says that the transport is gone"]
pub struct CloseHook(pub(super) Option<Box<dyn FnOnce(CloseReason) + Send + Sync>>);

impl CloseHook {
    /// Nothing is to be done.
    pub(super) const NONE: Self = Self(None);

    /// Does `hook`, with the reason.
    pub fn new(hook: impl FnOnce(CloseReason) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(hook)))
    }

    /// It is not to be done.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }

    /// Does it now: the transport is gone, and this is why.
    pub fn run(mut self, reason: CloseReason) {
        if let Some(hook) = self.0.take() {
            hook(reason);
        }
    }
}

/// What is to be done when the [capacity](crate::Poolable::capacity) of a connection that several uses share has changed, or
/// when it has no room for new uses any more. Whoever drives the connection runs it, never under a lock of its own.
///
/// # Clone
///
/// Clones do the same thing.
#[derive(Clone)]
pub struct ChangeHook(Arc<dyn Fn() + Send + Sync>);

impl ChangeHook {
    /// Does `hook`, each time.
    pub fn new(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    /// Does it now: something has changed.
    pub fn run(&self) {
        (self.0)();
    }
}

impl fmt::Debug for ChangeHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChangeHook")
    }
}

impl Drop for CloseHook {
    fn drop(&mut self) {
        if let Some(hook) = self.0.take() {
            hook(CloseReason::Dropped);
        }
    }
}

impl fmt::Debug for CloseHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloseHook")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::shared::Close;

    #[test]
    fn what_has_a_closer_or_is_gone_can_be_closed() {
        struct Closes;
        impl Close for Closes {
            fn close(&self) {}
        }
        let shared = Arc::new(ConnShared::new());
        assert!(!shared.can_be_closed());
        shared.set_closer(Arc::new(Closes));
        assert!(shared.can_be_closed() && !shared.is_gone());
        let gone = Arc::new(ConnShared::new());
        drop(TransportGuard::new(gone.clone()));
        assert!(gone.can_be_closed());
    }
}
