use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tower_layer::Layer;

use crate::connect::tls::Tls;
use crate::connect::tls::pem::{self, PemError};
use crate::connect::tls::trust_roots::{Configuration, Settings};
use crate::target::protocol::Protocol;
use crate::target::tls_config::TlsConfig;

/// TLS for `https` over any connector; `http` is passed through unchanged.
///
/// Server certificates are checked against the platform's trust store, unless [`roots_pem`](Self::roots_pem) or
/// [`with_config`](Self::with_config) set other roots, and have to name the host of the URI. If that check fails,
/// [`is_certificate`](crate::Error::is_certificate) is true for the error, and its text says what is wrong and what to
/// do. The host is sent to the server (SNI), unless it is an IP address. The layer above sets which protocols are
/// offered (ALPN), or else [`protocol`](Self::protocol) does.
///
/// The handshake is part of the connect and counts in the connect timeout. If a server closes the connection without
/// `close_notify`, a body that ends with the connection fails, because it may be truncated.
///
/// TLS is rustls with ring, which needs a C compiler to build. No process-wide `CryptoProvider` is installed or needed.
///
/// # Order
///
/// Directly above the connector, which has to make plain connections: it is asked for `http` with an explicit port.
/// With `ProxyLayer`, above that layer for TLS with origins, and once more below it for proxies that are reached by
/// TLS.
///
/// # Clone
///
/// Each [`Layer::layer`] makes a service with TLS sessions of its own; clones of that service share them.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_keep_alive::KeepAliveLayer;
/// use tower_keep_alive::connect::{TcpConnector, TlsLayer};
///
/// let client = ServiceBuilder::new()
///     .layer(KeepAliveLayer::<http_body_util::Empty<bytes::Bytes>>::new())
///     .layer(TlsLayer::new())
///     .service(TcpConnector::new());
/// # fn sends<S: tower::Service<http::Request<http_body_util::Empty<bytes::Bytes>>>>(_: S) {}
/// # sends(client);
/// ```
#[derive(Clone)]
#[must_use]
pub struct TlsLayer(Settings);

/// As many as Node's Agent keeps.
const SESSIONS: usize = 100;

impl TlsLayer {
    /// Checks server certificates against the platform's trust store.
    ///
    /// The trust store is read before the first connection for `https`. If there is none, as in many container images, that
    /// connection fails with an error that says so; `http` is not affected.
    pub fn new() -> Self {
        Self(Settings {
            sessions: Some(SESSIONS),
            ..Settings::default()
        })
    }

    /// Trusts these roots and no others, like [`roots_pem`](Self::roots_pem), for roots in rustls' own type.
    pub fn with_roots(roots: impl Into<Arc<RootCertStore>>) -> Self {
        Self(Settings {
            roots: Some(roots.into()),
            sessions: Some(SESSIONS),
            ..Settings::default()
        })
    }

    /// Uses this configuration of [`rustls`], including its sessions. Only its ALPN protocols are replaced.
    ///
    /// [`rustls`]: crate::connect::rustls
    pub fn with_config(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self(Settings {
            given: Some(config.into()),
            ..Settings::default()
        })
    }

    /// Trusts servers whose certificate was issued by one of these roots, in PEM, and no others (Node: `ca`; curl:
    /// `--cacert`). A second call adds to the first. To trust the platform's roots as well, set
    /// [`platform_roots`](Self::platform_roots).
    ///
    /// A self-signed certificate of a server is trusted if it is itself among the roots, as in Node and curl; its names and
    /// dates are still checked.
    ///
    /// ```
    /// use tower_keep_alive::connect::{PemError, TlsLayer};
    ///
    /// # let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    /// # let pem = key.cert.pem();
    /// # fn layer(pem: &str) -> Result<TlsLayer, PemError> {
    /// // As from `openssl req -x509 -newkey ed25519 -nodes -subj /CN=localhost -addext subjectAltName=DNS:localhost`.
    /// let layer = TlsLayer::new().roots_pem(pem)?;
    /// # Ok(layer)
    /// # }
    /// # layer(&pem).unwrap();
    /// ```
    ///
    /// # Errors
    ///
    /// If the PEM contains no certificate, or an invalid one.
    #[doc(alias = "ca")]
    pub fn roots_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, PemError> {
        let none = || Arc::new(RootCertStore::empty());
        let mut roots = self.0.roots.take().unwrap_or_else(none);
        let store = Arc::make_mut(&mut roots);
        for (at, root) in pem::roots(pem.as_ref())?.into_iter().enumerate() {
            (store.add(root)).map_err(|error| PemError::root(at, error))?;
        }
        self.0.roots = Some(roots);
        Ok(self)
    }

    /// [`roots_pem`](Self::roots_pem) from a file, which is read at once.
    ///
    /// ```
    /// use tower_keep_alive::connect::TlsLayer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("tower-keep-alive-ca-{}.pem", std::process::id()));
    /// # let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// # std::fs::write(&path, key.cert.pem())?;
    /// let layer = TlsLayer::new().roots_pem_file(&path)?;
    /// # let _ = layer;
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the file cannot be read: the text names its path, for a relative path the working directory too, and what to do. And the
    /// errors of [`roots_pem`](Self::roots_pem).
    #[doc(alias = "ca")]
    pub fn roots_pem_file(self, path: impl AsRef<Path>) -> Result<Self, PemError> {
        let pem = PemError::read(path.as_ref())?;
        self.roots_pem(pem)
    }

    /// Whether the platform's roots are trusted in addition to those that were given (Node: `NODE_EXTRA_CA_CERTS`), for a
    /// client of internal and public servers. If no roots were given, the platform's are trusted in any case. Default: false.
    ///
    /// ```
    /// use tower_keep_alive::connect::TlsLayer;
    ///
    /// # let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    /// # let pem = key.cert.pem();
    /// let layer = TlsLayer::new().roots_pem(pem)?.platform_roots(true);
    /// # let _ = layer;
    /// # Ok::<_, tower_keep_alive::connect::PemError>(())
    /// ```
    #[doc(alias = "NODE_EXTRA_CA_CERTS")]
    pub fn platform_roots(mut self, also: bool) -> Self {
        self.0.platform_too = also;
        self
    }

    /// Whether any server certificate is accepted without a check (Node: `rejectUnauthorized: false`; curl: `--insecure`).
    /// Default: false.
    ///
    /// # Danger
    ///
    /// With `true`, anybody between this client and a server can read and change everything that is sent, including
    /// passwords and tokens, without being noticed. The issuer of a certificate is not checked, and neither are its
    /// names, dates and signature. For your own server in development, use [`roots_pem`](Self::roots_pem) with the
    /// server's certificate instead: it is one line as well, and safe.
    ///
    /// ```
    /// use tower_keep_alive::connect::TlsLayer;
    ///
    /// let layer = TlsLayer::new().danger_accept_invalid_certs(true);
    /// # let _ = layer;
    /// ```
    #[doc(alias = "rejectUnauthorized")]
    #[doc(alias = "insecure")]
    pub fn danger_accept_invalid_certs(mut self, accept: bool) -> Self {
        self.0.anybody = accept;
        self
    }

    /// The client's certificate, for servers that request one: the certificate, the intermediate certificates up to a
    /// root that the server trusts, and the certificate's private key (Node: `cert` and `key`). Default: none, or the
    /// one of the configuration.
    ///
    /// # Errors
    ///
    /// If the key is invalid, or does not belong to the certificate.
    #[doc(alias = "cert")]
    pub fn client_certificate(
        mut self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, rustls::Error> {
        let identity = CertifiedKey::from_der(chain, key, &self.0.provider())?;
        self.0.client = Some(Arc::new(SingleCertAndKey::from(identity)));
        Ok(self)
    }

    /// [`client_certificate`](Self::client_certificate) in PEM. The chain begins with the client's own certificate. If one
    /// file has both the certificate and the key, pass it twice.
    ///
    /// ```
    /// use tower_keep_alive::connect::TlsLayer;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let made = rcgen::generate_simple_self_signed(["client".to_owned()])?;
    /// # let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    /// let layer = TlsLayer::new().client_certificate_pem(chain, key)?;
    /// # let _ = layer;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// If the certificate or the key is missing, invalid, encrypted or of an unsupported kind, or if the key does not
    /// belong to the certificate.
    #[doc(alias = "cert")]
    #[doc(alias = "key")]
    pub fn client_certificate_pem(
        self,
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> Result<Self, PemError> {
        let chain = pem::chain(chain.as_ref())?;
        let key = pem::key(key.as_ref())?;
        (self.client_certificate(chain, key)).map_err(PemError::identity)
    }

    /// Which protocols are offered to servers (ALPN) if the layer above does not set them. If the targets of the stack
    /// are [`Destination`](crate::connect::Destination)s, [`HandshakeLayer`](crate::layers::HandshakeLayer) sets them, and this setting
    /// has no effect; a [`Uri`](http::Uri) cannot carry them. Default: HTTP/1.1 only.
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.0.protocol = protocol;
        self
    }

    /// For how many hosts TLS sessions are kept, which shorten the handshake of the next connection (Node:
    /// `maxCachedSessions`). 0 keeps none. The oldest host is dropped first. Default: 100, or the setting of the
    /// configuration.
    #[doc(alias = "maxCachedSessions")]
    pub fn max_cached_sessions(mut self, hosts: usize) -> Self {
        self.0.sessions = Some(hosts);
        self
    }
}

impl<M> Layer<M> for TlsLayer {
    type Service = Tls<M>;

    fn layer(&self, connector: M) -> Tls<M> {
        Tls::new(connector, Arc::new(Configuration::new(self.0.clone())))
    }
}

/// The same settings for requests with a certain [`Route`](crate::extensions::Route). Make it once, and clone it.
///
/// ```
/// use tower_keep_alive::extensions::Route;
/// use tower_keep_alive::connect::{TlsConfig, TlsLayer};
///
/// # let key = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
/// # let pem = key.cert.pem();
/// let internal = TlsConfig::from(TlsLayer::new().roots_pem(pem)?);
/// let route = Route::new().with_tls(internal);
/// # let _ = route;
/// # Ok::<_, tower_keep_alive::connect::PemError>(())
/// ```
impl From<TlsLayer> for TlsConfig {
    fn from(layer: TlsLayer) -> Self {
        Self::from_erased(Arc::new(Configuration::new(layer.0)))
    }
}

impl Default for TlsLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// Shows no settings: they may include a private key.
impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsLayer");
        if self.0.anybody {
            debug.field("danger_accept_invalid_certs", &true);
        }
        debug.finish_non_exhaustive()
    }
}
