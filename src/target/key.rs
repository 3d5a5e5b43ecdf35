//! Keys: which connections are interchangeable.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use http::header::HeaderValue;

use crate::target::route::Route;

pub(crate) static HTTP: &str = "http";
pub(crate) static HTTPS: &str = "https";

/// The key of a target, borrowed from it: connections with equal keys are interchangeable.
///
/// Two targets share connections exactly if these parts of their keys are equal: scheme, host (without regard to case),
/// port (the scheme's default if there is none), route and partition. User information, path and query do not count. A
/// host name and its address are different hosts: names are resolved only when a connection is made.
///
/// If a proxy reads the requests (`http` without a tunnel), host and port are the proxy's: such a connection serves
/// every origin.
///
/// ```
/// use http::Uri;
/// use tower_keep_alive::{Key, custom::Target};
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
    route: Option<&'a Route>,
}

impl<'a> KeyRef<'a> {
    /// Of parts that are complete: the host has no brackets, the port is given.
    #[inline]
    pub(crate) fn from_parts(
        scheme: &'a str,
        host: &'a str,
        port: u16,
        partition: Option<&'a str>,
        route: Option<&'a Route>,
    ) -> Self {
        Self {
            scheme,
            host,
            port,
            partition,
            route,
        }
    }

    /// The key of an origin. `host` may have the brackets of an IPv6 literal. A `port` of `None` means 80 for `http`,
    /// 443 for `https`, and 0 for any other scheme.
    #[must_use]
    pub fn new(scheme: &'a str, host: &'a str, port: Option<u16>) -> Self {
        Self {
            scheme,
            host: unbracketed(host),
            port: port.unwrap_or_else(|| default_port(scheme)),
            partition: None,
            route: None,
        }
    }

    #[cfg(feature = "http2")]
    pub(crate) fn host(&self) -> &'a str {
        self.host
    }

    pub(crate) fn is_https(&self) -> bool {
        is_same_scheme(self.scheme, HTTPS)
    }

    /// The route, if the target has one.
    pub(crate) fn get_route(&self) -> Option<&'a Route> {
        self.route
    }

    /// The same origin, in a partition of the pool.
    #[must_use]
    pub fn partition(mut self, name: &'a str) -> Self {
        self.partition = Some(name);
        self
    }

    /// The same origin, connected to by `route`.
    #[must_use]
    pub fn route(mut self, route: &'a Route) -> Self {
        self.route = Some(route);
        self
    }
}

impl PartialEq<KeyRef<'_>> for Key {
    #[inline(always)]
    fn eq(&self, other: &KeyRef<'_>) -> bool {
        let key = &*self.0;
        // Hosts are almost always equal byte by byte, which is the faster comparison, and few keys have more than an origin.
        key.port == other.port
            && (*key.host == *other.host || is_same_in_lower_case(&key.host, other.host))
            && is_same_scheme(&key.scheme, other.scheme)
            && match (&key.partition, &key.route, other.partition, other.route) {
                (None, None, None, None) => true,
                _ => key.is_apart_as(other),
            }
    }
}

impl Parts {
    #[cold]
    fn is_apart_as(&self, other: &KeyRef<'_>) -> bool {
        self.partition.as_deref() == other.partition && self.route.as_ref() == other.route
    }
}

/// Scheme names of this crate have one address, which is the faster comparison.
#[inline]
fn is_same_scheme(a: &str, b: &str) -> bool {
    std::ptr::eq(a, b) || is_same_in_lower_case(a, b)
}

#[cold]
fn is_same_in_lower_case(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
}

impl Hash for KeyRef<'_> {
    #[inline(always)]
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Folded to lower case, eight bytes at a time, by setting bit 0x20 of every byte. Two hosts that differ
        // elsewhere in this bit ("@" and "`") may share a hash, but are never equal.
        let host = self.host.as_bytes();
        match (host.first_chunk(), host.last_chunk()) {
            (Some(first), Some(last)) => {
                state.write_u64(folded(*first));
                if host.len() > 16 {
                    let (middle, _) = host[8..].as_chunks();
                    middle.iter().for_each(|it| state.write_u64(folded(*it)));
                }
                // The last eight bytes usually include some that were hashed before.
                state.write_u64(folded(*last));
            }
            _ => {
                let short = host
                    .iter()
                    .fold(0, |short, byte| short << 8 | u64::from(byte | 0x20));
                state.write_u64(short);
            }
        }
        state.write_u64(
            (host.len() as u64) << 32 | u64::from(self.port) << 8 ^ self.scheme.len() as u64,
        );
        if let Some(partition) = self.partition {
            state.write(partition.as_bytes());
        }
        if let Some(route) = self.route {
            route.hash(state);
        }
    }
}

#[inline]
fn folded(chunk: [u8; 8]) -> u64 {
    u64::from_le_bytes(chunk) | 0x2020_2020_2020_2020
}

/// An owned key: the name of a pool of interchangeable connections.
///
/// It prints as Node's Agent names its pools, `host:port:localAddress:family:socketPath`, where `family` and
/// `socketPath` are left out if they are not set. The scheme precedes it unless it is `http`, and the partition follows
/// it if there is one. Clones share the data.
#[derive(Clone)]
pub struct Key(Arc<Parts>);

struct Parts {
    scheme: Cow<'static, str>,
    host: Box<str>,
    port: u16,
    partition: Option<Box<str>>,
    route: Option<Route>,
    host_header: Option<HeaderValue>,
}

impl Key {
    /// The scheme in lower case: `http`, `https`, or a scheme of the target's own.
    #[must_use]
    pub fn scheme(&self) -> &str {
        &self.0.scheme
    }

    /// The host in lower case, an IPv6 literal without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.0.host
    }

    /// The port; the default of the scheme if the target has none.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// The partition, if the target has one.
    #[must_use]
    pub fn partition(&self) -> Option<&str> {
        self.0.partition.as_deref()
    }

    /// The route, if the target has one.
    #[must_use]
    pub fn route(&self) -> Option<&Route> {
        self.0.route.as_ref()
    }

    /// The value of `Host` for this origin: an IPv6 literal in brackets and without its zone, and the port unless it is
    /// the scheme's default. `None` if the host is not allowed in a header.
    #[inline]
    pub(crate) fn host_header(&self) -> Option<&HeaderValue> {
        self.0.host_header.as_ref()
    }
}

impl From<KeyRef<'_>> for Key {
    fn from(key: KeyRef<'_>) -> Self {
        let mut known = [HTTP, HTTPS].into_iter();
        let known = known.find(|it| key.scheme.eq_ignore_ascii_case(it));
        let scheme = known.map_or_else(|| key.scheme.to_ascii_lowercase().into(), Cow::Borrowed);
        let host = key.host.to_ascii_lowercase().into_boxed_str();
        let literal = if host.contains(':') {
            // The zone of an address has a meaning on this machine only, and is not sent (RFC 6874 §1).
            format!("[{}]", host.split('%').next().unwrap_or(&host))
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
            route: key.route.cloned(),
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
            route: self.0.route.as_ref(),
        }
    }

    fn ordered(&self) -> impl Ord {
        let origin = (self.host(), self.port(), self.scheme());
        (origin, self.route(), self.partition())
    }
}

impl PartialEq for Key {
    #[inline]
    fn eq(&self, other: &Self) -> bool {
        *self == other.as_ref()
    }
}

impl Eq for Key {}

impl Hash for Key {
    #[inline]
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
        if self.scheme() != HTTP {
            write!(f, "{}:", self.scheme())?;
        }
        write!(f, "{}:{}:", self.host(), self.port())?;
        if let Some(route) = self.route() {
            route.fmt(f)?;
        }
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

fn default_port(scheme: &str) -> u16 {
    if scheme.eq_ignore_ascii_case(HTTP) {
        80
    } else if scheme.eq_ignore_ascii_case(HTTPS) {
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

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher;

    use http::Uri;

    use super::*;
    use crate::target::Target;

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
            // RFC 6874: a zone is this machine's own.
            ("http://[fe80::1%25en0]/", "[fe80::1]"),
            ("http://[fe80::1%25en0]:81/", "[fe80::1]:81"),
            ("http://user:pw@h:81/", "h:81"),
        ] {
            assert_eq!(key(uri).host_header().unwrap(), host, "{uri}");
        }
    }

    #[test]
    fn keys_have_one_order_that_agrees_with_their_equality() {
        let keys = ["http://a/", "http://a:81/", "http://b/", "https://a/"].map(key);
        for a in &keys {
            for b in &keys {
                assert_eq!(a.partial_cmp(b), Some(a.cmp(b)));
                assert_eq!(a.cmp(b), b.cmp(a).reverse());
                assert_eq!(a.cmp(b).is_eq(), a == b);
            }
        }
    }
}
