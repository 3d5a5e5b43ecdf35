use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

#[cfg(feature = "http2")]
use http::Version;
use hyper::client::conn::http1::Builder;
use tower_layer::Layer;

#[cfg(feature = "http2")]
use crate::connect::transport::Negotiated;
use crate::connect::{Probe, transport};
use crate::handshake::Handshake;
use crate::http1::Http1;
#[cfg(feature = "http2")]
use crate::http2::Http2;
use crate::target::protocol::Protocol;

/// Makes [`Handshake`] services.
///
/// # Order
///
/// Directly above the connector, which is any [`MakeConnection`](tower::make::MakeConnection).
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_keep_alive::layers::HandshakeLayer;
/// use tower_keep_alive::connect::TcpConnector;
///
/// let mut http1 = hyper::client::conn::http1::Builder::new();
/// http1.title_case_headers(true);
/// let connections = ServiceBuilder::new()
///     .layer(HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().http1(http1))
///     .service(TcpConnector::new());
/// # fn connects<S: tower::Service<http::Uri>>(_: S) {}
/// # connects(connections);
/// ```
pub struct HandshakeLayer<B> {
    settings: Settings,
    body: PhantomData<fn(B)>,
}

/// The settings of every connection of one layer. Separate from the layer, so that `Clone` is derived and cannot forget
/// a setting.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) protocol: Protocol,
    pub(super) http1: Http1,
    #[cfg(feature = "http2")]
    pub(super) http2: Http2,
    #[cfg(feature = "http2")]
    pub(super) race_connects: bool,
    #[cfg(feature = "http2")]
    pub(super) negotiated: Ask,
    pub(super) probe: FindProbe,
}

/// Finds the probe of a transport; `None` if the type of the transport is not known.
pub(super) type FindProbe = Arc<dyn Fn(&dyn Any) -> Option<Probe> + Send + Sync>;

/// Finds what was negotiated on a transport.
#[cfg(feature = "http2")]
pub(super) type Ask = Arc<dyn Fn(&dyn Any) -> Negotiated + Send + Sync>;

impl<B> HandshakeLayer<B> {
    /// A layer for HTTP/1 with hyper's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Settings {
            protocol: Protocol::Http1,
            http1: Http1::new(),
            #[cfg(feature = "http2")]
            http2: Http2::new(),
            #[cfg(feature = "http2")]
            race_connects: false,
            #[cfg(feature = "http2")]
            negotiated: Arc::new(transport::negotiated),
            probe: Arc::new(transport::probe),
        })
    }

    fn with(settings: Settings) -> Self {
        Self {
            settings,
            body: PhantomData,
        }
    }

    /// The same settings for request bodies of another type.
    pub(crate) fn for_bodies<Other>(&self) -> HandshakeLayer<Other> {
        HandshakeLayer::with(self.settings.clone())
    }

    /// Which versions of HTTP are spoken. A [`Route`](crate::extensions::Route) sets it for one request
    /// ([`with_protocol`](crate::extensions::Route::with_protocol)). Default: HTTP/1 only.
    ///
    /// To offer HTTP/2 by TLS, the connector has to know about it. If the targets of the stack are
    /// [`Destination`](crate::connect::Destination)s, [`TlsLayer`](crate::connect::TlsLayer) does, and a connector of your own
    /// can read [`Destination::protocol`](crate::connect::Destination::protocol). For other targets, set the protocol on the
    /// `TlsLayer` too ([`TlsLayer::protocol`](crate::connect::TlsLayer::protocol)).
    ///
    /// ```
    /// use tower_keep_alive::{Protocol, layers::HandshakeLayer};
    ///
    /// let layer = HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().protocol(Protocol::Http1);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.settings.protocol = protocol;
        self
    }

    /// The settings for HTTP/2. Default: [`Http2::new`].
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2(mut self, http2: Http2) -> Self {
        self.settings.http2 = http2;
        self
    }

    /// Whether several connections to one host are begun at once while it is not known which version the host speaks
    /// ([`Protocol::Auto`] with TLS). With `false`, one connection is begun, and further callers wait for its result:
    /// with HTTP/2 it serves all of them; with HTTP/1.1 the other connections are begun then, one handshake later. With
    /// `true`, each caller begins its own at once, and with HTTP/2 most of them are not needed. Default: `false`.
    ///
    /// The version of a host is remembered while the host has connections or callers, and for ten minutes after that.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn race_connects(mut self, race: bool) -> Self {
        self.settings.race_connects = race;
        self
    }

    /// Finds which version was negotiated (ALPN) on a transport that is not one of [`connect`](crate::connect)'s:
    /// [`HTTP_2`](Version::HTTP_2) or [`HTTP_11`](Version::HTTP_11), and `None` if nothing was, or if it has no TLS. Any
    /// other version counts as a server that has chosen nothing of what it was offered. Without this setting, nothing
    /// counts as negotiated on such a transport: [`Protocol::Auto`] uses HTTP/1.1 then, and [`Protocol::Http2`] HTTP/2.
    ///
    /// ```
    /// use http::Version;
    /// use hyper_util::client::legacy::connect::{Connection, HttpConnector};
    /// use hyper_util::rt::TokioIo;
    /// use tower_keep_alive::{Protocol, layers::HandshakeLayer};
    ///
    /// // The transports of hyper-util's connectors, and of hyper-rustls', in a `UriConnector::hyper`.
    /// fn layer<IO: Connection + 'static>() -> HandshakeLayer<http_body_util::Empty<bytes::Bytes>> {
    ///     HandshakeLayer::new().protocol(Protocol::Auto).negotiated_with(|io: &TokioIo<IO>| {
    ///         io.inner().connected().is_negotiated_h2().then_some(Version::HTTP_2)
    ///     })
    /// }
    /// # layer::<TokioIo<tokio::net::TcpStream>>();
    /// ```
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn negotiated_with<IO: 'static>(
        mut self,
        negotiated: impl Fn(&IO) -> Option<Version> + Send + Sync + 'static,
    ) -> Self {
        let before = self.settings.negotiated;
        self.settings.negotiated = Arc::new(move |transport| match transport.downcast_ref() {
            Some(transport) => match negotiated(transport) {
                None => Negotiated::Untold,
                Some(Version::HTTP_2) => Negotiated::Http2,
                Some(Version::HTTP_11 | Version::HTTP_10) => Negotiated::Http1,
                Some(_) => Negotiated::Nothing,
            },
            None => before(transport),
        });
        self
    }

    /// The settings for HTTP/1, by hyper's builder. Default: hyper's defaults.
    #[must_use]
    pub fn http1(mut self, http1: Builder) -> Self {
        self.settings.http1.set_builder(http1);
        self
    }

    /// Limits how many interim responses (status 1xx other than 101) a server may send before the response to one
    /// request; if there are more, the request fails and its connection is closed. Together they may have at most 1
    /// MiB, and if `max` is more than 65,534, only this applies. The size of each is limited by
    /// [`max_header_size`](Builder::max_header_size) and [`max_buf_size`](Builder::max_buf_size). Default: 100.
    ///
    /// Over HTTP/2, the stream of the request is reset and its connection goes on. If `max` is 100 or more, those that
    /// have arrived by the second poll of the request are not counted. The size of each is limited by
    /// `Http2::max_header_list_size`, and a connection is closed if 1,000 more heads arrive than its streams can have,
    /// without a new request in between.
    ///
    /// ```
    /// use tower_keep_alive::layers::HandshakeLayer;
    ///
    /// let layer = HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().max_interim_responses(8);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn max_interim_responses(mut self, max: usize) -> Self {
        self.settings.http1.max_interim_responses = max;
        self
    }

    /// Limits how many header fields a response may have, repeated fields included; if there are more, the request
    /// fails with an error for which [`is_too_large`](crate::Error::is_too_large) is true. Default: 100, or the setting
    /// of [`http1`](Self::http1). The one-call client has another default, 256: see
    /// [`KeepAliveLayer::max_response_fields`](crate::KeepAliveLayer::max_response_fields).
    ///
    /// Without this setting hyper keeps room for 100 fields on the stack. With it, hyper allocates 64 bytes for each
    /// allowed field whenever it reads the head of a response. For each response that costs about 700 instructions and
    /// 10 more for each allowed field: 1,700 for 100, and 3,200 for 256, where the whole of a warm request costs
    /// 20,000. Node keeps the first 2,000 fields, Go limits only the bytes (10 MiB), and curl stops at 5,000 fields. The
    /// size of a whole head is limited by [`max_buf_size`](Builder::max_buf_size), 408 KiB by default, whatever the
    /// number of its fields. The largest possible number is 32,768, for which a [`HeaderMap`](http::HeaderMap) has room.
    /// HTTP/2 limits the bytes of a head instead (`Http2::max_header_list_size`).
    ///
    /// ```
    /// use tower_keep_alive::layers::HandshakeLayer;
    ///
    /// let layer = HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().max_response_fields(256);
    /// # let _ = layer;
    /// ```
    ///
    /// # Panics
    ///
    /// If `max` is 0: every exchange would fail.
    #[doc(alias = "max_headers")]
    #[doc(alias = "maxHeadersCount")]
    #[must_use]
    pub fn max_response_fields(mut self, max: usize) -> Self {
        assert!(
            max > 0,
            "max_response_fields must not be 0: the largest number is 32768"
        );
        self.settings.http1.set_max_response_fields(max);
        self
    }

    /// Sets the limit unless [`http1`](Self::http1) or [`max_response_fields`](Self::max_response_fields) was set.
    pub(crate) fn default_max_response_fields(&mut self, max: usize) {
        self.settings.http1.default_max_response_fields(max);
    }

    /// Makes a probe for a transport that is not one of [`connect`](crate::connect)'s, to check it before each reuse.
    /// Without a probe, the pool waits two turns of the runtime for the connection's driver to notice a close. The
    /// probe can also close the transport from outside: [`Probe::with_close`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_keep_alive::connect::Probe;
    /// use tower_keep_alive::{layers::HandshakeLayer, custom::Liveness};
    ///
    /// struct Pipe {
    ///     healthy: Arc<std::sync::atomic::AtomicBool>,
    /// }
    ///
    /// let layer = HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().probe_with(|pipe: &Pipe| {
    ///     let healthy = pipe.healthy.clone();
    ///     Probe::new(move || match healthy.load(std::sync::atomic::Ordering::Relaxed) {
    ///         true => Liveness::Open,
    ///         false => Liveness::Dead,
    ///     })
    /// });
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn probe_with<IO: 'static>(
        mut self,
        probe: impl Fn(&IO) -> Probe + Send + Sync + 'static,
    ) -> Self {
        let before = self.settings.probe;
        self.settings.probe = Arc::new(move |transport| match transport.downcast_ref() {
            Some(transport) => Some(probe(transport)),
            None => before(transport),
        });
        self
    }
}

impl<M, B> Layer<M> for HandshakeLayer<B> {
    type Service = Handshake<M, B>;

    fn layer(&self, inner: M) -> Handshake<M, B> {
        Handshake::new(inner, self.settings.clone())
    }
}

impl<B> Clone for HandshakeLayer<B> {
    fn clone(&self) -> Self {
        Self::with(self.settings.clone())
    }
}

impl<B> Default for HandshakeLayer<B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<B> fmt::Debug for HandshakeLayer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("HandshakeLayer");
        debug
            .field("protocol", &self.settings.protocol)
            .field("http1", &self.settings.http1);
        #[cfg(feature = "http2")]
        debug
            .field("http2", &self.settings.http2)
            .field("race_connects", &self.settings.race_connects);
        debug.finish_non_exhaustive()
    }
}
