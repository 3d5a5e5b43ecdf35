//! How much a pool may have, and how long a caller may wait for it.

use std::time::Duration;

use crate::agent::{HostOverrides, HostSettings};
use crate::clock::Clock;
use crate::target::key::Key;

/// What a pool keeps to: how many connections, how many callers in line, and how long both may take.
///
/// What limits a *connection* (its age, its time idle, its uses) is stated by layers of its own.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::{PoolConfig, Scheduling};
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
    pub(crate) max_pending_per_host: usize,
    pub(crate) checkout_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) hand_over_timeout: Duration,
    pub(crate) scheduling: Scheduling,
    pub(crate) spread: Spread,
    pub(crate) learn_idle_limit: bool,
    pub(crate) clock: Clock,
    /// Of hosts with settings of their own.
    pub(crate) hosts: HostOverrides,
    /// What is set for the one host that this is for.
    pub(crate) own: HostSettings,
    /// Of the TTL that is set for a host.
    pub(crate) ttl_jitter: f64,
}

/// Which idle connection is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Scheduling {
    /// The one used last: the others grow old and are closed when there is less to do (Node's default).
    #[default]
    Lifo,
    /// The one idle for longest: all are kept in use.
    Fifo,
}

/// Which of the addresses of a name connections go to, and which idle connection is taken where a name has several.
///
/// An address that cannot be connected to is left out for a while, with [`InTurn`](Self::InTurn) and
/// [`FewestOpenFirst`](Self::FewestOpenFirst): for up to 1 s after the first failure, twice as long after each further one, up
/// to 60 s, at random between half and all of that. Then one connect tries it again. The others serve meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spread {
    /// To the first address that answers, in the resolver's order: for most resolvers one address has all the load.
    #[default]
    AsResolved,
    /// To each address in its turn. Of the idle connections, one of the address is taken that was not used for longest.
    InTurn,
    /// To the address with the fewest connections of this key. Of the idle connections, one of the address is taken with the
    /// fewest requests in flight; where several have the fewest, of the one that was not used for longest.
    FewestOpenFirst,
}

impl PoolConfig {
    /// No limit on connections and callers, at most 256 idle connections for each key, and 8 s for a connect.
    pub fn new() -> Self {
        Self {
            keep_alive: true,
            max_connections_per_host: usize::MAX,
            max_connections: usize::MAX,
            max_idle_per_host: 256,
            max_idle: usize::MAX,
            max_pending_per_host: usize::MAX,
            checkout_timeout: Duration::MAX,
            connect_timeout: Duration::from_secs(8),
            hand_over_timeout: Duration::from_millis(5),
            scheduling: Scheduling::default(),
            spread: Spread::default(),
            learn_idle_limit: true,
            clock: Clock::default(),
            hosts: HostOverrides::default(),
            own: HostSettings::default(),
            ttl_jitter: 0.0,
        }
    }

    /// Whether connections are kept at all (Node: `keepAlive`). Default: true.
    #[doc(alias = "keepAlive")]
    pub fn keep_alive(mut self, keep: bool) -> Self {
        self.keep_alive = keep;
        self
    }

    /// The most connections open for one [`Key`] (scheme, host, port, partition and route), whether being made, in use or idle
    /// (Node: `maxSockets`). Callers beyond it wait in line, first come, first served. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0: nothing could ever be sent.
    #[doc(alias = "maxSockets")]
    pub fn max_connections_per_host(mut self, max: usize) -> Self {
        assert!(max > 0, "max_connections_per_host must not be 0");
        self.max_connections_per_host = max;
        self
    }

    /// The most connections open for all keys together (Node: `maxTotalSockets`). A caller that it blocks has an idle
    /// connection of another key closed, where there is one. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0: nothing could ever be sent.
    #[doc(alias = "maxTotalSockets")]
    pub fn max_connections(mut self, max: usize) -> Self {
        assert!(max > 0, "max_connections must not be 0");
        self.max_connections = max;
        self
    }

    /// The most idle connections for one key; one that is given back beyond it is closed (Node: `maxFreeSockets`). 0
    /// keeps none, and still hands connections over to callers in line. Default: 256.
    #[doc(alias = "maxFreeSockets")]
    pub fn max_idle_per_host(mut self, max: usize) -> Self {
        self.max_idle_per_host = max;
        self
    }

    /// The most idle connections for all keys together; beyond it the one idle for longest is closed. Default: no
    /// limit.
    pub fn max_idle(mut self, max: usize) -> Self {
        self.max_idle = max;
        self
    }

    /// The most callers in line for one key; the next one is refused with an error that
    /// [`is_queue_full`](crate::Error::is_queue_full). Default: no limit.
    pub fn max_pending_per_host(mut self, max: usize) -> Self {
        self.max_pending_per_host = max;
        self
    }

    /// The longest time that a caller waits in line, in all: a connection that it was handed and could not use does not begin
    /// the time anew. Making a connection has a time of its own. Default: no limit.
    pub fn checkout_timeout(mut self, max: Duration) -> Self {
        self.checkout_timeout = max;
        self
    }

    /// The longest time from having the right to connect to having a usable connection: DNS, TCP, TLS. Three quarters of it,
    /// and 6 s at the most, are how long a caller waits for the place of a connection that cannot be closed
    /// ([`TimeoutKind::Close`](crate::TimeoutKind::Close)). Default: 8 s.
    pub fn connect_timeout(mut self, max: Duration) -> Self {
        self.connect_timeout = max;
        self
    }

    /// The longest time that a connection, or the right to make one, is kept for a caller in line whose future is not polled,
    /// while others wait: then it goes to the next in line. The caller keeps its place, and is the first again when it is
    /// polled. One task looks for that, by one timer, in each runtime that has blocked callers; a hand-over sets no timer of
    /// its own. [`Duration::MAX`] keeps everything for whoever it was given to. Default: 5 ms.
    ///
    /// See ["A future that is not polled"](crate#a-future-that-is-not-polled).
    pub fn hand_over_timeout(mut self, max: Duration) -> Self {
        self.hand_over_timeout = max;
        self
    }

    /// Which idle connection is taken. Default: the one used last.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.scheduling = scheduling;
        self
    }

    /// Which of the addresses of a name connections go to: see [`Spread`]. It takes a connector that has a choice, as
    /// [`TcpConnector`](crate::connect::TcpConnector) does, and the layers between it and the pool may not spawn.
    /// [`Scheduling`] holds among the connections to one address. Default: the first that answers.
    ///
    /// ```
    /// use tower_keep_alive::{PoolConfig, Spread};
    ///
    /// let config = PoolConfig::new().spread(Spread::FewestOpenFirst);
    /// # let _ = config;
    /// ```
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// Whether the pool learns after how long a server closes idle connections, and closes them before. It takes three closes
    /// by the server, after times that agree, of idle connections of one key; the limit is the shortest of these times less a
    /// tenth, and half a second at the most. It only shortens what is set, and is forgotten after ten minutes without such a
    /// close, or when the server says in `Keep-Alive` how long it waits. [`Status::learned`](crate::Status::learned) shows it.
    /// Default: true.
    pub fn learn_idle_limit(mut self, learn: bool) -> Self {
        self.learn_idle_limit = learn;
        self
    }

    /// Another clock, for tests of your own.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// Settings for each [`Key`] of one host, whatever the scheme, port, partition and route: what `set` sets is in the place of what is said for all hosts, and
    /// of what layers between this pool and the connector say of the connections. The name is compared without regard to
    /// case, an address by its value. Where several apply to a host, all do, in their order: for each setting the last one
    /// counts. They are looked up once for the pool of each key, and not for each request.
    ///
    /// The pool keeps to the limits, the expiry and the timeouts of connect and checkout. `request_timeout` and
    /// `response_timeout` are a matter of the exchange: [`KeepAliveLayer::for_host`](crate::KeepAliveLayer::for_host) keeps
    /// to them.
    ///
    /// # Panics
    ///
    /// If `host` is no host name and no IP address. A name that is not ASCII has to be written in Punycode, as in URIs.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::PoolConfig;
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

    /// As [`for_host`](Self::for_host), for each key that `matches` is true of.
    pub fn for_key(
        mut self,
        matches: impl Fn(&Key) -> bool + Send + Sync + 'static,
        set: impl FnOnce(HostSettings) -> HostSettings,
    ) -> Self {
        self.hosts
            .add_matching(matches, set(HostSettings::default()));
        self
    }

    /// What holds for one key, where that is not what holds for all.
    pub(super) fn of_key(&self, key: &Key) -> Option<Self> {
        let own = self.hosts.find(key)?;
        // Named one by one, so that a setting that is added cannot be forgotten here.
        let HostSettings {
            max_connections,
            max_idle,
            max_pending,
            connect_timeout,
            checkout_timeout,
            // The connection's (`HostSettings::put_on_connection`).
            max_uses: _,
            idle_timeout: _,
            ttl: _,
            active_timeout: _,
            // The exchange's.
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
            own,
            ..self.clone()
        })
    }

    /// The shortest that any caller has.
    pub(super) fn shortest_checkout_timeout(&self) -> Duration {
        let own = self.hosts.shortest_checkout_timeout();
        own.map_or(self.checkout_timeout, |own| own.min(self.checkout_timeout))
    }

    /// Whether anything is limited over all keys.
    pub(crate) fn are_total(&self) -> bool {
        self.max_connections != usize::MAX || self.max_idle != usize::MAX
    }
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self::new()
    }
}
