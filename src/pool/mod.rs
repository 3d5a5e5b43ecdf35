//! The connections that are kept, the callers in line for them, and the one place that decides: use, make or wait.

mod config;
mod deferred;
#[cfg(test)]
mod drain_tests;
mod gauges;
#[cfg(all(test, tower_keep_alive_loom))]
mod interleavings;
mod key_pool;
mod key_state;
mod list;
#[cfg(test)]
mod locks_tests;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod orders_tests;
mod overdue;
mod permit;
mod pooled_conn;
mod shared;
mod sweeper;
mod table;
#[cfg(test)]
mod tests;
mod total_limits;
#[cfg(test)]
mod unclaimed_tests;
mod wait_queue;
mod waiter;

use std::fmt;
use std::sync::Arc;

use crate::agent::{AgentHandle, Books};
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::error::Denied;
use crate::target::key::KeyRef;

pub use config::{Limits, Scheduling};
pub(crate) use deferred::Stop;
pub(crate) use key_pool::{HostPool, Verdict};
pub(crate) use permit::Slot;
pub(crate) use pooled_conn::{Berth, Spoiled};
use shared::Shared;
pub(crate) use wait_queue::{Ask, Whom};
pub(crate) use waiter::{Turn, Waiter};

/// What Checkout and Checkin share: the connections of one connector, kept by key, each key behind its own lock.
///
/// [`CheckoutLayer`](crate::CheckoutLayer) makes one for every service it makes, so that connections of two connectors
/// never mix; `Checkout::pool` shows it. A pool of your own, made here, can be given to several services that *are*
/// interchangeable.
///
/// # Clone
///
/// Clones are the same pool. When the last one is dropped, with the services that have it, idle connections are closed,
/// connections in use are closed when their use is over, and the pool's task ends.
///
/// ```
/// use tower_keep_alive::{Limits, Pool, Lifespan, Poolable};
/// # use std::task::{Context, Poll};
/// # struct Line(Lifespan);
/// # impl Poolable for Line {
/// #     fn is_open(&self) -> bool { true }
/// #     fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> { Poll::Ready(()) }
/// #     fn lifespan(&self) -> &Lifespan { &self.0 }
/// #     fn lifespan_mut(&mut self) -> &mut Lifespan { &mut self.0 }
/// # }
/// let pool: Pool<Line> = Pool::new(Limits::new().max_connections_per_host(2));
/// assert_eq!(pool.handle().status().open(), 0);
/// ```
pub struct Pool<C: Poolable>(Arc<Owner<C>>);

/// The right to take from the pool and to keep connections idle in it.
struct Owner<C: Poolable>(Arc<Shared<C>>);

impl<C: Poolable> Pool<C> {
    /// An empty pool.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self::with_books(limits, Arc::new(Books::new()))
    }

    /// Status and control of this pool.
    #[must_use]
    pub fn handle(&self) -> AgentHandle {
        AgentHandle::new(self.shared().books.clone())
    }

    pub(crate) fn with_books(limits: Limits, books: Arc<Books>) -> Self {
        Self(Arc::new(Owner(Shared::new(limits, books))))
    }

    #[inline]
    pub(crate) fn limits(&self) -> &Limits {
        &self.shared().limits
    }

    pub(crate) fn books(&self) -> &Books {
        &self.shared().books
    }

    /// An idle connection that will do as it is.
    #[inline]
    pub(crate) fn pick(&self, key: &KeyRef<'_>, ask: &Ask, now: Moment) -> Option<Box<Berth<C>>> {
        self.shared().pick(key, ask, now)
    }

    /// `spoiled` is what the caller was given before.
    #[inline]
    pub(crate) fn checkout(
        &self,
        key: &KeyRef<'_>,
        ask: Ask,
        spoiled: Option<Spoiled<C>>,
        now: Moment,
    ) -> Verdict<C> {
        self.shared().checkout(key, ask, spoiled, now)
    }

    /// The right to make as many connections as `count` idle ones lack, within the limits.
    pub(crate) fn warm(&self, key: &KeyRef<'_>, count: usize) -> Result<Vec<Slot<C>>, Denied> {
        self.shared().warm(key, count)
    }

    #[inline]
    fn shared(&self) -> &Shared<C> {
        &self.0.0
    }
}

impl<C: Poolable> Clone for Pool<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<C: Poolable> Drop for Owner<C> {
    fn drop(&mut self) {
        self.0.orphan();
    }
}

impl<C: Poolable> fmt::Debug for Pool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("limits", self.limits())
            .field("books", self.books())
            .finish()
    }
}
