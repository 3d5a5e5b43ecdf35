use crate::expiry::expiry_layer;
use crate::expiry::future::Limit;

/// Limits the number of exchanges on one connection.
///
/// ```
/// use tower_keep_alive::MaxUsesLayer;
///
/// // Under the thousand after which nginx closes.
/// let layer = MaxUsesLayer::new(999);
/// # let _ = layer;
/// ```
#[derive(Clone, Copy, Debug)]
pub struct MaxUsesLayer {
    limit: Uses,
}

/// The service that [`MaxUsesLayer`] makes.
#[derive(Clone, Debug)]
pub struct MaxUses<M> {
    inner: M,
    limit: Uses,
}

#[derive(Clone, Copy, Debug)]
struct Uses(u64);

impl From<Uses> for Limit {
    fn from(uses: Uses) -> Self {
        Self::Uses(uses.0)
    }
}

impl MaxUsesLayer {
    /// `max` is the maximum number of exchanges on one connection; `u64::MAX` is no limit.
    ///
    /// # Panics
    ///
    /// If `max` is 0: a connection that may not be used need not be made.
    #[must_use]
    pub const fn new(max: u64) -> Self {
        assert!(max > 0, "max_uses must not be 0");
        Self { limit: Uses(max) }
    }
}

expiry_layer!(MaxUsesLayer, MaxUses, Uses);
