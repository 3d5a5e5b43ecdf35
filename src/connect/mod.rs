//! Transports: what a connection is made on.
//!
//! Any [`MakeConnection`](tower::make::MakeConnection) of [`Destination`](crate::Destination)s will do. A connector of URIs,
//! such as those of hyper-util, becomes one in a [`UriConnector`].

pub(crate) mod deadline;
mod default;
mod dial;
mod options;
mod probe;
#[cfg(feature = "proxy")]
mod proxy;
#[cfg(feature = "proxy")]
mod proxy_conn;
mod resolve;
mod socket;
#[cfg(feature = "proxy")]
mod socks;
mod tcp;
#[cfg(feature = "tls")]
mod tls;
#[cfg(feature = "proxy")]
mod tunnel;
#[cfg(unix)]
mod unix;
mod uri;

use std::any::Any;

use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::connection::shared::Addresses;

#[cfg(feature = "proxy")]
pub use crate::target::proxy::Proxy;
#[cfg(feature = "tls")]
pub use crate::target::tls_config::TlsConfig;
pub use default::{DefaultConnecting, DefaultConnector};
pub use probe::Probe;
#[cfg(feature = "proxy")]
pub use proxy::{ProxyConnecting, ProxyConnector, ProxyLayer};
pub use socket::Socket;
pub use tcp::{Tcp, TcpConnecting, TcpConnector};
#[cfg(feature = "tls")]
pub use tls::{MaybeTls, PemError, Tls, TlsConnecting, TlsConnection, TlsLayer};
/// The rustls whose types [`TlsLayer`] takes.
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
#[cfg(unix)]
pub use unix::{Unix, UnixConnecting, UnixConnector};
pub use uri::{HyperConnecting, HyperIo, UriConnecting, UriConnector};

/// The two ends of a transport, where it tells them.
pub(crate) fn addresses(transport: &dyn Any) -> Addresses {
    #[cfg(feature = "tls")]
    if let Some(tls) = transport.downcast_ref::<MaybeTls<Tcp>>() {
        return tls.addresses();
    }
    // TLS through a proxy that is spoken with under TLS.
    #[cfg(feature = "tls")]
    if let Some(tls) = transport.downcast_ref::<MaybeTls<MaybeTls<Tcp>>>() {
        return tls.with_transport(MaybeTls::addresses);
    }
    if let Some(tcp) = transport.downcast_ref::<Tcp>() {
        return tcp.addresses();
    }
    if let Some(tcp) = transport.downcast_ref::<TcpStream>() {
        return tcp::addresses(tcp);
    }
    if let Some(tcp) = transport.downcast_ref::<TokioIo<TokioIo<TcpStream>>>() {
        return tcp::addresses(tcp.inner().inner());
    }
    Addresses::default()
}
