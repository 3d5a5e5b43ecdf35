//! One request and its response, to the body's end, on one connection.

mod body;
mod future;
mod hint;
mod layer;
mod request;
mod service;

pub use body::Body;
pub use future::ExchangeFuture;
pub use layer::ExchangeLayer;
pub use service::Exchange;
