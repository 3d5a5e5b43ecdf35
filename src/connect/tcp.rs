use std::future::{Future, ready};
use std::mem;
use std::net::{IpAddr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use http::uri::Scheme;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tower_service::Service;

use crate::connect::Socket;
use crate::connect::choice;
use crate::connect::connecting::Connecting;
use crate::connect::deadline;
use crate::connect::dial::{LEAST_DELAY, Pace, dial};
use crate::connect::options::{Options, in_probes, in_seconds};
use crate::connect::resolve::{literal, resolve};
use crate::connect::resolving;
use crate::connect::socket::Halves;
use crate::connect::times;
use crate::error::connect::{ConnectError, FailedAddresses};
use crate::error::{BoxError, Error, Kind};
use crate::target::Destination;
use crate::target::invalid::TargetError;
use crate::target::lookup::Lookup;
use crate::target::route::{Family, Route};

/// TCP: resolves the name, and connects to the first of its addresses that answers (happy eyeballs, RFC 8305).
///
/// TCP_NODELAY is on, and TCP keep-alive probes begin after 1 s (Node: `keepAliveMsecs`; not to be confused with HTTP
/// keep-alive). Only `http` URIs are supported. The local address and the family of a [`Route`](crate::extensions::Route) replace
/// the connector's own, and its address replaces the addresses of the name.
///
/// If the URI has no port, the port is the resolver's, with TLS too; if the resolver has none, the default of the
/// scheme.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::extensions::Family;
/// use tower_keep_alive::connect::TcpConnector;
///
/// let connector = TcpConnector::new()
///     .keepalive(Some(Duration::from_secs(30)))
///     .local_address(Some([127, 0, 0, 1].into()))
///     .family(Some(Family::V4));
/// # let _ = connector;
/// ```
///
/// # Errors
///
/// If the name cannot be resolved or has no usable address; otherwise the text has each address that was tried, with
/// its error. The source is the resolver's error, or the system's error for the first address to which there is a
/// route.
#[derive(Clone, Debug)]
pub struct TcpConnector<R = GaiResolver> {
    resolver: R,
    pub(super) options: Options,
    family: Option<Family>,
    happy_eyeballs_timeout: Option<Duration>,
}

impl TcpConnector {
    /// A connector with the system's resolver.
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
    /// A connector with a resolver of your own: a `Service<Name>` that returns socket addresses, as for hyper-util's
    /// `HttpConnector`. Port 0 means that the resolver knows no port.
    #[must_use]
    pub fn with_resolver(resolver: R) -> Self {
        Self {
            resolver,
            options: Options::default(),
            family: None,
            happy_eyeballs_timeout: Some(Duration::from_millis(250)),
        }
    }

    /// How long a connection may be silent before TCP begins to send probes, independently of HTTP, in whole seconds
    /// from 1 to 32,767; `None` for never. Default: 1 s.
    ///
    /// A peer that has vanished is detected after this time plus [`keepalive_retries`](Self::keepalive_retries) times
    /// the [`keepalive_interval`](Self::keepalive_interval): after 11 s by default.
    #[doc(alias = "keepAliveMsecs")]
    #[must_use]
    pub fn keepalive(mut self, delay: Option<Duration>) -> Self {
        self.options.keepalive = delay.map(in_seconds);
        self
    }

    /// The time between two unanswered probes, in whole seconds from 1 to 32,767; `None` for the system's default
    /// (Linux: 75 s). Default: 1 s, as in Node. Some systems cannot set it.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::connect::TcpConnector;
    ///
    /// // A peer that is gone is noticed after 30 + 3 × 5 s.
    /// let connector = TcpConnector::new()
    ///     .keepalive(Some(Duration::from_secs(30)))
    ///     .keepalive_interval(Some(Duration::from_secs(5)))
    ///     .keepalive_retries(Some(3));
    /// # let _ = connector;
    /// ```
    #[must_use]
    pub fn keepalive_interval(mut self, interval: Option<Duration>) -> Self {
        self.options.keepalive_interval = interval.map(in_seconds);
        self
    }

    /// How many unanswered probes end the connection, from 1 to 127; `None` for the system's default (Linux: 9).
    /// Default: 10, as in Node. Some systems cannot set it. See [`keepalive_interval`](Self::keepalive_interval).
    #[must_use]
    pub fn keepalive_retries(mut self, retries: Option<u32>) -> Self {
        self.options.keepalive_retries = retries.map(in_probes);
        self
    }

    /// Whether small writes are sent at once (TCP_NODELAY). Default: true.
    #[doc(alias = "noDelay")]
    #[must_use]
    pub fn nodelay(mut self, nodelay: bool) -> Self {
        self.options.nodelay = nodelay;
        self
    }

    /// The local address to connect from. Only addresses of its family are connected to. Default: the system's choice.
    #[doc(alias = "localAddress")]
    #[must_use]
    pub fn local_address(mut self, address: Option<IpAddr>) -> Self {
        self.options.local_address = address;
        self
    }

    /// Connects only to addresses of this family. Default: both families, beginning with the one that the resolver
    /// prefers.
    #[must_use]
    pub fn family(mut self, family: Option<Family>) -> Self {
        self.family = family;
        self
    }

    /// How long to wait for an attempt to connect to one of a name's addresses before the next attempt begins beside
    /// it; at least 10 ms. With `None` the attempts do not overlap. Default: 250 ms (RFC 8305 §5: "Connection Attempt
    /// Delay"; Node: `autoSelectFamilyAttemptTimeout`).
    ///
    /// The addresses are tried in the resolver's order, except that IPv6 and IPv4 take turns, beginning with the family
    /// of the first address. When an attempt fails, the next begins at once. The first connection is used, and the
    /// other attempts are cancelled.
    ///
    /// No address uses up the pool's connect timeout: the delay is shortened if some addresses would not be tried
    /// within the timeout otherwise, and with `None` each address gets an equal part of the remaining time. Without a
    /// pool there is no such timeout; with `None`, an attempt then ends when the system gives up, which takes about two
    /// minutes.
    #[doc(alias = "autoSelectFamily")]
    #[doc(alias = "autoSelectFamilyAttemptTimeout")]
    #[must_use]
    pub fn happy_eyeballs_timeout(mut self, delay: Option<Duration>) -> Self {
        self.happy_eyeballs_timeout = delay.map(|delay| delay.max(LEAST_DELAY));
        self
    }

    /// Connects with the connector's settings, replaced by the route's.
    fn connect(
        &mut self,
        destination: &Destination,
    ) -> Result<impl Future<Output = Result<Tcp, BoxError>> + Send + use<R>, BoxError>
    where
        R: Service<Name> + Clone + Send + Sync + 'static,
        R::Response: Iterator<Item = SocketAddr>,
        R::Error: Into<BoxError>,
        R::Future: Send + 'static,
    {
        if *destination.scheme() != Scheme::HTTP && !destination.is_secured() {
            return Err(Error::new(Kind::Target(TargetError::NoTls)).into());
        }
        let route = destination.route();
        if route.is_some_and(|route| route.unix_path().is_some()) {
            let why = "the route names a Unix socket, and the connector makes TCP connections";
            return Err(Error::new(Kind::Target(TargetError::Route(why))).into());
        }
        if route.is_some_and(Route::has_proxy) {
            let why = "the route names a proxy, and the connector knows none: see ProxyLayer";
            return Err(Error::new(Kind::Target(TargetError::Route(why))).into());
        }
        let local = route
            .and_then(Route::local_address)
            .or(self.options.local_address);
        let asked = route.and_then(Route::family).or(self.family);
        // No connection to the other family is possible from there.
        let family = local.map(Family::of).or(asked);
        if let (Some(asked), Some(local)) = (asked, local)
            && family != Some(asked)
        {
            let why = format!("connect: the local address {local} is no {asked} address");
            return Err(ConnectError::new(why).into());
        }
        let lookup = Lookup::of(destination, family);
        let given = route.and_then(Route::address);
        if let (Some(given), Some(family)) = (given, family)
            && Family::of(given.ip()) != family
        {
            let why = format!("connect: the address {given} of the route is no {family} address");
            return Err(ConnectError::new(why).into());
        }
        #[cfg(feature = "proxy")]
        let side = destination.side_lookup().map(|side| {
            let mut lookup = side.lookup().clone();
            lookup.family = lookup.family.or(self.family);
            (side.clone(), lookup)
        });
        // The clone that was polled ready.
        let clone = self.resolver.clone();
        let mut resolver = mem::replace(&mut self.resolver, clone);
        let options = self.options.clone().with_local_address(local);
        let delay = self.happy_eyeballs_timeout;
        Ok(async move {
            #[cfg(feature = "proxy")]
            if let Some((side, lookup)) = side {
                let resolving = resolve(&mut resolver, &lookup);
                side.answer(resolving::host(&lookup.host, resolving).await?.collect());
            }
            let pace = Pace {
                delay,
                deadline: deadline::current(),
            };
            let choice = choice::current();
            let addresses = match (given, literal(&lookup)) {
                (Some(given), _) => vec![given],
                (None, Some(_)) => resolve(&mut resolver, &lookup).await?.collect(),
                (None, None) => {
                    let resolving = choice::look_up(choice.as_ref(), resolver, &lookup);
                    let resolving = resolving::host(&lookup.host, resolving);
                    times::part(|times| &mut times.dns, resolving).await?
                }
            };
            let connect = |address| {
                let connecting = options.clone().connect(address);
                choice::attempt(choice.as_ref(), address, connecting)
            };
            let addresses = choice::order(choice.as_ref(), addresses);
            let dialling = dial(addresses, pace, connect);
            match times::part(|times| &mut times.connect, dialling).await {
                Ok(stream) => Ok(Tcp::new(stream)),
                Err(failed) => {
                    let name = literal(&lookup).is_none().then_some(lookup.host);
                    Err(ConnectError::Addresses(FailedAddresses {
                        name,
                        from: local,
                        failed,
                    })
                    .into())
                }
            }
        })
    }
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
    type Future = Connecting<Tcp>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.resolver.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> Connecting<Tcp> {
        let connecting = match target.try_into() {
            Ok(destination) => self.connect(&destination),
            Err(error) => Err(error.into()),
        };
        match connecting {
            Ok(connecting) => Connecting::new(connecting),
            Err(error) => Connecting::new(ready(Err(error))),
        }
    }
}

/// A TCP stream that can be probed while a connection's driver owns it.
pub type Tcp = Socket<TcpStream>;

impl Tcp {
    /// Wraps a stream that was connected elsewhere.
    #[must_use]
    pub fn new(stream: TcpStream) -> Self {
        Self::of(stream)
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
        let uri: http::Uri = format!("http://{}/", listener.local_addr().unwrap())
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

    /// TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT, where SO_KEEPALIVE is on.
    #[cfg(target_os = "linux")]
    fn keepalive_of(tcp: &Tcp) -> Option<[u64; 3]> {
        let socket = SockRef::from(tcp.stream());
        socket.keepalive().unwrap().then(|| {
            [
                socket.tcp_keepalive_time().unwrap().as_secs(),
                socket.tcp_keepalive_interval().unwrap().as_secs(),
                socket.tcp_keepalive_retries().unwrap().into(),
            ]
        })
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn node_10_tcp_probes_as_in_node_unless_told_otherwise() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri: http::Uri = format!("http://{}/", listener.local_addr().unwrap())
            .parse()
            .unwrap();
        let systems = {
            let none = TcpConnector::new()
                .keepalive_interval(None)
                .keepalive_retries(None);
            keepalive_of(&none.clone().call(uri.clone()).await.unwrap()).unwrap()
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let new = TcpConnector::new;
        for (mut connector, expected) in [
            (new(), Some([1, 1, 10])),
            (new().keepalive(seconds(60)), Some([60, 1, 10])),
            (new().keepalive_interval(seconds(5)), Some([1, 5, 10])),
            (new().keepalive_retries(Some(3)), Some([1, 1, 3])),
            (new().keepalive_interval(None), Some([1, systems[1], 10])),
            (new().keepalive_retries(None), Some([1, 1, systems[2]])),
            (new().keepalive(None), None),
            // What the system would refuse.
            (
                new()
                    .keepalive(Some(Duration::from_millis(300)))
                    .keepalive_interval(Some(Duration::ZERO))
                    .keepalive_retries(Some(0)),
                Some([1, 1, 1]),
            ),
            (
                new()
                    .keepalive(Some(Duration::MAX))
                    .keepalive_interval(Some(Duration::MAX))
                    .keepalive_retries(Some(u32::MAX)),
                Some([32_767, 32_767, 127]),
            ),
        ] {
            let tcp = connector.call(uri.clone()).await.unwrap();
            assert_eq!(keepalive_of(&tcp), expected, "{connector:?}");
        }
    }

    #[cfg(feature = "proxy")]
    #[tokio::test]
    async fn a_second_host_is_looked_up_by_the_connectors_resolver_and_family() {
        use std::net::Ipv6Addr;

        use crate::target::lookup::SideLookup;

        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = listener.local_addr().unwrap();
        let resolver = tower::service_fn(move |name: Name| {
            let found = match name.as_str() {
                "proxy.test" => Ok(vec![proxy]),
                "origin.test" => Ok(vec![
                    (Ipv6Addr::LOCALHOST, 0).into(),
                    ([192, 0, 2, 7], 0).into(),
                ]),
                other => Err(format!("{other} is unknown")),
            };
            ready(found.map(Vec::into_iter))
        });
        let mut connector = TcpConnector::with_resolver(resolver);
        let mut connect = |family, host: &str| {
            let parse = |uri: &str| Destination::try_from(uri.parse::<http::Uri>().unwrap());
            let origin = Lookup::of(&parse(&format!("https://{host}/")).unwrap(), family);
            let side = SideLookup::new(origin);
            let mut hop = parse("http://proxy.test/").unwrap();
            hop.set_side_lookup(side.clone());
            let connecting = connector.call(hop);
            async move { connecting.await.map(|_| side.found().unwrap().to_vec()) }
        };
        let v6 = "[::1]:443".parse().unwrap();
        let v4 = "192.0.2.7:443".parse().unwrap();
        for (family, found) in [
            (None, vec![v6, v4]),
            (Some(Family::V4), vec![v4]),
            (Some(Family::V6), vec![v6]),
        ] {
            assert_eq!(connect(family, "origin.test").await.unwrap(), found);
        }
        let error = connect(None, "nobody.test").await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "resolve nobody.test: nobody.test is unknown"
        );
        assert_eq!(
            error.source().unwrap().to_string(),
            "nobody.test is unknown"
        );
    }
}
