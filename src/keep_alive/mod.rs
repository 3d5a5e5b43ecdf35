//! The whole stack in one layer.

mod future;
mod layer;
mod service;

pub use future::KeepAliveFuture;
pub use layer::KeepAliveLayer;
pub use service::KeepAlive;
