use std::net::SocketAddr;
use std::time::Duration;
use std::vec;

/// The answer of a resolver, with the time for which it holds.
///
/// A resolver for a [`TcpConnector`](crate::connect::TcpConnector) may return any iterator of addresses. If it returns this one,
/// [`FollowDns`](crate::FollowDns) looks the name up again when the TTL is over.
///
/// ```
/// use std::convert::Infallible;
/// use std::time::Duration;
/// use tower_keep_alive::connect::{ResolvedAddrs, TcpConnector};
///
/// // A resolver that has a table of its own.
/// let resolver = tower::service_fn(|name: hyper_util::client::legacy::connect::dns::Name| async move {
///     let last = if name.as_str() == "a.test" { 1 } else { 2 };
///     let found = ResolvedAddrs::new([([127, 0, 0, last], 0).into()]);
///     Ok::<_, Infallible>(found.with_ttl(Duration::from_secs(5)))
/// });
/// let connector = TcpConnector::with_resolver(resolver);
/// # let _ = connector;
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ResolvedAddrs {
    addresses: vec::IntoIter<SocketAddr>,
    ttl: Option<Duration>,
}

impl ResolvedAddrs {
    /// An answer without a TTL. Port 0 means that the resolver knows no port.
    pub fn new(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let addresses: Vec<_> = addresses.into_iter().collect();
        Self {
            addresses: addresses.into_iter(),
            ttl: None,
        }
    }

    /// For how long the answer holds, from now on.
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// For how long the answer holds; `None` if that is not known.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    pub(crate) fn as_slice(&self) -> &[SocketAddr] {
        self.addresses.as_slice()
    }
}

impl Iterator for ResolvedAddrs {
    type Item = SocketAddr;

    fn next(&mut self) -> Option<SocketAddr> {
        self.addresses.next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.addresses.size_hint()
    }
}

impl ExactSizeIterator for ResolvedAddrs {}
