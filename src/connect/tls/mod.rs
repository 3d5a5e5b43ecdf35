//! TLS over any connector.

mod certificate;
mod error;
mod layer;
mod pem;
mod records;
mod service;
mod stream;
mod trust;
mod trust_roots;

pub use layer::TlsLayer;
pub use pem::PemError;
pub use service::Tls;
pub use stream::{MaybeTls, TlsConnection};
