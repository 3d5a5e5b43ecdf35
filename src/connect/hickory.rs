use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hickory_resolver::TokioResolver;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::time::Instant;
use tower_service::Service;

use crate::connect::ResolvedAddrs;
use crate::error::BoxError;

/// hickory's resolver, whose answers have the TTLs that DNS gives: with [`FollowDns`](crate::FollowDns), a name is looked up
/// again when its TTL is over. It asks DNS itself, in the runtime, and has a cache; the system's resolver takes a thread for
/// each lookup.
///
/// # Clone
///
/// Clones share the cache.
///
/// ```no_run
/// use tower_keep_alive::connect::{HickoryResolver, TcpConnector};
/// use tower_keep_alive::{FollowDns, KeepAlive, KeepAliveLayer, RequestBody};
///
/// # fn main() -> Result<(), tower_keep_alive::BoxError> {
/// let resolver = HickoryResolver::from_system()?;
/// let layer = KeepAliveLayer::<RequestBody>::new().follow_dns(FollowDns::default());
/// let agent: KeepAlive<_> = tower::Layer::layer(&layer, TcpConnector::with_resolver(resolver));
/// # let _ = agent;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct HickoryResolver(TokioResolver);

impl HickoryResolver {
    /// A resolver with the system's settings: `/etc/resolv.conf`, or the registry of Windows.
    ///
    /// # Errors
    ///
    /// If they cannot be read.
    pub fn from_system() -> Result<Self, BoxError> {
        Ok(Self(TokioResolver::builder_tokio()?.build()?))
    }

    /// A resolver with settings of your own.
    #[must_use]
    pub fn new(resolver: TokioResolver) -> Self {
        Self(resolver)
    }
}

impl Service<Name> for HickoryResolver {
    type Response = ResolvedAddrs;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<ResolvedAddrs, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let resolver = self.0.clone();
        Box::pin(async move {
            let found = resolver.lookup_ip(name.as_str()).await?;
            let addresses = found.iter().map(|address| SocketAddr::new(address, 0));
            let until = Instant::from_std(found.valid_until());
            let ttl = until.saturating_duration_since(Instant::now());
            Ok(ResolvedAddrs::new(addresses).with_ttl(ttl))
        })
    }
}

impl fmt::Debug for HickoryResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HickoryResolver")
    }
}
