use tower_layer::Layer;

use crate::checkin::Checkin;

/// Makes [`Checkin`] services.
///
/// # Order
///
/// Above [`CheckoutLayer`](crate::layers::CheckoutLayer), either directly or with layers in between that do not change the type
/// of the connection. A stack without a Checkout below does not compile.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckinLayer(());

impl CheckinLayer {
    /// Makes the layer. [`CheckoutLayer`](crate::layers::CheckoutLayer) shows a stack with both.
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
