//! The whole stack in one layer.

mod body;
mod client;
mod future;
#[cfg(all(test, feature = "http2"))]
mod http2_tests;
mod into_body;
mod layer;
mod request_future;
mod retry;
mod service;

pub use body::RequestBody;
pub use future::KeepAliveFuture;
pub use layer::KeepAliveLayer;
pub use request_future::RequestFuture;
pub use service::KeepAlive;
