//! Settings of single hosts that replace the common ones.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;

use crate::agent::{Ejection, FollowDns, Spread};
use crate::connection::lifespan::Lifespan;
use crate::target::key::Key;

/// Settings of one host that replace the agent's; see [`KeepAliveLayer::for_host`](crate::KeepAliveLayer::for_host). A
/// setting that is not made here is the agent's. Each setting has a method that sets it, and one that returns it, for
/// settings from [`Status::hosts`](crate::status::Status::hosts).
///
/// The methods have the names of the agent's settings, without `_per_host`: `max_connections(10)` here is
/// `max_connections_per_host(10)` for one host.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::KeepAliveLayer;
///
/// let layer = KeepAliveLayer::<http_body_util::Empty<bytes::Bytes>>::new()
///     .max_connections_per_host(100)
///     .for_host("small.example.com", |host| {
///         host.max_connections(2).ttl(Duration::from_secs(60))
///     });
/// let mut seen = None;
/// let layer = layer.for_host("large.example.com", |host| {
///     let host = host.max_idle(50);
///     seen = host.get_max_idle();
///     host
/// });
/// assert_eq!(seen, Some(50));
/// # let _ = layer;
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
#[must_use]
pub struct HostSettings {
    /// The maximum number of open connections for each key of the host.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) max_connections: Option<usize>,
    /// The maximum number of idle connections for each key of the host.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) max_idle: Option<usize>,
    /// The maximum number of waiting callers for each key of the host.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) max_pending: Option<usize>,
    /// The number of spare connections for each key of the host.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) min_idle: Option<usize>,
    /// How connections are spread over the addresses of the host.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) spread: Option<Spread>,
    /// Whether it is learned after how long the servers close idle connections.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) learn_idle_limit: Option<bool>,
    /// When addresses of the host are ejected; `Some(None)` for never.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "eject", skip_serializing_if = "Option::is_none")
    )]
    pub(crate) ejection: Option<Option<Ejection>>,
    /// How the addresses of the host are followed; `Some(None)` for not at all.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) follow_dns: Option<Option<FollowDns>>,
    /// The maximum number of exchanges on one connection.
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub(crate) max_uses: Option<u64>,
    /// The idle timeout.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "as_millis")
    )]
    pub(crate) idle_timeout: Option<Duration>,
    /// The maximum age of a connection.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "as_millis")
    )]
    pub(crate) ttl: Option<Duration>,
    /// The active timeout.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "as_millis")
    )]
    pub(crate) active_timeout: Option<Duration>,
    /// The connect timeout.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "as_millis")
    )]
    pub(crate) connect_timeout: Option<Duration>,
    /// The checkout timeout.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "as_millis")
    )]
    pub(crate) checkout_timeout: Option<Duration>,
    /// The limit of a whole exchange.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "as_millis")
    )]
    pub(crate) request_timeout: Option<Duration>,
    /// The limit from the end of a request to the head of its response.
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", serialize_with = "as_millis")
    )]
    pub(crate) response_timeout: Option<Duration>,
}

/// In milliseconds, like agentkeepalive's options; no limit is `null`.
#[cfg(feature = "serde")]
fn as_millis<S>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
{
    let millis = time.and_then(|time| u64::try_from(time.as_millis()).ok());
    serde::Serialize::serialize(&millis, serializer)
}

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident, $get:ident: $type:ty $(, not $zero:expr)?;)*) => {
        impl HostSettings {
            $(
                $(#[$doc])*
                pub fn $name(mut self, value: $type) -> Self {
                    $(assert!(value != $zero, concat!(stringify!($name), " must not be zero: use ", stringify!($type), "::MAX for no limit"));)?
                    self.$name = Some(value);
                    self
                }

                #[doc = concat!("What [`", stringify!($name), "`](Self::", stringify!($name), ") has set; `None` if it was not called.")]
                #[must_use]
                pub fn $get(&self) -> Option<$type> {
                    self.$name
                }
            )*

            /// These settings, replaced by those that `later` makes.
            fn overridden_by(self, later: &Self) -> Self {
                Self {
                    ejection: later.ejection.clone().or(self.ejection),
                    follow_dns: later.follow_dns.clone().or(self.follow_dns),
                    $($name: later.$name.or(self.$name)),*
                }
            }
        }
    };
}

settings! {
    /// Like [`max_connections_per_host`](crate::KeepAliveLayer::max_connections_per_host).
    ///
    /// # Panics
    ///
    /// If the value is 0.
    max_connections, get_max_connections: usize, not 0;
    /// Like [`max_idle_per_host`](crate::KeepAliveLayer::max_idle_per_host).
    max_idle, get_max_idle: usize;
    /// Like [`max_pending_per_host`](crate::KeepAliveLayer::max_pending_per_host).
    max_pending, get_max_pending: usize;
    /// Like [`min_idle_per_host`](crate::KeepAliveLayer::min_idle_per_host).
    min_idle, get_min_idle: usize;
    /// Like [`spread`](crate::KeepAliveLayer::spread).
    spread, get_spread: Spread;
    /// Like [`learn_idle_limit`](crate::KeepAliveLayer::learn_idle_limit).
    learn_idle_limit, get_learn_idle_limit: bool;
    /// Like [`max_uses`](crate::KeepAliveLayer::max_uses).
    ///
    /// # Panics
    ///
    /// If the value is 0.
    max_uses, get_max_uses: u64, not 0;
    /// Like [`idle_timeout`](crate::KeepAliveLayer::idle_timeout).
    idle_timeout, get_idle_timeout: Duration;
    /// Like [`ttl`](crate::KeepAliveLayer::ttl); it is shortened by the agent's `ttl_jitter`.
    ttl, get_ttl: Duration;
    /// Like [`active_timeout`](crate::KeepAliveLayer::active_timeout). The connect timeout does not change with it.
    ///
    /// # Panics
    ///
    /// If the value is zero.
    active_timeout, get_active_timeout: Duration, not Duration::ZERO;
    /// Like [`connect_timeout`](crate::KeepAliveLayer::connect_timeout).
    ///
    /// # Panics
    ///
    /// If the value is zero.
    connect_timeout, get_connect_timeout: Duration, not Duration::ZERO;
    /// Like [`checkout_timeout`](crate::KeepAliveLayer::checkout_timeout).
    checkout_timeout, get_checkout_timeout: Duration;
    /// Like [`request_timeout`](crate::KeepAliveLayer::request_timeout).
    ///
    /// # Panics
    ///
    /// If the value is zero.
    request_timeout, get_request_timeout: Duration, not Duration::ZERO;
    /// Like [`response_timeout`](crate::KeepAliveLayer::response_timeout).
    ///
    /// # Panics
    ///
    /// If the value is zero.
    response_timeout, get_response_timeout: Duration, not Duration::ZERO;
}

impl HostSettings {
    /// Like [`eject`](crate::KeepAliveLayer::eject). With `None` no address of the host is ejected, whatever the agent's setting.
    ///
    /// ```
    /// use tower_keep_alive::{Ejection, KeepAlive};
    ///
    /// let agent = KeepAlive::builder()
    ///     .eject(Ejection::new().server_errors(true))
    ///     // It answers 500 to what it does not like.
    ///     .for_host("picky.example.com", |host| host.eject(Ejection::new()))
    ///     .for_host("single.example.com", |host| host.eject(None))
    ///     .build();
    /// # let _ = agent;
    /// ```
    pub fn eject(mut self, ejection: impl Into<Option<Ejection>>) -> Self {
        self.ejection = Some(ejection.into());
        self
    }

    /// The [`Ejection`] that [`eject`](Self::eject) has set; `None` if it was called with `None`, or not at all:
    /// [`ejects`](Self::ejects) tells which.
    #[must_use]
    pub fn get_eject(&self) -> Option<&Ejection> {
        self.ejection.as_ref()?.as_ref()
    }

    /// Whether [`eject`](Self::eject) has turned ejection on or off for the host; `None` if it was not called, so that the
    /// agent's setting holds.
    #[must_use]
    pub fn ejects(&self) -> Option<bool> {
        self.ejection.as_ref().map(Option::is_some)
    }

    /// Like [`follow_dns`](crate::KeepAliveLayer::follow_dns). With `None` the host's name is looked up only for connects, whatever
    /// the agent's setting: for a name whose answers have only some of its addresses.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::{FollowDns, KeepAlive};
    ///
    /// let every = FollowDns::default().every(Duration::from_secs(5));
    /// let agent = KeepAlive::builder()
    ///     .follow_dns(FollowDns::default())
    ///     .for_host("pods.internal", |host| host.follow_dns(every))
    ///     .for_host("some-of-many.internal", |host| host.follow_dns(None))
    ///     .build();
    /// # let _ = agent;
    /// ```
    pub fn follow_dns(mut self, follow: impl Into<Option<FollowDns>>) -> Self {
        self.follow_dns = Some(follow.into());
        self
    }

    /// The [`FollowDns`] that [`follow_dns`](Self::follow_dns) has set; `None` if it was called with `None`, or not at all:
    /// [`follows_dns`](Self::follows_dns) tells which.
    #[must_use]
    pub fn get_follow_dns(&self) -> Option<&FollowDns> {
        self.follow_dns.as_ref()?.as_ref()
    }

    /// Whether [`follow_dns`](Self::follow_dns) has turned that on or off for the host; `None` if it was not called, so that the
    /// agent's setting holds.
    #[must_use]
    pub fn follows_dns(&self) -> Option<bool> {
        self.follow_dns.as_ref().map(Option::is_some)
    }

    /// Whether they limit an exchange before its connection is known.
    fn limit_exchanges(&self) -> bool {
        self.request_timeout.is_some() || self.response_timeout.is_some()
    }

    /// Replaces the limits that the layers below have set on this connection. The TTL is shortened by up to `jitter`.
    pub(crate) fn put_on_connection(&self, lifespan: &mut Lifespan, jitter: f64) {
        // Named one by one, so that a new setting cannot be forgotten here.
        let Self {
            idle_timeout,
            ttl,
            max_uses,
            active_timeout,
            // Applied by the pool (`PoolConfig::of_key`).
            max_connections: _,
            max_idle: _,
            max_pending: _,
            min_idle: _,
            spread: _,
            learn_idle_limit: _,
            ejection: _,
            follow_dns: _,
            connect_timeout: _,
            checkout_timeout: _,
            // Applied by the exchange.
            request_timeout: _,
            response_timeout: _,
        } = *self;
        if let Some(max) = idle_timeout {
            lifespan.set_idle_limit(max);
        }
        if let Some(max) = ttl {
            lifespan.set_age_limit(lifespan.with_jitter(max, jitter));
        }
        if let Some(max) = max_uses {
            lifespan.set_uses_limit(max);
        }
        if let Some(max) = active_timeout {
            lifespan.shared().activity().set_limit(max);
        }
    }
}

/// The hosts with their own settings, in the order of the calls.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostOverrides(Vec<(Matcher, HostSettings)>);

#[derive(Clone)]
enum Matcher {
    Name(Box<str>),
    Address(IpAddr),
    Key(Arc<dyn Fn(&Key) -> bool + Send + Sync>),
}

impl HostOverrides {
    /// # Panics
    ///
    /// If `host` is neither a host name nor an address.
    pub(crate) fn add_host(&mut self, host: &str, settings: HostSettings) {
        self.0.push((Matcher::of_host(host), settings));
    }

    pub(crate) fn add_matching(
        &mut self,
        matches: impl Fn(&Key) -> bool + Send + Sync + 'static,
        settings: HostSettings,
    ) {
        self.0.push((Matcher::Key(Arc::new(matches)), settings));
    }

    /// The settings for a key; `None` if there are none.
    pub(crate) fn find(&self, key: &Key) -> Option<HostSettings> {
        let matching = self.0.iter().filter(|(matcher, _)| matcher.matches(key));
        matching
            .map(|(_, settings)| settings.clone())
            .reduce(|earlier, later| earlier.overridden_by(&later))
    }

    /// Whether an exchange needs a lookup before its connection is known.
    pub(crate) fn limit_exchanges(&self) -> bool {
        self.0
            .iter()
            .any(|(_, settings)| settings.limit_exchanges())
    }

    /// The shortest checkout timeout among them.
    pub(crate) fn shortest_checkout_timeout(&self) -> Option<Duration> {
        let set = self.0.iter();
        set.filter_map(|(_, settings)| settings.checkout_timeout)
            .min()
    }
}

impl Matcher {
    fn of_host(host: &str) -> Self {
        let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
        if let Ok(address) = bare.unwrap_or(host).parse() {
            return Self::Address(address);
        }
        assert!(
            host.is_ascii(),
            "for_host({host:?}): a name that is not ASCII has to be written as in a URI, in Punycode: xn--…"
        );
        let authority = host.parse::<Authority>();
        let is_host = !host.is_empty() && authority.is_ok_and(|it| it.host() == host);
        assert!(
            is_host && !host.starts_with('['),
            "for_host({host:?}): it is no host name and no IP address; leave out scheme, user, port and path"
        );
        Self::Name(host.into())
    }

    fn matches(&self, key: &Key) -> bool {
        match self {
            Self::Name(name) => name.eq_ignore_ascii_case(key.host()),
            Self::Address(address) => key.host().parse() == Ok(*address),
            Self::Key(matches) => matches(key),
        }
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
            Self::Key(_) => f.write_str("for_key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::key::KeyRef;

    fn key(host: &str) -> Key {
        KeyRef::new("http", host, Some(8080)).into()
    }

    #[test]
    fn a_host_is_found_in_whatever_case_and_form_it_is_written() {
        for (given, asked, expected) in [
            ("api.example.com", "API.Example.com", true),
            ("API.EXAMPLE.COM", "api.example.com", true),
            ("example.com", "api.example.com", false),
            ("[::1]", "::1", true),
            ("0:0:0:0:0:0:0:1", "::1", true),
            ("::1", "0:0:0:0:0:0:0:1", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("127.0.0.1", "127.0.0.2", false),
            ("xn--bcher-kva.example", "XN--bcher-kva.example", true),
        ] {
            let mut overrides = HostOverrides::default();
            overrides.add_host(given, HostSettings::default().max_idle(1));
            assert_eq!(overrides.find(&key(asked)).is_some(), expected, "{given}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused_in_words() {
        for host in [
            "",
            "http://h",
            "h:80",
            "me@h",
            "h/path",
            "[::1]:80",
            "bücher.example",
            "*.example.com:1",
        ] {
            let refused = std::panic::catch_unwind(|| Matcher::of_host(host)).unwrap_err();
            let text = refused.downcast_ref::<String>().expect("a message");
            assert!(text.contains(&format!("{host:?}")), "{text}");
        }
    }

    #[test]
    fn of_those_that_match_the_last_stands_for_each_setting() {
        let mut overrides = HostOverrides::default();
        let new = HostSettings::default;
        overrides.add_matching(|key| key.port() == 8080, new().max_idle(1).max_pending(2));
        overrides.add_host("h", new().max_idle(3));
        overrides.add_host("other", new().max_idle(4));
        let found = overrides.find(&key("h")).unwrap();
        assert_eq!(found, new().max_idle(3).max_pending(2));
        assert_eq!(overrides.find(&KeyRef::new("http", "x", None).into()), None);
    }

    #[test]
    fn each_setting_is_had_back() {
        let time = |n| Duration::from_secs(n);
        let set = HostSettings::default()
            .max_connections(1)
            .max_idle(2)
            .max_pending(3)
            .max_uses(4)
            .idle_timeout(time(5))
            .ttl(time(6))
            .active_timeout(time(7))
            .connect_timeout(time(8))
            .checkout_timeout(time(9))
            .request_timeout(time(10))
            .response_timeout(time(11))
            .min_idle(12)
            .spread(Spread::InTurn)
            .learn_idle_limit(false)
            .eject(Ejection::new().consecutive(13))
            .follow_dns(FollowDns::default().answers(14));
        assert_eq!(set.get_min_idle(), Some(12));
        assert_eq!(set.get_spread(), Some(Spread::InTurn));
        assert_eq!(set.get_learn_idle_limit(), Some(false));
        let ejection = Ejection::new().consecutive(13);
        assert_eq!(
            (set.get_eject(), set.ejects()),
            (Some(&ejection), Some(true))
        );
        let follow = FollowDns::default().answers(14);
        assert_eq!(
            (set.get_follow_dns(), set.follows_dns()),
            (Some(&follow), Some(true))
        );
        let off = set.overridden_by(&HostSettings::default().eject(None).follow_dns(None));
        assert_eq!((off.get_eject(), off.get_follow_dns()), (None, None));
        assert_eq!(
            (off.ejects(), off.follows_dns()),
            (Some(false), Some(false))
        );
        let same = off.clone().overridden_by(&HostSettings::default());
        assert_eq!(same, off);
        let set = off.eject(ejection).follow_dns(follow);
        let counts = [
            set.get_max_connections(),
            set.get_max_idle(),
            set.get_max_pending(),
        ];
        assert_eq!(counts, [1, 2, 3].map(Some));
        assert_eq!(set.get_max_uses(), Some(4));
        let times = [
            set.get_idle_timeout(),
            set.get_ttl(),
            set.get_active_timeout(),
            set.get_connect_timeout(),
            set.get_checkout_timeout(),
            set.get_request_timeout(),
            set.get_response_timeout(),
        ];
        assert_eq!(times, [5, 6, 7, 8, 9, 10, 11].map(|n| Some(time(n))));
        let unset = HostSettings::default();
        assert_eq!(unset.get_max_connections(), None);
        assert_eq!((unset.get_eject(), unset.get_follow_dns()), (None, None));
        assert_eq!((unset.ejects(), unset.follows_dns()), (None, None));
    }
}
