//! Checkout: takes an idle connection, makes one, or waits in the queue.

mod connect;
mod future;
mod layer;
mod prewarm;
mod service;
mod span;
mod spares;
mod waiting;

pub use future::CheckoutFuture;
pub use layer::CheckoutLayer;
pub use service::Checkout;
