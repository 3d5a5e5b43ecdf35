//! What is known about the addresses of one name. Plain data, without a lock or a clock.

use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use tokio::time::Instant;

use crate::pool::config::Spread;

/// How long an address is skipped after its first failure; twice as long after each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

pub(super) struct Known {
    addresses: HashMap<SocketAddr, Address, RandomState>,
    /// How often any address was chosen.
    given: u64,
}

#[derive(Default)]
struct Address {
    /// Connections to it, including those that are being made.
    open: usize,
    /// When it was chosen last, as a count of choices; 0 for never.
    given: u64,
    /// How many connects have failed since the last that succeeded.
    failures: u32,
    out: Option<Out>,
    /// How many answers in a row lacked the address.
    lacking: u32,
    /// It was in the first answer, or the others have given up what they had beyond their share since it is there.
    has_share: bool,
}

/// The address is skipped for now.
struct Out {
    until: Instant,
    /// A connect is trying the address again.
    is_tried: bool,
}

/// The order in which to try addresses.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) good: Vec<SocketAddr>,
    /// Tried only after all others have failed.
    pub(crate) left_out: Vec<SocketAddr>,
}

impl Order {
    pub(super) fn first(&self) -> Option<SocketAddr> {
        self.good.first().or(self.left_out.first()).copied()
    }
}

impl Known {
    pub(super) fn new() -> Self {
        Self {
            addresses: HashMap::default(),
            given: 0,
        }
    }

    /// Each address once.
    pub(super) fn order(
        &mut self,
        spread: Spread,
        mut found: Vec<SocketAddr>,
        now: Instant,
    ) -> Order {
        let mut once = HashSet::<_, RandomState>::default();
        found.retain(|address| once.insert(*address));
        let is_first = self.addresses.is_empty();
        self.list(&once);
        if is_first {
            self.addresses
                .values_mut()
                .for_each(|it| it.has_share = true);
        }
        let place = |address: &SocketAddr| {
            let known = self.addresses.get(address);
            match spread {
                Spread::AsResolved => (0, 0),
                Spread::InTurn => (0, known.map_or(0, |it| it.given)),
                Spread::FewestOpenFirst => known.map_or((0, 0), |it| (it.open, it.given)),
            }
        };
        let out = |address: &SocketAddr| self.addresses.get(address)?.out.as_ref();
        let (mut left_out, mut good): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|it| out(it).is_some());
        good.sort_by_key(place);
        left_out.sort_by_key(|it| out(it).map(|out| out.until));
        let due = left_out
            .iter()
            .position(|address| out(address).is_some_and(|it| it.until <= now && !it.is_tried));
        if let Some(due) = due {
            good.insert(0, left_out.remove(due));
        }
        Order { good, left_out }
    }

    /// The name has these addresses. One that it no longer has is remembered only while that has an effect.
    fn list(&mut self, found: &HashSet<SocketAddr, RandomState>) {
        self.addresses
            .retain(|address, it| it.open > 0 || it.out.is_some() || found.contains(address));
        for &address in found {
            self.addresses.entry(address).or_default();
        }
    }

    /// A connect has chosen it, so it counts as open.
    pub(super) fn give(&mut self, address: SocketAddr) {
        self.given += 1;
        let known = self.addresses.entry(address).or_default();
        known.given = self.given;
        known.open += 1;
    }

    pub(super) fn opened(&mut self, address: SocketAddr) {
        self.addresses.entry(address).or_default().open += 1;
    }

    pub(super) fn closed(&mut self, address: SocketAddr) {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.open -= 1;
        }
    }

    /// Whether it was skipped, and no other connect is trying it again.
    pub(super) fn begins_trial(&mut self, address: SocketAddr) -> bool {
        let out = self
            .addresses
            .get_mut(&address)
            .and_then(|it| it.out.as_mut());
        out.is_some_and(|out| !std::mem::replace(&mut out.is_tried, true))
    }

    pub(super) fn ends_trial(&mut self, address: SocketAddr) {
        let out = self
            .addresses
            .get_mut(&address)
            .and_then(|it| it.out.as_mut());
        if let Some(out) = out {
            out.is_tried = false;
        }
    }

    /// The name was resolved again, to `found`. Returns how many connections to which addresses are to be taken out of use: all
    /// to an address that `limit` answers in a row lacked; and, if `shares` and an address is new, as many to each other
    /// address as it has beyond an equal share, so that the next connects go to the new one.
    pub(super) fn resolved(
        &mut self,
        found: &[SocketAddr],
        limit: u32,
        shares: bool,
    ) -> Vec<(SocketAddr, usize)> {
        let found: HashSet<_, RandomState> = found.iter().copied().collect();
        self.list(&found);
        let mut leave = Vec::new();
        let mut is_any_new = false;
        for (&address, known) in &mut self.addresses {
            if found.contains(&address) {
                known.lacking = 0;
                is_any_new |= !known.has_share;
                known.has_share = true;
                continue;
            }
            known.lacking = known.lacking.saturating_add(1);
            if known.lacking >= limit {
                known.has_share = false;
                if known.open > 0 {
                    leave.push((address, usize::MAX));
                }
            }
        }
        if shares && is_any_new {
            leave.extend(self.surplus(&found));
        }
        leave
    }

    /// How many connections each of these addresses has beyond an equal share. Those that are skipped have none.
    fn surplus(&self, found: &HashSet<SocketAddr, RandomState>) -> Vec<(SocketAddr, usize)> {
        let serves = |address: &&SocketAddr| {
            let known = self.addresses.get(*address);
            known.is_none_or(|it| it.out.is_none())
        };
        let open = |address: &SocketAddr| self.addresses.get(address).map_or(0, |it| it.open);
        let serving: Vec<_> = found.iter().filter(serves).collect();
        let all: usize = serving.iter().map(|it| open(it)).sum();
        let share = all.div_ceil(serving.len().max(1));
        let beyond = serving
            .into_iter()
            .map(|it| (*it, open(it).saturating_sub(share)));
        beyond.filter(|(_, count)| *count > 0).collect()
    }

    #[cfg(test)]
    pub(super) fn open_now(&self) -> std::collections::BTreeMap<SocketAddr, usize> {
        let open = self.addresses.iter().filter(|(_, it)| it.open > 0);
        open.map(|(address, it)| (*address, it.open)).collect()
    }

    pub(super) fn answers(&mut self, address: SocketAddr) {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.failures = 0;
            known.out = None;
        }
    }

    pub(super) fn fails(&mut self, address: SocketAddr, now: Instant) {
        let known = self.addresses.entry(address).or_default();
        // Of the connects that began before it was skipped, only the one that tries it again has new information.
        if known.out.as_ref().is_some_and(|out| now < out.until) {
            return;
        }
        let longest = FIRST_PAUSE.saturating_mul(1 << known.failures.min(16));
        let longest = longest.min(LONGEST_PAUSE);
        known.failures = known.failures.saturating_add(1);
        // Half of the pause, and a random part of the other half.
        let seed = (address, known.failures, self.given);
        let part = self.addresses.hasher().hash_one(seed) as u32;
        let pause = longest / 2 + (longest / 2).mul_f64(f64::from(part) / f64::from(u32::MAX));
        let Some(known) = self.addresses.get_mut(&address) else {
            return;
        };
        known.out = now.checked_add(pause).map(|until| Out {
            until,
            is_tried: false,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 80).into()
    }

    fn first(known: &mut Known, spread: Spread, found: &[u8], now: Instant) -> SocketAddr {
        let found = found.iter().copied().map(address).collect();
        let first = known.order(spread, found, now).first().unwrap();
        known.give(first);
        known.closed(first);
        first
    }

    #[test]
    fn each_spread_has_its_order() {
        let now = Instant::now();
        for (spread, expected) in [
            (Spread::AsResolved, [1, 1, 1, 1]),
            (Spread::InTurn, [1, 2, 3, 1]),
            // Two connections to the first, one to the second.
            (Spread::FewestOpenFirst, [3, 2, 3, 1]),
        ] {
            let mut known = Known::new();
            for open in [1, 1, 2] {
                known.opened(address(open));
            }
            for expected in expected {
                let first = first(&mut known, spread, &[1, 2, 3], now);
                assert_eq!(first, address(expected), "{spread:?}");
                if spread == Spread::FewestOpenFirst {
                    known.opened(first);
                }
            }
        }
    }

    #[test]
    fn an_address_that_is_found_twice_is_tried_once() {
        let mut known = Known::new();
        let found = [1, 2, 1, 1].map(address).to_vec();
        let order = known.order(Spread::AsResolved, found, Instant::now());
        assert_eq!(order.good, [1, 2].map(address));
    }

    #[test]
    fn one_that_fails_is_left_out_for_longer_each_time_and_tried_by_one_connect() {
        let mut known = Known::new();
        let mut now = Instant::now();
        let in_turn = |known: &mut Known, now| first(known, Spread::InTurn, &[1, 2], now);
        let mut last = Duration::ZERO;
        for failure in 0..10 {
            known.fails(address(1), now);
            let until = known.addresses[&address(1)].out.as_ref().unwrap().until;
            let pause = until.duration_since(now);
            let longest = (SECOND * (1 << failure)).min(LONGEST_PAUSE);
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?}");
            assert!(pause >= last / 2, "not much shorter than before");
            last = pause;
            for _ in 0..3 {
                assert_eq!(in_turn(&mut known, now), address(2));
            }
            now += pause;
            assert_eq!(in_turn(&mut known, now), address(1), "it is tried again");
            assert!(known.begins_trial(address(1)));
            assert_eq!(in_turn(&mut known, now), address(2), "by one connect");
            assert!(!known.begins_trial(address(1)));
        }
        known.answers(address(1));
        assert_eq!(in_turn(&mut known, now), address(1));
        known.fails(address(1), now);
        let until = known.addresses[&address(1)].out.as_ref().unwrap().until;
        assert!(until <= now + SECOND, "from the start");
    }

    #[test]
    fn where_all_are_left_out_all_are_tried() {
        let mut known = Known::new();
        let now = Instant::now();
        for last in [1, 2] {
            known.fails(address(last), now);
        }
        let order = known.order(Spread::InTurn, [1, 2].map(address).to_vec(), now);
        assert_eq!((order.good.len(), order.left_out.len()), (0, 2));
    }

    #[test]
    fn one_that_answers_lack_is_left_and_a_new_one_gets_a_share() {
        let mut known = Known::new();
        first(&mut known, Spread::InTurn, &[1, 2], Instant::now());
        for last in [1, 1, 1, 1, 2, 2] {
            known.opened(address(last));
        }
        let mut resolved = |found: &[u8], shares| {
            let found: Vec<_> = found.iter().copied().map(address).collect();
            known.resolved(&found, 2, shares)
        };
        assert_eq!(resolved(&[1, 2], true), []);
        assert_eq!(resolved(&[1], true), [], "once");
        assert_eq!(resolved(&[1, 2], true), [], "it is back");
        assert_eq!(resolved(&[1], true), []);
        assert_eq!(resolved(&[1], true), [(address(2), usize::MAX)]);
        // Six in all, and two for each of three.
        assert_eq!(resolved(&[1, 2, 3], true), [(address(1), 2)]);
        assert_eq!(resolved(&[1, 2, 3], true), [], "once");
        assert_eq!(resolved(&[1, 2, 3, 4], false), [], "nothing is shared out");
    }

    /// A connect may look the name up before the lookup in the background does.
    #[test]
    fn an_address_that_a_connect_has_found_first_gets_its_share() {
        let mut known = Known::new();
        let now = Instant::now();
        first(&mut known, Spread::FewestOpenFirst, &[1, 2], now);
        for last in [1, 1, 1, 2, 2, 2] {
            known.opened(address(last));
        }
        let resolved = |known: &mut Known, found: &[u8]| {
            let found: Vec<_> = found.iter().copied().map(address).collect();
            let mut leave = known.resolved(&found, 2, true);
            leave.sort_unstable();
            leave
        };
        assert_eq!(resolved(&mut known, &[1, 2]), []);
        let new = first(&mut known, Spread::FewestOpenFirst, &[1, 2, 3], now);
        assert_eq!(new, address(3));
        known.opened(new);
        // Seven in all, and three for each of three.
        known.opened(address(1));
        assert_eq!(resolved(&mut known, &[1, 2, 3]), [(address(1), 1)]);
        assert_eq!(resolved(&mut known, &[1, 2, 3]), []);
    }

    #[test]
    fn an_address_that_is_skipped_has_no_share_to_be_given() {
        let mut known = Known::new();
        let now = Instant::now();
        first(&mut known, Spread::FewestOpenFirst, &[1, 2], now);
        for last in [1, 1, 2, 2] {
            known.opened(address(last));
        }
        known.fails(address(3), now);
        let found = [1, 2, 3].map(address);
        assert_eq!(known.resolved(&found, 2, true), []);
    }

    #[test]
    fn nothing_is_kept_of_addresses_that_come_and_go() {
        let mut known = Known::new();
        let now = Instant::now();
        for last in 0..=255 {
            first(&mut known, Spread::InTurn, &[last], now);
        }
        assert_eq!(known.addresses.len(), 1);
    }
}
