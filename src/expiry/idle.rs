use std::time::Duration;

use crate::expiry::expiry_layer;
use crate::expiry::future::Limit;

/// Limits how long a connection may be idle (agentkeepalive: `freeSocketTimeout`).
///
/// An idle connection is closed when its time is up, and is no longer used from then on, even if the timer has not run yet. A
/// server's `Keep-Alive: timeout` can only shorten the time.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::IdleEvictionLayer;
///
/// // Below the five seconds after which a Node server closes.
/// let layer = IdleEvictionLayer::new(Duration::from_secs(4));
/// # let _ = layer;
/// ```
#[doc(alias = "freeSocketTimeout")]
#[derive(Clone, Copy, Debug)]
pub struct IdleEvictionLayer {
    limit: Idle,
}

/// The service that [`IdleEvictionLayer`] makes.
#[derive(Clone, Debug)]
pub struct IdleEviction<M> {
    inner: M,
    limit: Idle,
}

#[derive(Clone, Copy, Debug)]
struct Idle(Duration);

impl From<Idle> for Limit {
    fn from(idle: Idle) -> Self {
        Self::Idle(idle.0)
    }
}

impl IdleEvictionLayer {
    /// `max` is the longest idle time; `Duration::MAX` is no limit, and zero keeps no connection.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Self { limit: Idle(max) }
    }
}

expiry_layer!(IdleEvictionLayer, IdleEviction, Idle);
