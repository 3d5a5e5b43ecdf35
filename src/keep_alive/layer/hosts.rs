//! Settings for some hosts.

use crate::agent::HostSettings;
use crate::keep_alive::KeepAliveLayer;
use crate::target::key::Key;

/// # Settings for some hosts
impl<B> KeepAliveLayer<B> {
    /// Settings for one host, whatever the scheme and port, instead of those for all hosts: limits, expiry and timeouts, as
    /// listed in [`HostSettings`]. They apply to each [`Key`] of the host: with `max_connections(10)` the host has up to 10
    /// connections for each scheme, port, partition and route in use. Names are compared without regard to case, addresses by
    /// their value. If several calls match a host, all of them apply in their order, and for each setting the last one wins.
    /// [`Status::hosts`](crate::status::Status::hosts) shows the result.
    ///
    /// The settings are looked up once for the pool of each key. `request_timeout` and `response_timeout` are looked up
    /// for each request, if any host has them.
    ///
    /// Requests for `http` through an HTTP proxy share the connections to that proxy, whatever their origin. For them,
    /// the limits of connections, their expiry and `connect_timeout` are those of the proxy's host; `request_timeout`
    /// and `response_timeout` are those of the origin.
    ///
    /// # Panics
    ///
    /// If `host` is neither a host name nor an IP address. Write a name that is not ASCII in Punycode, as in URIs.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent = KeepAlive::builder()
    ///     .max_connections_per_host(100)
    ///     .for_host("api.example.com", |host| {
    ///         host.max_connections(10).request_timeout(Duration::from_secs(5))
    ///     })
    ///     .build();
    /// # let _ = agent;
    /// ```
    pub fn for_host(mut self, host: &str, set: impl FnOnce(HostSettings) -> HostSettings) -> Self {
        self.settings.config = self.settings.config.for_host(host, set);
        self
    }

    /// Like [`for_host`](Self::for_host), for each key for which `matches` returns true: by scheme, port or partition, or for
    /// a whole domain. `matches` runs under a lock of the agent: it must not call an [`AgentHandle`](crate::AgentHandle).
    ///
    /// ```
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent = KeepAlive::builder()
    ///     .for_key(|key| key.host().ends_with(".internal"), |host| host.max_connections(500))
    ///     .build();
    /// # let _ = agent;
    /// ```
    pub fn for_key(
        mut self,
        matches: impl Fn(&Key) -> bool + Send + Sync + 'static,
        set: impl FnOnce(HostSettings) -> HostSettings,
    ) -> Self {
        self.settings.config = self.settings.config.for_key(matches, set);
        self
    }
}
