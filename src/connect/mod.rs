//! Transports: what connections are made on.
//!
//! A connector is any [`MakeConnection`](tower::make::MakeConnection) of [`Destination`]s. A
//! connector of URIs, such as those of hyper-util, becomes one in a [`UriConnector`].

pub(crate) mod choice;
mod connecting;
mod count_connects;
pub(crate) mod deadline;
mod default;
mod dial;
#[cfg(feature = "hickory")]
mod hickory;
mod local_ports;
mod options;
mod probe;
#[cfg(feature = "proxy")]
mod proxy;
#[cfg(feature = "proxy")]
mod proxy_conn;
pub(crate) mod resolve;
pub(crate) mod resolving;
pub(crate) mod side_by_side;
mod socket;
mod socket_options;
#[cfg(feature = "proxy")]
mod socks;
mod tcp;
pub(crate) mod times;
#[cfg(feature = "tls")]
mod tls;
pub(crate) mod transport;
#[cfg(feature = "proxy")]
mod tunnel;
#[cfg(unix)]
mod unix;
mod uri;

pub use crate::target::Destination;
pub use crate::target::invalid::InvalidTarget;
#[cfg(feature = "proxy")]
pub use crate::target::proxy::Proxy;
pub use crate::target::resolved_addrs::ResolvedAddrs;
#[cfg(feature = "tls")]
pub use crate::target::tls_config::TlsConfig;
pub use connecting::Connecting;
pub use count_connects::{Connects, CountConnects, CountConnectsFuture, CountConnectsLayer};
pub use default::{DefaultConnector, DefaultTransport};
#[cfg(feature = "hickory")]
#[cfg_attr(docsrs, doc(cfg(feature = "hickory")))]
pub use hickory::HickoryResolver;
pub use probe::Probe;
#[cfg(feature = "proxy")]
pub use proxy::{ProxyConnector, ProxyLayer};
pub use socket::Socket;
pub use tcp::{Tcp, TcpConnector};
#[cfg(feature = "tls")]
pub use tls::{MaybeTls, PemError, Tls, TlsConnection, TlsLayer};
/// The rustls crate whose types [`TlsLayer`] takes.
#[cfg(feature = "tls")]
pub use tokio_rustls::rustls;
#[cfg(unix)]
pub use unix::{Unix, UnixConnector};
pub use uri::{HyperIo, UriConnector};
