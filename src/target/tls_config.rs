//! How TLS is spoken for some requests, instead of by the connector's settings.

use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use tokio_rustls::rustls::ClientConfig;

use crate::target::protocol::Protocol;

/// A TLS configuration for some requests, instead of the connector's: which certificates to trust, and which to
/// present. For [`Route::with_tls`](crate::extensions::Route::with_tls). It is made from the settings of a
/// [`TlsLayer`](crate::connect::TlsLayer), by `From`, or from a rustls `ClientConfig`.
///
/// Two configurations are different even if their contents are equal, and never share connections or sessions. Keep one
/// of each, and clone it for each request: if you make one for a single request, its connection is never used again.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use tower_keep_alive::extensions::Route;
/// use tower_keep_alive::connect::TlsConfig;
/// use tower_keep_alive::connect::rustls::crypto::ring;
/// use tower_keep_alive::connect::rustls::{ClientConfig, RootCertStore};
///
/// # let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
/// let mut roots = RootCertStore::empty();
/// roots.add(key.cert.der().clone())?;
/// let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
///     .with_safe_default_protocol_versions()?
///     .with_root_certificates(roots)
///     .with_no_client_auth();
/// let internal = Route::new().with_tls(TlsConfig::new(config));
///
/// let request = http::Request::get("https://localhost/").extension(internal.clone()).body(())?;
/// # assert!(request.extensions().get::<Route>().is_some());
/// # Ok(())
/// # }
/// ```
///
/// # Clone
///
/// Clones are the same configuration.
#[derive(Clone)]
pub struct TlsConfig {
    /// Never assigned twice, so a key that holds it does not have to keep the configuration alive.
    id: u64,
    /// An [`Offering`], or what one is made from later. Type-erased: it is part of keys, and its interior mutability
    /// must not affect their order.
    config: Arc<dyn Any + Send + Sync>,
}

impl TlsConfig {
    /// Uses `config`, except for its ALPN protocols, which are set for each connect; see
    /// [`TlsLayer::with_config`](crate::connect::TlsLayer::with_config).
    #[must_use]
    pub fn new(config: impl Into<Arc<ClientConfig>>) -> Self {
        let config = Arc::unwrap_or_clone(config.into());
        Self::from_erased(Arc::new(Offering::new(config)))
    }

    /// From an [`Offering`], or from what makes one when it is first needed.
    pub(crate) fn from_erased(config: Arc<dyn Any + Send + Sync>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Atomic::Relaxed),
            config,
        }
    }

    /// The value that it was made from, if it is of this type.
    pub(crate) fn get<C: Any + Send + Sync>(&self) -> Option<Arc<C>> {
        self.config.clone().downcast().ok()
    }
}

/// One configuration for each [`Protocol`] that may be offered; all of them share their sessions.
#[derive(Clone)]
pub(crate) struct Offering {
    http1: Arc<ClientConfig>,
    #[cfg(feature = "http2")]
    http2: Arc<ClientConfig>,
    #[cfg(feature = "http2")]
    both: Arc<ClientConfig>,
}

impl Offering {
    pub(crate) fn new(config: ClientConfig) -> Self {
        let offering = |protocol: Protocol| {
            let mut config = config.clone();
            config.alpn_protocols = protocol.alpn();
            Arc::new(config)
        };
        Self {
            http1: offering(Protocol::Http1),
            #[cfg(feature = "http2")]
            http2: offering(Protocol::Http2),
            #[cfg(feature = "http2")]
            both: offering(Protocol::Auto),
        }
    }

    pub(crate) fn of(&self, protocol: Protocol) -> Arc<ClientConfig> {
        let config = match protocol {
            Protocol::Http1 => &self.http1,
            #[cfg(feature = "http2")]
            Protocol::Http2 => &self.http2,
            #[cfg(feature = "http2")]
            Protocol::Auto => &self.both,
        };
        config.clone()
    }
}

impl PartialEq for TlsConfig {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for TlsConfig {}

impl Hash for TlsConfig {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl Ord for TlsConfig {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id.cmp(&other.id)
    }
}

impl PartialOrd for TlsConfig {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Shows the number only.
impl fmt::Display for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl fmt::Debug for TlsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsConfig({self})")
    }
}
