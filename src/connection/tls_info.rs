//! What a TLS handshake with a server negotiated.

use std::fmt;
use std::sync::Arc;

/// What client and server negotiated in their TLS handshake, and the server's certificates; from
/// [`ConnectionInfo::tls`](crate::ConnectionInfo::tls).
///
/// Every TLS connection keeps one; the server's certificates take 2 to 5 KB.
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
/// Clones share their contents.
#[derive(Clone)]
pub struct TlsInfo(Arc<TlsFacts>);

pub(crate) struct TlsFacts {
    pub(crate) protocol: &'static str,
    pub(crate) cipher: String,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) resumed: bool,
    /// DER.
    pub(crate) certificates: Vec<Box<[u8]>>,
}

impl TlsInfo {
    pub(crate) fn new(facts: TlsFacts) -> Self {
        Self(Arc::new(facts))
    }

    /// The server's certificates in DER, in the order in which the server sent them, its own first (Node:
    /// `getPeerCertificate`). For a resumed session, the certificates of its first handshake.
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

    /// The application protocol that was negotiated (ALPN, RFC 7301), such as `http/1.1`; `None` if the server chose
    /// none.
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

/// Shows the number of certificates, not their bytes.
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
