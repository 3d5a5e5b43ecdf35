//! The key pool's part in connections that several uses share.

use std::sync::Arc;

use super::KeyPool;
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
            self.with(|state, cx| state.set_exclusive(place, &shared, cx));
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
        let key_pool = Arc::downgrade(self);
        let of = shared.clone();
        let new_hook = move || {
            let (key_pool, of) = (key_pool.clone(), of.clone());
            CloseHook::new(move |_| {
                if let Some(key_pool) = key_pool.upgrade() {
                    key_pool.with(|state, cx| state.use_gone(place, &of, cx));
                }
            })
        };
        let Ok(mut first) = whole.new_use(first, new_hook()) else {
            self.with(|state, cx| state.set_exclusive(place, &shared, cx));
            return whole;
        };
        // Nobody has used it yet.
        first.idle_since = Some(self.pool.config.clock.now());
        let new_hook = Box::new(new_hook);
        let shares = |state: &mut KeyState<C>, cx: &mut StepCx<'_, C>| {
            let shares = state.share(place, whole, &first, new_hook, waiter_id, cx);
            // In the same step: the trial's end comes before this, or finds the connection afterwards.
            if self.is_on_trial(&shared) {
                state.begin_trial(place);
            }
            shares
        };
        match self.with(shares) {
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

    /// Callers need not wait for the result of the connect under way: it may make a connection for one use.
    pub(crate) fn go_side_by_side(self: &Arc<Self>) {
        self.with(|state, cx| state.go_side_by_side(cx));
    }

    pub(super) fn changed(self: &Arc<Self>, place: usize, shared: &Arc<ConnShared>) {
        self.with(|state, cx| state.changed(place, shared, cx));
    }
}
