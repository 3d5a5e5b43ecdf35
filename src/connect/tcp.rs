use std::fmt;
use std::future::Future;
use std::io;
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::bond::Addresses;
use crate::connect::Probe;
use crate::error::BoxError;
use crate::poolable::Liveness;

/// TCP, by hyper-util's [`HttpConnector`]: name resolution, and happy eyeballs (RFC 8305) over what it finds.
///
/// TCP_NODELAY is on, and TCP keep-alive probes begin after 1 s (Node: `keepAliveMsecs`; not to be confused with HTTP
/// keep-alive). Only `http` URIs are connected to.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::connect::TcpConnector;
///
/// let connector = TcpConnector::new()
///     .keepalive(Some(Duration::from_secs(30)))
///     .local_address(Some([127, 0, 0, 1].into()));
/// # let _ = connector;
/// ```
#[derive(Clone, Debug)]
pub struct TcpConnector<R = GaiResolver>(HttpConnector<R>);

impl TcpConnector {
    /// With the system's own resolver.
    #[must_use]
    pub fn new() -> Self {
        Self::with_resolver(GaiResolver::new())
    }
}

impl Default for TcpConnector {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> TcpConnector<R> {
    /// With a resolver of your own: a `Service<Name>` that gives socket addresses, as for `HttpConnector`.
    #[must_use]
    pub fn with_resolver(resolver: R) -> Self {
        let mut connector = HttpConnector::new_with_resolver(resolver);
        connector.set_nodelay(true);
        connector.set_keepalive(Some(Duration::from_secs(1)));
        Self(connector)
    }

    /// The silence after which TCP begins to probe, whatever HTTP does, in whole seconds and 1 s at least; `None` for
    /// never. Default: 1 s.
    #[doc(alias = "keepAliveMsecs")]
    #[must_use]
    pub fn keepalive(mut self, delay: Option<Duration>) -> Self {
        // Systems count in seconds: what comes to none is refused, and the system's own two hours stay.
        self.0
            .set_keepalive(delay.map(|delay| delay.max(Duration::from_secs(1))));
        self
    }

    /// Whether small writes are sent at once (TCP_NODELAY). Default: true.
    #[doc(alias = "noDelay")]
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.0.set_nodelay(nodelay);
        self
    }

    /// The address to connect from. Default: the system's choice.
    #[doc(alias = "localAddress")]
    #[must_use]
    pub fn local_address(mut self, address: Option<IpAddr>) -> Self {
        self.0.set_local_address(address);
        self
    }

    /// How long the preferred address family is tried alone; `None` tries all addresses one after the other. Default:
    /// 300 ms.
    #[must_use]
    pub fn happy_eyeballs_timeout(mut self, delay: Option<Duration>) -> Self {
        self.0.set_happy_eyeballs_timeout(delay);
        self
    }
}

impl<T, R> Service<T> for TcpConnector<R>
where
    T: Into<Uri>,
    HttpConnector<R>: Service<Uri, Response = TokioIo<TcpStream>>,
    <HttpConnector<R> as Service<Uri>>::Error: Into<BoxError>,
    <HttpConnector<R> as Service<Uri>>::Future: Send + 'static,
{
    type Response = Tcp;
    type Error = BoxError;
    type Future = TcpConnecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> TcpConnecting {
        let connecting = self.0.call(target.into());
        TcpConnecting(Box::pin(async move {
            let stream = connecting.await.map_err(Into::into)?.into_inner();
            Ok(Tcp::new(stream))
        }))
    }
}

/// Resolves to a TCP transport. Boxed: hyper-util gives its future no name, and connecting is rare.
///
/// # Cancel safety
///
/// Dropping it gives up the connect.
pub struct TcpConnecting(Pin<Box<dyn Future<Output = Result<Tcp, BoxError>> + Send>>);

impl Future for TcpConnecting {
    type Output = Result<Tcp, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for TcpConnecting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TcpConnecting")
    }
}

/// A TCP stream that its pool can look at while a connection's driver has it.
#[derive(Debug)]
pub struct Tcp {
    /// One descriptor, shared: a second one would keep the socket open after the first is closed.
    stream: Arc<Mutex<TcpStream>>,
    addresses: Addresses,
    vectored: bool,
}

impl Tcp {
    /// Of a stream that was connected elsewhere.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self {
            addresses: Addresses {
                local: stream.local_addr().ok(),
                remote: stream.peer_addr().ok(),
            },
            vectored: stream.is_write_vectored(),
            stream: Arc::new(Mutex::new(stream)),
        }
    }

    pub(super) fn addresses(&self) -> Addresses {
        self.addresses
    }

    pub(super) fn probe(&self) -> Probe {
        // Weak: the socket closes with its connection.
        let stream = Arc::downgrade(&self.stream);
        Probe::new(move || match stream.upgrade() {
            Some(stream) => look(&lock(&stream)),
            None => Liveness::Dead,
        })
    }
}

/// `recv` with `MSG_PEEK` on a socket that does not block: nothing to read is what an idle connection should say.
#[inline]
fn look(stream: &TcpStream) -> Liveness {
    let mut byte = [MaybeUninit::uninit()];
    match SockRef::from(stream).peek(&mut byte) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Liveness::Open,
        _ => Liveness::Dead,
    }
}

#[inline]
fn lock(stream: &Mutex<TcpStream>) -> MutexGuard<'_, TcpStream> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl AsyncRead for Tcp {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.stream)).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tcp {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.stream)).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.stream)).poll_write_vectored(cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    /// TCP has nothing of its own to flush, nor has tokio.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.stream)).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ak_08_small_writes_are_sent_at_once_unless_told_otherwise() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: Uri = format!("http://{}/", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        for (mut connector, nodelay) in [
            (TcpConnector::new(), true),
            (TcpConnector::new().nodelay(true), true),
            (TcpConnector::new().nodelay(false), false),
        ] {
            let tcp = connector.call(uri.clone()).await.unwrap();
            assert_eq!(lock(&tcp.stream).nodelay().unwrap(), nodelay);
        }
    }
}
