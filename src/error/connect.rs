//! Errors of connectors.

use std::borrow::Cow;
use std::env;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use crate::error::BoxError;

/// Why a connector made no connection. The text begins with what was tried (`connect to …`, `resolve …`), so that it
/// can follow the word `cannot`.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// None of the addresses accepted the connect.
    Addresses(FailedAddresses),
    /// A connect within another one: the purpose of the outer one, and why this one failed. Shown as one error.
    #[cfg(feature = "proxy")]
    Within(String, Box<Self>),
    /// The server does not speak the requested protocol: what was tried, and the cause if there is one.
    #[cfg(any(feature = "http2", feature = "tls", feature = "proxy"))]
    Protocol(Cow<'static, str>, Option<BoxError>),
    /// The name was not resolved: what was tried, and the cause if there is one.
    Lookup(Cow<'static, str>, Option<BoxError>),
    /// The name was not resolved in time.
    LookupTimeout(LookupTimeout),
    /// Anything else: what was tried, and the cause if there is one.
    Other(Cow<'static, str>, Option<BoxError>),
}

/// A lookup that got no answer within its limit.
#[derive(Debug)]
pub(crate) struct LookupTimeout {
    host: String,
    limit: Duration,
    cause: io::Error,
}

/// The addresses that were tried and their errors, in the order of the failures.
#[derive(Debug)]
pub(crate) struct FailedAddresses {
    /// The name that was resolved; `None` if the host is an address.
    pub(crate) name: Option<String>,
    /// The local address, if one was set.
    pub(crate) from: Option<IpAddr>,
    pub(crate) failed: Vec<(SocketAddr, io::Error)>,
}

impl ConnectError {
    pub(crate) fn new(tried: impl Into<Cow<'static, str>>) -> Self {
        Self::Other(tried.into(), None)
    }

    pub(crate) fn caused_by(
        tried: impl Into<Cow<'static, str>>,
        cause: impl Into<BoxError>,
    ) -> Self {
        Self::Other(tried.into(), Some(cause.into()))
    }
}

impl ConnectError {
    /// The lookup of this host got no answer within the limit of the lookup, or of the whole connect.
    pub(crate) fn unresolved(host: String, limit: Duration) -> Self {
        Self::LookupTimeout(LookupTimeout {
            host,
            limit,
            cause: io::ErrorKind::TimedOut.into(),
        })
    }

    /// Whether a name was not resolved: the host's, or that of the proxy on the way to it.
    pub(crate) fn is_dns(&self) -> bool {
        match self {
            Self::Lookup(..) | Self::LookupTimeout(_) => true,
            #[cfg(feature = "proxy")]
            Self::Within(_, inner) => inner.is_dns(),
            _ => false,
        }
    }

    /// The limit of the agent that was exceeded.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        match self {
            Self::LookupTimeout(it) => Some(it.limit),
            #[cfg(feature = "proxy")]
            Self::Within(_, inner) => inner.timeout(),
            _ => None,
        }
    }
}

impl ConnectError {
    /// Whether the server, or the proxy on the way to it, does not speak the protocol that it was asked in.
    pub(crate) fn is_protocol(&self) -> bool {
        match self {
            #[cfg(any(feature = "http2", feature = "tls", feature = "proxy"))]
            Self::Protocol(..) => true,
            #[cfg(feature = "proxy")]
            Self::Within(_, inner) => inner.is_protocol(),
            _ => false,
        }
    }
}

#[cfg(feature = "proxy")]
impl ConnectError {
    /// Like [`caused_by`](Self::caused_by), with the text of a connect that failed within this one.
    pub(crate) fn within(tried: String, cause: BoxError) -> Self {
        match cause.downcast() {
            Ok(inner) => Self::Within(tried, inner),
            Err(cause) => Self::caused_by(tried, cause),
        }
    }
}

impl FailedAddresses {
    /// The most informative error: the first one that does not merely report that this machine has no route for the
    /// address family; if there is none, the first.
    fn cause(&self) -> Option<&io::Error> {
        let says_little = |kind| {
            matches!(
                kind,
                io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable
            )
        };
        let mut errors = self.failed.iter().map(|(_, error)| error);
        let first = errors.next()?;
        if !says_little(first.kind()) {
            return Some(first);
        }
        errors
            .find(|error| !says_little(error.kind()))
            .or(Some(first))
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addresses(addresses) => addresses.fmt(f),
            #[cfg(feature = "proxy")]
            Self::Within(tried, inner) => write!(f, "{tried}: {inner}"),
            #[cfg(any(feature = "http2", feature = "tls", feature = "proxy"))]
            Self::Protocol(tried, _) => f.write_str(tried),
            Self::Lookup(tried, _) | Self::Other(tried, _) => f.write_str(tried),
            Self::LookupTimeout(LookupTimeout { host, limit, .. }) => {
                write!(f, "resolve {host}: no answer within {limit:?}")
            }
        }
    }
}

impl fmt::Display for FailedAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("connect ")?;
        if let Some(from) = self.from {
            write!(f, "from {from} ")?;
        }
        for (at, (address, error)) in self.failed.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}to {address}: {}", reason(error))?;
        }
        match &self.name {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

impl StdError for ConnectError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Addresses(addresses) => addresses.cause().map(|error| error as _),
            #[cfg(feature = "proxy")]
            Self::Within(_, inner) => inner.source(),
            #[cfg(any(feature = "http2", feature = "tls", feature = "proxy"))]
            Self::Protocol(_, cause) => cause.as_ref().map(|error| &**error as _),
            Self::Lookup(_, cause) | Self::Other(_, cause) => {
                cause.as_ref().map(|error| &**error as _)
            }
            Self::LookupTimeout(it) => Some(&it.cause),
        }
    }
}

/// The kind of an error in words, or its own text if the kind has no name or the error is not the system's. The number
/// of a system error is left to the source.
pub(crate) fn reason(error: &io::Error) -> String {
    if error.get_ref().is_some() {
        return error.to_string();
    }
    let kind = error.kind().to_string();
    match (error.kind(), kind.as_str()) {
        // The text of an error for which std has no stable kind.
        (io::ErrorKind::Other, _) | (_, "uncategorized error") => {}
        _ => return kind,
    }
    let text = error.to_string();
    let number = error
        .raw_os_error()
        .map(|code| format!(" (os error {code})"));
    match number.and_then(|number| text.strip_suffix(&number)) {
        Some(words) => words.to_owned(),
        None => text,
    }
}

/// A path, and why it cannot be used. Where nothing is there, a relative path is completed, because the working directory of a
/// service is easily mistaken.
pub(crate) fn reason_at(path: &Path, error: &io::Error) -> String {
    let path_name = path.display();
    if error.kind() != io::ErrorKind::NotFound {
        return format!("{path_name}: {}", reason(error));
    }
    match env::current_dir() {
        Ok(directory) if path.is_relative() => format!(
            "{path_name}: there is no such file in the working directory {}",
            directory.display()
        ),
        _ => format!("{path_name}: there is no such file"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_that_leads_nowhere_is_told_with_its_directory() {
        let missing = io::ErrorKind::NotFound.into();
        let whole = reason_at(Path::new("/run/a.sock"), &missing);
        assert_eq!(whole, "/run/a.sock: there is no such file");
        let here = env::current_dir().unwrap();
        assert_eq!(
            reason_at(Path::new("run/a.sock"), &missing),
            format!(
                "run/a.sock: there is no such file in the working directory {}",
                here.display()
            )
        );
        let other = io::ErrorKind::PermissionDenied.into();
        let other = reason_at(Path::new("run/a.sock"), &other);
        assert_eq!(other, "run/a.sock: permission denied");
    }

    fn failed(errors: &[(&str, io::ErrorKind)]) -> FailedAddresses {
        let failed = errors.iter().map(|&(address, kind)| {
            let address = address.parse().unwrap();
            (address, kind.into())
        });
        FailedAddresses {
            name: None,
            from: None,
            failed: failed.collect(),
        }
    }

    #[test]
    fn every_address_is_named_with_its_reason() {
        use io::ErrorKind::{ConnectionRefused, NetworkUnreachable};
        let one = failed(&[("192.0.2.7:443", ConnectionRefused)]);
        let one = ConnectError::Addresses(one);
        assert_eq!(
            one.to_string(),
            "connect to 192.0.2.7:443: connection refused"
        );
        let two = FailedAddresses {
            name: Some("host.test".to_owned()),
            from: Some([192, 0, 2, 1].into()),
            ..failed(&[
                ("[2001:db8::7]:443", NetworkUnreachable),
                ("192.0.2.7:443", ConnectionRefused),
            ])
        };
        assert_eq!(
            two.to_string(),
            "connect from 192.0.2.1 to [2001:db8::7]:443: network unreachable, \
             to 192.0.2.7:443: connection refused (host.test)"
        );
    }

    #[test]
    fn the_source_is_the_first_error_that_is_the_peers() {
        use io::ErrorKind::{AddrNotAvailable, ConnectionRefused, NetworkUnreachable, TimedOut};
        for (kinds, expected) in [
            (vec![ConnectionRefused], ConnectionRefused),
            (vec![TimedOut, ConnectionRefused], TimedOut),
            (vec![NetworkUnreachable, TimedOut], TimedOut),
            (
                vec![NetworkUnreachable, AddrNotAvailable],
                NetworkUnreachable,
            ),
        ] {
            let errors: Vec<_> = kinds.iter().map(|&kind| ("192.0.2.7:1", kind)).collect();
            let error = ConnectError::Addresses(failed(&errors));
            let source = error.source().and_then(|it| it.downcast_ref::<io::Error>());
            assert_eq!(source.map(io::Error::kind), Some(expected), "{kinds:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_reason_is_in_words_and_never_the_text_of_its_error() {
        // EMFILE, ECONNREFUSED
        for (code, words) in [(24, "Too many open files"), (111, "connection refused")] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(reason(&error), words);
            assert_ne!(error.to_string(), words);
        }
        assert_eq!(reason(&io::Error::other("own words")), "own words");
    }
}
