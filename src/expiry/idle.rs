use std::time::Duration;

use tower_layer::Layer;

use crate::connection::lifespan::Lifespan;
use crate::expiry::Limited;
use crate::expiry::limited::Limit;

/// Limits how long a connection may be idle (agentkeepalive: `freeSocketTimeout`).
///
/// An idle connection is closed when its time is up, and is not used again after that, even if the timer has not fired
/// yet. A server's `Keep-Alive: timeout` can only shorten the time.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::layers::IdleEvictionLayer;
///
/// // Below the five seconds after which a Node server closes.
/// let layer = IdleEvictionLayer::new(Duration::from_secs(4));
/// # let _ = layer;
/// ```
#[doc(alias = "freeSocketTimeout")]
#[derive(Clone, Copy, Debug)]
pub struct IdleEvictionLayer {
    max: Duration,
}

impl IdleEvictionLayer {
    /// `max` is the longest idle time; `Duration::MAX` means no limit, and zero keeps no connection.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Self { max }
    }
}

impl Limit for IdleEvictionLayer {
    fn put_on(&self, lifespan: &mut Lifespan) {
        lifespan.limit_idle(self.max);
    }
}

impl<M> Layer<M> for IdleEvictionLayer {
    type Service = Limited<M>;

    fn layer(&self, inner: M) -> Limited<M> {
        Limited::new(inner, *self)
    }
}
