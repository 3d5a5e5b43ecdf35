//! A place in the queue.

use std::mem;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Id;

use crate::connection::poolable::Poolable;
use crate::pool::config::PoolConfig;
use crate::pool::key_pool::KeyPool;
use crate::pool::permit::ConnPermit;
use crate::pool::pooled_conn::{PooledConn, Rejected, current_runtime};
use crate::pool::wait_queue::WaiterId;
use crate::sync::{Mutex, MutexGuard};

/// A place in the queue. Dropping it leaves the queue at once, and passes an uncollected delivery on.
pub(crate) struct Waiter<C: Poolable> {
    key_pool: Arc<KeyPool<C>>,
    index: usize,
    /// The runtime in which overdue work is checked for while this caller is blocked.
    checks_in: Mutex<Option<Id>>,
}

/// What a waiter is given.
pub(crate) enum WaitOutcome<C: Poolable> {
    /// A connection that another caller returned.
    Connection(Box<PooledConn<C>>),
    /// The connection that was made for it.
    Made(Box<PooledConn<C>>),
    /// A permit to connect.
    Make(ConnPermit<C>),
    /// The agent was destroyed.
    Refused,
    /// The connection that was made for it was not collected, and went to another caller.
    Lost,
    /// How long it was blocked by a connection that cannot be closed.
    Stuck(Duration),
}

impl<C: Poolable> Waiter<C> {
    pub(super) fn new(key_pool: Arc<KeyPool<C>>, index: usize) -> Self {
        Self {
            key_pool,
            index,
            checks_in: Mutex::new(None),
        }
    }

    pub(crate) fn poll_outcome(&self, cx: &Context<'_>) -> Poll<WaitOutcome<C>> {
        let mut delivery = match self.key_pool.collect(self.index, cx.waker()) {
            Ok(delivery) => delivery,
            Err(is_blocked) => {
                if is_blocked {
                    self.join_checks();
                }
                return Poll::Pending;
            }
        };
        self.leave_checks();
        // A permit that is not needed passes on when it is dropped.
        let permit = delivery
            .permit
            .take()
            .map(|permit| ConnPermit::new(self.key_pool.clone(), permit));
        let connection = delivery.connection.take();
        Poll::Ready(match (connection, permit) {
            (connection, _) if delivery.refused => {
                if let Some(pooled) = connection {
                    self.key_pool.put(pooled);
                }
                WaitOutcome::Refused
            }
            (Some(mut pooled), _) => {
                pooled.set_key_pool(self.key_pool.clone());
                if delivery.made {
                    WaitOutcome::Made(pooled)
                } else {
                    WaitOutcome::Connection(pooled)
                }
            }
            (None, Some(permit)) => WaitOutcome::Make(permit),
            (None, None) => delivery
                .stuck_for
                .map_or(WaitOutcome::Lost, WaitOutcome::Stuck),
        })
    }

    /// The waiter for which a connection is made.
    pub(crate) fn waiter_id(&self) -> WaiterId {
        self.key_pool.waiter_id(self.index)
    }

    pub(crate) fn config(&self) -> &PoolConfig {
        self.key_pool.config()
    }

    /// Sets how long its own connect may take, if that differs from the pool's limit.
    pub(crate) fn set_connect_timeout(&self, limit: Duration) {
        self.key_pool.set_connect_timeout(self.index, limit);
    }

    /// Leaves the connection, which is not usable yet, as a delivery in the queue.
    pub(crate) fn leave(&self, mut pooled: Box<PooledConn<C>>, is_making: bool) {
        drop(pooled.take_key_pool());
        self.key_pool.leave_for(self.index, pooled, is_making);
    }

    /// Rejects the delivery and returns to the queue; the waiter's own connect goes on.
    pub(crate) fn requeue(&self, rejected: Rejected<C>) {
        self.key_pool.requeue(self.index, rejected);
    }

    #[cfg(test)]
    pub(super) fn missed(&self) -> bool {
        self.key_pool.lock().queue().missed(self.index)
    }

    #[cfg(test)]
    pub(super) fn has_delivery(&self) -> bool {
        self.key_pool.lock().queue().has_delivery(self.index)
    }

    /// In the runtime where it was polled last: that one is driven, and an earlier one may not be any more.
    fn join_checks(&self) {
        let mut checks_in = self.checks_in();
        if let Some(runtime) = current_runtime()
            && *checks_in != Some(runtime)
        {
            let pool = self.key_pool.pool();
            if let Some(before) = mem::replace(&mut *checks_in, pool.join_checks()) {
                pool.leave_checks(before);
            }
        }
    }

    fn leave_checks(&self) {
        if let Some(runtime) = self.checks_in().take() {
            self.key_pool.pool().leave_checks(runtime);
        }
    }
}

impl<C: Poolable> Waiter<C> {
    fn checks_in(&self) -> MutexGuard<'_, Option<Id>> {
        self.checks_in
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Poolable> Drop for Waiter<C> {
    fn drop(&mut self) {
        self.leave_checks();
        let delivery = self.key_pool.abandon(self.index);
        if let Some(permit) = delivery.permit {
            drop(ConnPermit::new(self.key_pool.clone(), permit));
        }
        if let Some(pooled) = delivery.connection {
            self.key_pool.put(pooled);
        }
    }
}
