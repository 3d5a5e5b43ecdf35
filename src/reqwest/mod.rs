//! The agent for requests and responses of reqwest (feature `reqwest`).
//!
//! reqwest's `Client` has a pool of its own, which cannot be replaced. Its `Request`, `Response` and `Body` can be used
//! without the `Client`, over the agent, in two ways:
//!
//! - [`ReqwestLayer`] makes a `Service<reqwest::Request, Response = reqwest::Response>`, like `reqwest::Client`.
//! - [`AgentMiddleware`] (feature `reqwest-middleware`) is the last middleware of a `ClientWithMiddleware` and replaces
//!   its client; middleware before it works unchanged. [`AgentStrategy`] tells reqwest-retry which requests may be sent
//!   again.
//!
//! The other features of a `Client` are not available then: redirects, cookies, decompression, proxies, timeouts and
//! default headers. The guide "from reqwest" shows how to replace each of them.
//!
//! A `Client` that keeps its own pool can use [`CountConnectsLayer`](crate::connect::CountConnectsLayer) as its
//! `connector_layer`, to count connects; nothing else is visible from there.

mod layer;
#[cfg(feature = "reqwest-middleware")]
mod middleware;
mod retry;
mod service;
#[cfg(feature = "reqwest-middleware")]
mod strategy;

pub use layer::ReqwestLayer;
#[cfg(feature = "reqwest-middleware")]
pub use middleware::AgentMiddleware;
pub use service::{Reqwest, ReqwestFuture};
#[cfg(feature = "reqwest-middleware")]
pub use strategy::AgentStrategy;
