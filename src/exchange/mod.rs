//! Sends one request on one connection, and reads its response to the end of the body.

mod body;
mod collect;
mod credentials;
mod defaults;
mod extras;
mod fields;
mod future;
mod hint;
mod in_bytes;
mod layer;
mod outcomes;
mod request;
mod service;
#[cfg(test)]
mod target_tests;
mod time_limits;
mod timed;
mod to_proxy;
mod tokens;
mod version;

pub use body::Body;
pub(crate) use future::Acquired;
pub use future::ExchangeFuture;
pub(crate) use in_bytes::InBytes;
pub use layer::ExchangeLayer;
pub use service::Exchange;

/// Reads what a response says about its connection, and whether it is the last on it.
#[cfg(fuzzing)]
pub(crate) fn read_hint<R: http_body::Body>(
    response: &http::Response<R>,
    margin: std::time::Duration,
) -> (crate::connection::lifespan::ServerHint, bool) {
    let hint = hint::read(response, crate::clock::Millis::from_duration(margin));
    (hint.server_hint, hint.is_last)
}
