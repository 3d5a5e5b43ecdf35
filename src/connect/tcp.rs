use std::fmt;
use std::future::Future;
use std::mem;
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::GaiResolver;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::bond::Addresses;
use crate::connect::Socket;
use crate::error::{BoxError, Error, Kind, TargetError};
use crate::target::Destination;

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
    T: TryInto<Destination>,
    T::Error: Into<BoxError>,
    R: Clone,
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
        let connecting = match target.try_into() {
            Ok(destination) => self.connect(destination).map_err(BoxError::from),
            Err(error) => Err(error.into()),
        };
        TcpConnecting(Box::pin(async move {
            let stream = connecting?.await.map_err(Into::into)?.into_inner();
            Ok(Tcp::new(stream))
        }))
    }
}

impl<R> TcpConnector<R>
where
    R: Clone,
    HttpConnector<R>: Service<Uri>,
{
    fn connect(
        &mut self,
        destination: Destination,
    ) -> Result<<HttpConnector<R> as Service<Uri>>::Future, Error> {
        let Some(route) = destination.route() else {
            return Ok(self.0.call(destination.into()));
        };
        if route.unix_path().is_some() {
            let why = "the route names a Unix socket, and the connector makes TCP connections";
            return Err(Error::new(Kind::Target(TargetError::Route(why))));
        }
        let clone = self.0.clone();
        let mut ready = mem::replace(&mut self.0, clone);
        if let Some(address) = route.local_address() {
            ready.set_local_address(Some(address));
        }
        Ok(ready.call(destination.into()))
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
pub type Tcp = Socket<TcpStream>;

impl Tcp {
    /// Of a stream that was connected elsewhere.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        let addresses = Addresses {
            local: stream.local_addr().ok(),
            remote: stream.peer_addr().ok(),
        };
        Self::of(stream, addresses)
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
            assert_eq!(tcp.stream().nodelay().unwrap(), nodelay);
        }
    }
}
