//! What happens when a connection's transport goes.

use std::fmt;
use std::sync::Arc;

use super::Bond;
use crate::connection::close_reason::Cause;

/// What stands for a connection's transport: kept beside it, and dropped after it.
///
/// A connection whose transport lives in a task of its own takes this from its
/// [`Lifespan`](crate::Lifespan::transport_guard) and moves it into that task. When it is dropped, by whatever way the
/// task ends, the connection leaves its pool and its slot passes on.
#[derive(Debug)]
#[must_use = "dropping it says that the transport is gone"]
pub struct TransportGuard(pub(super) Arc<Bond>);

impl TransportGuard {
    pub(crate) fn new(bond: Arc<Bond>) -> Self {
        Self(bond)
    }

    #[inline]
    pub(crate) fn bond(&self) -> &Bond {
        &self.0
    }

    /// Says why the transport ends. The first word stands, whoever says it.
    pub fn note(&self, cause: Cause) {
        self.0.note(cause);
    }
}

impl Drop for TransportGuard {
    fn drop(&mut self) {
        self.0.transport_gone();
    }
}

/// What is to be done when a connection's transport is gone. Dropping it does it.
#[must_use = "dropping it says that the transport is gone"]
pub struct CloseHook(pub(super) Option<Box<dyn FnOnce(Cause) + Send + Sync>>);

impl CloseHook {
    /// Nothing is to be done.
    pub(super) const NONE: Self = Self(None);

    /// Does `hook`, with the reason.
    pub fn new(hook: impl FnOnce(Cause) + Send + Sync + 'static) -> Self {
        Self(Some(Box::new(hook)))
    }

    /// Does it now: the transport is gone, and this is why.
    pub fn run(mut self, cause: Cause) {
        if let Some(hook) = self.0.take() {
            hook(cause);
        }
    }
}

impl Drop for CloseHook {
    fn drop(&mut self) {
        if let Some(hook) = self.0.take() {
            hook(Cause::Dropped);
        }
    }
}

impl fmt::Debug for CloseHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CloseHook")
    }
}
