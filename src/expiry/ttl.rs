use std::time::Duration;

use crate::expiry::age::Age;
use crate::expiry::expiry_layer;
use crate::expiry::future::Limit;

/// Limits the age of a connection, counted from when it was connected (agentkeepalive: `socketActiveTTL`).
///
/// A connection that is too old is closed while it is idle or when it returns to the pool, and not in the middle of an
/// exchange. So connections are renewed under constant traffic as well: names are resolved again, and a new back end gets
/// its share.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::TtlLayer;
///
/// // Between nine and ten minutes, so that what was opened at once is not closed at once.
/// let layer = TtlLayer::new(Duration::from_secs(600)).jitter(0.1);
/// # let _ = layer;
/// ```
#[doc(alias = "socketActiveTTL")]
#[derive(Clone, Copy, Debug)]
pub struct TtlLayer {
    limit: Age,
}

/// The service that [`TtlLayer`] makes.
#[derive(Clone, Debug)]
pub struct Ttl<M> {
    inner: M,
    limit: Age,
}

impl From<Age> for Limit {
    fn from(age: Age) -> Self {
        Self::Age(age)
    }
}

impl TtlLayer {
    /// `max` is the maximum age; `Duration::MAX` is no limit.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Self {
            limit: Age {
                max,
                jitter: 0.0,
                hard: false,
            },
        }
    }

    /// The share of the TTL, 0 to 1, up to which a random part is subtracted for each connection. Default: 0.
    ///
    /// # Panics
    ///
    /// If `part` is not between 0 and 1.
    #[must_use]
    pub const fn jitter(mut self, part: f64) -> Self {
        assert!(part >= 0.0 && part <= 1.0, "ttl_jitter must be from 0 to 1");
        self.limit.jitter = part;
        self
    }

    /// Closes a connection at its TTL even in the middle of an exchange, which then fails. Default: off.
    #[must_use]
    pub const fn hard(mut self) -> Self {
        self.limit.hard = true;
        self
    }
}

expiry_layer!(TtlLayer, Ttl, Age);
