use std::fmt;
use std::future::{Future, ready};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tower_service::Service;

use crate::bond::Addresses;
use crate::connect::Socket;
use crate::connect::family::OneFamily;
use crate::connect::socket::Halves;
use crate::error::{BoxError, Error, Kind, TargetError};
use crate::route::{Family, Route};
use crate::target::Destination;

/// TCP, by hyper-util's [`HttpConnector`]: name resolution, and happy eyeballs (RFC 8305) over what it finds.
///
/// TCP_NODELAY is on, and TCP keep-alive probes begin after 1 s (Node: `keepAliveMsecs`; not to be confused with HTTP
/// keep-alive). Only `http` URIs are connected to. A [`Route`](crate::Route)'s local address and family stand instead of
/// the connector's own.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::Family;
/// use tower_keep_alive::connect::TcpConnector;
///
/// let connector = TcpConnector::new()
///     .keepalive(Some(Duration::from_secs(30)))
///     .local_address(Some([127, 0, 0, 1].into()))
///     .family(Some(Family::V4));
/// # let _ = connector;
/// ```
#[derive(Clone, Debug)]
pub struct TcpConnector<R = GaiResolver> {
    resolver: R,
    keepalive: Option<Duration>,
    nodelay: bool,
    local_address: Option<IpAddr>,
    family: Option<Family>,
    happy_eyeballs_timeout: Option<Duration>,
}

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
        Self {
            resolver,
            keepalive: Some(Duration::from_secs(1)),
            nodelay: true,
            local_address: None,
            family: None,
            happy_eyeballs_timeout: Some(Duration::from_millis(300)),
        }
    }

    /// The silence after which TCP begins to probe, whatever HTTP does, in whole seconds and 1 s at least; `None` for
    /// never. Default: 1 s.
    #[doc(alias = "keepAliveMsecs")]
    #[must_use]
    pub fn keepalive(mut self, delay: Option<Duration>) -> Self {
        // Systems count in seconds: what comes to none is refused, and the system's own two hours stay.
        self.keepalive = delay.map(|delay| delay.max(Duration::from_secs(1)));
        self
    }

    /// Whether small writes are sent at once (TCP_NODELAY). Default: true.
    #[doc(alias = "noDelay")]
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.nodelay = nodelay;
        self
    }

    /// The address to connect from; only addresses of its family are connected to. Default: the system's choice.
    #[doc(alias = "localAddress")]
    #[must_use]
    pub fn local_address(mut self, address: Option<IpAddr>) -> Self {
        self.local_address = address;
        self
    }

    /// The only addresses to connect to, of those that a name has. Default: both families, the one preferred by the
    /// resolver first.
    #[must_use]
    pub fn family(mut self, family: Option<Family>) -> Self {
        self.family = family;
        self
    }

    /// How long the preferred address family is tried alone; `None` tries all addresses one after the other. Default:
    /// 300 ms.
    #[must_use]
    pub fn happy_eyeballs_timeout(mut self, delay: Option<Duration>) -> Self {
        self.happy_eyeballs_timeout = delay;
        self
    }

    /// As the connector says, but for what the route does.
    fn connect(
        &mut self,
        destination: Destination,
    ) -> Result<impl Future<Output = Result<Tcp, BoxError>> + Send + 'static, BoxError>
    where
        R: Service<Name> + Clone + Send + Sync + 'static,
        R::Response: Iterator<Item = SocketAddr>,
        R::Error: Into<BoxError>,
        R::Future: Send + 'static,
    {
        let route = destination.route();
        if route.is_some_and(|route| route.unix_path().is_some()) {
            let why = "the route names a Unix socket, and the connector makes TCP connections";
            return Err(Error::new(Kind::Target(TargetError::Route(why))).into());
        }
        if route.is_some_and(Route::has_proxy) {
            let why = "the route names a proxy, and the connector knows none: see ProxiedLayer";
            return Err(Error::new(Kind::Target(TargetError::Route(why))).into());
        }
        let local = route.and_then(Route::local_address).or(self.local_address);
        let asked = route.and_then(Route::family).or(self.family);
        // Of the other family no connection comes from there.
        let family = local.map(Family::of).or(asked);
        if asked.is_some_and(|asked| family != Some(asked)) {
            return Err("the local address is not of the address family that is asked for".into());
        }
        let uri = Uri::from(destination);
        if let (Some(family), Some(address)) = (family, literal(&uri))
            && Family::of(address) != family
        {
            return Err(format!("{address} is no {family} address").into());
        }
        // The one that is ready.
        let clone = self.resolver.clone();
        let resolver = mem::replace(&mut self.resolver, clone);
        let mut http = HttpConnector::new_with_resolver(OneFamily { resolver, family });
        http.set_nodelay(self.nodelay);
        http.set_keepalive(self.keepalive);
        http.set_local_address(local);
        http.set_happy_eyeballs_timeout(self.happy_eyeballs_timeout);
        let connecting = http.call(uri);
        Ok(async move { Ok(Tcp::new(connecting.await?.into_inner())) })
    }
}

/// The host of a URI, where it is an address.
fn literal(uri: &Uri) -> Option<IpAddr> {
    let host = uri.host()?;
    let inner = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    inner.unwrap_or(host).parse().ok()
}

impl<T, R> Service<T> for TcpConnector<R>
where
    T: TryInto<Destination>,
    T::Error: Into<BoxError>,
    R: Service<Name> + Clone + Send + Sync + 'static,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
    R::Future: Send + 'static,
{
    type Response = Tcp;
    type Error = BoxError;
    type Future = TcpConnecting;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.resolver.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> TcpConnecting {
        let connecting = match target.try_into() {
            Ok(destination) => self.connect(destination),
            Err(error) => Err(error.into()),
        };
        TcpConnecting(match connecting {
            Ok(connecting) => Box::pin(connecting),
            Err(error) => Box::pin(ready(Err(error))),
        })
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
        Self::of(stream)
    }

    pub(super) fn addresses(&self) -> Addresses {
        addresses(self.stream())
    }
}

/// The two ends of a stream, where it is still open.
pub(super) fn addresses(stream: &TcpStream) -> Addresses {
    Addresses {
        local: stream.local_addr().ok(),
        remote: stream.peer_addr().ok(),
    }
}

impl Halves for TcpStream {
    type Reader = OwnedReadHalf;
    type Writer = OwnedWriteHalf;

    fn into_halves(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        self.into_split()
    }

    fn forget(writer: OwnedWriteHalf) {
        writer.forget();
    }

    #[inline]
    fn socket(&self) -> SockRef<'_> {
        SockRef::from(self)
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
