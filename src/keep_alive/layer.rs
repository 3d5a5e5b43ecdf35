//! The layer of the whole stack. Its settings are in the files below, by subject.

mod exchanges;
mod expiry;
mod hosts;
mod limits;
mod protocols;
mod servers;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_layer::Layer;
use tower_service::Service;

use crate::agent::{AgentHandle, AgentState};
use crate::checkin::CheckinLayer;
use crate::checkout::CheckoutLayer;
use crate::error::BoxError;
use crate::exchange::ExchangeLayer;
use crate::expiry::{ActiveTimeoutLayer, IdleEvictionLayer, MaxUsesLayer, TtlLayer};
use crate::handshake::HandshakeLayer;
use crate::keep_alive::{KeepAlive, RequestBody};
use crate::pool::PoolConfig;
use crate::target::Destination;
use crate::target::protocol::Protocol;

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
///
/// As a type, `KeepAliveLayer` without `B` is the layer of a client of `RequestBody`, which
/// [`KeepAlive::builder`](crate::KeepAlive::builder) gives:
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::{KeepAlive, KeepAliveLayer};
///
/// fn ours(settings: KeepAliveLayer) -> KeepAliveLayer {
///     settings.max_connections_per_host(50).request_timeout(Duration::from_secs(10))
/// }
///
/// let client = ours(KeepAlive::builder()).build();
/// # let _ = client;
/// ```
#[must_use]
pub struct KeepAliveLayer<B = RequestBody> {
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
