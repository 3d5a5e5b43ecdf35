use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};
use tower_layer::Layer;

use crate::connect::tls::Tls;
use crate::connect::tls::anchors::{Anchors, Configuration, Settings, provider};

/// TLS for `https`, over any connector; `http` passes as it is.
///
/// The server has to prove, by a certificate of somebody trusted, that it is the host of the URI. Trusted are those whom
/// the platform trusts, unless [`with_roots`](Self::with_roots) or [`with_config`](Self::with_config) say otherwise. The
/// host is sent along (SNI), unless it is an IP address; the protocol agreed on (ALPN) is `http/1.1`.
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
/// connection. With `ProxiedLayer`, above that for TLS with origins, and once more below it where there are proxies that are
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
        Self::of(Anchors::Platform, Some(SESSIONS))
    }

    /// Trusts those of these certificates, and nobody else (Node: `ca`).
    ///
    /// ```
    /// use tower_keep_alive::connect::TlsLayer;
    /// use tower_keep_alive::connect::rustls::RootCertStore;
    /// use tower_keep_alive::connect::rustls::pki_types::CertificateDer;
    /// use tower_keep_alive::connect::rustls::pki_types::pem::PemObject;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("tower-keep-alive-ca-{}.pem", std::process::id()));
    /// # let key = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    /// # std::fs::write(&path, key.cert.pem())?;
    /// let mut roots = RootCertStore::empty();
    /// for certificate in CertificateDer::pem_file_iter(&path)? {
    ///     roots.add(certificate?)?;
    /// }
    /// let layer = TlsLayer::with_roots(roots);
    /// # let _ = layer;
    /// # std::fs::remove_file(path)?;
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "ca")]
    pub fn with_roots(roots: impl Into<Arc<RootCertStore>>) -> Self {
        Self::of(Anchors::Roots(roots.into()), Some(SESSIONS))
    }

    /// As `config` says, sessions included, for everything that [`rustls`] can do; but that the protocol is `http/1.1`,
    /// the only one that is spoken here.
    ///
    /// [`rustls`]: crate::connect::rustls
    pub fn with_config(config: impl Into<Arc<ClientConfig>>) -> Self {
        Self::of(Anchors::Given(config.into()), None)
    }

    fn of(anchors: Anchors, sessions: Option<usize>) -> Self {
        Self(Settings {
            anchors,
            client: None,
            sessions,
        })
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
        let provider = match &self.0.anchors {
            Anchors::Given(config) => config.crypto_provider().clone(),
            Anchors::Platform | Anchors::Roots(_) => provider(),
        };
        let identity = CertifiedKey::from_der(chain, key, &provider)?;
        self.0.client = Some(Arc::new(SingleCertAndKey::from(identity)));
        Ok(self)
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

impl Default for TlsLayer {
    fn default() -> Self {
        Self::new()
    }
}

/// Without what it is made of: there may be a private key in it.
impl fmt::Debug for TlsLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsLayer").finish_non_exhaustive()
    }
}
