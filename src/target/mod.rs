//! The target of a connection: the origin, and how to connect to it.

pub(crate) mod authority;
mod destination;
pub(crate) mod extensions;
pub(crate) mod invalid;
pub(crate) mod key;
pub(crate) mod lookup;
mod origin;
pub(crate) mod protocol;
#[cfg(feature = "proxy")]
pub(crate) mod proxy;
pub(crate) mod resolved_addrs;
pub(crate) mod route;
#[cfg(feature = "tls")]
pub(crate) mod tls_config;
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use tokio::time::Instant;

pub use crate::target::destination::Destination;
pub(crate) use crate::target::origin::Origin;

use crate::target::authority::HostPort;
use crate::target::key::KeyRef;
use crate::target::protocol::Protocol;

/// The target of a connection. Implement it for a target type of your own to pool connections of any kind.
///
/// ```
/// use tower_keep_alive::{Key, custom::{KeyRef, Target}};
///
/// struct Shard(u16);
///
/// impl Target for Shard {
///     fn key(&self) -> KeyRef<'_> {
///         KeyRef::new("redis", "shard.internal", Some(6379 + self.0))
///     }
/// }
/// assert_eq!(Key::from(Shard(2).key()).to_string(), "redis:shard.internal:6381:");
/// ```
pub trait Target {
    /// The key of the connections that can serve this target.
    fn key(&self) -> KeyRef<'_>;

    /// Which connections can serve this target. Default: [`Reuse::Any`].
    #[inline]
    fn reuse(&self) -> Reuse {
        Reuse::Any
    }

    /// How long a connect for this target may take. Default: `None`, the pool's setting.
    #[inline]
    fn connect_timeout(&self) -> Option<Duration> {
        None
    }

    /// Whether this caller got a connection before and could not use it; if so, it joins at the head of the queue.
    #[doc(hidden)]
    #[inline]
    fn is_retry(&self, _: Internal) -> bool {
        false
    }

    /// When this caller began to wait, if it has waited before:
    /// [`PoolConfig::checkout_timeout`](crate::layers::PoolConfig::checkout_timeout) limits the whole wait.
    #[doc(hidden)]
    #[inline]
    fn waiting_since(&self, _: Internal) -> Option<Instant> {
        None
    }

    /// Sets which protocols may be spoken on the transport, for the connectors below: they may have to offer them to
    /// the server.
    #[doc(hidden)]
    #[inline]
    fn offer(&mut self, _: Internal, _: Protocol) {}
}

/// The argument of the hidden methods of [`Target`]. The type cannot be named outside of this crate, so nobody else can
/// implement or call these methods, and jump the queue.
#[derive(Clone, Copy, Debug)]
#[expect(unnameable_types, reason = "that is what it is for")]
pub struct Internal(());

impl Internal {
    pub(crate) const NEW: Self = Self(());
}

/// A host without a scheme counts as `http`. A relative URI has an empty host, which every connector refuses.
impl Target for Uri {
    #[inline]
    fn key(&self) -> KeyRef<'_> {
        let scheme = self.scheme_str().unwrap_or("http");
        let Some(authority) = self.authority().map(Authority::as_str) else {
            return KeyRef::new(scheme, "", None);
        };
        let HostPort { host, port } = HostPort::parse(authority);
        KeyRef::new(scheme, &authority[host], port.ok().flatten())
    }
}

/// Which connections can serve a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reuse {
    /// An idle connection, one that another caller returns, or a new one.
    #[default]
    Any,
    /// A new connection within the limits, kept afterwards: for a retry after a reset.
    Fresh,
    /// A new connection, like [`Fresh`](Self::Fresh), unless the connections of the key are known to be shared by several
    /// uses; then any connection. For
    /// [`ExchangeLayer::fresh_for_non_idempotent`](crate::layers::ExchangeLayer::fresh_for_non_idempotent).
    FreshUnlessShared,
    /// A new connection outside of the limits, closed after its use: for [`OneShot`](crate::extensions::OneShot).
    Never,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_knows_no_better_leaves_all_to_the_pool() {
        struct Plain;
        impl Target for Plain {
            fn key(&self) -> KeyRef<'_> {
                KeyRef::new("http", "h", None)
            }
        }
        assert_eq!(Plain.connect_timeout(), None);
        assert_eq!(Plain.reuse(), Reuse::Any);
    }
}
