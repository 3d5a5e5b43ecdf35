//! What follows from a step of a host, and may not be done under its lock.

use std::sync::{Arc, Weak};
use std::task::Waker;

use crate::agent::EventKind;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::key_pool::KeyPool;
use crate::pool::pooled_conn::PooledConn;

/// A connect under way, as the pool knows it.
pub(crate) trait Stop: Send + Sync {
    /// Gives up the connect, if it is not being polled at this moment. Never under a lock.
    fn stop(&self, reason: CloseReason);
}

/// What is to be done when no lock is held. Almost always nothing.
#[must_use]
pub(super) struct Deferred<C>(Vec<DeferredAction<C>>);

/// What is said before a connection ends for this reason.
fn event_before_close(reason: CloseReason) -> Option<EventKind> {
    match reason {
        CloseReason::Stale => Some(EventKind::Stale),
        reason if reason.is_eviction() => Some(EventKind::Evicted { reason }),
        _ => None,
    }
}

enum DeferredAction<C> {
    Close(Box<PooledConn<C>>, CloseReason),
    DropUse(#[expect(dead_code, reason = "it is here to be dropped")] Box<PooledConn<C>>),
    Kill(Arc<ConnShared>),
    Stop(Weak<dyn Stop>, CloseReason),
    /// To be closed from here: whoever should have done it has not, for too long.
    Force(Arc<ConnShared>),
    Alert,
    AlertOfDelivery,
    Wake(Waker),
    /// A waker that is not needed any more. Its drop may be a task's, and so anything's.
    Forget(#[expect(dead_code, reason = "it is here to be dropped")] Waker),
    /// A host that must not be dropped under its own lock.
    Drop(#[expect(dead_code, reason = "it is here to be dropped")] Arc<KeyPool<C>>),
}

impl<C: Poolable> Deferred<C> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn close(&mut self, pooled: Box<PooledConn<C>>, reason: CloseReason) {
        self.0.push(DeferredAction::Close(pooled, reason));
    }

    /// A use that is over, of a connection that several share. It has been counted.
    pub(super) fn drop_use(&mut self, pooled: Box<PooledConn<C>>) {
        pooled.connection_ref().lifespan().shared().forget_hooks();
        self.0.push(DeferredAction::DropUse(pooled));
    }

    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.0.extend(waker.map(DeferredAction::Wake));
    }

    pub(super) fn forget(&mut self, waker: Option<Waker>) {
        self.0.extend(waker.map(DeferredAction::Forget));
    }

    pub(super) fn stop(&mut self, connect: Weak<dyn Stop>, reason: CloseReason) {
        self.0.push(DeferredAction::Stop(connect, reason));
    }

    pub(super) fn force(&mut self, shared: Arc<ConnShared>) {
        self.0.push(DeferredAction::Force(shared));
    }

    /// Something was given to somebody, and is taken back if it is not come for.
    pub(super) fn alert_of_delivery(&mut self) {
        self.0.push(DeferredAction::AlertOfDelivery);
    }

    /// Something closes for somebody.
    pub(super) fn alert(&mut self) {
        self.0.push(DeferredAction::Alert);
    }

    pub(super) fn kill(&mut self, shared: Option<Arc<ConnShared>>) {
        self.0.extend(shared.map(DeferredAction::Kill));
    }

    pub(super) fn drop_later(&mut self, key_pool: Arc<KeyPool<C>>) {
        self.0.push(DeferredAction::Drop(key_pool));
    }

    #[inline]
    pub(super) fn run(self, key_pool: &KeyPool<C>) {
        if !self.0.is_empty() {
            self.run_each(key_pool);
        }
    }

    #[cold]
    fn run_each(self, key_pool: &KeyPool<C>) {
        for act in self.0 {
            match act {
                DeferredAction::Close(pooled, reason) => {
                    if let Some(kind) = event_before_close(reason) {
                        key_pool.tell(Some(pooled.id()), || kind);
                    }
                    pooled.close(reason);
                }
                DeferredAction::Kill(shared) => {
                    shared.set_close_reason(CloseReason::Shutdown);
                    shared.force();
                }
                DeferredAction::Stop(connect, reason) => {
                    if let Some(connect) = connect.upgrade() {
                        connect.stop(reason);
                    }
                }
                DeferredAction::Force(shared) => {
                    shared.force();
                }
                DeferredAction::Alert => key_pool.alert(),
                DeferredAction::AlertOfDelivery if key_pool.takes_back() => key_pool.alert(),
                DeferredAction::AlertOfDelivery => {}
                DeferredAction::Wake(waker) => waker.wake(),
                DeferredAction::DropUse(_)
                | DeferredAction::Forget(_)
                | DeferredAction::Drop(_) => {}
            }
        }
    }
}
