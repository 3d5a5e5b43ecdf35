//! Where requests are forwarded to.

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};

use crate::target::Origin;

/// Where requests are forwarded to: a scheme and a host, with an optional port, base path and base query.
///
/// It is made from a `&str`, a `String` or a `Uri`, and is checked only then: any request can be [joined](Self::join)
/// to it afterwards. It is cheap to clone.
///
/// ```
/// use tower_keep_alive::forward::Upstream;
///
/// assert!(Upstream::try_from("http://127.0.0.1:3000").is_ok());
/// assert!(Upstream::try_from("https://api.test/v2?key=1").is_ok());
///
/// let error = Upstream::try_from("127.0.0.1:3000").unwrap_err();
/// assert!(error.to_string().contains("http://"), "{error}");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Upstream(Arc<Base>);

#[derive(PartialEq, Eq)]
struct Base {
    scheme: Scheme,
    authority: Authority,
    /// Begins with a slash.
    path: String,
    /// Never empty.
    query: Option<String>,
}

impl Upstream {
    /// Returns the URI to send to the upstream for a request for `asked`.
    ///
    /// The scheme and the authority are the upstream's, whatever `asked` has. The path of `asked` follows the base path
    /// with one slash between them, and its query follows the base query with one `&` between them; these are the rules
    /// of Go's `httputil.NewSingleHostReverseProxy`. Dot segments and percent-encoding are left unchanged. `*` (RFC
    /// 9112 §3.2.4) stays `*`, and is combined with the upstream's authority only.
    ///
    /// A target longer than the 65,534 bytes that a `Uri` can hold cannot be joined. The result is then the upstream's
    /// authority without a scheme and a path, and clients refuse to send a request to that.
    ///
    /// ```
    /// use http::Uri;
    /// use tower_keep_alive::forward::Upstream;
    ///
    /// # fn main() -> Result<(), tower_keep_alive::forward::ConfigError> {
    /// let upstream = Upstream::try_from("http://127.0.0.1:3000/base/?key=1")?;
    /// let joined = upstream.join(&Uri::from_static("/a%20b?q=2"));
    /// assert_eq!(joined, "http://127.0.0.1:3000/base/a%20b?key=1&q=2");
    /// let joined = upstream.join(&Uri::from_static("http://elsewhere.test/x"));
    /// assert_eq!(joined, "http://127.0.0.1:3000/base/x?key=1");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn join(&self, asked: &Uri) -> Uri {
        let base = &*self.0;
        let Some(path_and_query) = base.behind(asked) else {
            return Uri::from(base.authority.clone());
        };
        let mut parts = Parts::default();
        parts.scheme = Some(base.scheme.clone());
        parts.authority = Some(base.authority.clone());
        parts.path_and_query = Some(path_and_query);
        Uri::from_parts(parts).expect("a scheme, an authority and a path make a URI")
    }

    fn new(uri: &Uri) -> Result<Self, ConfigError> {
        Origin::of(uri, false).map_err(|fault| invalid(&fault))?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else {
            return Err(invalid(&"it has no scheme or no host"));
        };
        if !uri.path().starts_with('/') {
            return Err(invalid(&"its path does not begin with a slash"));
        }
        let query = uri.query().filter(|query| !query.is_empty());
        Ok(Self(Arc::new(Base {
            scheme: scheme.clone(),
            authority: authority.clone(),
            path: uri.path().to_owned(),
            query: query.map(str::to_owned),
        })))
    }
}

impl Base {
    /// Appends the requested path and query to the base path and the base query; `None` if the result is too long.
    fn behind(&self, asked: &Uri) -> Option<PathAndQuery> {
        let path = asked.path();
        if path == "*" {
            return Some(PathAndQuery::from_static("*"));
        }
        if let (Some(whole), "/", None) = (asked.path_and_query(), &*self.path, &self.query)
            && whole.as_str().starts_with('/')
        {
            return Some(whole.clone());
        }
        let own = match path.starts_with('/') {
            true => self.path.strip_suffix('/').unwrap_or(&self.path),
            false => &*self.path,
        };
        let query = asked.query();
        let length = own.len() + path.len() + query.map_or(0, str::len);
        let mut joined =
            String::with_capacity(length + self.query.as_ref().map_or(0, String::len) + 3);
        joined.push_str(own);
        if !path.is_empty() && !path.starts_with('/') && !own.ends_with('/') {
            joined.push('/');
        }
        joined.push_str(path);
        match (&self.query, query) {
            (None, None) => {}
            (None, Some(query)) => joined.extend(["?", query]),
            (Some(own), None | Some("")) => joined.extend(["?", own]),
            (Some(own), Some(query)) => joined.extend(["?", own, "&", query]),
        }
        PathAndQuery::from_maybe_shared(Bytes::from(joined)).ok()
    }
}

impl TryFrom<Uri> for Upstream {
    type Error = ConfigError;

    fn try_from(uri: Uri) -> Result<Self, ConfigError> {
        Self::new(&uri)
    }
}

impl TryFrom<&Uri> for Upstream {
    type Error = ConfigError;

    fn try_from(uri: &Uri) -> Result<Self, ConfigError> {
        Self::new(uri)
    }
}

impl TryFrom<&str> for Upstream {
    type Error = ConfigError;

    fn try_from(text: &str) -> Result<Self, ConfigError> {
        match text.parse() {
            Ok(uri) => Self::new(&uri),
            Err(error) => Err(invalid(&format_args!("it is not a URI ({error})"))),
        }
    }
}

impl TryFrom<String> for Upstream {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, ConfigError> {
        Self::try_from(&*text)
    }
}

impl TryFrom<&String> for Upstream {
    type Error = ConfigError;

    fn try_from(text: &String) -> Result<Self, ConfigError> {
        Self::try_from(&**text)
    }
}

impl FromStr for Upstream {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::try_from(text)
    }
}

/// Shows neither user information nor the query: both may be secrets.
impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Base {
            scheme,
            authority,
            path,
            query: _,
        } = &*self.0;
        let authority = without_user(authority);
        write!(f, "Upstream({scheme}://{authority}{path})")
    }
}

fn invalid(why: &dyn fmt::Display) -> ConfigError {
    let like = "it has to be like http://127.0.0.1:3000 or https://host/path";
    ConfigError::new("upstream", &format_args!("{why}; {like}"))
}

/// The host and the port of an authority.
pub(super) fn without_user(authority: &Authority) -> &str {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, rest)| rest)
}

/// A setting that cannot be used; its `Display` says which one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    setting: &'static str,
    why: String,
}

impl ConfigError {
    pub(super) fn new(setting: &'static str, why: &dyn fmt::Display) -> Self {
        Self {
            setting,
            why: why.to_string(),
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "invalid {}: {}", self.setting, self.why)
    }
}

impl StdError for ConfigError {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(base: &str, asked: &str) -> String {
        let upstream = Upstream::try_from(base).unwrap();
        upstream.join(&asked.parse().unwrap()).to_string()
    }

    #[test]
    fn one_slash_and_one_ampersand_join_them() {
        for (base, asked, expected) in [
            ("http://h", "/", "http://h/"),
            ("http://h", "/a/b?c=d", "http://h/a/b?c=d"),
            ("http://h/", "//a", "http://h//a"),
            ("http://h", "/a?", "http://h/a?"),
            ("http://h/b", "/", "http://h/b/"),
            ("http://h/b", "/a", "http://h/b/a"),
            ("http://h/b/", "/a", "http://h/b/a"),
            ("http://h/b/", "//a", "http://h/b//a"),
            ("http://h/b//", "/a", "http://h/b//a"),
            ("http://h/b", "/../a", "http://h/b/../a"),
            ("http://h/b%2F", "/%2e%2e/a", "http://h/b%2F/%2e%2e/a"),
            ("http://h?k", "/a", "http://h/a?k"),
            ("http://h?k=1", "/a?q=2", "http://h/a?k=1&q=2"),
            ("http://h/?k=1", "/a?", "http://h/a?k=1"),
            ("http://h/b?", "/a?q", "http://h/b/a?q"),
            ("http://h/b?", "/a", "http://h/b/a"),
            ("http://h/b", "http://x:1/a?q", "http://h/b/a?q"),
            ("http://h/b", "https://x", "http://h/b/"),
            ("http://h", "https://x?q", "http://h/?q"),
            ("http://h/b?k", "https://x?q", "http://h/b/?k&q"),
            ("https://u:p@h:8443/b", "/a", "https://u:p@h:8443/b/a"),
            // OPTIONS for the server as a whole.
            ("http://h/b?k", "*", "http://h*"),
            // CONNECT.
            ("http://h/b?k", "x:443", "http://h/b?k"),
        ] {
            assert_eq!(joined(base, asked), expected, "{base} {asked}");
        }
    }

    #[test]
    fn what_is_too_long_to_be_joined_has_no_path_rather_than_another() {
        let long = format!("/{}", "a".repeat(65_000));
        assert_eq!(joined("http://h", &long), format!("http://h{long}"));
        let base = format!("http://h/{}", "b".repeat(600));
        assert_eq!(joined(&base, &long), "h");
        let absolute = format!("http://x{}", "/a".repeat(32_000));
        assert_eq!(joined(&format!("{base}{base}{base}"), &absolute), "h");
    }

    #[test]
    fn equal_upstreams_are_equal() {
        let upstream = |text: &str| text.parse::<Upstream>().unwrap();
        assert_eq!(upstream("http://h"), upstream("http://h/?"));
        assert_ne!(upstream("http://h/a"), upstream("http://h/b"));
        assert_ne!(upstream("http://h/?a"), upstream("http://h/?b"));
        assert_eq!(
            Upstream::try_from(Uri::from_static("http://h")),
            Upstream::try_from(String::from("http://h"))
        );
    }

    /// What the parser of URIs takes in a path, and more.
    const PATH: &str = "(/[!$-;=@-_a-z|~\"{}%/.é]{0,12}){0,4}/?";
    const QUERY: &str = "(\\?[!$-;=?-~é]{0,12})?";

    proptest! {
        #[test]
        fn a_joined_uri_is_one_and_has_both_queries(
            base_path in PATH, base_query in QUERY,
            path in PATH, query in QUERY,
            origin in prop::sample::select(vec!["", "http://x", "https://u@x:1"]),
        ) {
            let base = format!("https://h:1{base_path}{base_query}").parse::<Uri>();
            let asked = format!("{origin}{path}{query}").parse::<Uri>();
            let (Ok(base), Ok(asked)) = (base, asked) else { return Ok(()) };
            let joined = Upstream::try_from(&base).unwrap().join(&asked);

            prop_assert_eq!(joined.scheme_str(), Some("https"));
            prop_assert_eq!(joined.authority().unwrap(), "h:1");
            prop_assert_eq!(&joined.to_string().parse::<Uri>().unwrap(), &joined);
            let slashes = base.path().strip_suffix('/').unwrap_or(base.path());
            let expected = format!("{slashes}{}", asked.path());
            prop_assert_eq!(joined.path(), &expected);
            let own = base.query().filter(|it| !it.is_empty());
            let expected = match (own, asked.query()) {
                (None, theirs) => theirs.map(str::to_owned),
                (Some(own), None | Some("")) => Some(own.to_owned()),
                (Some(own), Some(theirs)) => Some(format!("{own}&{theirs}")),
            };
            prop_assert_eq!(joined.query().map(str::to_owned), expected);
        }
    }
}
