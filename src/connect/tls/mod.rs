//! TLS over any connector.

mod anchors;
mod error;
mod layer;
mod records;
mod service;
mod stream;

pub use layer::TlsLayer;
pub use service::{Tls, TlsConnecting};
pub use stream::{MaybeTls, TlsConnection};
