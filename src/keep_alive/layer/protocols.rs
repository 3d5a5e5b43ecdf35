//! Which versions of HTTP are spoken, and how.

use hyper::client::conn::http1::Builder;

use crate::connect::Probe;
#[cfg(feature = "http2")]
use crate::http2::Http2;
use crate::keep_alive::KeepAliveLayer;
use crate::target::protocol::Protocol;

/// # Protocols
impl<B> KeepAliveLayer<B> {
    /// Which versions of HTTP are spoken; see [`HandshakeLayer::protocol`](crate::layers::HandshakeLayer::protocol). Default: HTTP/1 only; the client of
    /// [`build`](Self::build) also speaks HTTP/2 with the feature `http2` ([`Protocol`]`::Auto`).
    ///
    /// ```
    /// use tower_keep_alive::{KeepAlive, Protocol};
    ///
    /// let agent = KeepAlive::builder().protocol(Protocol::Http1).build();
    /// # let _ = agent;
    /// ```
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.settings.protocol = Some(protocol);
        self
    }

    /// The settings for HTTP/1, by hyper's builder. Default: hyper's defaults.
    pub fn http1(mut self, http1: Builder) -> Self {
        self.settings.handshake = self.settings.handshake.http1(http1);
        self
    }

    /// The settings for HTTP/2, for example [`max_streams_per_connection`](crate::Http2::max_streams_per_connection).
    /// Default: those of [`Http2::new`].
    ///
    /// ```
    /// use tower_keep_alive::{Http2, KeepAlive};
    ///
    /// let agent = KeepAlive::builder().http2(Http2::new().max_streams_per_connection(50)).build();
    /// # let _ = agent;
    /// ```
    #[cfg(feature = "http2")]
    pub fn http2(mut self, http2: Http2) -> Self {
        self.settings.handshake = self.settings.handshake.http2(http2);
        self
    }

    /// Whether several connections to one host are begun at once while it is not known whether the host speaks HTTP/2;
    /// see [`HandshakeLayer::race_connects`](crate::layers::HandshakeLayer::race_connects). Default: false.
    #[cfg(feature = "http2")]
    pub fn race_connects(mut self, race: bool) -> Self {
        self.settings.handshake = self.settings.handshake.race_connects(race);
        self
    }

    /// Finds which version was negotiated on a transport that is not from [`connect`](crate::connect); see
    /// [`HandshakeLayer::negotiated_with`](crate::layers::HandshakeLayer::negotiated_with).
    #[cfg(feature = "http2")]
    pub fn negotiated_with<IO: 'static>(
        mut self,
        negotiated: impl Fn(&IO) -> Option<http::Version> + Send + Sync + 'static,
    ) -> Self {
        self.settings.handshake = self.settings.handshake.negotiated_with(negotiated);
        self
    }

    /// The maximum number of interim responses (1xx) before the response to one request. Together they may have at most 1 MiB;
    /// see [`HandshakeLayer::max_interim_responses`](crate::layers::HandshakeLayer::max_interim_responses). Default: 100.
    pub fn max_interim_responses(mut self, max: usize) -> Self {
        self.settings.handshake = self.settings.handshake.max_interim_responses(max);
        self
    }

    /// The maximum number of header fields of an HTTP/1 response; see [`HandshakeLayer::max_response_fields`](crate::layers::HandshakeLayer::max_response_fields) for its cost.
    /// Default: 256 for the client of [`build`](Self::build), which costs it 3,200 instructions for each response; hyper's 100 for
    /// a stack that is layered over a connector. A builder that is passed to [`http1`](Self::http1) sets it for both.
    ///
    /// # Panics
    ///
    /// If `max` is 0.
    pub fn max_response_fields(mut self, max: usize) -> Self {
        self.settings.handshake = self.settings.handshake.max_response_fields(max);
        self
    }

    /// Makes a probe for a transport that is not from [`connect`](crate::connect), to check it before each reuse; see
    /// [`HandshakeLayer::probe_with`](crate::layers::HandshakeLayer::probe_with).
    pub fn probe_with<IO: 'static>(
        mut self,
        probe: impl Fn(&IO) -> Probe + Send + Sync + 'static,
    ) -> Self {
        self.settings.handshake = self.settings.handshake.probe_with(probe);
        self
    }
}
