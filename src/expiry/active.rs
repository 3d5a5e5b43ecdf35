use std::time::Duration;

use crate::expiry::expiry_layer;
use crate::expiry::future::Limit;

/// Connections in use are not silent for longer than this (agentkeepalive: `timeout`).
///
/// What ends it is silence, not duration: every byte in either direction begins it anew, and it counts only while we wait
/// for the server. It does not count while a caller does not ask for more of the response, nor while a caller owes the
/// next part of its own request body; once the upload goes on, it counts from there. A server that takes nothing of an
/// upload, or does not answer after its end, is silent. A connection that has been silent for too long is closed, and its exchange fails with an error that
/// [`is_timeout`](crate::Error::is_timeout). [`InactivityTimeout`](crate::InactivityTimeout) sets another value for one
/// request.
///
/// The connection's driver keeps to it: [`HandshakeLayer`](crate::HandshakeLayer)'s does.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::ActiveTimeoutLayer;
///
/// let layer = ActiveTimeoutLayer::new(Duration::from_secs(8));
/// # let _ = layer;
/// ```
#[doc(alias = "timeout")]
#[derive(Clone, Copy, Debug)]
pub struct ActiveTimeoutLayer {
    limit: Silence,
}

/// The service that [`ActiveTimeoutLayer`] makes.
#[derive(Clone, Debug)]
pub struct ActiveTimeout<M> {
    inner: M,
    limit: Silence,
}

#[derive(Clone, Copy, Debug)]
struct Silence(Duration);

impl From<Silence> for Limit {
    fn from(silence: Silence) -> Self {
        Self::Silence(silence.0)
    }
}

impl ActiveTimeoutLayer {
    /// `max` is the longest silence; it is found out when it has lasted that long, or up to an eighth longer.
    /// `Duration::MAX` is no limit, nor is anything above 49 days.
    ///
    /// # Panics
    ///
    /// If `max` is zero: every exchange would fail.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        assert!(!max.is_zero(), "active_timeout must not be zero");
        Self {
            limit: Silence(max),
        }
    }
}

expiry_layer!(ActiveTimeoutLayer, ActiveTimeout, Silence);
