use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

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
/// use tower_keep_alive::HandshakeLayer;
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

/// What every connection of one layer is made with. Apart from the layer, so that its clones are derived and forget
/// nothing.
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
    pub(super) probe: Look,
}

/// How a transport is looked at; nothing for one that is not known.
pub(super) type Look = Arc<dyn Fn(&dyn Any) -> Option<Probe> + Send + Sync>;

/// What was negotiated on a transport.
#[cfg(feature = "http2")]
pub(super) type Ask = Arc<dyn Fn(&dyn Any) -> Negotiated + Send + Sync>;

impl<B> HandshakeLayer<B> {
    /// HTTP/1 with hyper's defaults.
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

    /// With the same settings, for request bodies of another type.
    pub(crate) fn for_bodies<Other>(&self) -> HandshakeLayer<Other> {
        HandshakeLayer::with(self.settings.clone())
    }

    /// Which versions of HTTP are spoken. A [`Route`](crate::Route) can say it for one request
    /// ([`with_protocol`](crate::Route::with_protocol)). Default: HTTP/1 alone.
    ///
    /// Where TLS is to offer HTTP/2, the connector has to hear of it: in a stack whose targets are
    /// [`Destination`](crate::Destination)s [`TlsLayer`](crate::connect::TlsLayer) does, and a connector of your own by
    /// [`Destination::protocol`](crate::Destination::protocol). In a stack of other targets the `TlsLayer` is told by its own
    /// [`protocol`](crate::connect::TlsLayer::protocol).
    ///
    /// ```
    /// use tower_keep_alive::{HandshakeLayer, Protocol};
    ///
    /// let layer = HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().protocol(Protocol::Http1);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        self.settings.protocol = protocol;
        self
    }

    /// The settings of HTTP/2. Default: [`Http2::new`].
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn http2(mut self, http2: Http2) -> Self {
        self.settings.http2 = http2;
        self
    }

    /// Whether several connections to one host are begun at once while it is not known yet which version it speaks
    /// ([`Protocol::Auto`] with TLS). `false`: one is begun, and the callers beside the first wait for what it turns out to be:
    /// with HTTP/2 it serves them all, with HTTP/1.1 the others are begun then, one handshake later. `true`: each caller begins
    /// its own at once, and with HTTP/2 most of them were not needed. Default: `false`.
    ///
    /// It is remembered what a host speaks for as long as it has connections or callers.
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn race_connects(mut self, race: bool) -> Self {
        self.settings.race_connects = race;
        self
    }

    /// What was negotiated (ALPN) on a transport that is not one of [`connect`](crate::connect)'s; `None` if nothing was, or if
    /// it has no TLS. Without it, such a transport is taken for one on which nothing was negotiated: with [`Protocol::Auto`]
    /// HTTP/1.1 is spoken on it, with [`Protocol::Http2`] HTTP/2.
    ///
    /// ```
    /// use hyper_util::client::legacy::connect::{Connection, HttpConnector};
    /// use hyper_util::rt::TokioIo;
    /// use tower_keep_alive::{HandshakeLayer, Protocol};
    ///
    /// // The transports of hyper-util's connectors, and of hyper-rustls', in a `UriConnector::hyper`.
    /// fn layer<IO: Connection + 'static>() -> HandshakeLayer<http_body_util::Empty<bytes::Bytes>> {
    ///     HandshakeLayer::new().protocol(Protocol::Auto).negotiated_with(|io: &TokioIo<IO>| {
    ///         io.inner().connected().is_negotiated_h2().then_some(Protocol::Http2)
    ///     })
    /// }
    /// # layer::<TokioIo<tokio::net::TcpStream>>();
    /// ```
    #[cfg(feature = "http2")]
    #[must_use]
    pub fn negotiated_with<IO: 'static>(
        mut self,
        negotiated: impl Fn(&IO) -> Option<Protocol> + Send + Sync + 'static,
    ) -> Self {
        let before = self.settings.negotiated;
        self.settings.negotiated = Arc::new(move |transport| match transport.downcast_ref() {
            Some(transport) => match negotiated(transport) {
                None => Negotiated::Untold,
                Some(Protocol::Http2) => Negotiated::Http2,
                Some(_) => Negotiated::Http1,
            },
            None => before(transport),
        });
        self
    }

    /// HTTP/1 as hyper's builder says.
    #[must_use]
    pub fn http1(mut self, http1: Builder) -> Self {
        self.settings.http1.builder = http1;
        self
    }

    /// The most interim responses (status 1xx other than 101) that a server may send before the response to one request;
    /// with one more the request fails, and its connection is closed. Whatever the number, they may not take more than
    /// 1 MiB together, and only that holds where `max` is more than 65,534. The size of each is limited by
    /// [`max_header_size`](Builder::max_header_size) and [`max_buf_size`](Builder::max_buf_size). Default: 100.
    ///
    /// ```
    /// use tower_keep_alive::HandshakeLayer;
    ///
    /// let layer = HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().max_interim_responses(8);
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn max_interim_responses(mut self, max: usize) -> Self {
        self.settings.http1.max_interim_responses = max;
        self
    }

    /// The most header fields that a response may have, each repetition counted; with one more the request fails with an
    /// error that [`is_too_large`](crate::Error::is_too_large). Default: 100, or what [`http1`](Self::http1) says.
    ///
    /// hyper keeps room for 100 fields on the stack. For any other number it allocates some 70 bytes for each field, twice
    /// for each response: about 3,000 instructions for 256. So this is for servers that send that many; Node and Go count
    /// bytes instead (16 KiB, 10 MiB), and curl stops at 5,000 fields. The size of a whole head is limited by
    /// [`max_buf_size`](Builder::max_buf_size), 408 KiB by default, whatever the number of its fields.
    /// More than 32,768 are the same as 32,768, for which a [`HeaderMap`](http::HeaderMap) has room.
    ///
    /// ```
    /// use tower_keep_alive::HandshakeLayer;
    ///
    /// let layer = HandshakeLayer::<http_body_util::Empty<bytes::Bytes>>::new().max_response_fields(256);
    /// # let _ = layer;
    /// ```
    #[doc(alias = "max_headers")]
    #[doc(alias = "maxHeadersCount")]
    #[must_use]
    pub fn max_response_fields(mut self, max: usize) -> Self {
        self.settings.http1.max_response_fields = Some(max);
        self
    }

    /// How to look at a transport that is not one of [`connect`](crate::connect)'s, before it is used again. Without a
    /// way to look, the runtime is given two turns to notice that it was closed. The same probe says how to close such a
    /// transport from outside, where it says so: [`Probe::with_close`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_keep_alive::connect::Probe;
    /// use tower_keep_alive::{HandshakeLayer, Liveness};
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
