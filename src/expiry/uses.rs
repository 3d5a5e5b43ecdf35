use tower_layer::Layer;

use crate::connection::lifespan::Lifespan;
use crate::expiry::Limited;
use crate::expiry::limited::Limit;

/// Limits the number of exchanges on one connection.
///
/// ```
/// use tower_keep_alive::layers::MaxUsesLayer;
///
/// // Under the thousand after which nginx closes.
/// let layer = MaxUsesLayer::new(999);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MaxUsesLayer {
    max: u64,
}

impl MaxUsesLayer {
    /// `max` is the maximum number of exchanges on one connection; `u64::MAX` means no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0: no connection could be used.
    #[must_use]
    pub const fn new(max: u64) -> Self {
        assert!(max > 0, "max_uses must not be 0: use u64::MAX for no limit");
        Self { max }
    }
}

impl Limit for MaxUsesLayer {
    fn put_on(&self, lifespan: &mut Lifespan) {
        lifespan.limit_uses(self.max);
    }
}

impl<M> Layer<M> for MaxUsesLayer {
    type Service = Limited<M>;

    fn layer(&self, inner: M) -> Limited<M> {
        Limited::new(inner, *self)
    }
}
