//! Why there is no TLS, in words that name the server.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::io;

use tokio_rustls::rustls::{self, CertificateError, InvalidMessage};

use crate::connect_error::{ConnectError, reason};
use crate::error::BoxError;

/// A host that no certificate could be for.
pub(super) fn no_name(host: &str) -> ConnectError {
    ConnectError::new(format!(
        "connect: {host:?} is no name that a certificate can be for"
    ))
}

/// The platform has no certificates to trust.
pub(super) fn no_anchors(error: rustls::Error) -> ConnectError {
    let why = "connect: the platform has no certificates to trust (often a package named ca-certificates)";
    ConnectError::caused_by(why, error)
}

/// The platform's certificates were not read to their end.
pub(super) fn unread_anchors(error: impl Into<BoxError>) -> ConnectError {
    ConnectError::caused_by("connect: reading the platform's certificates failed", error)
}

/// With this host, for this reason. The source is rustls' own error, if it has one, or else that of the transport.
pub(super) fn handshake(host: &str, error: io::Error) -> ConnectError {
    let is_rustls = |error: &(dyn StdError + Send + Sync + 'static)| error.is::<rustls::Error>();
    let why = match error.get_ref().and_then(|held| held.downcast_ref()) {
        Some(error) => words(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the server closed the connection".into()
        }
        None => reason(&error).into(),
    };
    let tried = format!("agree on TLS with {host}: {why}");
    // What an `io::Error` wraps is not in its chain of sources.
    match error.get_ref().is_some_and(is_rustls) {
        true => {
            let source = error.into_inner();
            ConnectError::caused_by(tried, source.unwrap_or_else(|| "no reason".into()))
        }
        false => ConnectError::caused_by(tried, error),
    }
}

fn words(error: &rustls::Error) -> Cow<'static, str> {
    use rustls::Error::{
        AlertReceived, InvalidCertificate, NoApplicationProtocol, NoCertificatesPresented,
        PeerIncompatible,
    };
    match error {
        rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "what the server speaks is not TLS".into()
        }
        InvalidCertificate(error) => of_certificate(error).into(),
        NoCertificatesPresented => "the server has no certificate".into(),
        AlertReceived(alert) => format!("the server refused ({alert:?})").into(),
        PeerIncompatible(_) => {
            "the server has no version of TLS, or nothing else, in common with us".into()
        }
        NoApplicationProtocol => "the server does not speak HTTP/1.1".into(),
        _ => "the handshake failed".into(),
    }
}

fn of_certificate(error: &CertificateError) -> &'static str {
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext, Revoked, UnknownIssuer,
    };
    match error {
        UnknownIssuer => "the server's certificate is of nobody who is trusted",
        NotValidForName | NotValidForNameContext { .. } => {
            "the server's certificate is for other names"
        }
        Expired | ExpiredContext { .. } => "the server's certificate has expired",
        NotValidYet | NotValidYetContext { .. } => "the server's certificate is not valid yet",
        Revoked => "the server's certificate has been revoked",
        _ => "the server's certificate is not accepted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_handshake_is_told_in_words_with_the_server() {
        let of_rustls = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let of_certificate = |error| of_rustls(rustls::Error::InvalidCertificate(error));
        let alert = rustls::AlertDescription::HandshakeFailure;
        let incompatible = rustls::PeerIncompatible::NoCipherSuitesInCommon;
        for (error, why, is_rustls) in [
            (
                of_certificate(CertificateError::UnknownIssuer),
                "the server's certificate is of nobody who is trusted",
                true,
            ),
            (
                of_certificate(CertificateError::NotValidForName),
                "the server's certificate is for other names",
                true,
            ),
            (
                of_certificate(CertificateError::Expired),
                "the server's certificate has expired",
                true,
            ),
            (
                of_certificate(CertificateError::NotValidYet),
                "the server's certificate is not valid yet",
                true,
            ),
            (
                of_certificate(CertificateError::Revoked),
                "the server's certificate has been revoked",
                true,
            ),
            (
                of_certificate(CertificateError::BadEncoding),
                "the server's certificate is not accepted",
                true,
            ),
            (
                of_rustls(rustls::Error::NoCertificatesPresented),
                "the server has no certificate",
                true,
            ),
            (
                of_rustls(incompatible.into()),
                "the server has no version of TLS, or nothing else, in common with us",
                true,
            ),
            (
                of_rustls(rustls::Error::NoApplicationProtocol),
                "the server does not speak HTTP/1.1",
                true,
            ),
            (
                of_rustls(rustls::Error::DecryptError),
                "the handshake failed",
                true,
            ),
            (
                of_rustls(rustls::Error::AlertReceived(alert)),
                "the server refused (HandshakeFailure)",
                true,
            ),
            (
                of_rustls(InvalidMessage::InvalidContentType.into()),
                "what the server speaks is not TLS",
                true,
            ),
            (
                io::ErrorKind::UnexpectedEof.into(),
                "the server closed the connection",
                false,
            ),
            (
                io::ErrorKind::ConnectionReset.into(),
                "connection reset",
                false,
            ),
        ] {
            let error = handshake("h.test", error);
            assert_eq!(
                error.to_string(),
                format!("agree on TLS with h.test: {why}")
            );
            let source = error.source().expect("what failed");
            assert_eq!(source.is::<rustls::Error>(), is_rustls);
            assert_eq!(source.is::<io::Error>(), !is_rustls);
        }
    }
}
