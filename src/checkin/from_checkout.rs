//! Which connections Checkin makes leases of.

use crate::checkin::Lease;
use crate::connection::poolable::Poolable;
use crate::pool::CheckedOut;

/// A connection that comes from a pool: [`CheckedOut`], or the [`Lease`] that another Checkin has made. The trait
/// cannot be named outside of this crate.
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

    /// Turns it into a lease, which owns the connection from then on.
    fn into_lease(self) -> Lease<Self::Conn>;
}

impl<C: Poolable> FromCheckout for CheckedOut<C> {
    type Conn = C;

    #[inline]
    fn into_lease(self) -> Lease<C> {
        Lease::from_pooled(self.into_pooled())
    }
}

/// A lease stays as it is.
impl<C: Poolable> FromCheckout for Lease<C> {
    type Conn = C;

    #[inline]
    fn into_lease(self) -> Self {
        self
    }
}
