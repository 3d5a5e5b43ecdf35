//! The whole stack in one layer.

mod layer;
mod service;

pub use layer::KeepAliveLayer;
pub use service::KeepAlive;
