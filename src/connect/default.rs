use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tower_service::Service;

use crate::connect::TcpConnector;
#[cfg(feature = "tls")]
use crate::connect::{Tls, TlsLayer};
use crate::error::BoxError;
use crate::target::Destination;

#[cfg(feature = "tls")]
type Inner = Tls<TcpConnector>;
#[cfg(not(feature = "tls"))]
type Inner = TcpConnector;

/// The connector of [`KeepAlive::new`](crate::KeepAlive::new): [`TcpConnector`] with its defaults, and for `https`
/// TLS whose server certificates are checked against the platform's trust store (feature `tls`, on by default; see
/// `TlsLayer`). Without that feature a request for `https` fails with an error that
/// [`is_connect`](crate::Error::is_connect).
///
/// What it is made of may change, for example to offer more protocols. Stack the connectors of this module yourself where
/// it matters.
#[derive(Clone, Debug)]
pub struct DefaultConnector {
    inner: Inner,
}

impl DefaultConnector {
    /// A connector with the defaults.
    #[must_use]
    pub fn new() -> Self {
        #[cfg(feature = "tls")]
        return Self::with_tls(TlsLayer::new());
        #[cfg(not(feature = "tls"))]
        Self {
            inner: TcpConnector::new(),
        }
    }

    /// A connector with the defaults, but for these settings of TLS.
    ///
    /// ```
    /// use tower_keep_alive::connect::{DefaultConnector, TlsLayer};
    ///
    /// let connector = DefaultConnector::with_tls(TlsLayer::new().max_cached_sessions(1000));
    /// # let _ = connector;
    /// ```
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(tls: TlsLayer) -> Self {
        Self {
            inner: tower_layer::Layer::layer(&tls, TcpConnector::new()),
        }
    }
}

impl Default for DefaultConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl Service<Destination> for DefaultConnector {
    type Response = <Inner as Service<Destination>>::Response;
    type Error = BoxError;
    type Future = DefaultConnecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Destination>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, destination: Destination) -> DefaultConnecting {
        DefaultConnecting(self.inner.call(destination))
    }
}

/// Resolves to a transport of [`DefaultConnector`].
///
/// # Cancel safety
///
/// Dropping the future gives up the connect.
pub struct DefaultConnecting(<Inner as Service<Destination>>::Future);

impl Future for DefaultConnecting {
    type Output = Result<<Inner as Service<Destination>>::Response, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl fmt::Debug for DefaultConnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DefaultConnecting")
    }
}
