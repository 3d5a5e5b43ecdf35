//! Checks server certificates.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::ParsedCertificate;
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
};
use webpki::EndEntityCert;

/// Verifies like `inner`, and also accepts a server that presents one of the given roots itself, as OpenSSL does for
/// Node and curl.
#[derive(Debug)]
pub(super) struct Verifier {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    pub(super) given: Arc<RootCertStore>,
    /// Asked next if `inner` does not know the issuer.
    pub(super) next: Option<Arc<dyn ServerCertVerifier>>,
}

impl Verifier {
    /// Whether the certificate has the name and the key of a given root. Whoever owns the key could issue any
    /// certificate, so this trusts nobody further. A root with name constraints is not accepted for itself.
    fn is_given(&self, certificate: &CertificateDer<'_>) -> bool {
        let mut shown = RootCertStore::empty();
        if shown.add(certificate.clone().into_owned()).is_err() {
            return false;
        }
        (shown.roots.iter())
            .any(|root| root.name_constraints.is_none() && self.given.roots.contains(root))
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let inner = &self.inner;
        let refused = match inner.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Ok(verified) => return Ok(verified),
            Err(refused) => refused,
        };
        if !is_about_its_issuer(&refused) {
            return Err(refused);
        }
        // webpki checks the issuer after the dates and before the names, so the name is still to be checked.
        if self.is_given(end_entity) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            return Ok(ServerCertVerified::assertion());
        }
        let verified = self.next.as_ref().map_or(Err(refused), |next| {
            next.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
        });
        let refused = match verified {
            Err(refused) if is_about_its_issuer(&refused) => refused,
            verified => return verified,
        };
        Err(match is_self_signed(end_entity) {
            true => CertificateError::Other(OtherError(Arc::new(SelfSigned))).into(),
            false => refused,
        })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The issuer is unknown, or the certificate is a CA certificate, as most self-signed ones are.
fn is_about_its_issuer(error: &Error) -> bool {
    let Error::InvalidCertificate(error) = error else {
        return false;
    };
    matches!(error, CertificateError::UnknownIssuer) || is_of_an_authority(error)
}

/// Whether the server presents a CA certificate.
pub(super) fn is_of_an_authority(error: &CertificateError) -> bool {
    of_webpki(error) == Some(&webpki::Error::CaUsedAsEndEntity)
}

/// An error of webpki for which rustls has no variant.
pub(super) fn of_webpki(error: &CertificateError) -> Option<&webpki::Error> {
    match error {
        CertificateError::Other(OtherError(error)) => error.downcast_ref(),
        _ => None,
    }
}

fn is_self_signed(certificate: &CertificateDer<'_>) -> bool {
    EndEntityCert::try_from(certificate).is_ok_and(|it| it.issuer() == it.subject())
}

/// The certificate is issued by itself, and by no root.
#[derive(Debug)]
pub(super) struct SelfSigned;

impl fmt::Display for SelfSigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate is self-signed, and not among the roots")
    }
}

impl StdError for SelfSigned {}

/// Accepts every server certificate.
#[derive(Debug)]
pub(super) struct Anybody(pub(super) Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}
