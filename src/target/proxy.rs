//! A proxy to connect through.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    PROXY_AUTHORIZATION, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::Authority;
use http::{StatusCode, Uri};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use crate::target::Destination;
use crate::target::authority::HostPort;
use crate::target::invalid::{InvalidTarget, TargetError};

/// A proxy to connect through, for [`Route::with_proxy`](crate::extensions::Route::with_proxy): its protocol, its address, and the
/// login for it.
///
/// It is parsed from a URI with one of these schemes:
///
/// - `http`: an HTTP proxy
/// - `https`: an HTTP proxy that is reached by TLS, for which TLS must be [below the
///   layer](crate::connect::ProxyLayer#order)
/// - `socks5`, `socks4`: a SOCKS proxy that is sent addresses; names are resolved here
/// - `socks5h`, `socks4a`: a SOCKS proxy that is sent names
///
/// User name and password are never shown. Proxies with different logins are different proxies. A SOCKS4 proxy is sent
/// no login.
///
/// ```
/// # fn main() -> Result<(), tower_keep_alive::Error> {
/// use tower_keep_alive::connect::Proxy;
///
/// let proxy: Proxy = "http://me:secret@proxy.test:3128".parse()?;
/// assert_eq!(proxy.to_string(), "http://proxy.test:3128");
/// # Ok(())
/// # }
/// ```
///
/// The variables `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are read by hyper-util's [`Matcher`], if you
/// ask it for each request:
///
/// ```
/// use hyper_util::client::proxy::matcher::Matcher;
/// use tower_keep_alive::extensions::Route;
/// use tower_keep_alive::connect::Proxy;
///
/// let matcher = std::sync::Arc::new(Matcher::from_env());
/// let through_proxy = move |mut request: http::Request<()>| {
///     if let Some(intercept) = matcher.intercept(request.uri()) {
///         let route = Route::new().with_proxy(Proxy::from(intercept));
///         request.extensions_mut().insert(route);
///     }
///     request
/// };
/// # let _ = through_proxy; // for `tower::ServiceBuilder::map_request`
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Proxy {
    protocol: Protocol,
    /// In lower case, with the port.
    authority: Box<str>,
    /// The fields that an HTTP proxy is sent with `CONNECT`, and with each request that it reads.
    fields: Fields,
    /// The login that a SOCKS proxy is sent.
    login: Option<(String, String)>,
    /// Uses tunnels also where an HTTP proxy would read the requests.
    always_tunnels: bool,
}

/// Fields in the order of their names, one for each name.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Fields(Vec<Field>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Field {
    name: HeaderName,
    value: HeaderValue,
}

impl Fields {
    fn set(&mut self, name: HeaderName, mut value: HeaderValue) {
        value.set_sensitive(true);
        let at = (self.0).binary_search_by(|it| it.name.as_str().cmp(name.as_str()));
        let field = Field { name, value };
        match at {
            Ok(at) => self.0[at] = field,
            Err(at) => self.0.insert(at, field),
        }
    }
}

impl Ord for Field {
    fn cmp(&self, other: &Self) -> Ordering {
        let names = self.name.as_str().cmp(other.name.as_str());
        names.then_with(|| self.value.cmp(&other.value))
    }
}

impl PartialOrd for Field {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Http,
    Https,
    Socks4,
    Socks4a,
    Socks5,
    Socks5h,
}

impl Protocol {
    const ALL: [(&str, Self, u16); 6] = [
        ("http", Self::Http, 80),
        ("https", Self::Https, 443),
        ("socks4", Self::Socks4, 1080),
        ("socks4a", Self::Socks4a, 1080),
        ("socks5", Self::Socks5, 1080),
        ("socks5h", Self::Socks5h, 1080),
    ];

    /// Whether the proxy is sent addresses; names are resolved here.
    pub(crate) fn takes_addresses(self) -> bool {
        matches!(self, Self::Socks4 | Self::Socks5)
    }

    /// Whether the proxy reads requests for `http` itself.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Https)
    }
}

/// Fields that may not be set, because they describe the framing of a message or its connection.
const NOT_TO_BE_SET: [HeaderName; 7] = [
    HOST,
    CONNECTION,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    TRAILER,
    UPGRADE,
    EXPECT,
];

impl Proxy {
    /// Sends this field to the proxy: with each `CONNECT`, where it goes no further than the proxy, and with each
    /// request that the proxy reads, unless the request has a field of that name. A second value for the same name
    /// replaces the first, and `Proxy-Authorization` replaces the login of the proxy's URI. The value is treated as a
    /// secret and never shown; proxies with different values are different proxies. curl: `--proxy-header`.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::header::{HeaderValue, PROXY_AUTHORIZATION};
    /// use tower_keep_alive::connect::Proxy;
    ///
    /// let proxy = "https://proxy.test".parse::<Proxy>()?;
    /// let proxy = proxy.with_header(PROXY_AUTHORIZATION, HeaderValue::from_static("Bearer token"));
    /// assert_eq!(format!("{proxy:?}"), "Proxy(https://proxy.test:443)");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A SOCKS proxy takes no fields: with such a proxy, the request fails ([`is_target`](crate::Error::is_target)).
    ///
    /// # Panics
    ///
    /// If the field describes the framing of a message or its connection: `Host`, `Connection`, `Content-Length`,
    /// `Transfer-Encoding`, `Trailer`, `Upgrade`, `Expect`.
    #[must_use]
    pub fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        assert!(
            !NOT_TO_BE_SET.contains(&name),
            "the field {name} is not one to send to a proxy by Proxy::with_header"
        );
        self.fields.set(name, value);
        self
    }

    /// Sends requests for `http` through a tunnel as well, instead of having the proxy read them. WebSockets need it,
    /// because few proxies pass their upgrade on (RFC 6455 §4.1). Many proxies open tunnels to port 443 only. Default:
    /// tunnels for `https` only. curl: `--proxytunnel`.
    ///
    /// Tunnels have a pool of their own. A SOCKS proxy always opens tunnels.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use http::header::{CONNECTION, UPGRADE};
    /// use tower_keep_alive::extensions::Route;
    /// use tower_keep_alive::connect::Proxy;
    ///
    /// let proxy = "http://proxy.test:3128".parse::<Proxy>()?.with_tunnel();
    /// let request = http::Request::get("http://origin.test/socket")
    ///     .header(CONNECTION, "Upgrade")
    ///     .header(UPGRADE, "websocket")
    ///     .extension(Route::new().with_proxy(proxy))
    ///     .body(())?;
    /// # assert!(request.extensions().get::<Route>().is_some());
    /// # Ok(())
    /// # }
    /// ```
    #[doc(alias = "proxytunnel")]
    #[must_use]
    pub fn with_tunnel(mut self) -> Self {
        self.always_tunnels = true;
        self
    }

    /// The same proxy without `with_tunnel`, which does not concern the connection to the proxy itself.
    pub(crate) fn without_tunnel(mut self) -> Self {
        self.always_tunnels = false;
        self
    }

    pub(crate) fn always_tunnels(&self) -> bool {
        self.always_tunnels
    }

    /// Whether it has fields although its protocol cannot send them.
    pub(crate) fn has_idle_fields(&self) -> bool {
        !self.protocol.is_http() && !self.fields.0.is_empty()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.protocol
    }

    /// The fields to send with `CONNECT`, and with each request that the proxy reads.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.fields
            .0
            .iter()
            .map(|field| (&field.name, &field.value))
    }

    /// Whether requests go through a tunnel. If not, the proxy reads them.
    pub(crate) fn tunnels(&self, https: bool) -> bool {
        https || self.always_tunnels || !self.protocol.is_http()
    }

    /// The proxy's own host and port.
    pub(crate) fn host_and_port(&self) -> Option<(&str, u16)> {
        let HostPort { host, port } = HostPort::parse(&self.authority);
        Some((&self.authority[host], port.ok()??))
    }

    /// The same proxy, with this `Proxy-Authorization`.
    pub(crate) fn with_authorization(mut self, value: HeaderValue) -> Self {
        self.fields.set(PROXY_AUTHORIZATION, value);
        self
    }

    pub(crate) fn login(&self) -> Option<&(String, String)> {
        self.login.as_ref()
    }

    /// The destination of the connection to the proxy itself.
    pub(crate) fn destination(&self) -> Result<Destination, InvalidTarget> {
        let scheme = match self.protocol {
            Protocol::Https => "https",
            _ => "http",
        };
        let uri = format!("{scheme}://{}/", self.authority).parse::<Uri>();
        uri.map_err(|_| refused()).and_then(Destination::try_from)
    }
}

fn refused() -> InvalidTarget {
    let why = "a proxy is named by a URI of http, https, socks4, socks4a, socks5 or socks5h";
    InvalidTarget(TargetError::Route(why))
}

/// Fails if the text is not the URI of a proxy.
impl FromStr for Proxy {
    type Err = InvalidTarget;

    fn from_str(uri: &str) -> Result<Self, InvalidTarget> {
        let matcher = Matcher::builder().all(uri).build();
        let intercept = matcher.intercept(&Uri::from_static("http://any.test/"));
        let proxy = Self::from(intercept.ok_or_else(refused)?);
        proxy.destination()?;
        Ok(proxy)
    }
}

impl From<Intercept> for Proxy {
    fn from(intercept: Intercept) -> Self {
        let uri = intercept.uri();
        let known = Protocol::ALL
            .iter()
            .find(|(scheme, ..)| uri.scheme_str() == Some(scheme));
        let &(_, protocol, port) = known.unwrap_or(&Protocol::ALL[0]);
        let port = uri.port_u16().unwrap_or(port);
        let host = uri.host().unwrap_or_default().to_ascii_lowercase();
        let own = |(name, password): (&str, &str)| (name.to_owned(), password.to_owned());
        let mut fields = Fields::default();
        if let Some(basic) = intercept.basic_auth() {
            fields.set(PROXY_AUTHORIZATION, basic.clone());
        }
        Self {
            protocol,
            authority: format!("{host}:{port}").into(),
            fields,
            login: intercept.raw_auth().map(own),
            always_tunnels: false,
        }
    }
}

/// Shows neither user name nor password.
impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, ..) = Protocol::ALL[self.protocol as usize];
        write!(f, "{scheme}://{}", self.authority)
    }
}

/// Shows neither user name nor password.
impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({self})")
    }
}

/// A proxy's answer to `CONNECT` that refuses the tunnel.
#[derive(Clone)]
pub(crate) struct Refusal {
    proxy: Proxy,
    target: Authority,
    status: StatusCode,
    headers: HeaderMap,
}

impl Refusal {
    pub(crate) fn new(
        proxy: &Proxy,
        target: Authority,
        status: StatusCode,
        headers: HeaderMap,
    ) -> Self {
        Self {
            proxy: proxy.clone(),
            target,
            status,
            headers,
        }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { proxy, target, .. } = self;
        let status = self.status.as_str();
        write!(f, "proxy {proxy} refused the tunnel to {target}: {status}")?;
        match self.status.canonical_reason() {
            Some(reason) => write!(f, " {reason}"),
            None => Ok(()),
        }
    }
}

/// Shows no fields: they may be as secret as those of the request.
impl fmt::Debug for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Refusal({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_told_by_all_it_says_and_shows_no_secret() {
        for (uri, shown) in [
            ("http://Proxy.test:3128", "http://proxy.test:3128"),
            ("proxy.test:3128", "http://proxy.test:3128"),
            ("http://me:secret@proxy.test/", "http://proxy.test:80"),
            ("https://proxy.test", "https://proxy.test:443"),
            ("socks5h://me:secret@[::1]", "socks5h://[::1]:1080"),
            ("socks4://proxy.test:9", "socks4://proxy.test:9"),
        ] {
            let proxy: Proxy = uri.parse().unwrap();
            assert_eq!(proxy.to_string(), shown);
            assert!(!format!("{proxy:?}").contains("secret"));
        }
        let parse = |uri: &str| uri.parse::<Proxy>().unwrap();
        assert_ne!(parse("http://a:b@p:1"), parse("http://a:c@p:1"));
        assert_ne!(parse("socks5://a:b@p:1"), parse("socks5://a:c@p:1"));
        assert_ne!(parse("socks5://p:1"), parse("socks5h://p:1"));
        assert_eq!(parse("http://a:b@P:1"), parse("http://a:b@p:1/"));
        assert_ne!(parse("http://p:1"), parse("http://p:1").with_tunnel());
        for wrong in ["", "ftp://p:1", "/relative", "http://"] {
            let error = wrong.parse::<Proxy>().unwrap_err();
            assert!(
                error.to_string().contains("a proxy is named by"),
                "{wrong}: {error}"
            );
        }
    }
    #[test]
    fn headers_count_by_name_and_value_and_are_not_shown() {
        let proxy: Proxy = "http://me:secret@p:1".parse().unwrap();
        let with = |proxy: &Proxy, name: &'static str, value: &'static str| {
            let name = HeaderName::from_static(name);
            proxy
                .clone()
                .with_header(name, HeaderValue::from_static(value))
        };
        let one = with(&with(&proxy, "x-a", "hidden"), "x-b", "2");
        // In any order, and the last value of a name.
        assert_eq!(one, with(&with(&proxy, "x-b", "2"), "x-a", "hidden"));
        assert_eq!(one, with(&with(&one, "x-a", "3"), "x-a", "hidden"));
        assert_ne!(one, with(&one, "x-a", "3"));
        assert_ne!(one, proxy);
        for shown in [
            one.to_string(),
            format!("{one:?}"),
            format!("{:?}", one.fields.0[0].value),
        ] {
            assert!(!shown.contains("hidden"), "{shown}");
        }
        let token = with(&proxy, "proxy-authorization", "Bearer token");
        let sent: Vec<_> = token.fields().collect();
        assert_eq!(
            sent,
            [(
                &PROXY_AUTHORIZATION,
                &HeaderValue::from_static("Bearer token")
            )]
        );
    }

    #[test]
    fn no_header_says_how_a_message_is_framed() {
        let set = |name: HeaderName| {
            let proxy: Proxy = "http://p:1".parse().unwrap();
            proxy.with_header(name, HeaderValue::from_static("1"))
        };
        for name in NOT_TO_BE_SET {
            let text = name.to_string();
            let panic = std::panic::catch_unwind(|| set(name)).unwrap_err();
            let said = panic.downcast_ref::<String>().unwrap();
            assert!(said.contains(&text), "{said}");
        }
    }

    #[test]
    fn a_refusal_is_printed_without_what_the_proxy_said() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ticket", HeaderValue::from_static("secret"));
        let proxy: Proxy = "http://me:secret@p.test".parse().unwrap();
        let target = Authority::from_static("h.test:443");
        let refusal = Refusal::new(&proxy, target, StatusCode::FORBIDDEN, headers);
        let text = format!("{refusal:?}");
        assert!(
            text.starts_with("Refusal(") && text.contains("403"),
            "{text}"
        );
        assert!(
            text.contains("p.test") && !text.contains("secret"),
            "{text}"
        );
    }
}
