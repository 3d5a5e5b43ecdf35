//! How the addresses of names are followed.

use std::future::Future;
use std::hash::BuildHasher;
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::timeout;

use crate::error::connect::ConnectError;
use crate::target::lookup::Lookup;

/// A cache in between answers with a TTL of 0 as well, in its last second.
const SHORTEST_TTL: Duration = Duration::from_secs(1);

/// Names are looked up again in the background while they have connections; see
/// [`KeepAliveLayer::follow_dns`](crate::KeepAliveLayer::follow_dns) and [the guide](crate::guides::many_addresses).
///
/// - Connections to an address that [`answers`](Self::answers) answers in a row lack take no further requests, and close when
///   they are free.
/// - With a [`Spread`](crate::Spread) other than the default, an address that is new gets its share: the others give up the
///   connections that they have beyond it, and the next ones go to the new address.
/// - If a lookup fails, takes too long or finds no address, the last answer is used instead, also for new connections, until
///   it is older than [`max_stale`](Self::max_stale). [`Status::lookups`](crate::status::Status::lookups) and
///   [`EventKind::LookupFailed`](crate::EventKind::LookupFailed) say so.
///
/// A task in the runtime of the first connect looks the name up, until the key has no connections. If the task ends before, because
/// that runtime is shut down or the resolver panics, the connections stay as they are, and
/// [`LookupStatus::failing`](crate::status::LookupStatus::failing) says so. The next connect of the key looks the name up and begins
/// another task. A key that makes no connect any more, such as one whose HTTP/2 connection serves all callers, is followed no
/// further: a [`ttl`](crate::KeepAliveLayer::ttl) makes it connect from time to time.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::{FollowDns, KeepAlive, Spread};
///
/// let agent = KeepAlive::builder()
///     .spread(Spread::FewestOpenFirst)
///     .follow_dns(FollowDns::default().every(Duration::from_secs(10)))
///     .build();
/// # let _ = agent;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
#[must_use]
pub struct FollowDns {
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_millis"))]
    every: Duration,
    pub(crate) answers: u32,
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_millis"))]
    pub(crate) lookup_timeout: Duration,
    #[cfg_attr(feature = "serde", serde(serialize_with = "as_millis"))]
    pub(crate) max_stale: Duration,
}

#[cfg(feature = "serde")]
fn as_millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl FollowDns {
    /// Every 30 s, or when an answer's TTL ends; two answers have to lack an address.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time between two lookups of a name whose answer has no TTL, as with the system's resolver; up to a quarter of it
    /// less, at random, so that many clients do not ask at the same time. Default: 30 s.
    ///
    /// An answer with a TTL ([`ResolvedAddrs`](crate::connect::ResolvedAddrs)) holds for that time instead, at least 1 s, and up
    /// to a quarter of it more. After a lookup that failed, this is the time to the next one.
    ///
    /// # Panics
    ///
    /// If `every` is zero.
    pub fn every(mut self, every: Duration) -> Self {
        assert!(
            every > Duration::ZERO,
            "FollowDns::every must not be zero: names would be looked up without a pause"
        );
        self.every = every;
        self
    }

    /// How many answers in a row have to lack an address before its connections take no further requests. Default: 2, so that
    /// one incomplete answer does no harm.
    ///
    /// # Panics
    ///
    /// If `answers` is 0.
    pub fn answers(mut self, answers: u32) -> Self {
        assert!(
            answers > 0,
            "FollowDns::answers must not be 0: an address would be left though it is in every answer"
        );
        self.answers = answers;
        self
    }

    /// How long a lookup may take, of those in the background and of those of connects. A connect that has a last answer to
    /// use waits for half of the time that is left to it at the most. Default: 6 s, which is enough for the second server of
    /// the system's resolver if the first does not answer within its 5 s (`resolv.conf(5)`, `timeout`).
    ///
    /// # Panics
    ///
    /// If `max` is zero.
    pub fn lookup_timeout(mut self, max: Duration) -> Self {
        assert!(
            max > Duration::ZERO,
            "FollowDns::lookup_timeout must not be zero: every lookup would fail"
        );
        self.lookup_timeout = max;
        self
    }

    /// How old the last answer may be if it is used because a lookup failed (RFC 8767 calls it stale). A connect whose lookup
    /// fails and that has no such answer fails, with an error for which [`is_dns`](crate::Error::is_dns) is true. With zero
    /// it always does. Default: 5 minutes.
    pub fn max_stale(mut self, max: Duration) -> Self {
        self.max_stale = max;
        self
    }

    /// A lookup within the limit of one.
    pub(crate) fn limit<F, T>(
        &self,
        lookup: &Lookup,
        resolving: F,
    ) -> impl Future<Output = Result<T, ConnectError>>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        Self::within(self.lookup_timeout, lookup, resolving)
    }

    /// A lookup that ends in time.
    pub(crate) async fn within<F, T>(
        limit: Duration,
        lookup: &Lookup,
        resolving: F,
    ) -> Result<T, ConnectError>
    where
        F: Future<Output = Result<T, ConnectError>>,
    {
        let found = timeout(limit, resolving).await;
        found.unwrap_or_else(|_| Err(ConnectError::unresolved(lookup.host.clone(), limit)))
    }

    /// The time to the next lookup, after an answer with this TTL, if it has one.
    pub(crate) fn wait(&self, ttl: Option<Duration>) -> Duration {
        // Seeded anew each time.
        let random = RandomState::default().hash_one(()) as u32;
        let part = f64::from(random) / f64::from(u32::MAX);
        match ttl.map(|ttl| ttl.max(SHORTEST_TTL)) {
            Some(ttl) => ttl.saturating_add((ttl / 4).mul_f64(part)),
            None => self.every - (self.every / 4).mul_f64(part),
        }
    }
}

impl Default for FollowDns {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(30),
            answers: 2,
            lookup_timeout: Duration::from_secs(6),
            max_stale: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lookups_come_after_the_ttl_or_before_the_time_is_over_and_never_all_at_once() {
        let second = Duration::from_secs;
        let follow = FollowDns::default().every(second(100));
        for (ttl, from, to) in [
            (None, 75, 100),
            (Some(40), 40, 50),
            // A TTL of 0 does not ask for a lookup without a pause.
            (Some(0), 1, 2),
        ] {
            let waits: Vec<_> = (0..100).map(|_| follow.wait(ttl.map(second))).collect();
            for wait in &waits {
                assert!(*wait >= second(from) && *wait <= second(to), "{wait:?}");
            }
            let (first, last) = (waits.iter().min(), waits.iter().max());
            let spread = last.unwrap().abs_diff(*first.unwrap());
            assert!(spread > (second(to) - second(from)) / 10, "{spread:?}");
        }
        assert_eq!(follow.wait(Some(Duration::MAX)), Duration::MAX);
    }
}
