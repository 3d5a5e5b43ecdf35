mod servers;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body as HttpBody;
use hyper::client::conn::http1::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

use crate::agent::{AgentHandle, AgentState, HostSettings};
use crate::checkin::CheckinLayer;
use crate::checkout::CheckoutLayer;
use crate::clock::Clock;
use crate::connect::Probe;
use crate::error::BoxError;
use crate::exchange::ExchangeLayer;
use crate::expiry::{ActiveTimeoutLayer, IdleEvictionLayer, MaxUsesLayer, TtlLayer};
use crate::handshake::HandshakeLayer;
#[cfg(feature = "http2")]
use crate::http2::Http2;
use crate::keep_alive::KeepAlive;
use crate::pool::{PoolConfig, Scheduling};
use crate::target::Destination;
use crate::target::key::Key;
use crate::target::protocol::Protocol;
use crate::target::route::Route;

/// The whole stack in one layer, with agentkeepalive's defaults: Node's `http.Agent` and what agentkeepalive adds, over any
/// connector of [`Destination`]s ([`MakeConnection<Destination>`](tower::make::MakeConnection)).
///
/// `B` is the type of the request bodies. tower's `call` and `oneshot` infer it; otherwise name it in the client's type, where
/// `KeepAlive<_>` is a client of [`RequestBody`](crate::RequestBody). `B` has to be `Unpin`; a `RequestBody` can hold a body
/// that is not. A connector that takes URIs goes into a [`UriConnector`](crate::connect::UriConnector).
///
/// # Clone
///
/// Clones share their [`handle`](Self::handle), but no connections: each [`Layer::layer`] makes a pool of its own.
///
/// ```
/// use std::time::Duration;
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use tower::ServiceBuilder;
/// use tower_keep_alive::connect::TcpConnector;
/// use tower_keep_alive::{KeepAlive, KeepAliveLayer};
///
/// let layer = KeepAliveLayer::new()
///     .max_connections_per_host(50)
///     .idle_timeout(Duration::from_secs(4))
///     .ttl(Duration::from_secs(600));
/// let agent = layer.handle();
/// let client: KeepAlive<TcpConnector, Empty<Bytes>> =
///     ServiceBuilder::new().layer(layer).service(TcpConnector::new());
/// # let _ = (client, agent);
/// ```
#[must_use]
pub struct KeepAliveLayer<B> {
    settings: Settings,
    body: PhantomData<fn(B)>,
}

/// All settings. Separate from the layer and its type parameter, so that `Clone` is derived and cannot forget a
/// setting.
#[derive(Clone, Debug)]
struct Settings {
    exchange: ExchangeLayer,
    config: PoolConfig,
    idle_timeout: Duration,
    active_timeout: Option<Duration>,
    connect_timeout: Option<Duration>,
    ttl: Duration,
    ttl_jitter: f64,
    uses: MaxUsesLayer,
    handshake: HandshakeLayer<()>,
    /// `None`: the best that the connector supports.
    protocol: Option<Protocol>,
    agent: Arc<AgentState>,
}

impl<B> KeepAliveLayer<B> {
    /// A layer with agentkeepalive's defaults: idle connections are kept for 4 s, at most 256 for each key; connections in
    /// use are not limited.
    pub fn new() -> Self {
        Self::with(Settings {
            exchange: ExchangeLayer::new(),
            config: PoolConfig::new(),
            idle_timeout: Duration::from_secs(4),
            active_timeout: None,
            connect_timeout: None,
            ttl: Duration::MAX,
            ttl_jitter: 0.0,
            uses: MaxUsesLayer::new(u64::MAX),
            handshake: HandshakeLayer::new(),
            protocol: None,
            agent: Arc::new(AgentState::new()),
        })
    }

    /// The [`Route`] for every request without a route of its own; see [`ExchangeLayer::route`]. Default: none.
    ///
    /// Use it instead of a request extension if a layer above sends requests itself, for example after a redirect; see
    /// [the recipe](crate::guides::recipes#redirects). For [`AgentHandle::prewarm`] add the route to the target
    /// ([`Destination::with_route`]).
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http_body_util::Empty;
    /// use tower::ServiceBuilder;
    /// use tower_keep_alive::connect::TcpConnector;
    /// use tower_keep_alive::{KeepAlive, KeepAliveLayer, extensions::{Family, Route}};
    ///
    /// let route = Route::new().with_family(Family::V4);
    /// let client: KeepAlive<TcpConnector, Empty<Bytes>> = ServiceBuilder::new()
    ///     .layer(KeepAliveLayer::new().route(route))
    ///     .service(TcpConnector::new());
    /// # let _ = client;
    /// ```
    pub fn route(mut self, route: Route) -> Self {
        self.settings.exchange = self.settings.exchange.route(route);
        self
    }

    fn with(settings: Settings) -> Self {
        Self {
            settings,
            body: PhantomData,
        }
    }

    /// Shows the status of all services that this layer and its clones make, and controls them.
    #[must_use]
    pub fn handle(&self) -> AgentHandle {
        AgentHandle::new(self.settings.agent.clone())
    }

    /// Whether connections are kept for further requests (Node: `keepAlive`). With `false`, every request has a
    /// connection of its own, and `Connection: close` is added to it. Default: true.
    #[doc(alias = "keepAlive")]
    pub fn keep_alive(mut self, keep: bool) -> Self {
        self.settings.exchange = self.settings.exchange.keep_alive(keep);
        self.settings.config = self.settings.config.keep_alive(keep);
        self
    }

    /// How long a connection may be idle (agentkeepalive: `freeSocketTimeout`); see [`IdleEvictionLayer`]. Default: 4 s, below the
    /// 5 s after which Node servers close.
    #[doc(alias = "freeSocketTimeout")]
    pub fn idle_timeout(mut self, max: Duration) -> Self {
        self.settings.idle_timeout = max;
        self
    }

    /// How long a server may be silent during an exchange (agentkeepalive: `timeout`); see [`ActiveTimeoutLayer`]. Default:
    /// twice the idle timeout, but at least 8 s.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    #[doc(alias = "timeout")]
    pub fn active_timeout(mut self, max: Duration) -> Self {
        let _ = ActiveTimeoutLayer::new(max);
        self.settings.active_timeout = Some(max);
        self
    }

    /// How long a connect may take, including DNS and TLS. Default: the active timeout.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    pub fn connect_timeout(mut self, max: Duration) -> Self {
        let _ = PoolConfig::new().connect_timeout(max);
        self.settings.connect_timeout = Some(max);
        self
    }

    /// The maximum age of a connection (agentkeepalive: `socketActiveTTL`); see [`TtlLayer`]. Default: no limit.
    #[doc(alias = "socketActiveTTL")]
    pub fn ttl(mut self, max: Duration) -> Self {
        self.settings.ttl = max;
        self
    }

    /// Shortens the TTL of each connection by a random part of up to this fraction, between 0 and 1; see
    /// [`TtlLayer::jitter`]. Default: 0.
    ///
    /// # Panics
    ///
    /// If `part` is not between 0 and 1.
    pub fn ttl_jitter(mut self, part: f64) -> Self {
        let _ = TtlLayer::new(self.settings.ttl).jitter(part);
        self.settings.ttl_jitter = part;
        self
    }

    /// The maximum number of exchanges on one connection; see [`MaxUsesLayer`]. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    pub fn max_uses(mut self, max: u64) -> Self {
        self.settings.uses = MaxUsesLayer::new(max);
        self
    }

    /// The maximum number of connections for one [`Key`]: in use, idle or connecting (Node: `maxSockets`); see
    /// [`PoolConfig::max_connections_per_host`]. A host has one key for each scheme, port, partition and route of its
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

    /// The maximum number of connections for all keys together (Node: `maxTotalSockets`); see [`PoolConfig::max_connections`]. Default: no
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

    /// The maximum number of idle connections for one [`Key`] (scheme, host, port, partition and route; Node: `maxFreeSockets`);
    /// see [`PoolConfig::max_idle_per_host`]. Default: 256.
    #[doc(alias = "maxFreeSockets")]
    pub fn max_idle_per_host(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_idle_per_host(max);
        self
    }

    /// The maximum number of idle connections for all keys together; see [`PoolConfig::max_idle`]. Default: no limit.
    pub fn max_idle(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_idle(max);
        self
    }

    /// The maximum number of callers in the queue of one [`Key`] (scheme, host, port, partition and route); see
    /// [`PoolConfig::max_pending_per_host`]. Default: no limit.
    pub fn max_pending_per_host(mut self, max: usize) -> Self {
        self.settings.config = self.settings.config.max_pending_per_host(max);
        self
    }

    /// How long a connection is reserved for a caller in the queue whose future is not polled; see
    /// [`PoolConfig::hand_over_timeout`]. Default: 5 ms.
    pub fn hand_over_timeout(mut self, max: Duration) -> Self {
        self.settings.config = self.settings.config.hand_over_timeout(max);
        self
    }

    /// How long a caller may wait in the queue; see [`PoolConfig::checkout_timeout`]. Default: no limit.
    pub fn checkout_timeout(mut self, max: Duration) -> Self {
        self.settings.config = self.settings.config.checkout_timeout(max);
        self
    }

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

    /// The name of this agent, for programs with several agents: its status shows it, its metrics have it as the label
    /// `agent`, and its spans as a field. Clones of the layer, and handles, have the same name. Default: none.
    ///
    /// ```
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent = KeepAlive::builder().name("billing").build();
    /// assert!(agent.handle().status().to_string().starts_with("billing: "));
    /// ```
    pub fn name(self, name: impl Into<Arc<str>>) -> Self {
        self.settings.agent.set_name(name.into());
        self
    }

    /// Which idle connection is used first (Node: `scheduling`). Default: the most recently used one.
    pub fn scheduling(mut self, scheduling: Scheduling) -> Self {
        self.settings.config = self.settings.config.scheduling(scheduling);
        self
    }

    /// How much is subtracted from a server's `Keep-Alive: timeout=N` (Node: `agentKeepAliveTimeoutBuffer`); see
    /// [`ExchangeLayer::server_hint_margin`]. Default: 1 s.
    #[doc(alias = "agentKeepAliveTimeoutBuffer")]
    pub fn server_hint_margin(mut self, margin: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.server_hint_margin(margin);
        self
    }

    /// Whether responses carry a [`ConnectionInfo`](crate::ConnectionInfo) in their extensions; their bodies always do. See
    /// [`ExchangeLayer::info_in_extensions`]. Default: true.
    pub fn info_in_extensions(mut self, insert: bool) -> Self {
        self.settings.exchange = self.settings.exchange.info_in_extensions(insert);
        self
    }

    /// Whether a request that cannot safely be sent twice always gets a new connection; see
    /// [`ExchangeLayer::fresh_for_non_idempotent`]. Default: false.
    pub fn fresh_for_non_idempotent(mut self, fresh: bool) -> Self {
        self.settings.exchange = self.settings.exchange.fresh_for_non_idempotent(fresh);
        self
    }

    /// How much of a response body that is dropped before its end is read, and for how long, to keep its connection; see
    /// [`ExchangeLayer::drain_unread`]. Default: off, and the connection is closed.
    pub fn drain_unread(mut self, bytes: u64, time: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.drain_unread(bytes, time);
        self
    }

    /// How long the body of a request with `Expect: 100-continue` waits for the server's 100; see
    /// [`ExchangeLayer::expect_continue_timeout`]. Default: 1 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::KeepAliveLayer;
    ///
    /// let layer = KeepAliveLayer::<http_body_util::Full<bytes::Bytes>>::new()
    ///     .expect_continue_timeout(Duration::from_secs(3));
    /// # let _ = layer;
    /// ```
    #[doc(alias = "ExpectContinueTimeout")]
    pub fn expect_continue_timeout(mut self, timeout: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.expect_continue_timeout(timeout);
        self
    }

    /// How long a whole exchange may take, from the first poll of its future to the end of the response body; see
    /// [`ExchangeLayer::request_timeout`]. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::KeepAlive;
    ///
    /// let agent = KeepAlive::builder()
    ///     .request_timeout(Duration::from_secs(30))
    ///     .response_timeout(Duration::from_secs(5))
    ///     .build();
    /// # let _ = agent;
    /// ```
    #[doc(alias = "timeout")]
    pub fn request_timeout(mut self, max: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.request_timeout(max);
        self
    }

    /// How long the head of a response may take after the request was sent (Go: `ResponseHeaderTimeout`);
    /// see [`ExchangeLayer::response_timeout`]. Default: no limit.
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    #[doc(alias = "ResponseHeaderTimeout")]
    pub fn response_timeout(mut self, max: Duration) -> Self {
        self.settings.exchange = self.settings.exchange.response_timeout(max);
        self
    }

    /// Whether to record how long the parts of each exchange take; see [`ExchangeLayer::timings`]. Default: false.
    pub fn timings(mut self, record: bool) -> Self {
        self.settings.exchange = self.settings.exchange.timings(record);
        self
    }

    /// Which versions of HTTP are spoken; see [`HandshakeLayer::protocol`]. Default: HTTP/1 only; the client of
    /// [`build`](Self::build) also speaks HTTP/2 with the feature `http2` ([`Protocol`]`::Auto`).
    ///
    /// ```
    /// use tower_keep_alive::{KeepAlive, Protocol};
    ///
    /// let agent = KeepAlive::builder().protocol(Protocol::Http1).build();
    /// # let _ = agent;
    /// ```
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.settings.protocol = Some(protocol);
        self
    }

    /// The same layer with these defaults, each unless the user has set something else.
    pub(super) fn with_defaults(&self, protocol: Protocol, response_fields: usize) -> Self {
        let mut layer = self.clone();
        let settings = &mut layer.settings;
        settings.protocol.get_or_insert(protocol);
        settings
            .handshake
            .default_max_response_fields(response_fields);
        layer
    }

    /// The settings for HTTP/2, for example [`max_streams_per_connection`](crate::Http2::max_streams_per_connection).
    /// Default: those of [`Http2::new`].
    ///
    /// ```
    /// use tower_keep_alive::{Http2, KeepAlive};
    ///
    /// let agent = KeepAlive::builder().http2(Http2::new().max_streams_per_connection(50)).build();
    /// # let _ = agent;
    /// ```
    #[cfg(feature = "http2")]
    pub fn http2(mut self, http2: Http2) -> Self {
        self.settings.handshake = self.settings.handshake.http2(http2);
        self
    }

    /// Whether several connections to one host are begun at once while it is not known whether the host speaks HTTP/2;
    /// see [`HandshakeLayer::race_connects`]. Default: false.
    #[cfg(feature = "http2")]
    pub fn race_connects(mut self, race: bool) -> Self {
        self.settings.handshake = self.settings.handshake.race_connects(race);
        self
    }

    /// Finds which version was negotiated on a transport that is not from [`connect`](crate::connect); see
    /// [`HandshakeLayer::negotiated_with`].
    #[cfg(feature = "http2")]
    pub fn negotiated_with<IO: 'static>(
        mut self,
        negotiated: impl Fn(&IO) -> Option<http::Version> + Send + Sync + 'static,
    ) -> Self {
        self.settings.handshake = self.settings.handshake.negotiated_with(negotiated);
        self
    }

    /// The settings for HTTP/1, by hyper's builder. Default: hyper's defaults.
    pub fn http1(mut self, http1: Builder) -> Self {
        self.settings.handshake = self.settings.handshake.http1(http1);
        self
    }

    /// The maximum number of interim responses (1xx) before the response to one request. Together they may have at most 1 MiB;
    /// see [`HandshakeLayer::max_interim_responses`]. Default: 100.
    pub fn max_interim_responses(mut self, max: usize) -> Self {
        self.settings.handshake = self.settings.handshake.max_interim_responses(max);
        self
    }

    /// The maximum number of header fields of an HTTP/1 response; see [`HandshakeLayer::max_response_fields`] for its cost.
    /// Default: 256 for the client of [`build`](Self::build), which costs it 3,200 instructions for each response; hyper's 100 for
    /// a stack that is layered over a connector. A builder that is passed to [`http1`](Self::http1) sets it for both.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    pub fn max_response_fields(mut self, max: usize) -> Self {
        self.settings.handshake = self.settings.handshake.max_response_fields(max);
        self
    }

    /// Makes a probe for a transport that is not from [`connect`](crate::connect), to check it before each reuse; see
    /// [`HandshakeLayer::probe_with`].
    pub fn probe_with<IO: 'static>(
        mut self,
        probe: impl Fn(&IO) -> Probe + Send + Sync + 'static,
    ) -> Self {
        self.settings.handshake = self.settings.handshake.probe_with(probe);
        self
    }

    /// The clock that the pool reads, for your own tests.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.settings.config = self.settings.config.clock(clock);
        self
    }
}

impl<M, B> Layer<M> for KeepAliveLayer<B>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: HttpBody + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Service = KeepAlive<M, B>;

    fn layer(&self, connector: M) -> KeepAlive<M, B> {
        let settings = &self.settings;
        let active = settings.active_timeout.unwrap_or_else(|| {
            let twice = settings.idle_timeout.saturating_mul(2);
            twice.max(Duration::from_secs(8))
        });
        let connect = settings.connect_timeout.unwrap_or(active);
        let mut config = settings.config.clone().connect_timeout(connect);
        config.ttl_jitter = settings.ttl_jitter;
        let protocol = settings.protocol.unwrap_or_default();
        let exchange = settings.exchange.clone().hosts(&config.hosts);
        let exchange = exchange.protocol(protocol);
        let checkout = CheckoutLayer::with_agent(config, settings.agent.clone());
        let idle = IdleEvictionLayer::new(settings.idle_timeout);
        let ttl = TtlLayer::new(settings.ttl).jitter(settings.ttl_jitter);
        let handshake = settings.handshake.for_bodies().protocol(protocol);
        let connections = ActiveTimeoutLayer::new(active).layer(handshake.layer(connector));
        let limited = idle.layer(ttl.layer(settings.uses.layer(connections)));
        let connections = checkout.layer(limited);
        connections.register();
        let leases = CheckinLayer::new().layer(connections);
        KeepAlive::from_stack(exchange.layer(leases))
    }
}

impl<B> Clone for KeepAliveLayer<B> {
    fn clone(&self) -> Self {
        Self::with(self.settings.clone())
    }
}

impl<B> Default for KeepAliveLayer<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> fmt::Debug for KeepAliveLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("KeepAliveLayer")
            .field(&self.settings)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::{FollowDns, Spread};

    type Plain = KeepAliveLayer<()>;

    /// Every setting, by its name, with another value than the default.
    fn settings() -> Vec<(&'static str, Plain)> {
        const SECOND: Duration = Duration::from_secs(1);
        let mut http1 = Builder::new();
        http1.title_case_headers(true);
        let new = Plain::new;
        let later = || Clock::new(crate::clock::Moment::now);
        vec![
            ("keep_alive", new().keep_alive(false)),
            ("idle_timeout", new().idle_timeout(SECOND)),
            ("active_timeout", new().active_timeout(SECOND)),
            ("connect_timeout", new().connect_timeout(SECOND)),
            ("ttl", new().ttl(SECOND)),
            ("ttl_jitter", new().ttl_jitter(0.5)),
            ("max_uses", new().max_uses(7)),
            (
                "max_connections_per_host",
                new().max_connections_per_host(7),
            ),
            ("max_connections", new().max_connections(7)),
            ("max_idle_per_host", new().max_idle_per_host(7)),
            ("max_idle", new().max_idle(7)),
            ("max_pending_per_host", new().max_pending_per_host(7)),
            ("checkout_timeout", new().checkout_timeout(SECOND)),
            ("hand_over_timeout", new().hand_over_timeout(SECOND)),
            ("scheduling", new().scheduling(Scheduling::Fifo)),
            ("learn_idle_limit", new().learn_idle_limit(false)),
            ("min_idle_per_host", new().min_idle_per_host(7)),
            ("follow_dns", new().follow_dns(FollowDns::default())),
            ("spread", new().spread(Spread::InTurn)),
            ("eject", new().eject(crate::agent::Ejection::new())),
            ("server_hint_margin", new().server_hint_margin(SECOND * 7)),
            ("info_in_extensions", new().info_in_extensions(false)),
            (
                "fresh_for_non_idempotent",
                new().fresh_for_non_idempotent(true),
            ),
            ("drain_unread", new().drain_unread(7, SECOND)),
            (
                "expect_continue_timeout",
                new().expect_continue_timeout(7 * SECOND),
            ),
            ("request_timeout", new().request_timeout(SECOND)),
            ("response_timeout", new().response_timeout(SECOND)),
            ("timings", new().timings(true)),
            ("http1", new().http1(http1)),
            ("protocol", new().protocol(Protocol::Http1)),
            #[cfg(feature = "http2")]
            (
                "http2",
                new().http2(Http2::new().max_streams_per_connection(7)),
            ),
            #[cfg(feature = "http2")]
            ("race_connects", new().race_connects(true)),
            ("max_interim_responses", new().max_interim_responses(7)),
            ("max_response_fields", new().max_response_fields(7)),
            ("name", new().name("seven")),
            ("for_host", new().for_host("h", |host| host.max_idle(7))),
            ("for_key", new().for_key(|_| true, |host| host.max_idle(7))),
            ("clock", new().clock(later())),
            (
                "route",
                new().route(crate::extensions::Route::new().with_unix_path("/s")),
            ),
        ]
    }

    fn print<B>(layer: &KeepAliveLayer<B>) -> String {
        format!("{layer:?}")
    }

    /// That nothing is missing here: each setting is one of these methods.
    #[test]
    fn every_setting_is_in_the_list() {
        let source = [include_str!("layer.rs"), include_str!("layer/servers.rs")].concat();
        let methods = source.split("pub fn ").skip(1).filter_map(|method| {
            let name = method.split(['(', '<']).next()?;
            let sets = method.contains("(mut self") || method.contains("mut self,");
            let ends = method.find('{')?;
            (sets && method[..ends].contains("-> Self")).then_some(name)
        });
        let listed: Vec<_> = settings().into_iter().map(|(name, _)| name).collect();
        // Functions that examine a transport cannot be printed: tests/layers/clones.rs and
        // tests/protocol/negotiated.rs use them.
        // Settings of a feature are listed only with that feature.
        let elsewhere = |name: &str| match name {
            "probe_with" | "negotiated_with" => true,
            "http2" | "race_connects" => cfg!(not(feature = "http2")),
            _ => false,
        };
        let missing: Vec<_> = methods
            .filter(|name| !listed.contains(name) && !elsewhere(name))
            .collect();
        assert!(missing.is_empty(), "add to `settings`: {missing:?}");
    }

    #[test]
    fn a_clone_keeps_each_setting() {
        let default = print(&Plain::new());
        for (name, layer) in settings() {
            let set = print(&layer);
            assert_ne!(set, default, "{name} shows");
            assert_eq!(print(&layer.clone()), set, "{name} is kept by a clone");
        }
    }
}
