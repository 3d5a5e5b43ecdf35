use std::error::Error as StdError;
use std::fmt;
use std::io;

use tokio_rustls::rustls::{self, InvalidMessage};

use crate::error::BoxError;

/// Why there is no TLS.
#[derive(Debug)]
pub(super) enum TlsError {
    /// A host that no certificate could be for.
    Name(String),
    /// The platform has no certificates to trust.
    Anchors(rustls::Error),
    /// With this host, for this reason: rustls' own error, where it has one.
    Handshake(String, BoxError),
}

impl TlsError {
    pub(super) fn handshake(host: &str, error: io::Error) -> Self {
        let is_rustls =
            |error: &(dyn StdError + Send + Sync + 'static)| error.is::<rustls::Error>();
        // What an `io::Error` wraps is not in its chain of sources.
        let source = match error.get_ref().is_some_and(is_rustls) {
            true => error.into_inner().unwrap_or_else(|| "no reason".into()),
            false => error.into(),
        };
        Self::Handshake(host.to_owned(), source)
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(host) => write!(f, "{host:?} is no name that a certificate can be for"),
            Self::Anchors(_) => f.write_str(
                "the platform has no certificates to trust (often a package named ca-certificates)",
            ),
            Self::Handshake(host, error) => match error.downcast_ref() {
                Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                    write!(f, "what {host} speaks is not TLS")
                }
                _ => write!(f, "no TLS with {host}"),
            },
        }
    }
}

impl StdError for TlsError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Name(_) => None,
            Self::Anchors(error) => Some(error),
            Self::Handshake(_, error) => Some(&**error),
        }
    }
}
