//! Does what follows from a step of a key, after its lock is released.

use super::KeyPool;
use crate::agent::EventKind;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::pool::deferred::{Deferred, DeferredAction};

impl<C: Poolable> KeyPool<C> {
    #[inline]
    pub(in crate::pool) fn run_deferred(&self, deferred: Deferred<C>) {
        if deferred.stale > 0 {
            self.pool.agent.stale(deferred.stale);
        }
        if let Some(at) = deferred.sweep_at {
            self.pool.arm_sweeper(at);
        }
        if !deferred.actions.is_empty() {
            self.run_actions(deferred.actions);
        }
    }

    #[cold]
    fn run_actions(&self, actions: Vec<DeferredAction<C>>) {
        for action in actions {
            match action {
                DeferredAction::Close(pooled, reason) => {
                    if let Some(kind) = event_before_close(reason) {
                        let shared = pooled.connection_ref().lifespan().shared();
                        self.emit(Some(shared), || kind);
                    }
                    pooled.close(reason);
                }
                DeferredAction::Kill(shared) => {
                    shared.set_close_reason(CloseReason::Shutdown);
                    shared.force();
                }
                DeferredAction::Emit(shared, kind) => self.emit(Some(&shared), || kind),
                DeferredAction::Stop(connect, reason) => {
                    if let Some(connect) = connect.upgrade() {
                        connect.stop(reason);
                    }
                }
                DeferredAction::Force(shared) => {
                    shared.force();
                }
                DeferredAction::Alert => self.alert(),
                DeferredAction::AlertOfDelivery if self.takes_back() => self.alert(),
                DeferredAction::AlertOfDelivery => {}
                DeferredAction::Wake(waker) => waker.wake(),
                DeferredAction::DropUse(_)
                | DeferredAction::EndUse(_)
                | DeferredAction::Forget(_)
                | DeferredAction::Drop(_) => {}
            }
        }
    }
}

/// The event that precedes a close for this reason.
fn event_before_close(reason: CloseReason) -> Option<EventKind> {
    match reason {
        CloseReason::Stale => Some(EventKind::Stale),
        reason if reason.is_eviction() => Some(EventKind::Evicted { reason }),
        _ => None,
    }
}
