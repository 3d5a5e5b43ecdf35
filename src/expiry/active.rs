use std::time::Duration;

use tower_layer::Layer;

use crate::connection::lifespan::Lifespan;
use crate::expiry::Limited;
use crate::expiry::limited::Limit;

/// Limits how long a server may be silent during an exchange (agentkeepalive: `timeout`).
///
/// The time restarts with every byte in either direction, and runs only while the client waits for the server. It does
/// not run while the caller does not read the response, or while the request body has nothing to send yet. A server
/// that does not read an upload, or does not answer after its end, counts as silent. When the time is up, the
/// connection is closed and the exchange fails with an error for which [`is_timeout`](crate::Error::is_timeout) is
/// true. Over HTTP/2 the time is measured for each stream, and the silent stream is reset; the connection is kept, and
/// asked by a PING before it gets new requests. [`InactivityTimeout`](crate::extensions::InactivityTimeout) sets another value for one request.
///
/// The connection's driver enforces the limit, as the driver of [`HandshakeLayer`](crate::layers::HandshakeLayer) does.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::layers::ActiveTimeoutLayer;
///
/// let layer = ActiveTimeoutLayer::new(Duration::from_secs(8));
/// # let _ = layer;
/// ```
#[doc(alias = "timeout")]
#[derive(Clone, Copy, Debug)]
pub struct ActiveTimeoutLayer {
    max: Duration,
}

impl ActiveTimeoutLayer {
    /// `max` is the longest silence. The timeout fires when the silence has lasted for `max`, or up to an eighth
    /// longer. `Duration::MAX`, like anything above 49 days, means no limit.
    ///
    /// # Panics
    ///
    /// If `max` is zero: every exchange would fail.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        assert!(
            !max.is_zero(),
            "active_timeout must not be zero: use Duration::MAX for no limit"
        );
        Self { max }
    }
}

impl Limit for ActiveTimeoutLayer {
    fn put_on(&self, lifespan: &mut Lifespan) {
        lifespan.limit_inactivity(self.max);
    }
}

impl<M> Layer<M> for ActiveTimeoutLayer {
    type Service = Limited<M>;

    fn layer(&self, inner: M) -> Limited<M> {
        Limited::new(inner, *self)
    }
}
