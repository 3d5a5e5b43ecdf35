//! Layers that each set one limit of a connection. The pool enforces the limits.

mod active;
mod idle;
mod limited;
mod ttl;
mod uses;

pub use active::ActiveTimeoutLayer;
pub use idle::IdleEvictionLayer;
pub use limited::{Limited, LimitedFuture};
pub use ttl::TtlLayer;
pub use uses::MaxUsesLayer;
