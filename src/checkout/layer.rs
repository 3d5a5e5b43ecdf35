use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use tower_layer::Layer;

use crate::agent::{AgentHandle, AgentState};
use crate::checkout::Checkout;
use crate::connection::poolable::Poolable;
use crate::pool::{Pool, PoolConfig};

/// Makes [`Checkout`] services, each with a pool of its own.
///
/// # Order
///
/// Above everything that makes a connection, and below [`CheckinLayer`](crate::layers::CheckinLayer), which returns connections
/// to the pool. The layers that limit a connection's age, idle time and uses may be above or below it.
///
/// # Clone
///
/// Clones share their handle, but no connections.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_keep_alive::connect::TcpConnector;
/// use tower_keep_alive::{layers::{CheckinLayer, CheckoutLayer, HandshakeLayer, PoolConfig}, connect::Destination};
///
/// let checkout = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(4));
/// let agent = checkout.handle();
/// let connections = ServiceBuilder::new()
///     .layer(CheckinLayer::new())
///     .layer(checkout)
///     .layer(HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new())
///     .service(TcpConnector::new());
/// # fn leases<S: tower::Service<Destination>>(_: S) {}
/// # leases(connections);
/// ```
pub struct CheckoutLayer<C> {
    config: PoolConfig,
    agent: Arc<AgentState>,
    connection: PhantomData<fn() -> C>,
}

impl<C> CheckoutLayer<C> {
    /// A layer whose pools use `config`.
    #[must_use]
    pub fn new(config: PoolConfig) -> Self {
        Self {
            config,
            agent: Arc::new(AgentState::new()),
            connection: PhantomData,
        }
    }

    /// The handle: status and control of all pools that this layer and its clones make.
    #[must_use]
    pub fn handle(&self) -> AgentHandle {
        AgentHandle::new(self.agent.clone())
    }

    pub(crate) fn with_agent(config: PoolConfig, agent: Arc<AgentState>) -> Self {
        Self {
            agent,
            ..Self::new(config)
        }
    }
}

impl<M, C: Poolable> Layer<M> for CheckoutLayer<C> {
    type Service = Checkout<M, C>;

    fn layer(&self, inner: M) -> Checkout<M, C> {
        let pool = Pool::with_agent(self.config.clone(), self.agent.clone());
        Checkout::with_pool(inner, pool)
    }
}

impl<C> Clone for CheckoutLayer<C> {
    fn clone(&self) -> Self {
        Self::with_agent(self.config.clone(), self.agent.clone())
    }
}

impl<C> fmt::Debug for CheckoutLayer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckoutLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
