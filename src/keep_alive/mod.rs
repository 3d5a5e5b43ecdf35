//! The whole stack in one layer.

mod body;
mod client;
mod future;
mod layer;
mod retry;
mod service;

pub use body::RequestBody;
pub use future::KeepAliveFuture;
pub use layer::KeepAliveLayer;
pub use service::KeepAlive;
