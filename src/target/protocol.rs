//! Which version of HTTP is spoken on a connection.

use std::fmt;

/// Which versions of HTTP may be spoken on connections. [`Http2`](Self::Http2) and [`Auto`](Self::Auto) are there with the
/// feature `http2`.
///
/// [`KeepAliveLayer::protocol`](crate::KeepAliveLayer::protocol) and
/// [`HandshakeLayer::protocol`](crate::HandshakeLayer::protocol) say it for all connections, and
/// [`Route::with_protocol`](crate::Route::with_protocol) for those of some requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 alone, or HTTP/1.0 where the server answers in that.
    #[default]
    Http1,
    /// HTTP/2 alone. With TLS the server has to choose it (ALPN `h2`), and a connect to one that does not fails. Without TLS
    /// it is known beforehand that the server speaks it ("prior knowledge", h2c): one that does not breaks the connection.
    #[cfg(feature = "http2")]
    Http2,
    /// With TLS what the server chooses of HTTP/2 and HTTP/1.1 (ALPN `h2`, `http/1.1`), HTTP/1.1 if it chooses nothing;
    /// without TLS HTTP/1.1.
    #[cfg(feature = "http2")]
    Auto,
}

/// `http1`, `http2` or `auto`, as in the names of pools whose route has one.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "http1",
            #[cfg(feature = "http2")]
            Self::Http2 => "http2",
            #[cfg(feature = "http2")]
            Self::Auto => "auto",
        })
    }
}

impl Protocol {
    /// What is left of it where there is no TLS to negotiate in.
    pub(crate) fn in_the_clear(self) -> Self {
        match self {
            #[cfg(feature = "http2")]
            Self::Auto => Self::Http1,
            it => it,
        }
    }

    /// The names of what is offered, the preferred one first (RFC 7301).
    #[cfg(feature = "tls")]
    pub(crate) fn alpn(self) -> Vec<Vec<u8>> {
        const HTTP_1: &[u8] = b"http/1.1";
        let names: &[&[u8]] = match self {
            Self::Http1 => &[HTTP_1],
            #[cfg(feature = "http2")]
            Self::Http2 => &[b"h2"],
            #[cfg(feature = "http2")]
            Self::Auto => &[b"h2", HTTP_1],
        };
        names.iter().map(|name| name.to_vec()).collect()
    }

    /// In the words of errors.
    #[cfg(feature = "tls")]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            #[cfg(feature = "http2")]
            Self::Http2 => "HTTP/2",
            #[cfg(feature = "http2")]
            Self::Auto => "HTTP/2 or HTTP/1.1",
        }
    }
}
