//! Certificates that the tests make for themselves, and both ends of TLS with them.

use http::Uri;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use std::sync::{Arc, LazyLock};
use tower::Layer;
use tower_keep_alive::connect::{
    Tls, TlsLayer,
    rustls::{
        ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
        crypto::{CryptoProvider, ring},
        pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
        version::{TLS12, TLS13},
    },
};

/// The authority whose certificates the servers of the tests have.
pub static CA: LazyLock<Authority> = LazyLock::new(|| Authority::new("tests"));

/// Issues certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: rcgen::Certificate,
}

impl Authority {
    /// A new one, with a key of its own.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate");
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Its certificate, as a file would have it.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Trusts this one alone.
    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.der().clone()).expect("a root");
        Arc::new(roots)
    }

    /// Trusts this one alone.
    pub fn trusted(&self) -> TlsLayer {
        TlsLayer::with_roots(self.roots())
    }

    /// Trusts this one alone, as a configuration.
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions of the provider")
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }

    /// For these names and addresses.
    pub fn issue(&self, names: &[&str]) -> Identity {
        self.issue_with(names, |_| {})
    }

    /// For these names and addresses, but for what `change` does.
    pub fn issue_with(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Identity {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(names);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer);
        Identity::new(certificate.expect("a certificate"), &key)
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: Vec<u8>,
    pem: (String, String),
}

impl Identity {
    fn new(certificate: rcgen::Certificate, key: &KeyPair) -> Self {
        Self {
            certificate: certificate.der().clone(),
            key: key.serialize_der(),
            pem: (certificate.pem(), key.serialize_pem()),
        }
    }

    /// Vouches for itself.
    pub fn self_signed(names: &[&str]) -> Self {
        Self::self_signed_with(names, |_| {})
    }

    /// Vouches for itself, but for what `change` does.
    pub fn self_signed_with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = params(names);
        change(&mut params);
        let certificate = params.self_signed(&key);
        Self::new(certificate.expect("a certificate"), &key)
    }

    /// Of a file that has certificate and key.
    pub fn from_pem(pem: &str) -> Self {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
        let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).expect("a key");
        Self {
            certificate,
            key: key.secret_pkcs8_der().to_owned(),
            pem: (pem.to_owned(), pem.to_owned()),
        }
    }

    /// As two files would have it: certificate and key.
    pub fn pem(&self) -> (&str, &str) {
        (&self.pem.0, &self.pem.1)
    }

    /// As two files would have it, for whoever keeps nothing else.
    pub fn pem_text(&self) -> (String, String) {
        self.pem.clone()
    }

    /// What rustls takes.
    pub fn parts(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (
            vec![self.certificate.clone()],
            PrivatePkcs8KeyDer::from(self.key.clone()).into(),
        )
    }

    /// A server that is this.
    pub fn server(&self) -> ServerConfig {
        self.server_of(&[&TLS13, &TLS12], None)
    }

    /// A server that is this, and speaks these versions; with `clients`, to those that have a certificate of that
    /// authority.
    pub fn server_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        clients: Option<&Authority>,
    ) -> ServerConfig {
        let (chain, key) = self.parts();
        let config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions of the provider");
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(clients) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(clients.roots(), provider());
                config.with_client_cert_verifier(verifier.build().expect("a verifier"))
            }
        };
        let mut config = config.with_single_cert(chain, key).expect("its own key");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

/// Of every server of the tests that has none of its own.
pub fn localhost() -> Identity {
    static LOCALHOST: LazyLock<Identity> =
        LazyLock::new(|| CA.issue(&["localhost", "127.0.0.1", "::1"]));
    LOCALHOST.clone()
}

/// What the servers of a run over TLS have in common, their sessions included.
pub(super) fn server_config() -> Arc<ServerConfig> {
    static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| localhost().server().into());
    CONFIG.clone()
}

/// TLS over a connector of a run over TLS: its sessions are those of all others.
pub(super) fn client<M>(connector: M) -> Tls<M> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| CA.client_config().into());
    TlsLayer::with_config(CONFIG.clone()).layer(connector)
}

/// The same place, under TLS.
pub(super) fn https(uri: &Uri) -> Uri {
    let host = uri.host().unwrap_or_default();
    let port = uri.port_u16().unwrap_or(80);
    let uri = format!("https://{host}:{port}/").parse();
    uri.expect("a host and a port")
}

/// For both ends, from 2020 to 2100.
fn params(names: &[&str]) -> CertificateParams {
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).expect("names");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2100, 1, 1);
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}
