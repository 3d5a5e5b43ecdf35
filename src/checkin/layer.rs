use tower_layer::Layer;

use crate::checkin::Checkin;

/// Makes [`Checkin`] services.
///
/// # Order
///
/// Above [`CheckoutLayer`](crate::CheckoutLayer), directly or with layers between that leave the connection's type as it
/// is. A stack without a Checkout below does not compile.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckinLayer(());

impl CheckinLayer {
    /// The layer. See [`CheckoutLayer`](crate::CheckoutLayer) for a stack that has it.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

impl<M> Layer<M> for CheckinLayer {
    type Service = Checkin<M>;

    fn layer(&self, inner: M) -> Checkin<M> {
        Checkin::new(inner)
    }
}
