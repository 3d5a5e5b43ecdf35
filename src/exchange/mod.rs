//! One request and its response, to the body's end, on one connection.

mod body;
mod future;
mod hint;
mod layer;
mod request;
mod service;
mod to_proxy;

pub use body::Body;
pub(crate) use future::Asked;
pub use future::ExchangeFuture;
pub use layer::ExchangeLayer;
pub use service::Exchange;

/// What a response says about its connection, and whether it is its last.
#[cfg(fuzzing)]
pub(crate) fn said<R>(
    response: &http::Response<R>,
    margin: std::time::Duration,
) -> (crate::lifespan::Word, bool) {
    let hint = hint::read(response, margin.into());
    (hint.word, hint.is_last)
}
