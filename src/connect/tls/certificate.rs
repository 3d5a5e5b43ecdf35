//! Explains what is wrong with a server's certificate, and what to do.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;
use tokio_rustls::rustls::pki_types::UnixTime;
use tokio_rustls::rustls::{CertificateError, OtherError};

use crate::connect::tls::trust::{SelfSigned, is_of_an_authority, of_webpki};

/// How many names of a certificate are listed.
const MOST_NAMES: usize = 5;

/// `host` is the name that the certificate should have.
pub(super) fn describe(host: &str, error: &CertificateError) -> Cow<'static, str> {
    use CertificateError::{
        BadSignature, Expired, ExpiredContext, InvalidPurpose, InvalidPurposeContext,
        NotValidForName, NotValidForNameContext, NotValidYet, NotValidYetContext, Other, Revoked,
        UnknownIssuer,
    };
    let why = match error {
        UnknownIssuer => {
            "was issued by an authority that is not trusted; if it should be, add the authority's \
             certificate with TlsLayer::roots_pem"
        }
        Other(OtherError(other)) if other.is::<SelfSigned>() => {
            "is self-signed, and not among the roots; if the server is yours, add the certificate \
             itself with TlsLayer::roots_pem"
        }
        _ if is_of_an_authority(error) => {
            "is that of an authority, for issuing others, and not among the roots; the server needs \
             one of its own"
        }
        BadSignature => {
            "is not signed by the key of its issuer; is the root of that name out of date?"
        }
        NotValidForNameContext { presented, .. } => return of_names(host, presented).into(),
        NotValidForName => return format!("the server's certificate is not for {host}").into(),
        ExpiredContext { time, not_after } => {
            let days = time.as_secs().saturating_sub(not_after.as_secs()) / (24 * 60 * 60);
            let since = date(*not_after);
            return format!(
                "the server's certificate expired on {since}, {days} days ago; renew it, or set this \
                 machine's clock"
            )
            .into();
        }
        Expired => "has expired; renew it, or set this machine's clock",
        NotValidYetContext { not_before, .. } => {
            let from = date(*not_before);
            return format!(
                "the server's certificate is not valid before {from}; is this machine's clock right?"
            )
            .into();
        }
        NotValidYet => "is not valid yet; is this machine's clock right?",
        Revoked => "has been revoked; the server needs a new one",
        InvalidPurpose | InvalidPurposeContext { .. } => {
            "is not for servers (extended key usage); the server needs one with serverAuth"
        }
        _ if of_webpki(error) == Some(&webpki::Error::UnsupportedCertVersion) => {
            "is not of X.509 version 3; issue it again, with its names as subjectAltName"
        }
        other => return format!("the server's certificate is not accepted: {other}").into(),
    };
    format!("the server's certificate {why}").into()
}

/// rustls returns the names in webpki's debug format: `DnsName("a.example")`, `IpAddress(127.0.0.1)`.
fn of_names(host: &str, presented: &[String]) -> String {
    let plain = |name: &String| {
        let inner = name
            .split_once('(')
            .and_then(|(_, it)| it.strip_suffix(')'));
        inner.unwrap_or(name).trim_matches('"').to_owned()
    };
    let names: Vec<_> = presented.iter().take(MOST_NAMES).map(plain).collect();
    let names = names.join(", ");
    match presented.len().saturating_sub(MOST_NAMES) {
        _ if presented.is_empty() => format!(
            "the server's certificate is for no name, so not for {host}; issue it with the name as \
             subjectAltName, as a common name alone does not count"
        ),
        0 => format!(
            "the server's certificate is for {names}, and not for {host}; ask by one of its names, \
             or say which is meant with Route::with_server_name"
        ),
        more => format!(
            "the server's certificate is for {names} and {more} more, and not for {host}; ask by one \
             of its names, or say which is meant with Route::with_server_name"
        ),
    }
}

/// In the format of HTTP dates. Dates beyond the year 9999 are shown as its last second.
fn date(time: UnixTime) -> HttpDate {
    const LAST: u64 = 253_402_300_799;
    let since = Duration::from_secs(time.as_secs().min(LAST));
    HttpDate::from(UNIX_EPOCH + since)
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::ServerName;

    use super::*;

    #[test]
    fn a_certificate_for_other_names_is_told_with_some_of_them() {
        let told = |presented: &[&str]| {
            let error = CertificateError::NotValidForNameContext {
                expected: ServerName::try_from("h.test").unwrap(),
                presented: presented.iter().map(|&name| name.to_owned()).collect(),
            };
            describe("h.test", &error).into_owned()
        };
        let two = told(&["DnsName(\"a.test\")", "IpAddress(127.0.0.1)"]);
        assert!(
            two.contains("is for a.test, 127.0.0.1, and not for h.test"),
            "{two}"
        );
        assert!(told(&[]).contains("is for no name"));
        let many = told(&["DnsName(\"a.test\")"; 7]);
        assert!(many.contains("a.test and 2 more, and not"), "{many}");
    }

    #[test]
    fn dates_are_told_as_http_writes_them() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let expired = CertificateError::ExpiredContext {
            time: at(1_700_000_000),
            not_after: at(1_600_000_000),
        };
        let expired = describe("h.test", &expired);
        assert!(
            expired.contains("expired on Sun, 13 Sep 2020 12:26:40 GMT, 1157 days ago"),
            "{expired}"
        );
        let far = CertificateError::NotValidYetContext {
            time: at(0),
            not_before: at(u64::MAX),
        };
        let far = describe("h.test", &far);
        assert!(
            far.contains("before Fri, 31 Dec 9999 23:59:59 GMT"),
            "{far}"
        );
    }

    #[test]
    fn each_fault_of_a_certificate_is_told_with_what_to_do() {
        use CertificateError::{
            BadEncoding, BadSignature, Expired, InvalidPurpose, NotValidForName, NotValidYet,
            Revoked, UnknownIssuer,
        };
        for (error, told) in [
            (
                UnknownIssuer,
                "was issued by an authority that is not trusted; if it should be, add the \
                 authority's certificate with TlsLayer::roots_pem",
            ),
            (
                BadSignature,
                "is not signed by the key of its issuer; is the root of that name out of date?",
            ),
            (NotValidForName, "is not for h.test"),
            (
                Expired,
                "has expired; renew it, or set this machine's clock",
            ),
            (
                NotValidYet,
                "is not valid yet; is this machine's clock right?",
            ),
            (Revoked, "has been revoked; the server needs a new one"),
            (
                InvalidPurpose,
                "is not for servers (extended key usage); the server needs one with serverAuth",
            ),
            (BadEncoding, "is not accepted: BadEncoding"),
        ] {
            let expected = format!("the server's certificate {told}");
            assert_eq!(describe("h.test", &error), expected);
        }
    }
}
