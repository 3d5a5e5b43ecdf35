//! Recognises a server that speaks another protocol than it was asked in.

use std::error::Error as StdError;
use std::fmt;

use crate::connection::info::ConnectionInfo;
#[cfg(feature = "http2")]
use crate::error::SaidNothing;
use crate::error::{Error, Kind, chain};
#[cfg(feature = "proxy")]
use crate::target::key::Key;

/// What a server spoke instead of the protocol that it was asked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instead {
    /// Asked in plain HTTP, it answered with an alert of TLS (RFC 8446 §6).
    Tls,
    /// Asked in HTTP/2 without negotiation, it answered in HTTP/1.
    #[cfg(feature = "http2")]
    Http1,
    /// Asked in HTTP/1, it began as HTTP/2 does (RFC 9113 §3.4).
    Http2,
    /// Asked in HTTP/2, it began with neither.
    #[cfg(feature = "http2")]
    Other,
}

/// The type of an alert record of TLS.
const ALERT: u8 = 21;
/// The major version of every record of TLS.
const TLS: u8 = 3;
/// The type of HTTP/2's SETTINGS frame.
const SETTINGS: u8 = 4;
/// A flag: the frame acknowledges other settings.
const ACK: u8 = 1;

impl Instead {
    /// Looks at the first bytes that a server sent in answer to HTTP/1. `None`: they may be HTTP/1, or nobody knows what
    /// they are.
    pub(crate) fn of_http1(begins: &[u8]) -> Option<Self> {
        match *begins {
            // hyper ends the connection after the first byte that is not HTTP, so there may be no second one.
            [ALERT] | [ALERT, TLS, ..] => Some(Self::Tls),
            _ if is_http2(begins) => Some(Self::Http2),
            _ => None,
        }
    }

    /// Looks at the first five bytes that a server sent in answer to HTTP/2. `None`: it is HTTP/2.
    #[cfg(feature = "http2")]
    pub(crate) fn of_http2(begins: [u8; 5]) -> Option<Self> {
        match begins {
            _ if is_http2(&begins) => None,
            [b'H', b'T', b'T', b'P', b'/'] => Some(Self::Http1),
            [ALERT, TLS, ..] => Some(Self::Tls),
            _ => Some(Self::Other),
        }
    }

    /// Finds it in an I/O error that `h2` has returned, which keeps the kind and the text of the transport's error and
    /// nothing else.
    #[cfg(feature = "http2")]
    pub(crate) fn recognise(error: &std::io::Error) -> Option<Self> {
        let text = error.to_string();
        [Self::Http1, Self::Tls, Self::Other]
            .into_iter()
            .find(|it| text == it.to_string())
    }
}

/// Whether this is the head of a SETTINGS frame: its length, its type and its flags.
fn is_http2(begins: &[u8]) -> bool {
    matches!(begins, [_, _, _, SETTINGS, flags, ..] if flags & ACK == 0)
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tls => "the server answered with an alert of TLS",
            #[cfg(feature = "http2")]
            Self::Http1 => "the server speaks HTTP/1 and not HTTP/2",
            Self::Http2 => "the server began as HTTP/2 does, by SETTINGS",
            #[cfg(feature = "http2")]
            Self::Other => "the server does not begin as HTTP/2 does, by SETTINGS",
        })
    }
}

impl StdError for Instead {}

impl Error {
    /// What the server spoke instead of the protocol that it was asked in.
    pub(super) fn instead(&self) -> Option<Instead> {
        if !matches!(self.0.kind, Kind::Exchange) {
            return None;
        }
        let instead = *self.source().and_then(chain::find::<Instead>)?;
        // Inside of TLS, such bytes are no alert.
        (instead != Instead::Tls || !self.is_https()).then_some(instead)
    }

    /// Whether the connection that failed is one for `https`.
    fn is_https(&self) -> bool {
        let key = self.0.connection.as_ref().and_then(ConnectionInfo::key);
        key.is_some_and(|key| key.scheme() == "https")
    }

    /// What a caller has to change if the server speaks something else.
    pub(super) fn remedy(&self, instead: Instead) -> &'static str {
        match instead {
            #[cfg(feature = "proxy")]
            Instead::Tls if self.is_through_proxy() => {
                "the server or the proxy seems to speak TLS on this port: its URI has to begin with https://"
            }
            Instead::Tls => {
                "the server seems to speak TLS on this port: the URI has to begin with https://"
            }
            Instead::Http2 => {
                "the server speaks HTTP/2 without negotiation, and not HTTP/1: set Protocol::Http2 (feature `http2`)"
            }
            #[cfg(feature = "http2")]
            Instead::Http1 | Instead::Other if self.is_https() => {
                "the server does not speak HTTP/2: send the request with Version::HTTP_11, and without Protocol::Http2"
            }
            #[cfg(feature = "http2")]
            Instead::Http1 | Instead::Other => {
                "the server does not seem to speak HTTP/2 without negotiation: send the request with Version::HTTP_11, \
                 and without Protocol::Http2"
            }
        }
    }

    #[cfg(feature = "proxy")]
    fn is_through_proxy(&self) -> bool {
        let key = self.0.connection.as_ref().and_then(ConnectionInfo::key);
        let route = key.and_then(Key::route);
        route.is_some_and(|route| route.proxy().is_some())
    }

    /// HTTP/2 was spoken without negotiation, and the connection ended before the server had sent a byte.
    #[cfg(feature = "http2")]
    pub(super) fn may_not_be_http2(&self) -> bool {
        matches!(self.0.kind, Kind::Exchange)
            && !self.is_https()
            && (self.source())
                .and_then(chain::find::<SaidNothing>)
                .is_some()
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;
    use crate::connection::lifespan::Lifespan;
    use crate::target::Target;
    use crate::target::key::Key;

    #[test]
    fn what_is_not_http_1_is_recognised_by_its_first_bytes() {
        for (begins, instead) in [
            (&b"H"[..], None),
            (b"HTTP/1.1 400 Bad Request", None),
            (b"\r\nHTTP", None),
            (b"SSH-2.0-x", None),
            (b"", None),
            (&[21], Some(Instead::Tls)),
            (&[21, 3, 1, 0, 2, 2, 70], Some(Instead::Tls)),
            (&[21, 3, 3, 0, 2, 2, 10], Some(Instead::Tls)),
            (&[21, 4], None),
            (&[0, 0, 18, 4, 0, 0, 0, 0, 0], Some(Instead::Http2)),
            // An acknowledgement is not the first frame, and neither is a PING.
            (&[0, 0, 0, 4, 1, 0, 0, 0, 0], None),
            (&[0, 0, 8, 6, 0, 0, 0, 0, 0], None),
        ] {
            assert_eq!(Instead::of_http1(begins), instead, "{begins:?}");
        }
    }

    fn answered_with(instead: Instead, uri: &'static str) -> Error {
        let lifespan = Lifespan::new();
        let key = Key::from(Uri::from_static(uri).key());
        lifespan.shared().set_key(key);
        let error = Error::from_send(instead.into(), false);
        error.on(ConnectionInfo::of(&lifespan))
    }

    #[cfg(feature = "http2")]
    #[test]
    fn an_alert_of_tls_is_one_only_outside_of_tls() {
        for instead in [Instead::Tls, Instead::Http1, Instead::Http2, Instead::Other] {
            let plain = answered_with(instead, "http://a.test/").instead();
            assert_eq!(plain, Some(instead));
            let within = answered_with(instead, "https://a.test/").instead();
            assert_eq!(within, plain.filter(|it| *it != Instead::Tls));
        }
    }

    #[test]
    fn the_remedy_names_a_proxy_only_where_there_is_one() {
        let error = answered_with(Instead::Tls, "http://a.test/");
        let remedy = error.remedy(Instead::Tls);
        assert!(
            remedy.starts_with("the server seems to speak TLS"),
            "{remedy}"
        );
    }
}
