//! How TLS is spoken with some targets, where not as their connector does.

use std::any::Any;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering as Atomic};

use tokio_rustls::rustls::ClientConfig;

use crate::target::protocol::Protocol;

/// How TLS is spoken with some targets, where not as their connector does: whom to trust, who we are. For
/// [`Route::with_tls`](crate::Route::with_tls). Made of the settings of a [`TlsLayer`](crate::connect::TlsLayer), by `From`,
/// or of a configuration of rustls'.
///
/// Each one made is another, whatever it says; connections and sessions are never shared between two. Keep one for each
/// way to speak, and clone it for each request: one made for a single request leaves a connection behind that nobody
/// uses again.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use tower_keep_alive::Route;
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
/// Clones are the same one.
#[derive(Clone)]
pub struct TlsConfig {
    /// Never another's again: what is keyed by it needs to keep nothing alive.
    id: u64,
    /// An [`Offering`], or what one is made of later. Erased: it is a part of keys, and it has interior mutability, which is
    /// no part of their order.
    config: Arc<dyn Any + Send + Sync>,
}

impl TlsConfig {
    /// As `config` says, but for the protocols that are offered; see
    /// [`TlsLayer::with_config`](crate::connect::TlsLayer::with_config).
    #[must_use]
    pub fn new(config: impl Into<Arc<ClientConfig>>) -> Self {
        let config = Arc::unwrap_or_clone(config.into());
        Self::from_erased(Arc::new(Offering::new(config)))
    }

    /// Of an [`Offering`], or of what one is made of when it is first asked for.
    pub(crate) fn from_erased(config: Arc<dyn Any + Send + Sync>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self {
            id: NEXT.fetch_add(1, Atomic::Relaxed),
            config,
        }
    }

    /// What it was made of, if that is one of these.
    pub(crate) fn get<C: Any + Send + Sync>(&self) -> Option<Arc<C>> {
        self.config.clone().downcast().ok()
    }
}

/// One configuration, once for each of the [`Protocol`]s that it may offer. They have the sessions in common.
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

/// Its number, and nothing that is in it.
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
