//! What makes connections interchangeable.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::header::HeaderValue;
use http::uri::{Authority, PathAndQuery, Scheme};

use crate::error::TargetError;

/// What a target says about the connections that can serve it, borrowed from it.
///
/// Two targets share connections exactly when their keys are equal: scheme, host (compared without regard to case),
/// port (the scheme's own when none is given) and partition. User information, path and query do not count, and a host
/// name is not the same as its address: names are resolved when a connection is made, and only then.
///
/// ```
/// use tower_keep_alive::{Key, Target};
/// use http::Uri;
///
/// let a = Uri::from_static("http://Example.com/here?x=1");
/// let b = Uri::from_static("http://me:secret@example.com:80/there");
/// assert_eq!(Key::from(a.key()), Key::from(b.key()));
/// assert_eq!(Key::from(a.key()).to_string(), "example.com:80:");
/// ```
#[derive(Clone, Copy, Debug)]
pub struct KeyRef<'a> {
    scheme: &'a str,
    host: &'a str,
    port: u16,
    partition: Option<&'a str>,
}

impl<'a> KeyRef<'a> {
    /// The key of an origin. `host` may stand in the brackets of an IPv6 literal; `port` is 80 for `http`, 443 for
    /// `https` and 0 otherwise, when it is `None`.
    #[must_use]
    pub fn new(scheme: &'a str, host: &'a str, port: Option<u16>) -> Self {
        Self {
            scheme,
            host: unbracketed(host),
            port: port.unwrap_or_else(|| default_port(scheme)),
            partition: None,
        }
    }

    /// The same origin, in a part of the pool of its own.
    #[must_use]
    pub fn partition(mut self, name: &'a str) -> Self {
        self.partition = Some(name);
        self
    }
}

impl PartialEq<KeyRef<'_>> for Key {
    fn eq(&self, other: &KeyRef<'_>) -> bool {
        let key = &*self.0;
        // Almost always to the letter, which is quicker to see.
        key.port == other.port
            && (*key.host == *other.host || key.host.eq_ignore_ascii_case(other.host))
            && (*key.scheme == *other.scheme || key.scheme.eq_ignore_ascii_case(other.scheme))
            && key.partition.as_deref() == other.partition
    }
}

impl Hash for KeyRef<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Folded to lower case eight bytes at a time: bit 0x20 of every byte. Two hosts that differ elsewhere in that
        // bit ("@" and "`") may then share a hash, never an equality.
        let mut chunks = self.host.as_bytes().chunks_exact(8);
        for chunk in &mut chunks {
            state.write_u64(folded(chunk));
        }
        let rest = chunks.remainder();
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        state.write_u64(folded(&last) ^ ((self.host.len() as u64) << 56));
        state.write_u64(u64::from(self.port) << 8 ^ self.scheme.len() as u64);
        if let Some(partition) = self.partition {
            state.write(partition.as_bytes());
        }
    }
}

fn folded(chunk: &[u8]) -> u64 {
    let bytes = chunk.try_into().expect("chunks of eight bytes");
    u64::from_le_bytes(bytes) | 0x2020_2020_2020_2020
}

/// What makes connections interchangeable, kept: the name of a host pool.
///
/// Prints as Node's Agent names its pools, `host:port:` (with the scheme before it where it is not `http`, and the
/// partition behind it where there is one). Cloning shares.
#[derive(Clone)]
pub struct Key(Arc<Parts>);

struct Parts {
    scheme: Box<str>,
    host: Box<str>,
    port: u16,
    partition: Option<Box<str>>,
    host_header: Option<HeaderValue>,
}

impl Key {
    /// The scheme in lower case: `http`, `https`, or whatever the target says.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.0.scheme
    }

    /// The host in lower case, an IPv6 literal without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The port; the scheme's own where the target named none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The part of the pool, where the target named one.
    #[must_use]
    pub fn partition(&self) -> Option<&str> {
        self.0.partition.as_deref()
    }

    /// The value of the `Host` field for this origin: IPv6 literals in brackets, the port only where it is not the
    /// scheme's own. `None` where the host could not stand in a header.
    pub(crate) fn host_header(&self) -> Option<&HeaderValue> {
        self.0.host_header.as_ref()
    }
}

impl From<KeyRef<'_>> for Key {
    fn from(key: KeyRef<'_>) -> Self {
        let scheme = key.scheme.to_ascii_lowercase().into_boxed_str();
        let host = key.host.to_ascii_lowercase().into_boxed_str();
        let literal = if host.contains(':') {
            format!("[{host}]")
        } else {
            host.to_string()
        };
        let host_header = if key.port == default_port(&scheme) {
            HeaderValue::try_from(literal)
        } else {
            HeaderValue::try_from(format!("{literal}:{}", key.port))
        };
        Self(Arc::new(Parts {
            scheme,
            host,
            port: key.port,
            partition: key.partition.map(Box::from),
            host_header: host_header.ok(),
        }))
    }
}

impl Key {
    pub(crate) fn as_ref(&self) -> KeyRef<'_> {
        KeyRef {
            scheme: &self.0.scheme,
            host: &self.0.host,
            port: self.0.port,
            partition: self.0.partition.as_deref(),
        }
    }

    fn ordered(&self) -> (&str, u16, &str, Option<&str>) {
        (self.host(), self.port(), self.scheme(), self.partition())
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        *self == other.as_ref()
    }
}

impl Eq for Key {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_ref().hash(state);
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        self.ordered().cmp(&other.ordered())
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme() != "http" {
            write!(f, "{}:", self.scheme())?;
        }
        write!(f, "{}:{}:", self.host(), self.port())?;
        match self.partition() {
            Some(partition) => write!(f, ":{partition}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Key {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where a connection is wanted to, and on what terms. Implement it for a target type of your own to pool connections
/// of any kind.
///
/// ```
/// use tower_keep_alive::{Key, KeyRef, Target};
///
/// struct Shard(u16);
///
/// impl Target for Shard {
///     fn key(&self) -> KeyRef<'_> {
///         KeyRef::new("redis", "shard.internal", Some(6379 + self.0))
///     }
/// }
/// assert_eq!(Key::from(Shard(2).key()).to_string(), "redis:shard.internal:6381:");
/// ```
pub trait Target {
    /// What a connection must have been made for to serve this target.
    fn key(&self) -> KeyRef<'_>;

    /// Which connections will do; [`Reuse::Any`] unless a target knows better.
    fn reuse(&self) -> Reuse {
        Reuse::Any
    }

    /// The longest time that this target's own connect may take; the pool's setting unless a target knows better.
    fn connect_timeout(&self) -> Option<Duration> {
        None
    }

    /// Whether this is a second try of what was already served once, and so goes to the head of the line.
    fn is_returning(&self) -> bool {
        false
    }
}

/// A host without a scheme is taken for `http`; a relative URI has an empty host, which no connector will connect to.
impl Target for Uri {
    fn key(&self) -> KeyRef<'_> {
        let scheme = self.scheme_str().unwrap_or("http");
        let Some(authority) = self.authority().map(Authority::as_str) else {
            return KeyRef::new(scheme, "", None);
        };
        let Place { host, port } = Place::of(authority);
        KeyRef::new(scheme, &authority[host], port.ok().flatten())
    }
}

/// Which connections will do for a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reuse {
    /// An idle one, one that another caller gives back, or a new one.
    #[default]
    Any,
    /// A new one, within the limits; it is kept afterwards. What a second try after a reset wants.
    Fresh,
    /// A new one outside the limits, closed after its use. What [`OneShot`] asks for.
    Never,
}

/// A request's target: what `Exchange` asks the services below it for.
///
/// It holds the scheme and the authority of the request's URI, and what the request says about its connection; the
/// path stays with the request. `Uri::from` gives the URI of the origin, with `/` for its path.
#[derive(Clone)]
pub struct Destination {
    scheme: Scheme,
    authority: Authority,
    /// Where in the authority the host is, brackets left out.
    host: Range<u16>,
    port: u16,
    partition: Option<Partition>,
    reuse: Reuse,
    connect_timeout: Option<Duration>,
    returning: bool,
}

impl Destination {
    pub(crate) fn new(
        scheme: Option<Scheme>,
        authority: Option<Authority>,
        connects: bool,
    ) -> Result<Self, TargetError> {
        let Some(authority) = authority else {
            return Err(match scheme {
                Some(_) => TargetError::NoHost,
                None => TargetError::NoScheme,
            });
        };
        let Place { host, port } = Place::of(authority.as_str());
        if host.is_empty() {
            return Err(TargetError::NoHost);
        }
        let port = port.map_err(|port| TargetError::Port(port.to_owned()))?;
        if connects && port.is_none() {
            return Err(TargetError::Method("CONNECT needs a port in its URI"));
        }
        let scheme = match scheme {
            Some(scheme) => scheme,
            None if connects && port == Some(443) => Scheme::HTTPS,
            None if connects => Scheme::HTTP,
            None => return Err(TargetError::NoScheme),
        };
        let port = if scheme == Scheme::HTTP {
            port.unwrap_or(80)
        } else if scheme == Scheme::HTTPS {
            port.unwrap_or(443)
        } else {
            return Err(TargetError::Scheme(scheme.to_string()));
        };
        // The parser of URIs takes no more than 65,534 bytes.
        let place = |at: usize| u16::try_from(at).map_err(|_| TargetError::NoHost);
        Ok(Self {
            host: place(host.start)?..place(host.end)?,
            port,
            scheme,
            authority,
            partition: None,
            reuse: Reuse::Any,
            connect_timeout: None,
            returning: false,
        })
    }

    pub(crate) fn partitioned(mut self, partition: Option<Partition>) -> Self {
        self.partition = partition;
        self
    }

    pub(crate) fn reusing(mut self, reuse: Reuse) -> Self {
        self.reuse = reuse;
        self
    }

    pub(crate) fn within(mut self, connect_timeout: Option<Duration>) -> Self {
        self.connect_timeout = connect_timeout;
        self
    }

    /// It had a connection that did not take its request.
    pub(crate) fn return_to_line(&mut self) {
        self.returning = true;
    }

    /// The scheme of the request's URI.
    #[must_use]
    pub fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// The authority of the request's URI, as the caller wrote it.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }
}

/// Without user information: a URI may carry a password.
impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destination")
            .field("key", &Key::from(self.key()))
            .field("reuse", &self.reuse)
            .finish_non_exhaustive()
    }
}

impl Target for Destination {
    fn key(&self) -> KeyRef<'_> {
        let host = usize::from(self.host.start)..usize::from(self.host.end);
        KeyRef {
            scheme: self.scheme.as_str(),
            host: &self.authority.as_str()[host],
            port: self.port,
            partition: self.partition.as_ref().map(|partition| &*partition.0),
        }
    }

    fn reuse(&self) -> Reuse {
        self.reuse
    }

    fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    fn is_returning(&self) -> bool {
        self.returning
    }
}

impl From<Destination> for Uri {
    fn from(destination: Destination) -> Self {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(destination.scheme);
        parts.authority = Some(destination.authority);
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        Self::from_parts(parts).expect("a scheme, an authority and a path make a URI")
    }
}

/// A request extension: connections for this request are shared only with requests of the same partition.
///
/// ```
/// use tower_keep_alive::Partition;
///
/// let request = http::Request::get("http://localhost/")
///     .extension(Partition::new("tenant-7"))
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<Partition>().is_some());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition(Arc<str>);

impl Partition {
    /// The partition of this name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }
}

/// A request extension: this request uses a connection of its own, outside every limit, that is closed afterwards; it
/// says `Connection: close`. What Node does for `agent: false`.
///
/// ```
/// let request = http::Request::get("http://localhost/")
///     .extension(tower_keep_alive::OneShot)
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<tower_keep_alive::OneShot>().is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OneShot;

/// A request extension: the longest silence of this request's connection, and the longest time for a connect made for
/// it, instead of the agent's [`active_timeout`](crate::KeepAliveLayer::active_timeout) (Node: the request's `timeout`).
/// `Duration::MAX` is no limit. Gone after the request.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::InactivityTimeout;
///
/// let request = http::Request::get("http://localhost/long-poll")
///     .extension(InactivityTimeout(Duration::from_secs(120)))
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<InactivityTimeout>().is_some());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InactivityTimeout(pub Duration);

/// A request extension: this is a second try, for which only a new connection will do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnFreshConnection;

fn default_port(scheme: &str) -> u16 {
    if scheme.eq_ignore_ascii_case("http") {
        80
    } else if scheme.eq_ignore_ascii_case("https") {
        443
    } else {
        0
    }
}

fn unbracketed(host: &str) -> &str {
    host.strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host)
}

/// Where host and port are in an authority.
struct Place<'a> {
    /// Without brackets.
    host: Range<usize>,
    /// `Err`: what stands in its place is none.
    port: Result<Option<u16>, &'a str>,
}

impl<'a> Place<'a> {
    /// One pass, but for IPv6 literals.
    fn of(authority: &'a str) -> Self {
        let bytes = authority.as_bytes();
        let mut start = 0;
        let mut colon = None;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b':' if colon.is_none() => colon = Some(at),
                // What came before was user information.
                b'@' => (start, colon) = (at + 1, None),
                _ => {}
            }
        }
        let (host, end) = if bytes.get(start) == Some(&b'[') {
            let close = authority.rfind(']').unwrap_or(bytes.len());
            (start + 1..close, (close + 1).min(bytes.len()))
        } else {
            let end = colon.unwrap_or(bytes.len());
            (start..end, end)
        };
        let digits = authority[end..].strip_prefix(':').unwrap_or("");
        let port = match digits {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| digits),
        };
        Self { host, port }
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use super::*;

    fn key(uri: &str) -> Key {
        Key::from(uri.parse::<Uri>().unwrap().key())
    }

    #[test]
    fn equal_keys_hash_alike() {
        let hasher = foldhash::fast::RandomState::default();
        for (a, b) in [
            ("http://Localhost/", "http://localhost:80/x?y"),
            ("http://user:pw@h:8080/", "http://H:8080/"),
            ("http://[::1]/", "http://me@[::1]:80/"),
            (
                "https://a-rather-long.name.EXAMPLE/",
                "https://A-rather-long.name.example:443/",
            ),
        ] {
            assert_eq!(key(a), key(b));
            assert_eq!(hasher.hash_one(key(a)), hasher.hash_one(key(b)), "{a} {b}");
        }
    }

    #[test]
    fn what_differs_is_told_apart() {
        for (a, b) in [
            ("http://a/", "https://a/"),
            ("http://a/", "http://a:81/"),
            ("http://a/", "http://b/"),
            ("http://localhost/", "http://127.0.0.1/"),
            ("http://a:443/", "https://a/"),
        ] {
            assert_ne!(key(a), key(b), "{a} {b}");
        }
    }

    #[test]
    fn host_header_has_brackets_and_only_an_unusual_port() {
        for (uri, host) in [
            ("http://h/", "h"),
            ("http://h:80/", "h"),
            ("https://h:443/", "h"),
            ("http://h:443/", "h:443"),
            ("http://[::1]/", "[::1]"),
            ("http://[::1]:3000/", "[::1]:3000"),
            ("http://user:pw@h:81/", "h:81"),
        ] {
            assert_eq!(key(uri).host_header().unwrap(), host, "{uri}");
        }
    }

    #[test]
    fn destination_gives_the_uri_of_its_origin() {
        let uri: Uri = "http://me@h:81/path?query".parse().unwrap();
        let parts = uri.into_parts();
        let destination = Destination::new(parts.scheme, parts.authority, false)
            .unwrap()
            .partitioned(Some(Partition::new("blue")));
        assert_eq!(Key::from(destination.key()).to_string(), "h:81::blue");
        assert!(!format!("{destination:?}").contains("me@"));
        assert_eq!(Uri::from(destination).to_string(), "http://me@h:81/");
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
            let parts = uri.clone().into_parts();
            let destination = Destination::new(parts.scheme, parts.authority, false).unwrap();
            assert_eq!(Key::from(destination.key()), Key::from(uri.key()), "{uri}");
            assert!(
                !Key::from(uri.key()).host().contains(['[', ']', '@']),
                "{uri}"
            );
        }
    }
}
