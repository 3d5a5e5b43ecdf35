//! The counts and the connections of an agent at one moment.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use crate::agent::{AddressStatus, HostSettings, LearnedIdleLimit, LookupStatus, ProtocolStatus};
use crate::connection::close_reason::CloseReason;
use crate::target::key::Key;

/// The counts of an agent since its start, and its present connections.
///
/// With the feature `serde` it serializes to agentkeepalive's object (`createSocketCount`, …, `freeSockets`, `sockets`,
/// `requests`, in this order), followed by the fields of this crate: `reusedSocketCount`, `staleSocketCount`,
/// `detachedSocketCount`, `startedRequestCount`, `answeredRequestCount`, `failedRequestCount`,
/// `resentRequestCount`, `closes`, and, unless
/// they are empty, `name`, `hosts`, `learned`, `lookups`, `addresses` and `protocols`. Connections are counted, not streams,
/// except in `protocols`. Maps contain no entries with the value 0.
///
/// While nothing changes, `created == closed + detached + open()`.
///
/// ```
/// use tower_keep_alive::KeepAliveLayer;
///
/// let layer = KeepAliveLayer::<http_body_util::Empty<bytes::Bytes>>::new();
/// let status = layer.handle().status();
/// assert_eq!(status.created, 0);
/// assert_eq!(status.open(), 0);
/// assert_eq!(
///     status.to_string(),
///     "requests: 0 started, 0 answered, 0 completed, 0 failed; \
///      connections: 0 created (0 failed), 0 closed, 0 reused, 0 stale; 0 idle, 0 active, 0 pending",
/// );
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Status {
    /// Connects begun (createSocketCount).
    #[cfg_attr(feature = "serde", serde(rename = "createSocketCount"))]
    pub created: u64,
    /// Connects that failed or took too long (createSocketErrorCount).
    #[cfg_attr(feature = "serde", serde(rename = "createSocketErrorCount"))]
    pub create_errors: u64,
    /// Connections that were closed, including failed and abandoned connects (closeSocketCount).
    #[cfg_attr(feature = "serde", serde(rename = "closeSocketCount"))]
    pub closed: u64,
    /// Closed connections that failed; a clean close by the server does not count (errorSocketCount).
    #[cfg_attr(feature = "serde", serde(rename = "errorSocketCount"))]
    pub errors: u64,
    /// Closed connections that reached a time limit: idle, TTL, connect or active timeout (timeoutSocketCount).
    #[cfg_attr(feature = "serde", serde(rename = "timeoutSocketCount"))]
    pub timeouts: u64,
    /// Exchanges that were completed, with the end of the response body (requestCount).
    #[cfg_attr(feature = "serde", serde(rename = "requestCount"))]
    pub completed: u64,
    /// Idle connections of each key (freeSockets).
    #[cfg_attr(
        feature = "serde",
        serde(rename = "freeSockets", serialize_with = "by_name")
    )]
    pub idle: BTreeMap<Key, usize>,
    /// Connections in use or being made, for each key (sockets).
    #[cfg_attr(
        feature = "serde",
        serde(rename = "sockets", serialize_with = "by_name")
    )]
    pub active: BTreeMap<Key, usize>,
    /// Callers in the queue of each key (requests).
    #[cfg_attr(
        feature = "serde",
        serde(rename = "requests", serialize_with = "by_name")
    )]
    pub pending: BTreeMap<Key, usize>,
    /// Checkouts that got a connection that was not made for them.
    #[cfg_attr(feature = "serde", serde(rename = "reusedSocketCount"))]
    pub reused: u64,
    /// Connections that were found closed just before a reuse.
    #[cfg_attr(feature = "serde", serde(rename = "staleSocketCount"))]
    pub stale: u64,
    /// Connections that left the pool during an exchange: by an upgrade, a tunnel, or `detach`.
    #[cfg_attr(feature = "serde", serde(rename = "detachedSocketCount"))]
    pub detached: u64,
    /// Exchanges that have left the queue, with a connection or with an error. A request that the agent sends again by
    /// itself counts once. A caller that gave up in the queue does not count.
    #[cfg_attr(feature = "serde", serde(rename = "startedRequestCount"))]
    pub started: u64,
    /// Exchanges whose response has begun, whether or not its body was completed.
    #[cfg_attr(feature = "serde", serde(rename = "answeredRequestCount"))]
    pub answered: u64,
    /// Exchanges that failed: without a connection, without a response, or with an incomplete response. Exchanges that
    /// their caller dropped, or whose own request body failed, do not count.
    #[cfg_attr(feature = "serde", serde(rename = "failedRequestCount"))]
    pub failed: u64,
    /// How often a request that its connection had not taken was sent again, on another connection: the connection was just
    /// closing, or the server refused a stream of HTTP/2. Its caller does not notice.
    #[cfg_attr(feature = "serde", serde(rename = "resentRequestCount"))]
    pub resent: u64,
    /// `closed` by reason.
    pub closes: BTreeMap<CloseReason, u64>,
    /// The agent's name, if it has one ([`KeepAliveLayer::name`](crate::KeepAliveLayer::name)).
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub name: Option<String>,
    /// The settings of keys that have their own at present
    /// ([`KeepAliveLayer::for_host`](crate::KeepAliveLayer::for_host)). In JSON, times are in milliseconds.
    #[cfg_attr(
        feature = "serde",
        serde(
            skip_serializing_if = "BTreeMap::is_empty",
            serialize_with = "each_by_name"
        )
    )]
    pub hosts: BTreeMap<Key, HostSettings>,
    /// After how long the servers of keys close idle connections, if that was learned
    /// ([`KeepAliveLayer::learn_idle_limit`](crate::KeepAliveLayer::learn_idle_limit)).
    #[cfg_attr(
        feature = "serde",
        serde(
            skip_serializing_if = "BTreeMap::is_empty",
            serialize_with = "each_by_name"
        )
    )]
    pub learned: BTreeMap<Key, LearnedIdleLimit>,
    /// How the lookups of names that are followed have ended
    /// ([`KeepAliveLayer::follow_dns`](crate::KeepAliveLayer::follow_dns)).
    #[cfg_attr(
        feature = "serde",
        serde(
            skip_serializing_if = "BTreeMap::is_empty",
            serialize_with = "each_by_name"
        )
    )]
    pub lookups: BTreeMap<Key, LookupStatus>,
    /// The open connections by remote address: how many lead to each of the servers behind a name. For connections
    /// through a proxy, it is the address of the proxy. Connects under way do not count, nor do transports whose
    /// address is unknown. Addresses that are left out at present are here with or without connections.
    #[cfg_attr(
        feature = "serde",
        serde(
            skip_serializing_if = "BTreeMap::is_empty",
            serialize_with = "addresses_by_name"
        )
    )]
    pub addresses: BTreeMap<Key, BTreeMap<SocketAddr, AddressStatus>>,
    /// What the open connections of each key speak, how many exchanges they carry, and how many they can. Keys without a
    /// connection have no entry.
    #[cfg_attr(
        feature = "serde",
        serde(
            skip_serializing_if = "BTreeMap::is_empty",
            serialize_with = "protocols_by_name"
        )
    )]
    pub protocols: BTreeMap<Key, ProtocolStatus>,
}

/// Keys that differ only in secrets have the same name, and are counted together.
#[cfg(feature = "serde")]
fn by_name<S>(counts: &BTreeMap<Key, usize>, serializer: S) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
{
    let mut names = BTreeMap::<String, usize>::new();
    for (key, count) in counts {
        *names.entry(key.to_string()).or_default() += count;
    }
    serializer.collect_map(names)
}

#[cfg(feature = "serde")]
fn each_by_name<T, S>(keys: &BTreeMap<Key, T>, serializer: S) -> Result<S::Ok, S::Error>
where
    T: serde::Serialize,
    S: serde::Serializer,
{
    serializer.collect_map(keys.iter().map(|(key, it)| (key.to_string(), it)))
}

#[cfg(feature = "serde")]
fn addresses_by_name<S>(
    keys: &BTreeMap<Key, BTreeMap<SocketAddr, AddressStatus>>,
    serializer: S,
) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
{
    let mut names = BTreeMap::<String, BTreeMap<SocketAddr, AddressStatus>>::new();
    for (key, addresses) in keys {
        let of_name = names.entry(key.to_string()).or_default();
        for (&address, counts) in addresses {
            of_name.entry(address).or_default().add(counts);
        }
    }
    serializer.collect_map(names)
}

#[cfg(feature = "serde")]
fn protocols_by_name<S>(
    keys: &BTreeMap<Key, ProtocolStatus>,
    serializer: S,
) -> Result<S::Ok, S::Error>
where
    S: serde::Serializer,
{
    let mut names = BTreeMap::<String, ProtocolStatus>::new();
    for (key, protocols) in keys {
        names.entry(key.to_string()).or_default().add(protocols);
    }
    serializer.collect_map(names)
}

impl Status {
    /// The number of open connections: being made, in use and idle.
    #[must_use]
    pub fn open(&self) -> usize {
        self.idle.values().sum::<usize>() + self.active.values().sum::<usize>()
    }

    pub(crate) fn count_close(&mut self, reason: CloseReason, count: u64) {
        if reason == CloseReason::Detached {
            self.detached += count;
            return;
        }
        self.closed += count;
        self.create_errors += if reason.is_create_error() { count } else { 0 };
        self.errors += if reason.is_error() { count } else { 0 };
        self.timeouts += if reason.is_timeout() { count } else { 0 };
        self.closes.insert(reason, count);
    }

    /// agentkeepalive's six counters.
    pub(crate) fn counters(&self) -> [u64; 6] {
        [
            self.created,
            self.create_errors,
            self.closed,
            self.errors,
            self.timeouts,
            self.completed,
        ]
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |map: &BTreeMap<Key, usize>| map.values().sum::<usize>();
        if let Some(name) = &self.name {
            write!(f, "{name}: ")?;
        }
        write!(
            f,
            "requests: {} started, {} answered, {} completed, {} failed; \
             connections: {} created ({} failed), {} closed, {} reused, {} stale; {} idle, {} active, {} pending",
            self.started,
            self.answered,
            self.completed,
            self.failed,
            self.created,
            self.create_errors,
            self.closed,
            self.reused,
            self.stale,
            sum(&self.idle),
            sum(&self.active),
            sum(&self.pending),
        )?;
        let mut http2 = ProtocolStatus::default();
        let of_http2 = self.protocols.values().filter(|it| it.http2 > 0);
        of_http2.for_each(|it| http2.add(it));
        if http2.http2 > 0 {
            write!(f, "; {http2}")?;
        }
        for (key, learned) in &self.learned {
            write!(f, "; {key} {learned}")?;
        }
        let failing = self.lookups.iter().filter(|(_, it)| it.failing.is_some());
        for (key, lookups) in failing {
            write!(f, "; {key} {lookups}")?;
        }
        for (key, addresses) in &self.addresses {
            for (address, counts) in addresses {
                if let Some(left_out) = counts.left_out {
                    write!(f, "; {key} {address} {left_out}")?;
                }
            }
        }
        Ok(())
    }
}
