//! The permit to have one connection open.

use std::sync::Arc;

use tokio::time::Instant;

use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::CloseHook;
use crate::pool::addresses::Admission;
use crate::pool::key_pool::KeyPool;
use crate::pool::list::SlabIndex;
use crate::pool::pooled_conn::PooledConn;
use crate::pool::wait_queue::WaiterId;

/// The permit to have one connection open. It exists before the connect begins, belongs to the connection while its
/// transport lives, and then passes to the next waiter: exactly once, because it is dropped once.
pub(crate) struct ConnPermit<C: Poolable> {
    key_pool: Arc<KeyPool<C>>,
    index: SlabIndex,
    /// Why it ends. `None` until a connect has begun; the permit counts in the status from then on.
    reason: Option<CloseReason>,
}

impl<C: Poolable> ConnPermit<C> {
    pub(super) fn new(key_pool: Arc<KeyPool<C>>, index: usize) -> Self {
        // Every connection has one, in its close hook.
        #[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
        const {
            assert!(size_of::<Self>() <= 16)
        };
        Self {
            key_pool,
            index: SlabIndex::new(index),
            reason: None,
        }
    }

    /// A connect begins; returns when.
    pub(crate) fn begin(&mut self) -> Instant {
        self.reason = Some(CloseReason::Cancelled);
        self.key_pool.created().mono
    }

    /// The connect has failed.
    pub(crate) fn fail(mut self, reason: CloseReason) {
        self.reason = self.reason.and(Some(reason));
    }

    /// Moves the permit to the connection, whose connect began at `begun`: from now on it belongs to the transport.
    #[cfg(test)]
    pub(crate) fn fill(self, conn: C, begun: Instant) -> Box<PooledConn<C>> {
        self.fill_for(None, conn, begun)
    }

    /// The same, for a waiter that needs nothing else from the queue any more.
    pub(crate) fn fill_for(
        self,
        waiter_id: Option<WaiterId>,
        mut conn: C,
        begun: Instant,
    ) -> Box<PooledConn<C>> {
        let key_pool = self.key_pool.clone();
        let index = self.index;
        let config = key_pool.config();
        config
            .own
            .put_on_connection(conn.lifespan_mut(), config.ttl_jitter);
        let admission = key_pool.connected(self.index(), begun, conn.lifespan());
        if admission == Admission::Once {
            conn.lifespan_mut().limit_uses(1);
        }
        let mut permit = self;
        conn.on_close(CloseHook::new(move |reason| {
            permit.reason = Some(reason);
            drop(permit);
        }));
        let mut pooled = if C::SHARED {
            key_pool.share(index.get().expect("made for an index"), conn, waiter_id)
        } else {
            Box::new(PooledConn::new(index, conn))
        };
        pooled.set_key_pool(key_pool);
        pooled
    }

    pub(crate) fn key_pool(&self) -> &Arc<KeyPool<C>> {
        &self.key_pool
    }

    pub(crate) fn index(&self) -> usize {
        self.index.get().expect("made for an index")
    }
}

impl<C: Poolable> Drop for ConnPermit<C> {
    fn drop(&mut self) {
        if let Some(index) = self.index.get() {
            self.key_pool.release(index, self.reason);
        }
    }
}
