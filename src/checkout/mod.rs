//! Takes an idle connection, or makes one, or waits its turn.

mod connect;
mod future;
mod layer;
mod service;
mod warm;
mod watch;

pub use future::CheckoutFuture;
pub use layer::CheckoutLayer;
pub use service::Checkout;
