//! The key pool's part in connections that several uses share.

use std::sync::Arc;

use super::KeyPool;
use crate::agent::Mode;
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::connection::shared::{ChangeHook, CloseHook, ConnShared};
use crate::pool::key_state::{KeyState, StepCx};
use crate::pool::list::SlabIndex;
use crate::pool::pooled_conn::PooledConn;
use crate::pool::wait_queue::WaiterId;

impl<C: Poolable> KeyPool<C> {
    /// Returns the first use of a new connection or, if it is not shared, the connection itself.
    pub(in crate::pool) fn share(
        self: &Arc<Self>,
        place: usize,
        mut conn: C,
        waiter_id: Option<WaiterId>,
    ) -> Box<PooledConn<C>> {
        let shared = conn.lifespan().shared().clone();
        let first = match self.config.keep_alive {
            true => conn.another(),
            false => None,
        };
        let Some(first) = first else {
            self.with(|state, cx| state.is_alone(place, &shared, cx));
            return Box::new(PooledConn::new(SlabIndex::new(place), conn));
        };
        let key_pool = Arc::downgrade(self);
        let of = shared.clone();
        conn.on_change(ChangeHook::new(move || {
            if let Some(key_pool) = key_pool.upgrade() {
                key_pool.changed(place, &of);
            }
        }));
        let whole = Box::new(PooledConn::new(SlabIndex::new(place), conn));
        let Ok(mut first) = self.use_of(place, &whole, first) else {
            self.with(|state, cx| state.is_alone(place, &shared, cx));
            return whole;
        };
        // Nobody has used it yet.
        first.idle_since = Some(self.pool.config.clock.now());
        match self.with(|state, cx| state.share(place, whole, &first, waiter_id, cx)) {
            Ok(is_awaited) => {
                // Otherwise its first use is returned in a moment, and serves the queue then.
                if is_awaited {
                    self.changed(place, &shared);
                }
                first
            }
            Err(whole) => {
                first.connection_ref().lifespan().shared().forget_hooks();
                whole
            }
        }
    }

    /// Makes a use of this connection whose drop is counted. `Err`: the use was gone at once. May be called under the
    /// lock, so no hook runs here.
    pub(in crate::pool) fn use_of(
        self: &Arc<Self>,
        place: usize,
        whole: &PooledConn<C>,
        conn: C,
    ) -> Result<Box<PooledConn<C>>, Box<PooledConn<C>>> {
        let key_pool = Arc::downgrade(self);
        let of = whole.connection_ref().lifespan().shared().clone();
        let hook = CloseHook::new(move |_| {
            if let Some(key_pool) = key_pool.upgrade() {
                key_pool.use_gone(place, &of);
            }
        });
        let kept = conn.lifespan().shared().try_on_close(hook);
        let pooled = Box::new(whole.with(conn));
        match kept {
            Ok(()) => Ok(pooled),
            Err(hook) => {
                hook.forget();
                Err(pooled)
            }
        }
    }

    /// Callers need not wait for the result of the connect under way: it may make a connection for one use.
    pub(crate) fn go_side_by_side(self: &Arc<Self>) {
        self.with(|state, cx| state.go_side_by_side(cx));
    }

    fn use_gone(self: &Arc<Self>, place: usize, shared: &Arc<ConnShared>) {
        self.and_sweep(|state, mode, now, cx| state.use_gone(place, shared, mode, now, cx));
    }

    fn changed(self: &Arc<Self>, place: usize, shared: &Arc<ConnShared>) {
        self.and_sweep(|state, mode, now, cx| state.changed(place, shared, mode, now, cx));
    }

    fn and_sweep(
        self: &Arc<Self>,
        step: impl FnOnce(&mut KeyState<C>, Mode, Moment, &mut StepCx<'_, C>) -> Option<Moment>,
    ) {
        let now = self.pool.config.clock.now();
        let sweep_at = self.with(|state, cx| step(state, self.pool.mode(), now, cx));
        if let Some(at) = sweep_at {
            self.pool.arm_sweeper(at);
        }
    }
}
