//! What follows from a step of a host, and may not be done under its lock.

use std::sync::{Arc, Weak};
use std::task::Waker;

use crate::agent::EventKind;
use crate::connection::close_reason::Cause;
use crate::connection::poolable::Poolable;
use crate::connection::shared::Bond;
use crate::pool::key_pool::HostPool;
use crate::pool::pooled_conn::Berth;

/// A connect under way, as the pool knows it.
pub(crate) trait Stop: Send + Sync {
    /// Gives up the connect, if it is not being polled at this moment. Never under a lock.
    fn stop(&self, cause: Cause);
}

/// What is to be done when no lock is held. Almost always nothing.
#[must_use]
pub(super) struct After<C>(Vec<Act<C>>);

/// What is said before a connection ends for this cause.
fn told_of(cause: Cause) -> Option<EventKind> {
    match cause {
        Cause::Stale => Some(EventKind::Stale),
        Cause::Idle | Cause::Age | Cause::Uses | Cause::Surplus | Cause::Room | Cause::Poisoned => {
            Some(EventKind::Evicted { cause })
        }
        _ => None,
    }
}

enum Act<C> {
    Close(Box<Berth<C>>, Cause),
    Kill(Arc<Bond>),
    Stop(Weak<dyn Stop>, Cause),
    /// To be closed from here: whoever should have done it has not, for too long.
    Force(Arc<Bond>),
    Alert,
    Wake(Waker),
    /// A waker that is not needed any more. Its drop may be a task's, and so anything's.
    Forget(#[expect(dead_code, reason = "it is here to be dropped")] Waker),
    /// A host that must not be dropped under its own lock.
    Drop(#[expect(dead_code, reason = "it is here to be dropped")] Arc<HostPool<C>>),
}

impl<C: Poolable> After<C> {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn close(&mut self, berth: Box<Berth<C>>, cause: Cause) {
        self.0.push(Act::Close(berth, cause));
    }

    pub(super) fn wake(&mut self, waker: Option<Waker>) {
        self.0.extend(waker.map(Act::Wake));
    }

    pub(super) fn forget(&mut self, waker: Option<Waker>) {
        self.0.extend(waker.map(Act::Forget));
    }

    pub(super) fn stop(&mut self, connect: Weak<dyn Stop>, cause: Cause) {
        self.0.push(Act::Stop(connect, cause));
    }

    pub(super) fn force(&mut self, bond: Arc<Bond>) {
        self.0.push(Act::Force(bond));
    }

    /// Something was left for somebody to come for.
    pub(super) fn alert(&mut self) {
        self.0.push(Act::Alert);
    }

    pub(super) fn kill(&mut self, bond: Option<Arc<Bond>>) {
        self.0.extend(bond.map(Act::Kill));
    }

    pub(super) fn let_go(&mut self, host: Arc<HostPool<C>>) {
        self.0.push(Act::Drop(host));
    }

    #[inline]
    pub(super) fn act(self, home: &HostPool<C>) {
        if !self.0.is_empty() {
            self.act_on_each(home);
        }
    }

    #[cold]
    fn act_on_each(self, home: &HostPool<C>) {
        for act in self.0 {
            match act {
                Act::Close(berth, cause) => {
                    if let Some(kind) = told_of(cause) {
                        home.tell(Some(berth.id()), || kind);
                    }
                    berth.close(cause);
                }
                Act::Kill(bond) => {
                    bond.note(Cause::Shutdown);
                    bond.force();
                }
                Act::Stop(connect, cause) => {
                    if let Some(connect) = connect.upgrade() {
                        connect.stop(cause);
                    }
                }
                Act::Force(bond) => {
                    bond.force();
                }
                Act::Alert => home.alert(),
                Act::Wake(waker) => waker.wake(),
                Act::Forget(_) | Act::Drop(_) => {}
            }
        }
    }
}
