//! What is known about the addresses of one name. Plain data, without a lock or a clock.

use std::net::SocketAddr;
use std::time::Duration;

use foldhash::fast::RandomState;
use hashbrown::{HashMap, HashSet};
use tokio::time::Instant;

use crate::agent::Spread;
use crate::pool::addresses::standing::Out;
use crate::pool::addresses::tally::Tally;

pub(super) struct Known {
    pub(super) addresses: HashMap<SocketAddr, Address, RandomState>,
    /// How often any address was chosen.
    pub(super) given: u64,
    /// When a connection to an ejected address is to be made, if no caller makes one by itself.
    pub(super) next_trial: Option<Instant>,
}

#[derive(Default)]
pub(super) struct Address {
    /// Connections to it, including those that are being made.
    pub(super) open: usize,
    /// Those of them that take no further requests, by number. Their last requests may take hours.
    pub(super) draining: Vec<u64>,
    /// When it was chosen last, as a count of choices; 0 for never.
    given: u64,
    /// How many connects have failed since the last that succeeded.
    pub(super) failures: u32,
    /// When a connect failed last that counted for its ejection. Those that were under way then count no more.
    pub(super) connect_counted: Option<Instant>,
    pub(super) out: Option<Out>,
    pub(super) tally: Tally,
    /// How often it was ejected in a row.
    pub(super) ejections: u32,
    /// When it was readmitted last.
    pub(super) readmitted: Option<Instant>,
    /// The last answer has it.
    pub(super) is_listed: bool,
    /// How long no connection is made there to spread the load, after one that ended at once; and until when.
    pub(super) spread_pause: Duration,
    pub(super) spread_from: Option<Instant>,
    /// How many answers in a row lacked the address.
    lacking: u32,
    /// It was in the first answer, or the others have given up what they had beyond their share since it is there.
    has_share: bool,
}

impl Address {
    /// How many of its connections take further requests, or will once they are made.
    fn serving(&self) -> usize {
        self.open - self.draining.len()
    }

    /// Whether it has no connection that takes further requests, and the last one did not end at once.
    fn lacks_connection(&self, now: Instant) -> bool {
        self.serving() == 0 && self.spread_from.is_none_or(|from| from <= now)
    }
}

/// The order in which to try addresses.
#[derive(Debug, Default)]
pub(crate) struct Order {
    pub(crate) good: Vec<SocketAddr>,
    /// Tried only after all others have failed.
    pub(crate) left_out: Vec<SocketAddr>,
    /// No longer ejected, because the name has fewer addresses than before.
    pub(super) readmitted: Vec<SocketAddr>,
}

/// What follows from an answer for a name that is followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// How many connections to which addresses are to be taken out of use.
    pub(super) leave: Vec<(SocketAddr, usize)>,
    /// No longer ejected, because the name has fewer addresses than before.
    pub(super) readmitted: Vec<SocketAddr>,
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
            next_trial: None,
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
        let readmitted = self.list(&once, now);
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
                Spread::FewestOpenFirst => known.map_or((0, 0), |it| (it.serving(), it.given)),
            }
        };
        let out = |address: &SocketAddr| self.addresses.get(address)?.out.as_ref();
        let (mut left_out, mut good): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|it| out(it).is_some());
        good.sort_by_key(place);
        left_out.sort_by_key(|it| out(it).map(|out| out.until));
        let due = left_out
            .iter()
            .position(|address| out(address).is_some_and(|it| it.until <= now && it.is_untried()));
        if let Some(due) = due {
            good.insert(0, left_out.remove(due));
        }
        Order {
            good,
            left_out,
            readmitted,
        }
    }

    /// The name has these addresses. One that it no longer has is remembered while there are connections to it or it is left
    /// out: a server may answer with some of its addresses at a time. It is not tried again meanwhile. Returns those that
    /// serve again, because no more than half of the addresses are ejected.
    fn list(&mut self, found: &HashSet<SocketAddr, RandomState>, now: Instant) -> Vec<SocketAddr> {
        self.addresses
            .retain(|address, it| it.open > 0 || it.is_out(now) || found.contains(address));
        for known in self.addresses.values_mut() {
            known.is_listed = false;
        }
        for &address in found {
            self.addresses.entry(address).or_default().is_listed = true;
        }
        self.readmit_beyond_half(now)
    }

    /// Whether an address of the name that can be tried has no connection that takes further requests, and none is being made.
    /// An ejected one is tried again by a caller.
    pub(super) fn lacks_connections(&self, now: Instant) -> bool {
        let may_be_tried = |out: &Out| !out.is_ejected() && out.until <= now && out.is_untried();
        self.addresses.values().any(|it| {
            it.is_listed && it.lacks_connection(now) && it.out.as_ref().is_none_or(may_be_tried)
        })
    }

    /// Leaves the addresses that have no connection that takes further requests, if there are any.
    pub(super) fn keep_unconnected(&self, order: &mut Order, now: Instant) {
        let is_unconnected = |address: &SocketAddr| {
            let known = self.addresses.get(address);
            known.is_none_or(|it| it.lacks_connection(now))
        };
        if order.good.iter().any(is_unconnected) {
            order.good.retain(is_unconnected);
            order.left_out.clear();
        }
    }

    /// A connect has chosen it, so it counts as open.
    pub(super) fn give(&mut self, address: SocketAddr) {
        self.given += 1;
        let known = self.addresses.entry(address).or_default();
        known.given = self.given;
        known.open += 1;
    }

    /// A choice of this address is over, with or without a connection.
    pub(super) fn not_chosen(&mut self, address: SocketAddr) {
        if let Some(known) = self.addresses.get_mut(&address) {
            known.open -= 1;
        }
    }

    /// This connection to it takes no further requests. Returns whether that is new.
    pub(super) fn drains(&mut self, address: SocketAddr, connection: u64) -> bool {
        let known = self.addresses.get_mut(&address);
        let known = known.filter(|it| !it.draining.contains(&connection));
        known.map(|it| it.draining.push(connection)).is_some()
    }

    /// The name was resolved again, to `found`. The connections to be taken out of use are all
    /// to an address that `limit` answers in a row lacked; and, if `shares` and an address is new, as many to each other
    /// address as it has beyond an equal share, so that the next connects go to the new one.
    pub(super) fn resolved(
        &mut self,
        found: &[SocketAddr],
        limit: u32,
        shares: bool,
        now: Instant,
    ) -> Resolved {
        let found: HashSet<_, RandomState> = found.iter().copied().collect();
        let readmitted = self.list(&found, now);
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
                if known.serving() > 0 {
                    leave.push((address, usize::MAX));
                }
            }
        }
        if shares && is_any_new {
            leave.extend(self.surplus(&found));
        }
        Resolved { leave, readmitted }
    }

    /// How many connections that take further requests each of these addresses has beyond an equal share. Those that are
    /// skipped have none.
    fn surplus(&self, found: &HashSet<SocketAddr, RandomState>) -> Vec<(SocketAddr, usize)> {
        let serves = |address: &&SocketAddr| {
            let known = self.addresses.get(*address);
            known.is_none_or(|it| it.out.is_none())
        };
        let connections =
            |address: &SocketAddr| self.addresses.get(address).map_or(0, Address::serving);
        let serving: Vec<_> = found.iter().filter(serves).collect();
        let all: usize = serving.iter().map(|it| connections(it)).sum();
        let share = all.div_ceil(serving.len().max(1));
        let beyond = serving
            .into_iter()
            .map(|it| (*it, connections(it).saturating_sub(share)));
        beyond.filter(|(_, count)| *count > 0).collect()
    }

    /// The addresses that have connections: how many, and how many of these take no further requests.
    #[cfg(test)]
    pub(super) fn open_now(&self) -> std::collections::BTreeMap<SocketAddr, (usize, usize)> {
        let open = self.addresses.iter().filter(|(_, it)| it.open > 0);
        open.map(|(address, it)| (*address, (it.open, it.draining.len())))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::addresses::standing::LONGEST_PAUSE;

    const SECOND: Duration = Duration::from_secs(1);

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 80).into()
    }

    fn first(known: &mut Known, spread: Spread, found: &[u8], now: Instant) -> SocketAddr {
        let found = found.iter().copied().map(address).collect();
        let first = known.order(spread, found, now).first().unwrap();
        known.give(first);
        known.not_chosen(first);
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
                known.opened(address(open), 0, now);
            }
            for expected in expected {
                let first = first(&mut known, spread, &[1, 2, 3], now);
                assert_eq!(first, address(expected), "{spread:?}");
                if spread == Spread::FewestOpenFirst {
                    known.opened(first, 0, now);
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
            let before = now;
            now += Duration::from_millis(1);
            known.connect_failed(address(1), now, None, now);
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
            // One that had begun before says nothing new.
            known.connect_failed(address(1), before, None, now);
            assert_eq!(in_turn(&mut known, now), address(1), "it is tried again");
            assert!(known.begins_trial(address(1)));
            assert_eq!(in_turn(&mut known, now), address(2), "by one connect");
            assert!(!known.begins_trial(address(1)));
        }
        known.connect_succeeded(address(1));
        assert_eq!(in_turn(&mut known, now), address(1));
        known.connect_failed(address(1), now, None, now);
        let until = known.addresses[&address(1)].out.as_ref().unwrap().until;
        assert!(until <= now + SECOND, "from the start");
    }

    #[test]
    fn where_all_are_left_out_all_are_tried() {
        let mut known = Known::new();
        let now = Instant::now();
        for last in [1, 2] {
            known.connect_failed(address(last), now, None, now);
        }
        let order = known.order(Spread::InTurn, [1, 2].map(address).to_vec(), now);
        assert_eq!((order.good.len(), order.left_out.len()), (0, 2));
    }

    #[test]
    fn one_that_answers_lack_is_left_and_a_new_one_gets_a_share() {
        let mut known = Known::new();
        first(&mut known, Spread::InTurn, &[1, 2], Instant::now());
        for last in [1, 1, 1, 1, 2, 2] {
            known.opened(address(last), 0, Instant::now());
        }
        let mut resolved = |found: &[u8], shares| {
            let found: Vec<_> = found.iter().copied().map(address).collect();
            known.resolved(&found, 2, shares, Instant::now()).leave
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
            known.opened(address(last), 0, Instant::now());
        }
        let resolved = |known: &mut Known, found: &[u8]| {
            let found: Vec<_> = found.iter().copied().map(address).collect();
            let mut leave = known.resolved(&found, 2, true, now).leave;
            leave.sort_unstable();
            leave
        };
        assert_eq!(resolved(&mut known, &[1, 2]), []);
        let new = first(&mut known, Spread::FewestOpenFirst, &[1, 2, 3], now);
        assert_eq!(new, address(3));
        known.opened(new, 0, now);
        // Seven in all, and three for each of three.
        known.opened(address(1), 0, now);
        assert_eq!(resolved(&mut known, &[1, 2, 3]), [(address(1), 1)]);
        assert_eq!(resolved(&mut known, &[1, 2, 3]), []);
    }

    /// Their last requests may take hours.
    #[test]
    fn connections_that_take_no_further_requests_are_nobodys_share() {
        let mut known = Known::new();
        let now = Instant::now();
        first(&mut known, Spread::FewestOpenFirst, &[1, 2], now);
        for (last, connection) in [(1, 1), (1, 2), (1, 3), (1, 4), (2, 5), (2, 6)] {
            known.opened(address(last), connection, now);
        }
        let found = [1, 2].map(address);
        let fewest = |known: &mut Known| {
            let order = known.order(Spread::FewestOpenFirst, found.to_vec(), now);
            order.first().unwrap()
        };
        assert_eq!(fewest(&mut known), address(2));
        for connection in 1..=3 {
            assert!(known.drains(address(1), connection));
            assert!(!known.drains(address(1), connection), "once");
        }
        assert_eq!(fewest(&mut known), address(1));
        assert_eq!(known.resolved(&found, 2, true, now).leave, []);
        // Three in all, and one for each of three.
        let found = [1, 2, 3].map(address);
        let leave = known.resolved(&found, 2, true, now).leave;
        assert_eq!(leave, [(address(2), 1)]);
        assert!(known.drains(address(1), 4));
        assert!(known.lacks_connections(now));
        for connection in 1..=4 {
            known.closed(address(1), connection, now);
        }
        known.opened(address(1), 7, now);
        known.opened(address(3), 8, now);
        assert!(!known.lacks_connections(now), "none of the four is left");
    }

    #[test]
    fn an_address_that_is_skipped_has_no_share_to_be_given() {
        let mut known = Known::new();
        let now = Instant::now();
        first(&mut known, Spread::FewestOpenFirst, &[1, 2], now);
        for last in [1, 1, 2, 2] {
            known.opened(address(last), 0, Instant::now());
        }
        known.connect_failed(address(3), now, None, now);
        let found = [1, 2, 3].map(address);
        assert_eq!(known.resolved(&found, 2, true, now).leave, []);
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

    #[test]
    fn nothing_is_kept_of_addresses_that_fail_and_come_no_more() {
        let mut known = Known::new();
        let mut now = Instant::now();
        for last in 0..=255 {
            first(&mut known, Spread::InTurn, &[last], now);
            known.connect_failed(address(last), now, None, now);
            now += LONGEST_PAUSE;
        }
        assert_eq!(known.addresses.len(), 1);
    }
}
