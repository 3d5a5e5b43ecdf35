use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

use crate::connect::connecting::Connecting;
#[cfg(feature = "http2")]
use crate::connect::transport::Negotiated;
use crate::connect::transport::Transport;
#[cfg(feature = "tls")]
use crate::connect::{MaybeTls, Tls, TlsLayer};
use crate::connect::{Probe, Tcp, TcpConnector};
use crate::connection::shared::Addresses;
#[cfg(feature = "tls")]
use crate::connection::tls_info::TlsInfo;
use crate::error::BoxError;
use crate::target::Destination;

#[cfg(feature = "tls")]
type Inner = Tls<TcpConnector>;
#[cfg(feature = "tls")]
type Stream = MaybeTls<Tcp>;
#[cfg(not(feature = "tls"))]
type Inner = TcpConnector;
#[cfg(not(feature = "tls"))]
type Stream = Tcp;

/// The connector of [`KeepAlive::new`](crate::KeepAlive::new): a [`TcpConnector`] with its defaults and, for `https`,
/// TLS that checks server certificates against the platform's trust store (feature `tls`, on by default; see
/// `TlsLayer`). Without that feature, a request for `https` fails with an error for which
/// [`is_target`](crate::Error::is_target) is true, and whose text names the feature.
///
/// The parts of this connector may change, for example to offer more protocols. If that matters to you, stack the
/// connectors of this module yourself.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower_keep_alive::connect::DefaultConnector;
/// use tower_keep_alive::{KeepAlive, KeepAliveLayer};
///
/// let client: KeepAlive = ServiceBuilder::new()
///     .layer(KeepAliveLayer::new().max_connections_per_host(4))
///     .service(DefaultConnector::new());
/// # drop(client);
/// ```
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

    /// A connector with these TLS settings, and defaults otherwise.
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

    /// Replaces the [`TcpConnector`], to change its settings, such as the local address.
    ///
    /// ```
    /// use tower::Layer;
    /// use tower_keep_alive::connect::{DefaultConnector, TcpConnector};
    /// use tower_keep_alive::{KeepAlive, extensions::Family};
    ///
    /// let tcp = TcpConnector::new().family(Some(Family::V4)).nodelay(false);
    /// let agent: KeepAlive = KeepAlive::builder().layer(DefaultConnector::new().tcp(tcp));
    /// # let _ = agent;
    /// ```
    #[must_use]
    pub fn tcp(mut self, tcp: TcpConnector) -> Self {
        #[cfg(feature = "tls")]
        {
            *self.inner.get_mut() = tcp;
        }
        #[cfg(not(feature = "tls"))]
        {
            self.inner = tcp;
        }
        self
    }
}

impl Default for DefaultConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl Service<Destination> for DefaultConnector {
    type Response = DefaultTransport;
    type Error = BoxError;
    type Future = Connecting<DefaultTransport>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Service::<Destination>::poll_ready(&mut self.inner, cx)
    }

    fn call(&mut self, destination: Destination) -> Self::Future {
        let connecting = self.inner.call(destination);
        Connecting::new(async { connecting.await.map(DefaultTransport) })
    }
}

/// The transport of [`DefaultConnector`]. It is one type, whatever the features of this crate.
#[derive(Debug)]
pub struct DefaultTransport(Stream);

impl AsyncRead for DefaultTransport {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for DefaultTransport {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl Transport for DefaultTransport {
    fn probe(&self) -> Option<Probe> {
        Transport::probe(&self.0)
    }

    fn addresses(&self) -> Addresses {
        self.0.addresses()
    }

    #[cfg(feature = "http2")]
    fn negotiated(&self) -> Negotiated {
        self.0.negotiated()
    }

    #[cfg(feature = "tls")]
    fn tls_info(&self) -> Option<TlsInfo> {
        Transport::tls_info(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::poolable::Liveness;

    /// The pool does so before each reuse.
    #[tokio::test]
    async fn its_transports_can_be_looked_at() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let destination = Destination::try_from(url.parse::<http::Uri>().unwrap()).unwrap();
        let transport = DefaultConnector::new().call(destination).await.unwrap();
        let probe = transport.probe().expect("a socket below");
        assert_eq!(probe.check(), Liveness::Open);
    }
}
