//! Takes an idle connection, or makes one, or waits its turn.

mod connect;
mod future;
mod layer;
mod prewarm;
mod service;
mod span;

pub use future::CheckoutFuture;
pub use layer::CheckoutLayer;
pub use service::Checkout;
