//! The agent for requests and responses of reqwest (feature `reqwest`).
//!
//! reqwest's `Client` has a pool of its own, which cannot be replaced. Its `Request`, `Response` and `Body` are good by
//! themselves, and go over the agent in either of two ways:
//!
//! - [`ReqwestLayer`] makes a `Service<reqwest::Request, Response = reqwest::Response>`, as `reqwest::Client` is one.
//! - [`AgentMiddleware`] (feature `reqwest-middleware`) is the last middleware of a `ClientWithMiddleware`, in place of
//!   its client; those before it stay as they are. [`AgentStrategy`] tells reqwest-retry what may be sent again.
//!
//! What a `Client` does beside pooling does not happen then: redirects, cookies, decompression, proxies, timeouts,
//! default headers. The guide "from reqwest" shows what gives each of them back.
//!
//! With a `Client` that keeps its pool, [`CountConnectsLayer`](crate::CountConnectsLayer) as its `connector_layer` counts connects;
//! nothing more can be seen from there.

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
