//! Hooks that run when a connection's transport is gone.

use std::fmt;
use std::sync::Arc;

use super::ConnShared;
use crate::connection::close_reason::CloseReason;

/// Represents a connection's transport: keep it beside the transport, and drop it after the transport.
///
/// If the transport lives in a task of its own, take the guard from the connection's
/// [`Lifespan`](crate::custom::Lifespan::take_transport_guard) and move it into that task. When it is dropped, however the task
/// ends, the connection leaves its pool and its permit passes on.
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

    /// Records why the transport ends. The first reason that anybody records is kept.
    pub fn set_close_reason(&self, reason: CloseReason) {
        self.0.set_close_reason(reason);
    }
}

impl Drop for TransportGuard {
    fn drop(&mut self) {
        self.0.transport_gone();
    }
}

/// An action to run when a connection's transport is gone. Dropping it runs it.
#[must_use = "dropping it says that the transport is gone"]
pub struct CloseHook(pub(super) Option<Box<dyn FnOnce(CloseReason) + Send + Sync>>);

impl CloseHook {
    /// No action.
    pub(super) const NONE: Self = Self(None);

    /// Makes a hook that calls `hook` with the reason.
    pub fn new(hook: impl FnOnce(CloseReason) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(hook)))
    }

    /// Drops the hook without running it.
    pub(crate) fn forget(mut self) {
        self.0 = None;
    }

    /// Runs the hook now: the transport is gone, for this reason.
    pub fn run(mut self, reason: CloseReason) {
        if let Some(hook) = self.0.take() {
            hook(reason);
        }
    }
}

/// A hook to run when the [capacity](crate::custom::Poolable::capacity) of a connection that several uses share has changed, or
/// when it accepts no further uses. The connection's driver runs it, never under a lock of its own.
///
/// # Clone
///
/// Clones run the same hook.
#[derive(Clone)]
pub struct ChangeHook(Arc<dyn Fn() + Send + Sync>);

impl ChangeHook {
    /// Makes a hook that calls `hook` each time it is run.
    pub fn new(hook: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(hook))
    }

    /// Runs the hook: something has changed.
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
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

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

    /// Nothing else may wake the task that reads from it or writes to it.
    #[test]
    fn the_task_of_a_detached_transport_is_woken_when_that_is_killed() {
        struct Woken(AtomicBool);
        impl Wake for Woken {
            fn wake(self: Arc<Self>) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (shared, woken) = (ConnShared::new(), Arc::new(Woken(AtomicBool::new(false))));
        shared.wake_if_killed(&woken.clone().into());
        assert!(!woken.0.load(Ordering::Relaxed));
        shared.kill(CloseReason::Shutdown);
        assert!(woken.0.load(Ordering::Relaxed));
    }
}
