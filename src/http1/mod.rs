//! HTTP/1 on a transport.

mod asterisk;
mod connection;
mod driver;
mod gate;
mod interim;
mod layer;
mod replay;
mod service;
mod transport;
mod unwritten;
mod upload;

pub use connection::{Http1Connection, Http1Future};
pub use layer::HandshakeLayer;
pub use service::{Handshake, HandshakeFuture};
