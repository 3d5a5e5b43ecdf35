//! What was agreed on with a server in a handshake of TLS.

use std::fmt;
use std::sync::Arc;

/// What a client and a server agreed on in their handshake of TLS, and who the server is; from
/// [`ConnectionInfo::tls`](crate::ConnectionInfo::tls).
///
/// It is kept with each connection: the server's certificates take 2 to 5 KB.
///
/// ```
/// # fn answered(response: &http::Response<tower_keep_alive::Body>) -> Option<()> {
/// let tls = response.body().connection().tls()?;
/// println!("{} {}", tls.protocol(), tls.cipher()); // TLSv1.3 TLS_AES_256_GCM_SHA384
/// let leaf = tls.peer_certificates().next()?; // DER, for a parser of your choice
/// # let _ = leaf;
/// # Some(())
/// # }
/// ```
///
/// # Clone
///
/// Clones share what they say.
#[derive(Clone)]
pub struct TlsInfo(Arc<TlsFacts>);

pub(crate) struct TlsFacts {
    pub(crate) protocol: &'static str,
    pub(crate) cipher: String,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) resumed: bool,
    /// In DER.
    pub(crate) certificates: Vec<Box<[u8]>>,
}

impl TlsInfo {
    pub(crate) fn new(facts: TlsFacts) -> Self {
        Self(Arc::new(facts))
    }

    /// The server's certificates in DER, its own first, as it sent them (Node: `getPeerCertificate`). Of a session that was
    /// resumed they are those of its first handshake.
    #[doc(alias = "getPeerCertificate")]
    pub fn peer_certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.0.certificates.iter().map(|it| &**it)
    }

    /// The version, `TLSv1.2` or `TLSv1.3` (Node: `getProtocol`).
    #[doc(alias = "getProtocol")]
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.0.protocol
    }

    /// The cipher suite by its name in IANA's registry, such as `TLS_AES_256_GCM_SHA384` (Node: `getCipher().standardName`).
    #[doc(alias = "getCipher")]
    #[must_use]
    pub fn cipher(&self) -> &str {
        &self.0.cipher
    }

    /// The protocol that was agreed on for what comes after the handshake (ALPN, RFC 7301), such as `http/1.1`; nothing
    /// where the server named none.
    #[doc(alias = "alpnProtocol")]
    #[must_use]
    pub fn alpn(&self) -> Option<&[u8]> {
        self.0.alpn.as_deref()
    }

    /// Whether an earlier session was resumed (Node: `isSessionReused`).
    #[doc(alias = "isSessionReused")]
    #[must_use]
    pub fn is_resumed(&self) -> bool {
        self.0.resumed
    }
}

/// Without the certificates, which are many bytes.
impl fmt::Debug for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsInfo")
            .field("protocol", &self.protocol())
            .field("cipher", &self.cipher())
            .field("alpn", &self.alpn().map(String::from_utf8_lossy))
            .field("resumed", &self.is_resumed())
            .field("peer_certificates", &self.0.certificates.len())
            .finish()
    }
}
