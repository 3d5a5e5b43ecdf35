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
use crate::target::tls_config::TlsConfig;

/// TLS for `https`, over any connector; `http` passes as it is.
///
/// The server has to prove, by a certificate of somebody trusted, that it is the host of the URI. Trusted are those whom
/// the platform trusts, unless [`roots_pem`](Self::roots_pem) or [`with_config`](Self::with_config) say otherwise. A server
/// that does not prove it makes an error that [`is_certificate`](crate::Error::is_certificate), whose text says what is wrong
/// and what to do. The host is sent along (SNI), unless it is an IP address; the protocol agreed on (ALPN) is `http/1.1`.
///
/// The handshake is a part of the connect, and falls under its timeout. A server that closes without saying so
/// (`close_notify`) makes an error of a body that ends with the connection: it may have been cut off.
///
/// rustls does the work, with ring for its cryptography: that builds with a C compiler. No process-wide
/// `CryptoProvider` is installed, and none is needed.
///
/// # Order
///
/// Directly above the connector, which is asked for `http` and has the port written out: it has to make a plain
/// connection. With `ProxyLayer`, above that for TLS with origins, and once more below it where there are proxies that are
/// spoken with under TLS.
///
/// # Clone
///
/// Each [`Layer::layer`] has sessions of its own; clones of what it makes share them.
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

/// Node's Agent keeps as many.
const SESSIONS: usize = 100;

impl TlsLayer {
    /// Trusts whom the platform trusts.
    ///
    /// Its certificates are read before the first connection to an `https` URI is made. If there are none, as in many a
    /// container image, that connection fails and says so; `http` goes on as ever.
    pub fn new() -> Self {
        Self(Settings {
            sessions: Some(SESSIONS),
            ..Settings::default()
        })
    }

    /// Trusts these roots, and no others: [`roots_pem`](Self::roots_pem) where rustls has them already.
    pub fn with_roots(roots: impl Into<Arc<RootCertStore>>) -> Self {
        Self(Settings {
            roots: Some(roots.into()),
            sessions: Some(SESSIONS),
            ..Settings::default()
        })
    }

    /// As `config` says, sessions included, for everything that [`rustls`] can do; but that the protocol is `http/1.1`,
    /// the only one that is spoken here.
    ///
    /// [`rustls`]: crate::connect::rustls
    pub fn with_config(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self(Settings {
            given: Some(config.into()),
            ..Settings::default()
        })
    }

    /// Trusts servers whose certificate was issued by one of these, in PEM, and no others (Node: `ca`; curl: `--cacert`).
    /// A second call adds to the first. The platform's roots count as well only where
    /// [`platform_roots`](Self::platform_roots) says so.
    ///
    /// A self-signed certificate is trusted where it is itself among these, as in Node and curl; its names and its dates
    /// are checked as ever.
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
    /// If there is no certificate in the PEM, or one that cannot be read.
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

    /// [`roots_pem`](Self::roots_pem) of a file, which is read now.
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
    /// If the file cannot be read, and those of [`roots_pem`](Self::roots_pem).
    #[doc(alias = "ca")]
    pub fn roots_pem_file(self, path: impl AsRef<Path>) -> Result<Self, PemError> {
        let pem = PemError::read(path.as_ref())?;
        self.roots_pem(pem)
    }

    /// Whether the platform's roots are trusted beside those that were given (Node: `NODE_EXTRA_CA_CERTS`), for a client
    /// that asks servers of its own house and public ones. Where no roots were given, the platform's are trusted in any
    /// case. Default: false.
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

    /// Whether any server is talked to, whatever certificate it shows (Node: `rejectUnauthorized: false`; curl:
    /// `--insecure`). Default: false.
    ///
    /// # Danger
    ///
    /// With `true`, whoever is between this client and a server can read and change all that passes, passwords and tokens
    /// included, and nobody notices. Neither the issuer of a certificate is checked, nor its names, its dates or its
    /// signature. For a server of your own in development, [`roots_pem`](Self::roots_pem) with the server's own certificate
    /// takes one line as well, and is safe.
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

    /// Who we are, to servers that ask: a certificate, those that lead from it to one that the server trusts, and the
    /// certificate's private key (Node: `cert` and `key`). Default: nobody, or whom the configuration says.
    ///
    /// # Errors
    ///
    /// If the key cannot be read, or is not the certificate's.
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

    /// [`client_certificate`](Self::client_certificate) in PEM: the chain begins with the client's own certificate. Both
    /// may be the same text, where one file has certificate and key.
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
    /// If certificate or key is missing, damaged, encrypted or of a kind that is not supported, or if the key is another
    /// certificate's.
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

    /// For how many hosts sessions are kept, so that the next connection to one of them needs a shorter handshake
    /// (Node: `maxCachedSessions`); 0 for none. The host first seen goes first. Default: 100, or what the configuration
    /// says.
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

/// The same settings for the targets of one [`Route`](crate::Route), made once.
///
/// ```
/// use tower_keep_alive::Route;
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

/// Without what it is made of: there may be a private key in it.
impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("TlsLayer");
        if self.0.anybody {
            debug.field("danger_accept_invalid_certs", &true);
        }
        debug.finish_non_exhaustive()
    }
}
