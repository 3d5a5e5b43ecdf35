//! Reads certificates and keys from PEM.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::Path;

use tokio_rustls::rustls::pki_types::pem::{PemObject, SectionKind};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, InconsistentKeys};

use crate::error::connect::reason_at;

/// Why PEM contains no usable certificate or key. The text says what is wrong and what to do; the system's or the
/// parser's error is the [`source`](StdError::source).
///
/// ```
/// use tower_keep_alive::connect::TlsLayer;
///
/// let error = TlsLayer::new().roots_pem_file("/no/such/ca.pem").unwrap_err();
/// let said = "cannot read /no/such/ca.pem: there is no such file; correct the path, or put the certificates there";
/// assert_eq!(error.to_string(), said);
/// let error = TlsLayer::new().roots_pem("").unwrap_err();
/// assert_eq!(error.to_string(), "no certificate for a root: the PEM is empty");
/// ```
pub struct PemError {
    /// What the PEM is for; not shown if the file could not be read.
    purpose: &'static str,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    /// With the path, and why it cannot be read.
    File(String, io::Error),
    Empty,
    Der,
    NoPem,
    /// The PEM has these labels instead.
    Missing(String),
    EncryptedKey,
    Malformed(rustls::pki_types::pem::Error),
    /// With the certificate's index in the PEM.
    Certificate(usize, rustls::Error),
    OtherKey,
    Unusable(rustls::Error),
}

const ROOT: &str = "no certificate for a root";
const CERTIFICATE: &str = "no certificate for this client";
const KEY: &str = "no private key for this client";

impl PemError {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Vec<u8>, Self> {
        std::fs::read(path).map_err(|error| Self {
            purpose: ROOT,
            fault: Fault::File(reason_at(path, &error), error),
        })
    }

    pub(super) fn root(at: usize, error: rustls::Error) -> Self {
        Self {
            purpose: ROOT,
            fault: Fault::Certificate(at + 1, error),
        }
    }

    /// An error of rustls about a certificate and its key.
    pub(super) fn identity(error: rustls::Error) -> Self {
        let fault = match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => Fault::OtherKey,
            error => Fault::Unusable(error),
        };
        Self {
            purpose: CERTIFICATE,
            fault,
        }
    }
}

/// The certificates to trust, at least one.
pub(super) fn roots(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(pem, ROOT)
}

/// The chain from the client's certificate to an authority, at least one certificate.
pub(super) fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    certificates(pem, CERTIFICATE)
}

fn certificates(
    pem: &[u8],
    purpose: &'static str,
) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let all: Vec<_> = sections(pem, purpose)?;
    let certificates: Vec<_> = (all.into_iter())
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| CertificateDer::from(der))
        .collect();
    match certificates.is_empty() {
        true => Err(missing(pem, purpose)),
        false => Ok(certificates),
    }
}

/// The first private key.
pub(super) fn key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let mut all = sections(pem, KEY)?.into_iter();
    let key = all.find_map(|(kind, der)| PrivateKeyDer::from_pem(kind, der));
    key.ok_or_else(|| missing(pem, KEY))
}

fn sections(pem: &[u8], purpose: &'static str) -> Result<Vec<(SectionKind, Vec<u8>)>, PemError> {
    let all = PemObject::pem_slice_iter(pem).collect::<Result<_, _>>();
    all.map_err(|error| PemError {
        purpose,
        fault: match is_encrypted(pem) {
            true => Fault::EncryptedKey,
            false => Fault::Malformed(error),
        },
    })
}

/// Names the labels that the PEM has instead of the expected one.
fn missing(pem: &[u8], purpose: &'static str) -> PemError {
    let labels: Vec<_> = labels(pem).collect();
    let fault = if pem.iter().all(u8::is_ascii_whitespace) {
        Fault::Empty
    } else if purpose == KEY && is_encrypted(pem) {
        Fault::EncryptedKey
    } else if !labels.is_empty() {
        Fault::Missing(labels.join(", "))
    } else if pem.starts_with(&[0x30, 0x82]) {
        Fault::Der
    } else {
        Fault::NoPem
    };
    PemError { purpose, fault }
}

fn labels(pem: &[u8]) -> impl Iterator<Item = String> {
    pem.split(|&byte| byte == b'\n').filter_map(|line| {
        let line = line.strip_prefix(b"-----BEGIN ")?;
        let label = line.trim_ascii_end().strip_suffix(b"-----")?;
        Some(String::from_utf8_lossy(label).into_owned())
    })
}

/// PKCS #8 has it in the label, OpenSSL's own format in a line below the label.
fn is_encrypted(pem: &[u8]) -> bool {
    pem.split(|&byte| byte == b'\n').any(|line| {
        let line = line.trim_ascii_end();
        line == b"-----BEGIN ENCRYPTED PRIVATE KEY-----" || line == b"Proc-Type: 4,ENCRYPTED"
    })
}

/// What to do about a file that cannot be read.
fn remedy(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::NotFound => "; correct the path, or put the certificates there",
        io::ErrorKind::PermissionDenied => "; let the user of this process read it",
        io::ErrorKind::IsADirectory => "; name a file in it",
        _ => "",
    }
}

/// Shows the text first, because a program that ends with this error prints it in this form.
impl fmt::Debug for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemError")
            .field("text", &format_args!("{self}"))
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for PemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Fault::File(why, error) = &self.fault {
            return write!(f, "cannot read {why}{}", remedy(error.kind()));
        }
        write!(f, "{}: ", self.purpose)?;
        match &self.fault {
            Fault::File(..) => Ok(()),
            Fault::Empty => f.write_str("the PEM is empty"),
            Fault::Der => f.write_str(
                "this is DER and not PEM; `openssl x509 -inform der` or `openssl pkey -inform der` converts it",
            ),
            Fault::NoPem => f.write_str(
                "this is not PEM, which has a line `-----BEGIN CERTIFICATE-----` or `-----BEGIN PRIVATE KEY-----`",
            ),
            Fault::Missing(found) => write!(
                f,
                "the PEM has {found}, and no {}",
                match self.purpose {
                    KEY => "PRIVATE KEY",
                    _ => "CERTIFICATE",
                }
            ),
            Fault::EncryptedKey => f.write_str(
                "the private key is encrypted; decrypt it first, as by `openssl pkey -in key.pem -out plain.pem`",
            ),
            Fault::Malformed(_) => {
                f.write_str("the PEM is damaged; compare it with the file that it was copied from")
            }
            Fault::Certificate(at, _) => {
                write!(f, "certificate {at} of the PEM cannot be read as X.509")
            }
            Fault::OtherKey => {
                f.write_str("the private key belongs to another certificate; the client's own comes first in the chain")
            }
            Fault::Unusable(_) => f.write_str(
                "the certificate or its private key cannot be used; RSA, ECDSA (P-256, P-384) and Ed25519 keys can",
            ),
        }
    }
}

impl StdError for PemError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match &self.fault {
            Fault::File(_, error) => Some(error),
            Fault::Malformed(error) => Some(error),
            Fault::Certificate(_, error) | Fault::Unusable(error) => Some(error),
            Fault::Empty
            | Fault::Der
            | Fault::NoPem
            | Fault::Missing(_)
            | Fault::EncryptedKey
            | Fault::OtherKey => None,
        }
    }
}
