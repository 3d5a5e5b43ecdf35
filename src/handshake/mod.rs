//! HTTP connections on transports, for all versions of HTTP.

mod body;
#[cfg(feature = "http2")]
mod choice;
mod connection;
mod future;
mod layer;
mod service;

pub use body::IncomingBody;
pub use connection::HttpConnection;
pub use future::HttpFuture;
pub use layer::HandshakeLayer;
pub use service::{Handshake, HandshakeFuture};
