//! Checkin: returns a connection to its pool when its use is over.

mod from_checkout;
mod future;
mod layer;
mod lease;
mod service;

pub use future::CheckinFuture;
pub use layer::CheckinLayer;
pub use lease::Lease;
pub use service::Checkin;
