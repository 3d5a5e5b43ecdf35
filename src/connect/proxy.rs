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

use crate::connect::connecting::Connecting;
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
/// Directly above the connector that reaches the proxies, and below the `TlsLayer` for origins: TLS with an origin goes
/// through the tunnel, and its certificate has to be the origin's.
///
/// ```
/// use bytes::Bytes;
/// use http_body_util::Empty;
/// use tower::ServiceBuilder;
/// use tower_keep_alive::connect::{ProxyConnector, ProxyLayer, TcpConnector, Tls, TlsLayer};
/// use tower_keep_alive::{KeepAlive, KeepAliveLayer, connect::Destination};
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
/// A second `TlsLayer`, below this layer, is for proxies that are reached by TLS themselves (`https`). Connections to
/// origins pass through it unchanged.
#[derive(Clone, Debug, Default)]
pub struct ProxyLayer {
    resolver: Resolver,
}

impl ProxyLayer {
    /// Makes the layer. Which proxy is used is set by the route of each request.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            resolver: Resolver(None),
        }
    }

    /// Resolves the names of origins, for `socks4` and `socks5` proxies, which are sent addresses. Default: the
    /// resolver of the [`TcpConnector`](crate::connect::TcpConnector) below, with its
    /// [`family`](crate::connect::TcpConnector::family) setting; the system's resolver if another connector is below.
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
            Box::pin(async move { Ok(resolve(&mut resolver, &lookup).await?.collect()) })
        })));
        self
    }
}

/// Resolves names. `None`: by the connector below, or else by the system's resolver.
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

/// Connects through the proxy of a request's [`Route`](crate::extensions::Route); without one, connects directly.
///
/// - An HTTP proxy is sent requests for `http` in absolute form (RFC 9112 §3.2.2), with its `Proxy-Authorization`. For
///   `https` it is asked for a tunnel (`CONNECT`), and with [`Proxy::with_tunnel`] for `http` too.
/// - A SOCKS proxy makes a tunnel for both. For `socks4` and `socks5`, the origin's name is resolved here, by the
///   resolver and the family of the connector below ([`ProxyLayer::resolver`]), or of the route's family if it has one.
///
/// A connection to a proxy that reads the requests serves all `http` origins, as in Go and undici. It is shared only by
/// requests with equal routes, including the login in the proxy's URI, and of the same partition. Its
/// [key](crate::ConnectionInfo::key) has the proxy's host and port, so the limits for a host, such as
/// [`max_connections_per_host`](crate::KeepAliveLayer::max_connections_per_host), count the connections to the proxy,
/// and the status shows them under the proxy's name. A tunnel serves one origin, and has the origin's key.
///
/// The `Proxy-Authorization` of a request is for the proxy, and replaces the login of the proxy's URI. With a tunnel,
/// it is sent on the `CONNECT` and no further, and only requests with the same value share the tunnel. If the proxy
/// reads the request, the field is sent with the request, and does not affect which connection is used. A SOCKS proxy
/// is never sent it. A request whose route has no proxy is sent unchanged, including this field, as by curl.
///
/// A request with the method `CONNECT` of the caller's own is sent to an HTTP proxy itself, over TLS if the proxy's
/// scheme is `https`, with the proxy's login. The caller gets the response and, after a 2xx, the connection
/// (`hyper::upgrade::on`).
///
/// The connect timeout covers all of this. Any 2xx response to `CONNECT` opens the tunnel, whatever interim responses
/// (1xx) precede it (RFC 9110 §9.3.6). The response may be up to 64 KiB long.
///
/// # Errors
///
/// If the proxy cannot be reached, refuses, closes before it has answered, or sends an invalid answer, nothing is
/// pooled, and [`is_connect`](crate::Error::is_connect) is true for the error. If an HTTP proxy refused,
/// [`Error::proxy_status`](crate::Error::proxy_status) has the status of its response.
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
    type Future = Connecting<M::Connection>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let destination = target.try_into().map_err(Into::into);
        let way = destination.and_then(|it| ProxyRoute::of(it, &self.resolver));
        match way {
            Err(error) => Connecting::new(ready(Err(error))),
            Ok(ProxyRoute { hop, through }) => {
                let connecting = self.inner.make_connection(hop);
                Connecting::new(async move {
                    let hop = async { connecting.await.map_err(Into::into) };
                    match through {
                        Some(through) => through.connect(hop).await,
                        None => hop.await,
                    }
                })
            }
        }
    }
}

/// The target of the connector below, and the proxy to go through from there.
struct ProxyRoute {
    hop: Destination,
    through: Option<ThroughProxy>,
}

/// The way through a proxy to an origin.
struct ThroughProxy {
    proxy: Proxy,
    /// `None` if the proxy reads the requests.
    tunnel: Option<Tunnel>,
}

/// The target of a tunnel, in the form that the proxy is sent.
enum Tunnel {
    /// By name, or by the address in the URI. Includes the port, because tunnels default to 443.
    Named(Uri),
    /// By an address that the connector below resolves while it connects to the proxy.
    Asked(SideLookup),
    /// By an address that the layer's own resolver finds for this host.
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
            // A refusal names its proxy already.
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
        // The transport is made before the tunnel code of hyper-util or hyper gets it, so an error of the connect keeps
        // its cause.
        let (origin, transport) = match self {
            Self::Named(origin) => (origin, hop.await?),
            Self::Asked(side) => {
                let transport = hop.await?;
                (asked(proxy, &side).await?, transport)
            }
            Self::Resolved(host, resolving) => {
                // If the name has no address, no connection to the proxy is made.
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

/// The origin by address: as the connector below has resolved it, or by the system's resolver if it resolved nothing.
async fn asked(proxy: &Proxy, side: &SideLookup) -> Result<Uri, BoxError> {
    let host = &side.lookup().host;
    if let Some(found) = side.found() {
        return socks::by_address(proxy, host, found);
    }
    let found = resolve(&mut GaiResolver::new(), side.lookup()).await?;
    socks::by_address(proxy, host, found.as_slice())
}
