//! Layers that each state one limit of a connection. The pool enforces it.

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
