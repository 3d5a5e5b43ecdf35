//! How many connections there may be, and who gets the next one.

use std::time::Duration;

use crate::keep_alive::KeepAliveLayer;
use crate::pool::Scheduling;

/// # Limits and the queue
impl<B> KeepAliveLayer<B> {
    /// The maximum number of connections for one [`Key`](crate::Key): in use, idle or connecting (Node: `maxSockets`); see
    /// [`PoolConfig::max_connections_per_host`](crate::layers::PoolConfig::max_connections_per_host). A host has one key for each scheme, port, partition and route of its
    /// requests, and the limit applies to each key separately. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    #[doc(alias = "maxSockets")]
    pub fn max_connections_per_host(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_connections_per_host(max);
        self
    }

    /// The maximum number of connections for all keys together (Node: `maxTotalSockets`); see [`PoolConfig::max_connections`](crate::layers::PoolConfig::max_connections). Default: no
    /// limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    #[doc(alias = "maxTotalSockets")]
    pub fn max_connections(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_connections(max);
        self
    }

    /// The maximum number of idle connections for one [`Key`](crate::Key) (scheme, host, port, partition and route; Node: `maxFreeSockets`);
    /// see [`PoolConfig::max_idle_per_host`](crate::layers::PoolConfig::max_idle_per_host). Default: 256.
    #[doc(alias = "maxFreeSockets")]
    pub fn max_idle_per_host(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_idle_per_host(max);
        self
    }

    /// The maximum number of idle connections for all keys together; see [`PoolConfig::max_idle`](crate::layers::PoolConfig::max_idle). Default: no limit.
    pub fn max_idle(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_idle(max);
        self
    }

    /// The maximum number of callers in the queue of one [`Key`](crate::Key) (scheme, host, port, partition and route); see
    /// [`PoolConfig::max_pending_per_host`](crate::layers::PoolConfig::max_pending_per_host). Default: no limit.
    pub fn max_pending_per_host(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_pending_per_host(max);
        self
    }

    /// How long a connection is reserved for a caller in the queue whose future is not polled; see
    /// [`PoolConfig::hand_over_timeout`](crate::layers::PoolConfig::hand_over_timeout). Default: 5 ms.
    pub fn hand_over_timeout(mut self, max: Duration) -> Self {
        self.settings.config = self.settings.config.hand_over_timeout(max);
        self
    }

    /// How long a caller may wait in the queue; see [`PoolConfig::checkout_timeout`](crate::layers::PoolConfig::checkout_timeout). Default: no limit.
    pub fn checkout_timeout(mut self, max: Duration) -> Self {
        self.settings.config = self.settings.config.checkout_timeout(max);
        self
    }

    /// Which idle connection is used first (Node: `scheduling`). Default: the most recently used one.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.settings.config = self.settings.config.scheduling(scheduling);
        self
    }
}
