//! Errors of targets.

use std::error::Error as StdError;
use std::fmt;

/// A URI that no connection can be made for, or that is not the URI of a proxy; its text says why. It converts into an
/// [`Error`](crate::Error) by `?`, and [`is_target`](crate::Error::is_target) is true for that.
///
/// ```
/// use tower_keep_alive::connect::Destination;
/// use tower_keep_alive::http::Uri;
///
/// let error = Destination::try_from(Uri::from_static("ftp://example.com/")).unwrap_err();
/// assert_eq!(error.to_string(), "the scheme \"ftp\" is neither http nor https");
/// ```
#[derive(Clone, Debug)]
pub struct InvalidTarget(pub(crate) TargetError);

impl fmt::Display for InvalidTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for InvalidTarget {}

/// Why a request cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TargetError {
    NoScheme,
    NoHost,
    /// The scheme is `https`, and there is no TLS in the stack.
    NoTls,
    TooLong,
    Scheme(String),
    Port(String),
    Version(http::Version),
    Method(&'static str),
    Header(&'static str, &'static str),
    TooManyFields(usize),
    Body(&'static str),
    Route(&'static str),
    /// The user information of the URI is invalid; the text does not show it.
    User(&'static str),
    #[cfg(feature = "reqwest")]
    Url,
    /// The URI is invalid, for this reason.
    Uri(String),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoScheme => f.write_str("the URI has no scheme: write http:// or https:// before the host"),
            Self::NoHost => f.write_str("the URI has no host"),
            Self::NoTls => f.write_str(
                "the scheme is https, and the connector is without TLS: put a TlsLayer (feature tls) around it, or use http",
            ),
            Self::TooLong => f.write_str("the URI is too long"),
            Self::Scheme(scheme) => write!(f, "the scheme {scheme:?} is neither http nor https"),
            Self::Uri(why) => f.write_str(why),
            Self::Version(version) => {
                write!(
                    f,
                    "the request asks for {version:?}, but its connection speaks HTTP/1.1: set the request's version to \
                     Version::HTTP_11"
                )?;
                match cfg!(feature = "http2") || *version != http::Version::HTTP_2 {
                    true => Ok(()),
                    false => f.write_str(", or enable the feature http2"),
                }
            }
            Self::Port(port) => write!(f, "{port:?} is not a port: ports are numbers up to 65535"),
            Self::Method(why) | Self::Route(why) | Self::User(why) => f.write_str(why),
            Self::Body(why) => write!(f, "the body cannot be sent: {why}"),
            Self::TooManyFields(most) => {
                write!(f, "the request has more than {most} different fields")
            }
            Self::Header(name, why) => write!(f, "the field {name} cannot be sent: {why}"),
            #[cfg(feature = "reqwest")]
            Self::Url => f.write_str("the URL cannot be converted to a URI"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    #[test]
    fn only_what_helps_with_a_version_is_told() {
        for (version, needs_feature) in [
            (Version::HTTP_2, !cfg!(feature = "http2")),
            (Version::HTTP_3, false),
        ] {
            let told = TargetError::Version(version).to_string();
            assert!(
                told.contains("set the request's version to Version::HTTP_11"),
                "{told}"
            );
            assert_eq!(
                told.ends_with("enable the feature http2"),
                needs_feature,
                "{told}"
            );
        }
    }
}
