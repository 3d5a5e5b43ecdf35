use std::fmt;
use std::ops::Range;
use std::time::Duration;

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};
use tokio::time::Instant;

use crate::target::authority::HostPort;
use crate::target::extensions::Partition;
use crate::target::invalid::InvalidTarget;
use crate::target::key::{self, Key, KeyRef};
#[cfg(feature = "proxy")]
use crate::target::lookup::SideLookup;
use crate::target::origin::Origin;
use crate::target::protocol::Protocol;
#[cfg(feature = "proxy")]
use crate::target::proxy::Proxy;
use crate::target::route::Route;
use crate::target::{Internal, Reuse, Target};

/// The target of a request: what `Exchange` asks the services below it for.
///
/// It has the scheme and the authority of the request's URI, and the request's settings for its connection, but not the
/// path. `Uri::from` converts it into the URI of the origin, with the path `/`. `Destination::try_from` makes one from
/// a URI. A connector that is to accept both bounds its target by `TryInto<Destination>`, as the connectors of
/// [`connect`](crate::connect) do.
///
/// ```
/// use http::Uri;
/// use tower_keep_alive::{Key, connect::Destination, extensions::Route, custom::Target};
///
/// # fn main() -> Result<(), tower_keep_alive::Error> {
/// let destination = Destination::try_from(Uri::from_static("http://localhost/here"))?
///     .with_route(Route::new().with_unix_path("/run/app.sock"));
/// assert_eq!(Key::from(destination.key()).to_string(), "localhost:80::/run/app.sock");
/// assert!(Destination::try_from(Uri::from_static("/here")).is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Destination {
    /// As the caller wrote it.
    uri: Uri,
    /// The place of the host in the authority, without brackets.
    host: Range<u16>,
    port: u16,
    /// `https` if true, `http` if false.
    https: bool,
    secured: bool,
    read_by_proxy: bool,
    reuse: Reuse,
    is_retry: bool,
    /// Which protocols may be spoken, if a layer above the connector has set them.
    protocol: Option<Protocol>,
    /// The request must be sent over HTTP/2.
    wants_http2: bool,
    /// Boxed: a destination is moved with every request, and most requests have none of these.
    terms: Option<Box<Terms>>,
}

/// The request's settings for its connection.
#[derive(Clone, Default)]
struct Terms {
    partition: Option<Partition>,
    route: Option<Route>,
    connect_timeout: Option<Duration>,
    #[cfg(feature = "proxy")]
    side_lookup: Option<SideLookup>,
    waiting_since: Option<Instant>,
    /// How often a connection that was made for this request was given to another caller.
    lost: u8,
}

/// How often a caller may ask for another connection after it failed to collect the one that was made for it. Without a
/// limit, a caller that is late each time would go on for ever.
const MOST_LOST: u8 = 16;

/// Statics, because they are returned by reference.
static HTTP: Scheme = Scheme::HTTP;
static HTTPS: Scheme = Scheme::HTTPS;

impl Destination {
    #[inline]
    pub(crate) fn new(uri: Uri, origin: Origin) -> Self {
        Self {
            uri,
            host: origin.host,
            port: origin.port,
            https: origin.https,
            secured: false,
            read_by_proxy: false,
            reuse: Reuse::Any,
            is_retry: false,
            protocol: None,
            wants_http2: false,
            terms: None,
        }
    }

    pub(crate) fn set_partition(&mut self, partition: Partition) {
        self.terms().partition = Some(partition);
    }

    pub(crate) fn set_route(&mut self, route: Route) {
        self.terms().route = Some(route).filter(|route| !route.is_empty());
    }

    pub(crate) fn set_connect_timeout(&mut self, max: Duration) {
        self.terms().connect_timeout = Some(max);
    }

    #[inline]
    pub(crate) fn set_reuse(&mut self, reuse: Reuse) {
        self.reuse = reuse;
    }

    #[cold]
    fn terms(&mut self) -> &mut Terms {
        self.terms.get_or_insert_default()
    }

    /// The request got a connection that did not accept it.
    #[inline]
    pub(crate) fn return_to_queue(&mut self) {
        self.is_retry = true;
    }

    /// The request lost the connection that was made for it, after a wait of `waited`, and returns to the queue. Its
    /// own connect does not count as waiting. `false`: this has happened too often.
    #[cold]
    pub(crate) fn asks_again(&mut self, waited: Duration) -> bool {
        self.return_to_queue();
        let terms = self.terms();
        terms.waiting_since = Instant::now().checked_sub(waited);
        terms.lost += 1;
        terms.lost <= MOST_LOST
    }

    /// A caller waits in the queue for this request, at the latest from now on.
    #[cold]
    pub(crate) fn start_waiting(&mut self) {
        let since = &mut self.terms().waiting_since;
        if since.is_none() {
            *since = Some(Instant::now());
        }
    }

    /// The same origin, connected to by `route`.
    #[must_use]
    pub fn with_route(mut self, route: Route) -> Self {
        self.set_route(route);
        self
    }

    /// How the connection of the request is to be made; `None` if the request leaves that to the connector.
    #[must_use]
    #[inline]
    pub fn route(&self) -> Option<&Route> {
        self.terms.as_ref()?.route.as_ref()
    }

    /// Which protocols may be spoken on the transport, if a layer above the connector, such as
    /// [`HandshakeLayer`](crate::layers::HandshakeLayer), has set them. A connector of TLS offers them to the server.
    #[must_use]
    pub fn protocol(&self) -> Option<Protocol> {
        self.protocol
    }

    /// The same destination for a plain connection, because the caller puts TLS on it.
    #[must_use]
    pub fn secured(mut self) -> Self {
        self.secured = true;
        self
    }

    /// Whether a layer above the connector puts TLS on the connection: the connector makes a plain connection then,
    /// whatever the scheme. A connector of plain connections must refuse `https` otherwise.
    #[must_use]
    pub fn is_secured(&self) -> bool {
        self.secured
    }

    /// The protocol of the route.
    pub(crate) fn said_protocol(&self) -> Option<Protocol> {
        self.route()?.protocol()
    }

    /// Which protocols may be spoken: the route's, or `protocol` if the route has none.
    #[inline]
    pub(crate) fn spoken(&self, protocol: Protocol) -> Protocol {
        let protocol = match &self.terms {
            None => protocol,
            Some(_) => self.said_protocol().unwrap_or(protocol),
        };
        match self.https {
            true => protocol,
            false => protocol.in_the_clear(),
        }
    }

    pub(crate) fn set_wants_http2(&mut self) {
        self.wants_http2 = true;
    }

    /// Whether the request must be sent over HTTP/2.
    #[inline]
    pub(crate) fn wants_http2(&self) -> bool {
        self.wants_http2
    }

    /// Sets the protocol of the route.
    pub(crate) fn set_protocol(&mut self, protocol: Protocol) {
        let route = self.terms().route.take().unwrap_or_default();
        self.terms().route = Some(route.with_protocol(protocol));
    }

    /// The scheme of the request's URI.
    #[must_use]
    #[inline]
    pub fn scheme(&self) -> &Scheme {
        if self.https { &HTTPS } else { &HTTP }
    }

    /// The host, an IPv6 address without its brackets.
    ///
    /// ```
    /// use http::Uri;
    /// use tower_keep_alive::connect::Destination;
    ///
    /// # fn main() -> Result<(), tower_keep_alive::Error> {
    /// let destination = Destination::try_from(Uri::from_static("https://[::1]/"))?;
    /// assert_eq!((destination.host(), destination.port()), ("::1", 443));
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    #[must_use]
    pub fn host(&self) -> &str {
        &self.authority().as_str()[usize::from(self.host.start)..usize::from(self.host.end)]
    }

    /// Host and port at the other end of the connection. If a proxy reads the requests, they are the proxy's, so that
    /// all `http` origins share its connections.
    #[cfg(feature = "proxy")]
    #[cold]
    fn end_of_connection<'a>(&'a self, route: &'a Route) -> (&'a str, u16) {
        let reads = |proxy: &&Proxy| !proxy.tunnels(self.https);
        let proxy = route.proxy().filter(reads);
        let end = proxy.and_then(Proxy::host_and_port);
        end.unwrap_or((self.host(), self.port))
    }

    #[cfg(not(feature = "proxy"))]
    #[cold]
    fn end_of_connection(&self, _: &Route) -> (&str, u16) {
        (self.host(), self.port)
    }

    /// The key of the origin itself, whether or not a proxy reads the requests.
    pub(crate) fn origin(&self) -> KeyRef<'_> {
        let scheme = if self.https { key::HTTPS } else { key::HTTP };
        KeyRef::from_parts(scheme, self.host(), self.port, None, None)
    }

    /// The URI's port, or the default of its scheme: 80 or 443.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the caller wrote a port into the URI.
    pub(crate) fn has_port(&self) -> bool {
        matches!(HostPort::parse(self.authority().as_str()).port, Ok(Some(_)))
    }

    /// Has the connector look up a second host before it connects to this one.
    #[cfg(feature = "proxy")]
    pub(crate) fn set_side_lookup(&mut self, lookup: SideLookup) {
        self.terms().side_lookup = Some(lookup);
    }

    /// The second host that the connector is to look up.
    #[cfg(feature = "proxy")]
    pub(crate) fn side_lookup(&self) -> Option<&SideLookup> {
        self.terms.as_ref()?.side_lookup.as_ref()
    }

    #[inline]
    pub(crate) fn is_https(&self) -> bool {
        self.https
    }

    /// Marks the request as read and answered by a proxy: no tunnel is made.
    pub(crate) fn set_read_by_proxy(&mut self) {
        self.read_by_proxy = true;
    }

    #[inline]
    pub(crate) fn is_read_by_proxy(&self) -> bool {
        self.read_by_proxy
    }

    /// Marks the connection as plain, whatever the scheme of the URI.
    #[cfg(feature = "proxy")]
    pub(crate) fn set_plain(&mut self) {
        self.https = false;
    }

    /// The authority of the URI, as the caller wrote it. For a request it has no user information, which was turned
    /// into `Authorization`.
    #[must_use]
    #[inline]
    pub fn authority(&self) -> &Authority {
        self.uri.authority().expect("its host was found in it")
    }
}

/// Shows no user information: it may be a password.
impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("key", &Key::from(self.key()))
            .field("reuse", &self.reuse)
            .field("is_retry", &self.is_retry)
            .finish_non_exhaustive()
    }
}

impl Target for Destination {
    #[inline(always)]
    fn key(&self) -> KeyRef<'_> {
        let terms = self.terms.as_deref();
        let route = terms.and_then(|it| it.route.as_ref());
        let (host, port) = match route {
            Some(route) => self.end_of_connection(route),
            None => (self.host(), self.port),
        };
        KeyRef::from_parts(
            if self.https { key::HTTPS } else { key::HTTP },
            host,
            port,
            terms
                .and_then(|it| it.partition.as_ref())
                .map(Partition::name),
            route,
        )
    }

    #[inline]
    fn reuse(&self) -> Reuse {
        self.reuse
    }

    #[inline]
    fn connect_timeout(&self) -> Option<Duration> {
        self.terms.as_ref()?.connect_timeout
    }

    #[inline]
    fn is_retry(&self, _: Internal) -> bool {
        self.is_retry
    }

    #[inline]
    fn waiting_since(&self, _: Internal) -> Option<Instant> {
        self.terms.as_ref()?.waiting_since
    }

    fn offer(&mut self, _: Internal, protocol: Protocol) {
        self.protocol = Some(protocol);
    }
}

/// Fails if the URI has no host, or a scheme other than `http` and `https`.
impl TryFrom<Uri> for Destination {
    type Error = InvalidTarget;

    fn try_from(uri: Uri) -> Result<Self, InvalidTarget> {
        let origin = Origin::of(&uri, false).map_err(InvalidTarget)?;
        Ok(Self::new(uri, origin))
    }
}

/// Without the route: for connectors that cannot follow one. The URI of a [`secured`](Destination::secured) destination
/// has the scheme `http` and an explicit port, whether or not the caller wrote a port.
impl From<Destination> for Uri {
    fn from(destination: Destination) -> Self {
        let mut parts = http::uri::Parts::default();
        if destination.secured {
            let host = destination.authority().host();
            let authority = Authority::try_from(format!("{host}:{}", destination.port));
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority.expect("a host and a port"));
        } else {
            parts.scheme = Some(destination.scheme().clone());
            parts.authority = destination.uri.into_parts().authority;
        }
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Self::from_parts(parts).expect("a scheme, an authority and a path make a URI")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destination_gives_the_uri_of_its_origin() {
        let uri: Uri = "http://me@h:81/path?query".parse().unwrap();
        let mut destination = Destination::try_from(uri.clone()).unwrap();
        destination.set_partition(Partition::new("blue"));
        assert_eq!(Key::from(destination.key()).to_string(), "h:81::blue");
        assert!(!format!("{destination:?}").contains("me@"));
        assert_eq!(Uri::from(destination).to_string(), "http://me@h:81/");
    }

    #[test]
    fn who_loses_its_connection_time_and_again_is_told_in_the_end() {
        let uri = Uri::from_static("http://h/");
        let mut destination = Destination::try_from(uri).unwrap();
        let waited = std::time::Duration::from_millis(3);
        for _ in 0..MOST_LOST {
            assert!(destination.asks_again(waited));
            assert!(destination.waiting_since(Internal::NEW).unwrap().elapsed() >= waited);
        }
        assert!(!destination.asks_again(waited));
    }

    #[test]
    fn below_tls_it_is_http_with_its_port() {
        for (asked, below) in [
            ("https://h/", "http://h:443/"),
            ("https://me:secret@h/", "http://h:443/"),
            ("https://h:/", "http://h:443/"),
            ("https://h:443/", "http://h:443/"),
            ("https://h:8443/path?query", "http://h:8443/"),
            ("https://[::1]/", "http://[::1]:443/"),
            ("https://[::1]:8443/", "http://[::1]:8443/"),
        ] {
            let destination = Destination::try_from(asked.parse::<Uri>().unwrap()).unwrap();
            assert_eq!(*destination.scheme(), Scheme::HTTPS);
            assert_eq!(Uri::from(destination.secured()), below, "{asked}");
        }
    }

    #[test]
    fn a_port_that_the_caller_wrote_is_told_from_a_default() {
        for (uri, has_port) in [
            ("http://h/", false),
            ("http://h:/", false),
            ("http://h:80/", true),
            ("http://me:80@h/", false),
            ("http://[::1]/", false),
            ("http://[::1]:80/", true),
        ] {
            let destination = Destination::try_from(uri.parse::<Uri>().unwrap()).unwrap();
            assert_eq!(destination.has_port(), has_port, "{uri}");
            assert_eq!(destination.port(), 80, "{uri}");
        }
    }

    #[test]
    fn a_destination_has_the_key_of_its_uri() {
        for uri in [
            "http://h/",
            "https://H.example/",
            "http://u:p@h:8080/",
            "http://[::1]:80/",
            "https://x@[fe80::1]/",
            "http://h:/",
        ] {
            let uri: Uri = uri.parse().unwrap();
            let destination = Destination::try_from(uri.clone()).unwrap();
            assert_eq!(Key::from(destination.key()), Key::from(uri.key()), "{uri}");
            assert!(
                !Key::from(uri.key()).host().contains(['[', ']', '@']),
                "{uri}"
            );
        }
    }
}
