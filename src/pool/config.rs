//! The limits of a pool, and how long a caller waits for it.

use std::time::Duration;

use crate::agent::{Ejection, FollowDns, HostOverrides, HostSettings, Spread};
use crate::clock::Clock;
use crate::target::key::Key;

/// The settings of a pool: how many connections it may have, how many callers may wait, and for how long.
///
/// The limits of a single *connection* (age, idle time and uses) are set by layers of their own.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::{Scheduling, layers::PoolConfig};
///
/// let config = PoolConfig::new()
///     .max_connections_per_host(50)
///     .max_pending_per_host(1_000)
///     .checkout_timeout(Duration::from_secs(2))
///     .scheduling(Scheduling::Fifo);
/// # let _ = config;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct PoolConfig {
    pub(crate) keep_alive: bool,
    pub(crate) max_connections_per_host: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_idle_per_host: usize,
    pub(crate) max_idle: usize,
    pub(crate) min_idle_per_host: usize,
    pub(crate) max_pending_per_host: usize,
    pub(crate) checkout_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) hand_over_timeout: Duration,
    pub(crate) scheduling: Scheduling,
    pub(crate) spread: Spread,
    pub(crate) learn_idle_limit: bool,
    pub(crate) follow_dns: Option<FollowDns>,
    pub(crate) ejection: Option<Ejection>,
    pub(crate) clock: Clock,
    /// Settings of single hosts.
    pub(crate) hosts: HostOverrides,
    /// The settings of the one host that this configuration is for.
    pub(crate) own: HostSettings,
    /// The jitter of a TTL that is set for a host.
    pub(crate) ttl_jitter: f64,
}

/// Which idle connection is used first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheduling {
    /// The most recently used one: the others reach their idle limit when there is less load (Node's default).
    #[default]
    Lifo,
    /// The one that has been idle longest: all connections stay in use.
    Fifo,
}

impl PoolConfig {
    /// The defaults: no limit on connections and callers, at most 256 idle connections for each key, and 8 s for a
    /// connect.
    pub fn new() -> Self {
        Self {
            keep_alive: true,
            max_connections_per_host: usize::MAX,
            max_connections: usize::MAX,
            max_idle_per_host: 256,
            max_idle: usize::MAX,
            min_idle_per_host: 0,
            max_pending_per_host: usize::MAX,
            checkout_timeout: Duration::MAX,
            connect_timeout: Duration::from_secs(8),
            hand_over_timeout: Duration::from_millis(5),
            scheduling: Scheduling::default(),
            spread: Spread::default(),
            learn_idle_limit: true,
            follow_dns: None,
            ejection: None,
            clock: Clock::default(),
            hosts: HostOverrides::default(),
            own: HostSettings::default(),
            ttl_jitter: 0.0,
        }
    }

    /// Whether connections are kept for reuse at all (Node: `keepAlive`). Default: true.
    #[doc(alias = "keepAlive")]
    pub fn keep_alive(mut self, keep: bool) -> Self {
        self.keep_alive = keep;
        self
    }

    /// Limits how many connections may be open for one [`Key`] (scheme, host, port, partition and route); connections
    /// count while they are being made, in use or idle (Node: `maxSockets`). Further callers wait in the queue, first
    /// come, first served. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0: nothing could ever be sent.
    #[doc(alias = "maxSockets")]
    pub fn max_connections_per_host(mut self, max: usize) -> Self {
        assert!(
            max > 0,
            "max_connections_per_host must not be 0: use usize::MAX for no limit"
        );
        self.max_connections_per_host = max;
        self
    }

    /// Limits how many connections may be open for all keys together (Node: `maxTotalSockets`). If a caller is blocked
    /// by this limit and another key has an idle connection, that connection is closed to make room. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0: nothing could ever be sent.
    #[doc(alias = "maxTotalSockets")]
    pub fn max_connections(mut self, max: usize) -> Self {
        assert!(
            max > 0,
            "max_connections must not be 0: use usize::MAX for no limit"
        );
        self.max_connections = max;
        self
    }

    /// Limits how many connections may be idle for one key; a connection that is returned beyond the limit is closed
    /// (Node: `maxFreeSockets`). 0 keeps no idle connections, but still hands returned connections to waiting callers.
    /// Default: 256.
    #[doc(alias = "maxFreeSockets")]
    pub fn max_idle_per_host(mut self, max: usize) -> Self {
        self.max_idle_per_host = max;
        self
    }

    /// Limits how many connections may be idle for all keys together; beyond it, the connection that has been idle
    /// longest is closed. Default: no limit.
    pub fn max_idle(mut self, max: usize) -> Self {
        self.max_idle = max;
        self
    }

    /// As many spare connections are kept idle for each key while it is in use, that is for five minutes after its last request:
    /// made ahead, by a task of their own, so that no request pays for a connect (bb8: `min_idle`). They are made within all
    /// limits and not while callers wait, and replaced before their time is up, where `max_idle_per_host` leaves room for one
    /// more. A connect that fails is tried again after 20 ms, and later each time, up to 30 s.
    ///
    /// It takes a pool of [`KeepAliveLayer`](crate::KeepAliveLayer); others make none. Default: 0.
    pub fn min_idle_per_host(mut self, min: usize) -> Self {
        self.min_idle_per_host = min;
        self
    }

    /// Limits how many callers may wait in the queue for one key; the next one fails with an error for which
    /// [`is_queue_full`](crate::Error::is_queue_full) is true. With 0 nobody waits. Default: no limit.
    pub fn max_pending_per_host(mut self, max: usize) -> Self {
        self.max_pending_per_host = max;
        self
    }

    /// Limits how long a caller waits in the queue in all; the time does not restart if the caller was handed a
    /// connection that it could not use. Making a connection is limited separately. With zero nobody waits. Default: no
    /// limit.
    pub fn checkout_timeout(mut self, max: Duration) -> Self {
        self.checkout_timeout = max;
        self
    }

    /// Limits how long a connect may take, including DNS, TCP and TLS, from the moment when the caller is allowed to
    /// connect. Three quarters of this time, at most 6 s, is also how long a caller waits for the place of a connection
    /// that cannot be closed ([`TimeoutKind::Close`](crate::TimeoutKind::Close)). Default: 8 s.
    ///
    /// # Panics
    ///
    /// If `max` is zero: every connect would fail.
    pub fn connect_timeout(mut self, max: Duration) -> Self {
        assert!(
            !max.is_zero(),
            "connect_timeout must not be zero: use Duration::MAX for no limit"
        );
        self.connect_timeout = max;
        self
    }

    /// Limits how long a connection, or a permit to make one, is kept for a waiting caller whose future is not polled,
    /// while other callers wait. After that it goes to the next caller. The first caller keeps its place, and is at the
    /// head of the queue again when it is polled. One task for each runtime that has blocked callers checks this with
    /// one timer; a hand-over sets no timer of its own. With [`Duration::MAX`] nothing is ever taken back. Default: 5
    /// ms.
    ///
    /// See ["A future that is not polled"](crate#a-future-that-is-not-polled).
    pub fn hand_over_timeout(mut self, max: Duration) -> Self {
        self.hand_over_timeout = max;
        self
    }

    /// Which idle connection is used first. Default: the most recently used one.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.scheduling = scheduling;
        self
    }

    /// Which addresses of a name connections are made to; see [`Spread`]. This needs a connector that can choose an
    /// address, such as [`TcpConnector`](crate::connect::TcpConnector), and layers between connector and pool that do
    /// not spawn the connect. [`Scheduling`] applies to the connections of one address. Default: the first address that
    /// answers.
    ///
    /// ```
    /// use tower_keep_alive::{Spread, layers::PoolConfig};
    ///
    /// let config = PoolConfig::new().spread(Spread::FewestOpenFirst);
    /// # let _ = config;
    /// ```
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// Looks names up again in the background while they have connections, and follows their addresses; see [`FollowDns`]. This
    /// needs a connector that can choose an address, as for [`spread`](Self::spread). Default: off; names are looked up when
    /// a connection is made, and only then.
    pub fn follow_dns(mut self, follow: FollowDns) -> Self {
        self.follow_dns = Some(follow);
        self
    }

    /// Takes out for a while addresses whose connections or responses fail; see [`Ejection`]. It takes a connector that has a
    /// choice, as for [`spread`](Self::spread). Default: off.
    ///
    /// ```
    /// use tower_keep_alive::{Ejection, layers::PoolConfig};
    ///
    /// let config = PoolConfig::new().eject(Ejection::new());
    /// # let _ = config;
    /// ```
    pub fn eject(mut self, ejection: Ejection) -> Self {
        self.ejection = Some(ejection);
        self
    }

    /// Whether the pool learns after how long a server closes idle connections, and closes them before that. It learns
    /// from three idle connections of one key that the server has closed after similar times; the limit is the shortest
    /// of these times, less a tenth of it (at most half a second). It can only shorten the limit that is set. It is
    /// forgotten after ten minutes without such a close, or when the server announces a timeout in `Keep-Alive`.
    /// [`Status::learned`](crate::status::Status::learned) shows it. Default: true.
    pub fn learn_idle_limit(mut self, learn: bool) -> Self {
        self.learn_idle_limit = learn;
        self
    }

    /// Replaces the clock, for tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Settings for the [`Key`]s of one host, with any scheme, port, partition and route. Each setting that `set` makes
    /// replaces the setting for all hosts, and the limits that layers between this pool and the connector have set on
    /// the connections. Host names are compared without regard to case, addresses by value. If several such settings
    /// apply to a host, the last one takes precedence for each setting. They are looked up once for the pool of each
    /// key, not for each request.
    ///
    /// The pool enforces the limits, the expiry and the timeouts of connect and checkout. `request_timeout` and
    /// `response_timeout` belong to the exchange, so only [`KeepAliveLayer::for_host`](crate::KeepAliveLayer::for_host)
    /// enforces them.
    ///
    /// # Panics
    ///
    /// If `host` is neither a host name nor an IP address. A name that is not ASCII has to be written in Punycode, as
    /// in URIs.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::layers::PoolConfig;
    ///
    /// let config = PoolConfig::new()
    ///     .max_connections_per_host(100)
    ///     .for_host("small.example.com", |host| host.max_connections(2))
    ///     .for_key(|key| key.scheme() == "http", |host| host.ttl(Duration::from_secs(60)));
    /// # let _ = config;
    /// ```
    pub fn for_host(mut self, host: &str, set: impl FnOnce(HostSettings) -> HostSettings) -> Self {
        self.hosts.add_host(host, set(HostSettings::default()));
        self
    }

    /// Like [`for_host`](Self::for_host), for each key for which `matches` returns true.
    pub fn for_key(
        mut self,
        matches: impl Fn(&Key) -> bool + Send + Sync + 'static,
        set: impl FnOnce(HostSettings) -> HostSettings,
    ) -> Self {
        self.hosts
            .add_matching(matches, set(HostSettings::default()));
        self
    }

    /// The configuration for one key, if it differs from the common one.
    pub(super) fn of_key(&self, key: &Key) -> Option<Self> {
        let own = self.hosts.find(key)?;
        // Named one by one, so that a new setting cannot be forgotten here.
        let HostSettings {
            max_connections,
            max_idle,
            max_pending,
            min_idle,
            connect_timeout,
            checkout_timeout,
            spread,
            learn_idle_limit,
            ref ejection,
            ref follow_dns,
            // Applied to each connection (`HostSettings::put_on_connection`).
            max_uses: _,
            idle_timeout: _,
            ttl: _,
            active_timeout: _,
            // Applied by the exchange.
            request_timeout: _,
            response_timeout: _,
        } = own;
        let or = |set: Option<usize>, for_all| set.unwrap_or(for_all);
        Some(Self {
            max_connections_per_host: or(max_connections, self.max_connections_per_host),
            max_idle_per_host: or(max_idle, self.max_idle_per_host),
            max_pending_per_host: or(max_pending, self.max_pending_per_host),
            checkout_timeout: checkout_timeout.unwrap_or(self.checkout_timeout),
            connect_timeout: connect_timeout.unwrap_or(self.connect_timeout),
            min_idle_per_host: or(min_idle, self.min_idle_per_host),
            spread: spread.unwrap_or(self.spread),
            learn_idle_limit: learn_idle_limit.unwrap_or(self.learn_idle_limit),
            ejection: ejection.as_ref().unwrap_or(&self.ejection).clone(),
            follow_dns: follow_dns.as_ref().unwrap_or(&self.follow_dns).clone(),
            own,
            ..self.clone()
        })
    }

    /// The shortest checkout timeout of all callers.
    pub(super) fn shortest_checkout_timeout(&self) -> Duration {
        let own = self.hosts.shortest_checkout_timeout();
        own.map_or(self.checkout_timeout, |own| own.min(self.checkout_timeout))
    }

    /// Whether an idle connection of a key is taken and returned without a further look, as long as no address is ejected: there
    /// are no total limits and no spare connections.
    pub(super) fn has_shortcut(&self) -> bool {
        !self.are_total() && self.min_idle_per_host == 0
    }

    /// Whether there is a limit over all keys.
    pub(crate) fn are_total(&self) -> bool {
        self.max_connections != usize::MAX || self.max_idle != usize::MAX
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self::new()
    }
}
