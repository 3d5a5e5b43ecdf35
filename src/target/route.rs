//! How the connection of a request is made, if the connector is not to choose.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[cfg(feature = "tls")]
use tokio_rustls::rustls::pki_types::ServerName;

use crate::target::protocol::Protocol;
#[cfg(feature = "proxy")]
use crate::target::proxy::Proxy;
#[cfg(feature = "tls")]
use crate::target::tls_config::TlsConfig;

/// A request extension: how the connection for this request is made. Connections are shared only between requests with
/// equal routes, and the names of pools show the route.
///
/// The route reaches the connector in the [`Destination`](crate::connect::Destination). A connector of
/// [`connect`](crate::connect) that cannot follow the route refuses the request
/// ([`Error::is_target`](crate::Error::is_target)), and so does a [`UriConnector`](crate::connect::UriConnector), whose
/// inner connector would not see the route: a request is never sent elsewhere. A connector of your own has to do the
/// same, by [`Destination::route`](crate::connect::Destination::route).
///
/// ```
/// use tower_keep_alive::extensions::Route;
///
/// let request = http::Request::get("http://localhost/containers/json")
///     .extension(Route::new().with_unix_path("/run/docker.sock"))
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<Route>().is_some());
/// ```
///
/// # Clone
///
/// Clones share their contents: keep one of each route, and clone it for each request.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route(Arc<Parts>);

#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    local_address: Option<IpAddr>,
    family: Option<Family>,
    address: Option<SocketAddr>,
    unix_path: Option<PathBuf>,
    protocol: Option<Protocol>,
    #[cfg(feature = "proxy")]
    proxy: Option<Proxy>,
    #[cfg(feature = "tls")]
    server_name: Option<Box<str>>,
    #[cfg(feature = "tls")]
    tls: Option<TlsConfig>,
}

/// The family of the addresses to connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// `IPv4` or `IPv6`.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Route {
    /// An empty route; it has the same effect as no route.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Connects to this Unix socket, whatever the host and port of the URI (Node: `socketPath`); see
    /// [`UnixConnector`](crate::connect::UnixConnector). With it, a request with a relative URI is sent to
    /// `http://localhost`.
    #[doc(alias = "socketPath")]
    #[must_use]
    pub fn with_unix_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.parts().unix_path = Some(path.into());
        self
    }

    /// Connects from this local address, instead of the connector's
    /// [`TcpConnector::local_address`](crate::connect::TcpConnector::local_address).
    #[doc(alias = "localAddress")]
    #[must_use]
    pub fn with_local_address(mut self, address: IpAddr) -> Self {
        self.parts().local_address = Some(address);
        self
    }

    /// Connects only to addresses of this family, instead of the connector's
    /// [`TcpConnector::family`](crate::connect::TcpConnector::family).
    #[must_use]
    pub fn with_family(mut self, family: Family) -> Self {
        self.parts().family = Some(family);
        self
    }

    /// Connects to this address; the host of the URI is not looked up (curl: `--connect-to`). The `Host` field, and the
    /// name in the server's certificate, are still those of the URI. With a proxy it is the address of the proxy.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_keep_alive::extensions::Route;
    ///
    /// // This one of the servers behind the name.
    /// let request = http::Request::get("https://api.internal/health")
    ///     .extension(Route::new().with_address("10.0.0.7:443".parse()?))
    ///     .body(())?;
    /// # assert!(request.extensions().get::<Route>().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "connect-to")]
    #[must_use]
    pub fn with_address(mut self, address: SocketAddr) -> Self {
        self.parts().address = Some(address);
        self
    }

    /// Speaks this version of HTTP, instead of the layer's
    /// ([`KeepAliveLayer::protocol`](crate::KeepAliveLayer::protocol)). A request of HTTP/1.1 does not exclude HTTP/2,
    /// because every [`http::Request`] is of HTTP/1.1 by default; this does. A request of HTTP/2 asks for HTTP/2, and fails
    /// where the route says `Http1`: see [the version of a request](crate::layers::ExchangeLayer::protocol).
    ///
    /// ```
    /// use tower_keep_alive::{Protocol, extensions::Route};
    ///
    /// let request = http::Request::get("https://localhost/")
    ///     .extension(Route::new().with_protocol(Protocol::Http1))
    ///     .body(())
    ///     .unwrap();
    /// # assert!(request.extensions().get::<Route>().is_some());
    /// ```
    #[must_use]
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        self.parts().protocol = Some(protocol);
        self
    }

    /// Which version of HTTP to speak.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.0.protocol
    }

    /// Whether there is nothing in it that concerns a connector.
    pub(crate) fn is_only_protocol(&self) -> bool {
        let without = Parts {
            protocol: None,
            ..Parts::clone(&self.0)
        };
        without == Parts::default()
    }

    /// Checks the server's certificate for this name, instead of the URI's host (Node: `servername`). It is also sent
    /// to the server (SNI), unless it is an IP address.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_keep_alive::extensions::Route;
    ///
    /// let request = http::Request::get("https://10.1.2.3/")
    ///     .extension(Route::new().with_server_name("db.internal".try_into()?))
    ///     .body(())?;
    /// # assert!(request.extensions().get::<Route>().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tls")]
    #[doc(alias = "servername")]
    #[must_use]
    pub fn with_server_name(mut self, name: ServerName<'static>) -> Self {
        let name = name.to_str().to_ascii_lowercase();
        self.parts().server_name = Some(name.into());
        self
    }

    /// Uses this TLS configuration instead of the connector's. Routes with two configurations differ even if the
    /// configurations have equal contents; see [`TlsConfig`].
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, config: TlsConfig) -> Self {
        self.parts().tls = Some(config);
        self
    }

    /// The name in the server's certificate, in lower case.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn server_name(&self) -> Option<&str> {
        self.0.server_name.as_deref()
    }

    /// The TLS configuration.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(&self) -> Option<&TlsConfig> {
        self.0.tls.as_ref()
    }

    /// Connects through a proxy; see [`ProxyConnector`](crate::connect::ProxyConnector). Requests for `http` to all
    /// origins share the connections to an HTTP proxy, and the limits for a host count these connections together; a
    /// tunnel serves one origin. The other settings of the route apply to the connection to the proxy.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_keep_alive::extensions::Route;
    ///
    /// let request = http::Request::get("http://origin.test/")
    ///     .extension(Route::new().with_proxy("socks5h://proxy.test:1080".parse()?))
    ///     .body(())?;
    /// # assert!(request.extensions().get::<Route>().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn with_proxy(mut self, proxy: Proxy) -> Self {
        self.parts().proxy = Some(proxy);
        self
    }

    /// The proxy to connect through.
    #[cfg(feature = "proxy")]
    #[must_use]
    pub fn proxy(&self) -> Option<&Proxy> {
        self.0.proxy.as_ref()
    }

    /// The route of the connection to the proxy itself.
    #[cfg(feature = "proxy")]
    pub(crate) fn to_proxy(&self) -> Self {
        let Parts {
            local_address,
            family,
            address,
            ..
        } = *self.0;
        Self(Arc::new(Parts {
            local_address,
            family,
            address,
            ..Parts::default()
        }))
    }

    /// Whether only a connector that knows proxies can follow it.
    pub(crate) fn has_proxy(&self) -> bool {
        #[cfg(feature = "proxy")]
        return self.proxy().is_some();
        #[cfg(not(feature = "proxy"))]
        false
    }

    /// The Unix socket to connect to.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        self.0.unix_path.as_deref()
    }

    /// The address to connect from.
    #[must_use]
    pub fn local_address(&self) -> Option<IpAddr> {
        self.0.local_address
    }

    /// The family of the addresses to connect to.
    #[must_use]
    pub fn family(&self) -> Option<Family> {
        self.0.family
    }

    /// The address to connect to.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.0.address
    }

    /// Whether it has the same effect as no route.
    pub(crate) fn is_empty(&self) -> bool {
        *self.0 == Parts::default()
    }

    fn parts(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.0)
    }
}

/// What follows the port in Node's names of pools, `localAddress[:family][:socketPath]`, and then
/// `[:address=…][:proxy[:tunnel]][:servername=…][:tls=number]`. Shows no secrets.
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(address) = self.local_address() {
            address.fmt(f)?;
        }
        match self.family() {
            Some(Family::V4) => f.write_str(":4")?,
            Some(Family::V6) => f.write_str(":6")?,
            None => {}
        }
        if let Some(path) = self.unix_path() {
            write!(f, ":{}", path.display())?;
        }
        if let Some(address) = self.address() {
            write!(f, ":address={address}")?;
        }
        #[cfg(feature = "proxy")]
        if let Some(proxy) = self.proxy() {
            write!(f, ":{proxy}")?;
            if proxy.always_tunnels() {
                f.write_str(":tunnel")?;
            }
        }
        #[cfg(feature = "tls")]
        if let Some(name) = self.server_name() {
            write!(f, ":servername={name}")?;
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = self.tls() {
            write!(f, ":tls={tls}")?;
        }
        match self.protocol() {
            Some(protocol) => write!(f, ":protocol={protocol}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Route({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_say_the_same_are_equal() {
        let path = || Route::new().with_unix_path("/a.sock");
        assert_eq!(path(), path());
        assert_ne!(path(), Route::new());
        assert_ne!(path(), Route::new().with_unix_path("/b.sock"));
        assert_ne!(path(), path().with_family(Family::V6));
        assert!(Route::new().is_empty() && !path().is_empty());
        let protocol = || Route::new().with_protocol(Protocol::Http1);
        assert_ne!(protocol(), Route::new());
        assert!(protocol().is_only_protocol() && !protocol().is_empty());
        assert!(!protocol().with_family(Family::V4).is_only_protocol());
    }
}
