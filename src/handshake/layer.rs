use std::any::Any;
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use hyper::client::conn::http1::Builder;
use tower_layer::Layer;

use crate::connect::{Probe, transport};
use crate::handshake::Handshake;
use crate::http1::Http1;

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
    pub(super) http1: Http1,
    pub(super) probe: Look,
}

/// How a transport is looked at; nothing for one that is not known.
pub(super) type Look = Arc<dyn Fn(&dyn Any) -> Option<Probe> + Send + Sync>;

impl<B> HandshakeLayer<B> {
    /// HTTP/1 with hyper's defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::with(Settings {
            http1: Http1::new(),
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
        f.debug_struct("HandshakeLayer")
            .field("http1", &self.settings.http1)
            .finish_non_exhaustive()
    }
}
