//! What the lookups of one key's name have found. Plain data, without a lock or a clock.

use std::net::SocketAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::HashSet;
use tokio::time::Instant;

use crate::agent::LookupStatus;
use crate::target::lookup::Lookup;

#[derive(Debug, Default)]
pub(super) struct Lookups {
    last: Option<Answer>,
    /// Why the last lookup failed.
    failing: Option<String>,
}

#[derive(Debug)]
struct Answer {
    /// What was asked. A connector may connect to several hosts for one key, and the answer for one is none for another.
    lookup: Lookup,
    at: Instant,
    addresses: Vec<SocketAddr>,
}

impl Lookups {
    pub(super) fn succeeded(&mut self, lookup: &Lookup, addresses: &[SocketAddr], now: Instant) {
        self.failing = None;
        self.last = Some(Answer {
            lookup: lookup.clone(),
            at: now,
            addresses: addresses.to_vec(),
        });
    }

    pub(super) fn failed(&mut self, why: String) {
        self.failing = Some(why);
    }

    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// The last answer and its age, if it may be used in place of another one: if it is not older than this.
    pub(super) fn usable(
        &self,
        lookup: &Lookup,
        max: Duration,
        now: Instant,
    ) -> Option<(&[SocketAddr], Duration)> {
        let last = self.last.as_ref().filter(|it| it.lookup == *lookup)?;
        let age = now.saturating_duration_since(last.at);
        (age < max).then_some((&*last.addresses, age))
    }

    pub(super) fn status(&self, now: Instant) -> LookupStatus {
        let last = self.last.as_ref();
        // A resolver may find an address twice.
        let addresses = last.into_iter().flat_map(|it| &it.addresses);
        let addresses: HashSet<_, RandomState> = addresses.collect();
        LookupStatus {
            addresses: addresses.len(),
            age: last.map(|it| now.saturating_duration_since(it.at)),
            failing: self.failing.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_is_used_for_its_own_host_while_it_is_young_enough() {
        let lookup = |host: &str| Lookup {
            host: host.to_owned(),
            port: 80,
            has_port: false,
            family: None,
        };
        let (second, now) = (Duration::from_secs(1), Instant::now());
        let address = ([192, 0, 2, 1], 80).into();
        let mut lookups = Lookups::default();
        assert_eq!(lookups.usable(&lookup("a"), second, now), None);
        assert_eq!(lookups.status(now).to_string(), "no answer");
        lookups.succeeded(&lookup("a"), &[address], now);
        lookups.failed("no server".to_owned());
        let usable = |host, after| {
            let usable = lookups.usable(&lookup(host), second, now + after);
            usable.map(|(addresses, age)| (addresses.to_vec(), age))
        };
        assert_eq!(usable("a", second / 2), Some((vec![address], second / 2)));
        assert_eq!(usable("a", second), None);
        assert_eq!(usable("b", second / 2), None);
        let status = lookups.status(now + 40 * second);
        assert_eq!(
            status.to_string(),
            "answer of 40 s ago, lookup failing: no server"
        );
        let other = ([192, 0, 2, 2], 80).into();
        lookups.succeeded(&lookup("a"), &[address, other, address], now + second);
        assert_eq!(lookups.status(now + second).addresses, 2, "each once");
        assert_eq!(
            lookups.status(now + second).to_string(),
            "answer of 0 s ago"
        );
    }
}
