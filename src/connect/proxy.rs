use std::fmt;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::Scheme;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::make::MakeConnection;
use tower_layer::Layer;
use tower_service::Service;

use crate::connect::proxy_conn::ProxyConn;
use crate::connect::resolve::resolve;
use crate::connect::{socks, times, tunnel};
use crate::error::connect::ConnectError;
use crate::error::{BoxError, Error, Kind};
use crate::target::Destination;
use crate::target::invalid::TargetError;
use crate::target::lookup::{Lookup, SideLookup};
use crate::target::proxy::Proxy;

/// Makes [`ProxyConnector`] connectors.
///
/// # Order
///
/// Directly above the connector that reaches the proxies, and below TLS: that goes through the tunnel, and the certificate
/// has to be the origin's.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use tower::ServiceBuilder;
/// use tower_keep_alive::connect::{ProxyConnector, ProxyLayer, TcpConnector, Tls, TlsLayer};
/// use tower_keep_alive::{Destination, KeepAlive, KeepAliveLayer};
///
/// type Connector = Tls<ProxyConnector<TcpConnector>>;
///
/// let client: KeepAlive<Connector, Empty<Bytes>> = ServiceBuilder::new()
///     .layer(KeepAliveLayer::new())
///     .layer(TlsLayer::new())
///     .layer(ProxyLayer::new())
///     .service(TcpConnector::new());
/// # let _ = client;
/// ```
///
/// One more `TlsLayer`, below, is for proxies that are themselves spoken with under TLS (`https`); what goes to an origin
/// passes it.
#[derive(Clone, Debug, Default)]
pub struct ProxyLayer {
    resolver: Resolver,
}

impl ProxyLayer {
    /// Connects through the proxies that requests name.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            resolver: Resolver(None),
        }
    }

    /// Resolves the names of origins, for proxies of `socks4` and `socks5`, which are given addresses. Default: the resolver
    /// of the [`TcpConnector`](crate::connect::TcpConnector) below, which heeds its
    /// [`family`](crate::connect::TcpConnector::family) too; the system's where the connector below is another one.
    ///
    /// ```
    /// use hyper_util::client::legacy::connect::dns::GaiResolver;
    /// use tower_keep_alive::connect::ProxyLayer;
    ///
    /// let layer = ProxyLayer::new().resolver(GaiResolver::new());
    /// # let _ = layer;
    /// ```
    #[must_use]
    pub fn resolver<R>(mut self, resolver: R) -> Self
    where
        R: Service<Name> + Clone + Send + Sync + 'static,
        R::Response: Iterator<Item = SocketAddr>,
        R::Error: Into<BoxError>,
        R::Future: Send + 'static,
    {
        self.resolver = Resolver(Some(Arc::new(move |lookup| {
            let mut resolver = resolver.clone();
            Box::pin(async move { resolve(&mut resolver, &lookup).await })
        })));
        self
    }
}

/// How names are resolved. `None`: as the connector below does, or else as the system does.
#[derive(Clone, Default)]
struct Resolver(Option<Arc<dyn Fn(Lookup) -> Resolving + Send + Sync>>);

type Resolving = Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>, ConnectError>> + Send>>;

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Some(_) => "of its own",
            None => "the connector's",
        })
    }
}

impl<M> Layer<M> for ProxyLayer {
    type Service = ProxyConnector<M>;

    fn layer(&self, inner: M) -> ProxyConnector<M> {
        ProxyConnector {
            inner,
            resolver: self.resolver.clone(),
        }
    }
}

/// Connects through the proxy that a request's [`Route`](crate::Route) names, where it names one.
///
/// - A proxy of HTTP gets requests for `http` as they are, in absolute form (RFC 9112 §3.2.2), with its
///   `Proxy-Authorization`; for `https` it is asked for a tunnel (`CONNECT`), and for `http` too with
///   [`Proxy::with_tunnel`].
/// - A proxy of SOCKS makes a tunnel for both. One of `socks4` and `socks5` is given an address of the origin, by the
///   resolver and the family of the connector below ([`ProxyLayer::resolver`]), and of the route's family where it names
///   one.
///
/// A connection to a proxy that reads the requests serves all origins of `http`, as in Go and undici; only requests of the
/// same route, the login in the proxy's URI included, and of the same partition share it. Its [key](crate::ConnectionInfo::key) has the proxy's host and port, and so the
/// limits of a host (such as [`max_connections_per_host`](crate::KeepAliveLayer::max_connections_per_host)) count the
/// connections to the proxy, and the status shows them under its name. A tunnel is for one origin, and has that origin's key.
///
/// A request's own `Proxy-Authorization` is for the proxy, and stands instead of the login in the proxy's URI. Where a
/// tunnel is made it goes on the `CONNECT` and never past it, and only requests that say the same share that tunnel; where
/// the proxy reads the request it goes with it, and has no part in which connection is used. A proxy of SOCKS is told
/// nothing of it. A request whose route names no proxy is sent as it is, this field included, as by curl.
///
/// A request of the caller's own by the method `CONNECT` goes to a proxy of HTTP itself, in the clear or as the proxy's own
/// scheme says, with the proxy's login; the answer is the caller's, and after a 2xx so is the connection
/// (`hyper::upgrade::on`).
///
/// The connect timeout counts for all of it. Any answer of 2xx to `CONNECT` makes a tunnel, whatever interim responses
/// (1xx) come before it (RFC 9110 §9.3.6); the answer may be 64 KiB long.
///
/// # Errors
///
/// A proxy that cannot be connected to, that refuses, closes before it has answered, or says what is no answer: nothing is
/// pooled, and the error [is of the connect](crate::Error::is_connect). Where a proxy of HTTP refused,
/// [`Error::proxy_status`](crate::Error::proxy_status) gives its answer.
#[derive(Clone, Debug)]
pub struct ProxyConnector<M> {
    inner: M,
    resolver: Resolver,
}

impl<M, T> Service<T> for ProxyConnector<M>
where
    M: MakeConnection<Destination>,
    M::Connection: Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    T: TryInto<Destination>,
    T::Error: Into<BoxError>,
{
    type Response = M::Connection;
    type Error = BoxError;
    type Future = ProxyConnecting<M::Connection>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let destination = target.try_into().map_err(Into::into);
        let way = destination.and_then(|it| ProxyRoute::of(it, &self.resolver));
        ProxyConnecting(match way {
            Err(error) => Box::pin(ready(Err(error))),
            Ok(ProxyRoute { hop, through }) => {
                let connecting = self.inner.make_connection(hop);
                Box::pin(async move {
                    let hop = async { connecting.await.map_err(Into::into) };
                    match through {
                        Some(through) => through.connect(hop).await,
                        None => hop.await,
                    }
                })
            }
        })
    }
}

/// Where the connector below connects to, and through what from there.
struct ProxyRoute {
    hop: Destination,
    through: Option<ThroughProxy>,
}

/// Through a proxy to an origin.
struct ThroughProxy {
    proxy: Proxy,
    /// Nothing where the proxy reads the requests.
    tunnel: Option<Tunnel>,
}

/// Where a tunnel leads to, and by what the proxy is told.
enum Tunnel {
    /// By its name, or as the request has it. With its port, which tunnels take for 443 where there is none.
    Named(Uri),
    /// By an address, which the connector is asked for with the transport to the proxy.
    Asked(SideLookup),
    /// By an address of this host, which the layer's own resolver is asked for.
    Resolved(String, Resolving),
}

impl ProxyRoute {
    fn of(destination: Destination, resolver: &Resolver) -> Result<Self, BoxError> {
        let Some(route) = destination.route() else {
            return Ok(Self {
                hop: destination,
                through: None,
            });
        };
        let Some(proxy) = route.proxy().cloned() else {
            return Ok(Self {
                hop: destination,
                through: None,
            });
        };
        if route.unix_path().is_some() {
            let why = "the route names a proxy and a Unix socket";
            return Err(Error::new(Kind::Target(TargetError::Route(why))).into());
        }
        if proxy.has_idle_fields() {
            let why = "the route's proxy is one of SOCKS, and has no use for the fields of Proxy::with_header";
            return Err(Error::new(Kind::Target(TargetError::Route(why))).into());
        }
        let is_plain = *destination.scheme() == Scheme::HTTP;
        if !is_plain && !destination.is_secured() {
            return Err(Error::new(Kind::Target(TargetError::NoTls)).into());
        }
        let mut hop = proxy.destination()?.with_route(route.to_proxy());
        let tunnel = if !proxy.tunnels(!is_plain) {
            None
        } else if !proxy.protocol().takes_addresses() {
            Some(Tunnel::Named(Uri::from(destination.secured())))
        } else {
            let lookup = Lookup::of(&destination, route.family());
            Some(match &resolver.0 {
                Some(resolve) => Tunnel::Resolved(lookup.host.clone(), resolve(lookup)),
                None => {
                    let lookup = SideLookup::new(lookup);
                    hop.set_side_lookup(lookup.clone());
                    Tunnel::Asked(lookup)
                }
            })
        };
        let through = Some(ThroughProxy { proxy, tunnel });
        Ok(Self { hop, through })
    }
}

impl ThroughProxy {
    async fn connect<C>(self, hop: impl Future<Output = Result<C, BoxError>>) -> Result<C, BoxError>
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { proxy, tunnel } = self;
        let connected = match tunnel {
            Some(tunnel) => tunnel.through(&proxy, hop).await,
            None => hop.await,
        };
        connected.map_err(|source| match source.is::<Error>() {
            // A refusal says which proxy it is of.
            true => source,
            false => ConnectError::within(format!("connect through {proxy}"), source).into(),
        })
    }
}

impl Tunnel {
    async fn through<C>(
        self,
        proxy: &Proxy,
        hop: impl Future<Output = Result<C, BoxError>>,
    ) -> Result<C, BoxError>
    where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        // The transport is made before it is handed to those that make tunnels: whatever fails here keeps its cause.
        let (origin, transport) = match self {
            Self::Named(origin) => (origin, hop.await?),
            Self::Asked(side) => {
                let transport = hop.await?;
                (asked(proxy, &side).await?, transport)
            }
            Self::Resolved(host, resolving) => {
                // A name that has no address needs no connection to the proxy.
                let origin = socks::by_address(proxy, &host, &resolving.await?)?;
                (origin, hop.await?)
            }
        };
        let hop = ProxyConn::new(transport);
        if !proxy.protocol().is_http() {
            let tunnel = socks::tunnel(hop, proxy, origin);
            return times::part(|times| &mut times.tunnel, tunnel).await;
        }
        let target = origin.into_parts().authority;
        let tunnel = tunnel::tunnel(hop, proxy, target.expect("an origin has a host"));
        times::part(|times| &mut times.tunnel, tunnel).await
    }
}

/// The origin by its address: as the connector found it, or as the system does where the connector looked up nothing.
async fn asked(proxy: &Proxy, side: &SideLookup) -> Result<Uri, BoxError> {
    let host = &side.lookup().host;
    if let Some(found) = side.found() {
        return socks::by_address(proxy, host, found);
    }
    let found = resolve(&mut GaiResolver::new(), side.lookup()).await?;
    socks::by_address(proxy, host, &found)
}

/// Resolves to a transport that leads through a proxy. Boxed: connecting is rare.
///
/// # Cancel safety
///
/// Dropping it gives up the connect.
pub struct ProxyConnecting<C>(Pin<Box<dyn Future<Output = Result<C, BoxError>> + Send>>);

impl<C> Future for ProxyConnecting<C> {
    type Output = Result<C, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<C> fmt::Debug for ProxyConnecting<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyConnecting")
    }
}
