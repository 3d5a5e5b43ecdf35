//! The pool: idle connections, the queue of callers, and the decision whether a caller uses an idle connection,
//! connects, or waits.

mod addresses;
mod capacity;
mod checked_out;
mod config;
mod deferred;
#[cfg(test)]
mod drain_tests;
mod gauges;
#[cfg(all(test, tower_keep_alive_loom))]
mod interleavings;
mod key_pool;
mod key_state;
mod learned;
mod list;
#[cfg(test)]
mod locks_tests;
mod memory;
#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod orders_tests;
mod overdue;
mod permit;
mod pooled_conn;
#[cfg(test)]
mod runtime_tests;
mod shared;
#[cfg(test)]
mod sharing_tests;
#[cfg(test)]
mod spare_tests;
mod spares;
mod sweeper;
mod table;
#[cfg(test)]
mod tests;
mod total_limits;
#[cfg(test)]
mod trial_tests;
#[cfg(test)]
mod unclaimed_tests;
mod wait_queue;
mod waiter;

use std::fmt;
use std::sync::{Arc, Weak};

use crate::agent::{AgentHandle, AgentState, Prewarm};
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::error::Denied;
use crate::target::key::KeyRef;

pub(crate) use addresses::Choice;
pub use checked_out::CheckedOut;
pub use config::{PoolConfig, Scheduling};
pub(crate) use deferred::Stop;
pub(crate) use key_pool::{Decision, KeyPool, Spare};
pub(crate) use permit::ConnPermit;
pub(crate) use pooled_conn::{PooledConn, Rejected};
use shared::Shared;
pub(crate) use spares::{Spares, SparesTask};
pub(crate) use wait_queue::{CheckoutRequest, WaiterId};
pub(crate) use waiter::{WaitOutcome, Waiter};

/// The pool that Checkout and Checkin share: the connections of one connector by key, each key behind its own lock.
///
/// [`CheckoutLayer`](crate::layers::CheckoutLayer) makes one for each service, so that connections of two connectors never mix;
/// `Checkout::pool` returns it. Make a pool of your own for several services that *are* interchangeable.
///
/// # Clone
///
/// Clones are the same pool. When the last clone and the last service with the pool are dropped, idle connections are
/// closed, connections in use are closed after their use, and the pool's task ends.
///
/// ```
/// use tower_keep_alive::{layers::{PoolConfig, Pool}, custom::{Lifespan, Poolable}};
/// # use std::task::{Context, Poll};
/// # struct Line(Lifespan);
/// # impl Poolable for Line {
/// #     fn is_open(&self) -> bool { true }
/// #     fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> { Poll::Ready(()) }
/// #     fn lifespan(&self) -> &Lifespan { &self.0 }
/// #     fn lifespan_mut(&mut self) -> &mut Lifespan { &mut self.0 }
/// # }
/// let pool: Pool<Line> = Pool::new(PoolConfig::new().max_connections_per_host(2));
/// assert_eq!(pool.handle().status().open(), 0);
/// ```
pub struct Pool<C: Poolable>(Arc<Owner<C>>);

/// The right to take connections from the pool, and to keep idle ones in it.
struct Owner<C: Poolable>(Arc<Shared<C>>);

impl<C: Poolable> Pool<C> {
    /// An empty pool.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self::with_agent(config, Arc::new(AgentState::new()))
    }

    /// The handle: status and control of this pool.
    #[must_use]
    pub fn handle(&self) -> AgentHandle {
        AgentHandle::new(self.shared().agent.clone())
    }

    pub(crate) fn with_agent(config: PoolConfig, agent: Arc<AgentState>) -> Self {
        Self(Arc::new(Owner(Shared::new(config, agent))))
    }

    #[inline]
    pub(crate) fn config(&self) -> &PoolConfig {
        &self.shared().config
    }

    pub(crate) fn agent(&self) -> &AgentState {
        &self.shared().agent
    }

    /// `rejected` is a connection that the caller was given before and cannot use.
    #[inline]
    pub(crate) fn checkout(
        &self,
        key: &KeyRef<'_>,
        request: CheckoutRequest,
        rejected: Option<Rejected<C>>,
        now: Moment,
    ) -> Decision<C> {
        self.shared().checkout(key, request, rejected, now)
    }

    /// A place in the queue for a caller with an idle connection that it cannot use yet: the connection becomes its
    /// delivery.
    pub(crate) fn leave(
        &self,
        mut pooled: Box<PooledConn<C>>,
        request: CheckoutRequest,
        now: Moment,
    ) -> Waiter<C> {
        let key_pool = pooled.take_key_pool().expect("taken from its pool");
        let waiter = key_pool.leave_for_new(pooled, request, now);
        Waiter::new(key_pool, waiter)
    }

    /// Permits to make as many connections as are missing to `count` idle ones, within the limits.
    pub(crate) fn prewarm(
        &self,
        key: &KeyRef<'_>,
        count: usize,
    ) -> Result<Vec<ConnPermit<C>>, Denied> {
        self.shared().prewarm(key, count)
    }

    /// Permits to make as many spare connections as the key lacks; and until when there are enough, if none lack. Where none are
    /// kept idle, a key that has no connections any more is an error.
    pub(crate) fn spare(&self, key: &KeyRef<'_>, keeps_idle: bool) -> Result<Spare<C>, Denied> {
        self.shared().spare(key, keeps_idle)
    }

    /// The permit for a connect that spreads the load of this key, if an address needs one.
    pub(crate) fn permit_to_spread(
        &self,
        key: &KeyRef<'_>,
    ) -> Result<Option<ConnPermit<C>>, Denied> {
        self.shared().permit_to_spread(key)
    }

    /// Whether the pool is open and has this key.
    pub(crate) fn has_key(&self, key: &KeyRef<'_>) -> bool {
        self.shared().has_key(key)
    }

    /// Sets the service that makes connections in advance.
    pub(crate) fn set_maker(&self, maker: Weak<dyn Prewarm>) {
        let _ = self.shared().maker.set(maker);
    }

    pub(crate) fn maker(&self) -> Option<Weak<dyn Prewarm>> {
        self.shared().maker.get().cloned()
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
            .field("config", self.config())
            .field("agent", self.agent())
            .finish()
    }
}
