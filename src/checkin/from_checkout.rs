//! Which connections Checkin makes leases of.

use crate::checkin::Lease;
use crate::connection::poolable::Poolable;
use crate::pool::CheckedOut;

/// A connection that Checkout gave: [`CheckedOut`], or the [`Lease`] that another Checkin has made of it. The trait cannot be
/// named outside of this crate.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not come from a pool: there is none to give it back to",
    label = "`CheckoutLayer` is missing below `CheckinLayer`",
    note = "the order is `ExchangeLayer`, `CheckinLayer`, `CheckoutLayer`, and below them what makes connections",
    note = "between Checkin and Checkout stands nothing that changes the connection's type"
)]
#[expect(
    unnameable_types,
    reason = "sealed: it is a bound, and nobody else writes it"
)]
pub trait FromCheckout {
    /// The connection's own type.
    type Conn: Poolable;

    /// From here on the lease has it.
    fn into_lease(self) -> Lease<Self::Conn>;
}

impl<C: Poolable> FromCheckout for CheckedOut<C> {
    type Conn = C;

    #[inline]
    fn into_lease(self) -> Lease<C> {
        Lease::from_pooled(self.into_pooled())
    }
}

/// What is a lease already stays the one that it is.
impl<C: Poolable> FromCheckout for Lease<C> {
    type Conn = C;

    #[inline]
    fn into_lease(self) -> Self {
        self
    }
}
