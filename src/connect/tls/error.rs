//! Errors of TLS, with the name of the server.

use std::borrow::Cow;
use std::env;
use std::error::Error as StdError;
use std::io;

use tokio_rustls::rustls::{
    self, AlertDescription, InvalidMessage, PeerIncompatible, PeerMisbehaved as Misbehaved,
};

use crate::connect::tls::certificate;
use crate::error::connect::{ConnectError, reason};
use crate::error::{BoxError, is_gone};
use crate::target::protocol::Protocol;

/// A host for which no certificate can exist.
pub(super) fn no_name(host: &str) -> ConnectError {
    ConnectError::new(format!(
        "connect: {host:?} is no name that a certificate can be for"
    ))
}

/// The platform has no trusted certificates.
pub(super) fn no_roots(error: rustls::Error) -> ConnectError {
    // Where one of these is set, the platform's certificates are read from there alone.
    let named = ["SSL_CERT_FILE", "SSL_CERT_DIR"].into_iter();
    let mut set = named.filter_map(|name| Some((name, env::var_os(name)?)));
    let why = match set.next() {
        Some((name, path)) => format!("{name} is {path:?}; correct or unset it"),
        None => "often a package named ca-certificates".to_owned(),
    };
    ConnectError::caused_by(
        format!("connect: the platform has no certificates to trust ({why})"),
        error,
    )
}

/// The settings make no valid configuration: a store without roots, or a provider without TLS versions.
pub(super) fn no_configuration(error: impl Into<BoxError>) -> ConnectError {
    ConnectError::caused_by("connect: the settings of TLS cannot be used", error)
}

/// The platform's certificates could not be read completely.
pub(super) fn unread_roots(error: impl Into<BoxError>) -> ConnectError {
    ConnectError::caused_by("connect: reading the platform's certificates failed", error)
}

/// A handshake with this host failed. The source is rustls' error if there is one, or else the transport's.
pub(super) fn handshake(host: &str, offered: Protocol, error: io::Error) -> ConnectError {
    let is_rustls = |error: &(dyn StdError + Send + Sync + 'static)| error.is::<rustls::Error>();
    let why = match error.get_ref().and_then(|held| held.downcast_ref()) {
        Some(error) => describe(host, offered, error),
        // Some servers of plain HTTP answer a handshake by their protocol, others only close.
        None if error.kind() == io::ErrorKind::UnexpectedEof || is_gone(error.kind(), false) => {
            "the server closed the connection; is there TLS on this port?".into()
        }
        None => reason(&error).into(),
    };
    let tried = format!("agree on TLS with {host}: {why}");
    // The error inside an `io::Error` is not in its chain of sources.
    match error.get_ref().is_some_and(is_rustls) {
        true => {
            let of_protocol = is_of_protocol(&error);
            let source = error.into_inner().unwrap_or_else(|| "no reason".into());
            match of_protocol {
                true => ConnectError::Protocol(tried.into(), Some(source)),
                false => ConnectError::caused_by(tried, source),
            }
        }
        false => ConnectError::caused_by(tried, error),
    }
}

/// Whether the server does not speak TLS, or no protocol above it that it was offered (ALPN).
fn is_of_protocol(error: &io::Error) -> bool {
    use rustls::Error::{AlertReceived, InvalidMessage, NoApplicationProtocol, PeerMisbehaved};
    match error.get_ref().and_then(|held| held.downcast_ref()) {
        Some(InvalidMessage(message)) => is_no_tls(message),
        Some(
            NoApplicationProtocol
            | AlertReceived(AlertDescription::NoApplicationProtocol)
            | PeerMisbehaved(Misbehaved::SelectedUnofferedApplicationProtocol),
        ) => true,
        _ => false,
    }
}

/// Whether the server did not even send a record of TLS. Each record begins with its type, version and length.
fn is_no_tls(message: &InvalidMessage) -> bool {
    use InvalidMessage::{InvalidContentType, UnknownProtocolVersion};
    matches!(message, InvalidContentType | UnknownProtocolVersion)
}

/// What is wrong, and what to do about it.
fn describe(host: &str, offered: Protocol, error: &rustls::Error) -> Cow<'static, str> {
    use rustls::Error::{
        AlertReceived, InvalidCertificate, NoApplicationProtocol, NoCertificatesPresented,
        PeerIncompatible,
    };
    match error {
        rustls::Error::InvalidMessage(message) if is_no_tls(message) => {
            "the server does not speak TLS on this port; for plain HTTP, ask with http://".into()
        }
        InvalidCertificate(error) => certificate::describe(host, error),
        NoCertificatesPresented => "the server has no certificate".into(),
        AlertReceived(alert) => format!("the server refused: {}", of_alert(offered, *alert)).into(),
        PeerIncompatible(incompatible) => of_incompatible(incompatible).into(),
        NoApplicationProtocol => format!("the server does not speak {}", offered.name()).into(),
        rustls::Error::PeerMisbehaved(Misbehaved::SelectedUnofferedApplicationProtocol) => format!(
            "the server chose another protocol than {}, which it was offered",
            offered.name()
        )
        .into(),
        _ => "the handshake failed".into(),
    }
}

/// The meaning of a server's alert (RFC 8446 §6.2).
fn of_alert(offered: Protocol, alert: AlertDescription) -> Cow<'static, str> {
    use AlertDescription::{
        BadCertificate, CertificateExpired, CertificateRequired, CertificateRevoked,
        CertificateUnknown, HandshakeFailure, NoApplicationProtocol, ProtocolVersion, UnknownCA,
        UnrecognisedName, UnsupportedCertificate,
    };
    match alert {
        CertificateRequired => {
            "it wants a certificate of this client; set one with TlsLayer::client_certificate_pem"
                .into()
        }
        BadCertificate | CertificateExpired | CertificateRevoked | CertificateUnknown
        | UnknownCA | UnsupportedCertificate => {
            format!("it does not accept this client's certificate ({alert:?})").into()
        }
        ProtocolVersion => "it speaks neither TLS 1.2 nor TLS 1.3".into(),
        HandshakeFailure => "it has no cipher suite in common with this client, or wants a certificate of it (HandshakeFailure)".into(),
        NoApplicationProtocol => format!("it does not speak {}", offered.name()).into(),
        UnrecognisedName => {
            "it serves no host of this name; Route::with_server_name sends another one".into()
        }
        alert => format!("{alert:?}").into(),
    }
}

fn of_incompatible(incompatible: &PeerIncompatible) -> &'static str {
    use PeerIncompatible::{
        NoCipherSuitesInCommon, ServerDoesNotSupportTls12Or13,
        ServerTlsVersionIsDisabledByOurConfig,
    };
    match incompatible {
        ServerDoesNotSupportTls12Or13 => "the server speaks neither TLS 1.2 nor TLS 1.3",
        ServerTlsVersionIsDisabledByOurConfig => {
            "the server speaks a version of TLS that this client's configuration has turned off"
        }
        NoCipherSuitesInCommon => "the server has no cipher suite in common with this client",
        _ => "the server has no version of TLS, or nothing else, in common with this client",
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::CertificateError;

    use super::*;

    #[test]
    fn a_failed_handshake_is_told_in_words_with_the_server() {
        let of_rustls = |error: rustls::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let of_certificate = |error| of_rustls(rustls::Error::InvalidCertificate(error));
        let of_alert = |alert| of_rustls(rustls::Error::AlertReceived(alert));
        for (error, why, is_rustls) in [
            (
                of_certificate(CertificateError::Revoked),
                "the server's certificate has been revoked; the server needs a new one",
                true,
            ),
            (
                of_rustls(rustls::Error::NoCertificatesPresented),
                "the server has no certificate",
                true,
            ),
            (
                of_rustls(PeerIncompatible::NoCipherSuitesInCommon.into()),
                "the server has no cipher suite in common with this client",
                true,
            ),
            (
                of_rustls(PeerIncompatible::ServerDoesNotSupportTls12Or13.into()),
                "the server speaks neither TLS 1.2 nor TLS 1.3",
                true,
            ),
            (
                of_rustls(PeerIncompatible::NoKxGroupsInCommon.into()),
                "the server has no version of TLS, or nothing else, in common with this client",
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
                of_alert(AlertDescription::CertificateRequired),
                "the server refused: it wants a certificate of this client; set one with TlsLayer::client_certificate_pem",
                true,
            ),
            (
                of_alert(AlertDescription::UnknownCA),
                "the server refused: it does not accept this client's certificate (UnknownCA)",
                true,
            ),
            (
                of_alert(AlertDescription::ProtocolVersion),
                "the server refused: it speaks neither TLS 1.2 nor TLS 1.3",
                true,
            ),
            (
                of_alert(AlertDescription::NoApplicationProtocol),
                "the server refused: it does not speak HTTP/1.1",
                true,
            ),
            (
                of_alert(AlertDescription::InternalError),
                "the server refused: InternalError",
                true,
            ),
            (
                of_rustls(InvalidMessage::InvalidContentType.into()),
                "the server does not speak TLS on this port; for plain HTTP, ask with http://",
                true,
            ),
            (
                of_rustls(InvalidMessage::MessageTooLarge.into()),
                "the handshake failed",
                true,
            ),
            (
                io::ErrorKind::UnexpectedEof.into(),
                "the server closed the connection; is there TLS on this port?",
                false,
            ),
            (
                io::ErrorKind::ConnectionReset.into(),
                "the server closed the connection; is there TLS on this port?",
                false,
            ),
            (
                io::ErrorKind::HostUnreachable.into(),
                "host unreachable",
                false,
            ),
        ] {
            let error = handshake("h.test", Protocol::Http1, error);
            assert_eq!(
                error.to_string(),
                format!("agree on TLS with h.test: {why}")
            );
            let source = error.source().expect("what failed");
            assert_eq!(source.is::<rustls::Error>(), is_rustls);
            assert_eq!(source.is::<io::Error>(), !is_rustls);
            // No other address of the server speaks another protocol.
            let is_of_protocol = why.contains("does not speak");
            assert_eq!(matches!(error, ConnectError::Protocol(..)), is_of_protocol);
        }
    }
}
