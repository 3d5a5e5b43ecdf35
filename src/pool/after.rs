//! What follows from a step of a host, and may not be done under its lock.

use std::sync::Arc;
use std::task::Waker;

use tokio::sync::oneshot;

use crate::agent::EventKind;
use crate::bond::Bond;
use crate::cause::Cause;
use crate::pool::berth::Berth;
use crate::pool::host_pool::HostPool;
use crate::poolable::Poolable;

/// Ends a connect that goes on without its caller, when it is dropped.
pub(crate) type Cancel = oneshot::Sender<()>;

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
    Cancel(Cancel),
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

    pub(super) fn cancel(&mut self, cancel: Option<Cancel>) {
        self.0.extend(cancel.map(Act::Cancel));
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
                Act::Kill(bond) => bond.kill(Cause::Shutdown),
                Act::Cancel(cancel) => drop(cancel),
                Act::Wake(waker) => waker.wake(),
                Act::Forget(_) | Act::Drop(_) => {}
            }
        }
    }
}
