//! Which version of HTTP is spoken on a connection.

use std::fmt;

/// Which versions of HTTP may be spoken on connections. [`Http2`](Self::Http2) and [`Auto`](Self::Auto) need the
/// feature `http2`.
///
/// [`KeepAliveLayer::protocol`](crate::KeepAliveLayer::protocol) and
/// [`HandshakeLayer::protocol`](crate::layers::HandshakeLayer::protocol) set it for all connections,
/// [`Route::with_protocol`](crate::extensions::Route::with_protocol) for the requests that carry the route.
///
/// ```
/// use tower_keep_alive::http::Request;
/// use tower_keep_alive::{Protocol, extensions::Route};
///
/// // This request is sent over HTTP/1, whatever the agent's setting is.
/// let request = Request::get("https://api.example.com/")
///     .extension(Route::new().with_protocol(Protocol::Http1))
///     .body(())?;
/// # Ok::<_, tower_keep_alive::http::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// HTTP/1.1 only; HTTP/1.0 if the server answers in HTTP/1.0.
    #[default]
    Http1,
    /// HTTP/2 only. With TLS, the connect fails unless the server negotiates `h2` by ALPN. Without TLS, the server must
    /// be known to speak HTTP/2 ("prior knowledge", h2c): with any other server the connection fails.
    #[cfg(feature = "http2")]
    Http2,
    /// With TLS, HTTP/2 or HTTP/1.1 as the server chooses by ALPN (`h2`, `http/1.1`); HTTP/1.1 if it chooses neither.
    /// Without TLS, HTTP/1.1, and HTTP/2 by prior knowledge for a request of [`Version::HTTP_2`](http::Version::HTTP_2).
    #[cfg(feature = "http2")]
    Auto,
}

/// `http1`, `http2` or `auto`, as in the names of pools with such a route.
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
    /// What may be spoken without TLS, where nothing can be negotiated.
    pub(crate) fn in_the_clear(self) -> Self {
        match self {
            #[cfg(feature = "http2")]
            Self::Auto => Self::Http1,
            it => it,
        }
    }

    /// The ALPN names to offer, the preferred one first (RFC 7301).
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

    /// The name in error messages.
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
