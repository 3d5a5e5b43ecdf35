//! What follows from a step and must not be done under the key's lock, as data.

use std::any::Any;
use std::sync::{Arc, Weak};
use std::task::Waker;

use crate::agent::EventKind;
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::{ConnShared, EndedUse};
use crate::pool::pooled_conn::PooledConn;

/// A connect under way, as the pool sees it.
pub(crate) trait Stop: Send + Sync {
    /// Cancels the connect, unless it is being polled at this moment. Never called under a lock.
    fn stop(&self, reason: CloseReason);
}

/// What follows from a step, to be done when no lock is held. Almost always nothing.
#[must_use]
pub(super) struct Deferred<C> {
    pub(super) actions: Vec<DeferredAction<C>>,
    /// How many stale connections were found.
    pub(super) stale: u64,
    /// A deadline that the sweeper does not know yet.
    pub(super) sweep_at: Option<Moment>,
    /// Connections have several uses: the load may have to be spread by one more.
    pub(super) is_crowded: bool,
}

pub(super) enum DeferredAction<C> {
    Close(Box<PooledConn<C>>, CloseReason),
    DropUse(#[expect(dead_code, reason = "it is here to be dropped")] Box<PooledConn<C>>),
    Kill(Arc<ConnShared>),
    Emit(Arc<ConnShared>, EventKind),
    Stop(Weak<dyn Stop>, CloseReason),
    /// Closes a connection from outside, because its driver has not done so in time.
    Force(Arc<ConnShared>),
    /// A use of a shared connection that was ended from outside: it counts as over when this is dropped.
    EndUse(#[expect(dead_code, reason = "it is here to be dropped")] EndedUse),
    Alert,
    AlertOfDelivery,
    Wake(Waker),
    /// A waker that is not needed any more. Dropping it may drop a task and run any code.
    Forget(#[expect(dead_code, reason = "it is here to be dropped")] Waker),
    /// A handle of a key pool, which must not be dropped under its own lock.
    Drop(#[expect(dead_code, reason = "it is here to be dropped")] Arc<dyn Any + Send + Sync>),
}

impl<C: Poolable> Deferred<C> {
    pub(super) const fn new() -> Self {
        Self {
            actions: Vec::new(),
            stale: 0,
            sweep_at: None,
            is_crowded: false,
        }
    }

    pub(super) fn close(&mut self, pooled: Box<PooledConn<C>>, reason: CloseReason) {
        self.actions.push(DeferredAction::Close(pooled, reason));
    }

    /// Drops a use of a shared connection. It has been counted as over.
    pub(super) fn drop_use(&mut self, pooled: Box<PooledConn<C>>) {
        pooled.connection_ref().lifespan().shared().forget_hooks();
        self.actions.push(DeferredAction::DropUse(pooled));
    }

    /// Reports an event.
    pub(super) fn emit(&mut self, connection: Arc<ConnShared>, kind: EventKind) {
        self.actions.push(DeferredAction::Emit(connection, kind));
    }

    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.actions.extend(waker.map(DeferredAction::Wake));
    }

    pub(super) fn forget(&mut self, waker: Option<Waker>) {
        self.actions.extend(waker.map(DeferredAction::Forget));
    }

    pub(super) fn stop(&mut self, connect: Weak<dyn Stop>, reason: CloseReason) {
        self.actions.push(DeferredAction::Stop(connect, reason));
    }

    pub(super) fn force(&mut self, shared: Arc<ConnShared>) {
        self.actions.push(DeferredAction::Force(shared));
    }

    pub(super) fn end_use(&mut self, ended: Option<EndedUse>) {
        self.actions.extend(ended.map(DeferredAction::EndUse));
    }

    /// A delivery was made, and is taken back if it is not collected.
    pub(super) fn alert_of_delivery(&mut self) {
        self.actions.push(DeferredAction::AlertOfDelivery);
    }

    /// A connection is being closed for a waiter.
    pub(super) fn alert(&mut self) {
        self.actions.push(DeferredAction::Alert);
    }

    pub(super) fn kill(&mut self, shared: Option<Arc<ConnShared>>) {
        self.actions.extend(shared.map(DeferredAction::Kill));
    }

    pub(super) fn drop_later(&mut self, handle: Arc<dyn Any + Send + Sync>) {
        self.actions.push(DeferredAction::Drop(handle));
    }
}
