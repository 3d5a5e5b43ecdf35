//! Actions that follow from a step and must not run under the key's lock.

use std::sync::{Arc, Weak};
use std::task::Waker;

use crate::agent::EventKind;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::key_pool::KeyPool;
use crate::pool::pooled_conn::PooledConn;

/// A connect under way, as the pool sees it.
pub(crate) trait Stop: Send + Sync {
    /// Cancels the connect, unless it is being polled at this moment. Never called under a lock.
    fn stop(&self, reason: CloseReason);
}

/// Actions to run when no lock is held. Almost always empty.
#[must_use]
pub(super) struct Deferred<C>(Vec<DeferredAction<C>>);

/// The event that precedes a close for this reason.
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
    Tell(Arc<ConnShared>, EventKind),
    Stop(Weak<dyn Stop>, CloseReason),
    /// Closes a connection from outside, because its driver has not done so in time.
    Force(Arc<ConnShared>),
    Alert,
    AlertOfDelivery,
    Wake(Waker),
    /// A waker that is not needed any more. Dropping it may drop a task and run any code.
    Forget(#[expect(dead_code, reason = "it is here to be dropped")] Waker),
    /// A key pool that must not be dropped under its own lock.
    Drop(#[expect(dead_code, reason = "it is here to be dropped")] Arc<KeyPool<C>>),
}

impl<C: Poolable> Deferred<C> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn close(&mut self, pooled: Box<PooledConn<C>>, reason: CloseReason) {
        self.0.push(DeferredAction::Close(pooled, reason));
    }

    /// Drops a use of a shared connection. It has been counted as over.
    pub(super) fn drop_use(&mut self, pooled: Box<PooledConn<C>>) {
        pooled.connection_ref().lifespan().shared().forget_hooks();
        self.0.push(DeferredAction::DropUse(pooled));
    }

    /// Reports an event.
    pub(super) fn tell(&mut self, connection: Arc<ConnShared>, kind: EventKind) {
        self.0.push(DeferredAction::Tell(connection, kind));
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

    /// A delivery was made, and is taken back if it is not collected.
    pub(super) fn alert_of_delivery(&mut self) {
        self.0.push(DeferredAction::AlertOfDelivery);
    }

    /// A connection is being closed for a waiter.
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
                        let shared = pooled.connection_ref().lifespan().shared();
                        key_pool.tell(Some(shared), || kind);
                    }
                    pooled.close(reason);
                }
                DeferredAction::Kill(shared) => {
                    shared.set_close_reason(CloseReason::Shutdown);
                    shared.force();
                }
                DeferredAction::Tell(shared, kind) => key_pool.tell(Some(&shared), || kind),
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
