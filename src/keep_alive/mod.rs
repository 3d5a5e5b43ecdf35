//! The whole stack in one layer.

mod body;
mod client;
mod future;
mod layer;
mod request_future;
mod retry;
mod service;

pub use body::RequestBody;
pub use future::KeepAliveFuture;
pub use layer::KeepAliveLayer;
pub use request_future::RequestFuture;
pub use service::KeepAlive;
