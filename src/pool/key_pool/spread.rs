//! Takes and returns idle connections if the load is spread, and no other caller is affected.

use std::sync::Arc;

use super::KeyPool;
use crate::agent::Mode;
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::pool::config::Shortcut;
use crate::pool::gauges::Kept;
use crate::pool::key_state::KeyState;
use crate::pool::pooled_conn::PooledConn;
use crate::pool::wait_queue::CheckoutRequest;
use crate::sync::MutexGuard;
use crate::target::Reuse;

impl<C: Poolable> KeyPool<C> {
    /// Takes a connection of the address that is next, if it is usable as it is. `None`:
    /// [`checkout`](Self::checkout) has to decide.
    #[inline(never)]
    pub(in crate::pool) fn pop_spread(
        self: Arc<Self>,
        request: &CheckoutRequest,
        now: Moment,
    ) -> Option<Box<PooledConn<C>>> {
        let pool = &*self.pool;
        if request.reuse != Reuse::Any || !self.has(Shortcut::Spread) {
            return None;
        }
        if C::SHARED && pool.mode() != Mode::Open {
            return None;
        }
        let scheduling = pool.config.scheduling;
        let picked = self.lock().pop_spread(request.runtime, now, scheduling);
        let (mut pooled, was_idle) = picked?;
        if was_idle {
            self.gauges.taken(&pooled);
        }
        pooled.set_key_pool(self);
        Some(pooled)
    }

    /// Returns a connection whose use is over, if it is not simply [kept](Self::keep).
    #[inline(never)]
    pub(super) fn put_otherwise(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, KeyState<C>>,
        mut pooled: Box<PooledConn<C>>,
        now: Moment,
    ) {
        if self.has(Shortcut::Spread) && self.pool.mode() == Mode::Open {
            let kept = Kept::new(&pooled);
            match state.keep_spread(pooled, now, &self.config) {
                Ok((sweep_at, is_idle)) => {
                    drop(state);
                    if is_idle {
                        self.gauges.kept(kept);
                    }
                    if let Some(at) = sweep_at {
                        self.pool.arm_sweeper(at);
                    }
                    return;
                }
                Err(back) => pooled = back,
            }
        }
        self.with_locked(state, now, |state, cx| state.put(pooled, cx));
    }
}
