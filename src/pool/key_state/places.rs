//! The connections of one key by address, and the choice of the next one to take. Plain data.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::pool::config::Spread;
use crate::pool::list::SlabIndex;

/// The connections of one key, in a list for each address. Connections are identified by their index in `open`.
pub(super) struct Places {
    spread: Spread,
    addresses: Slab<Place>,
    /// The address of each connection, by its index in `open`.
    of: Vec<SlabIndex>,
    /// Connections that several uses share.
    shared: Vec<usize>,
    /// How often a connection was taken.
    taken: u64,
    /// From when on it is to be said that connections have several uses.
    crowded_from: Option<Instant>,
}

/// How often it is said at the most: whoever is told looks at all connections.
const CROWD_PAUSE: Duration = Duration::from_millis(100);

struct Place {
    /// `None` for connections whose address is unknown.
    address: Option<SocketAddr>,
    open: usize,
    /// In the order in which they became idle.
    idle: VecDeque<usize>,
    /// When one was taken last, as a count of takes; 0 for never.
    taken: u64,
}

impl Places {
    pub(super) fn new(spread: Spread) -> Self {
        Self {
            spread,
            addresses: Slab::new(),
            of: Vec::new(),
            shared: Vec::new(),
            taken: 0,
            crowded_from: None,
        }
    }

    /// A connection in use has got a further use: whether that is to be said, which is so once in a while.
    pub(super) fn is_crowded(&mut self, now: Instant) -> bool {
        let is_due = self.crowded_from.is_none_or(|from| from <= now);
        if is_due {
            self.crowded_from = now.checked_add(CROWD_PAUSE);
        }
        is_due
    }

    /// A connection was made, and is in use.
    pub(super) fn opened(&mut self, index: usize, address: Option<SocketAddr>) {
        let mut known = self.addresses.iter_mut();
        let known = known.find(|(_, place)| place.address == address);
        let place = match known {
            Some((place, known)) => {
                known.open += 1;
                place
            }
            None => self.addresses.insert(Place {
                address,
                open: 1,
                idle: VecDeque::new(),
                taken: self.taken,
            }),
        };
        if self.of.len() <= index {
            self.of.resize(index + 1, SlabIndex::NONE);
        }
        self.of[index] = SlabIndex::new(place);
    }

    /// Several uses share it from now on.
    pub(super) fn is_shared(&mut self, index: usize) {
        self.shared.push(index);
    }

    /// Its transport is gone, or there was none.
    pub(super) fn closed(&mut self, index: usize) {
        let Some(place) = self.place(index) else {
            return;
        };
        self.of[index] = SlabIndex::NONE;
        self.shared.retain(|&it| it != index);
        let known = &mut self.addresses[place];
        known.open -= 1;
        if known.open == 0 {
            self.addresses.remove(place);
        }
    }

    pub(super) fn idle(&mut self, index: usize) {
        if let Some(place) = self.place(index) {
            self.addresses[place].idle.push_back(index);
        }
    }

    /// The connection is not idle any more.
    pub(super) fn busy(&mut self, index: usize) {
        let Some(place) = self.place(index) else {
            return;
        };
        let idle = &mut self.addresses[place].idle;
        // In a long list, the connection that is taken is the last one, and the one that expires the first.
        if idle.back() == Some(&index) {
            idle.pop_back();
        } else if let Some(at) = idle.iter().position(|&it| it == index) {
            idle.remove(at);
        }
    }

    /// Chooses the connection to take, of the address that is next among those that have one. `uses` returns how many
    /// uses of a shared connection are given out, and `fits` whether it may be taken: one with uses and room, or an
    /// idle one, the last of them first if `lifo`.
    pub(super) fn pick(
        &mut self,
        lifo: bool,
        uses: impl Fn(usize) -> usize,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let mut best: Option<(usize, u64, usize, usize)> = None;
        for (place, known) in &self.addresses {
            let mut in_flight = known.open - known.idle.len();
            let mut roomy: Option<(usize, usize)> = None;
            let shared = self.shared.iter().copied();
            for index in shared.filter(|&it| self.of[it].get() == Some(place)) {
                let uses = uses(index);
                // A connection in use is included already.
                in_flight += uses.saturating_sub(1);
                if uses > 0 && roomy.is_none_or(|(fewest, _)| uses < fewest) && fits(index) {
                    roomy = Some((uses, index));
                }
            }
            if self.spread == Spread::InTurn {
                in_flight = 0;
            }
            let rank = (in_flight, known.taken);
            if best.is_some_and(|(in_flight, taken, ..)| rank >= (in_flight, taken)) {
                continue;
            }
            let idle = || match lifo {
                true => known.idle.iter().rev().copied().find(|&it| fits(it)),
                false => known.idle.iter().copied().find(|&it| fits(it)),
            };
            if let Some(index) = roomy.map(|(_, index)| index).or_else(idle) {
                best = Some((in_flight, known.taken, place, index));
            }
        }
        let (.., place, index) = best?;
        self.taken += 1;
        self.addresses[place].taken = self.taken;
        Some(index)
    }

    fn place(&self, index: usize) -> Option<usize> {
        self.of.get(index)?.get()
    }

    /// Which connections are idle, by address.
    #[cfg(test)]
    pub(super) fn idle_now(&self) -> Vec<usize> {
        let idle = self.addresses.iter();
        idle.flat_map(|(_, place)| place.idle.iter().copied())
            .collect()
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn open_now(&self) -> usize {
        self.addresses.iter().map(|(_, place)| place.open).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> Option<SocketAddr> {
        Some(([192, 0, 2, last], 80).into())
    }

    /// Connections 0, 1, … to the addresses with these last numbers, all idle.
    fn places(spread: Spread, leads: &[u8]) -> Places {
        let mut places = Places::new(spread);
        for (index, &last) in leads.iter().enumerate() {
            places.opened(index, address(last));
            places.idle(index);
        }
        places
    }

    fn take(places: &mut Places) -> Option<usize> {
        let index = places.pick(true, |_| 0, |_| true)?;
        places.busy(index);
        Some(index)
    }

    #[test]
    fn the_address_with_the_fewest_in_flight_comes_first() {
        let mut places = places(Spread::FewestOpenFirst, &[1, 1, 1, 2, 2]);
        let taken: Vec<_> = (0..5).filter_map(|_| take(&mut places)).collect();
        assert_eq!(taken, [2, 4, 1, 3, 0]);
        assert_eq!(take(&mut places), None);
        // Three in flight to the first, and one to the second.
        places.idle(0);
        places.idle(3);
        assert_eq!(take(&mut places), Some(3));
    }

    #[test]
    fn those_with_as_few_take_turns() {
        for spread in [Spread::FewestOpenFirst, Spread::InTurn] {
            let mut places = places(spread, &[1, 2, 3]);
            for expected in [0, 1, 2, 0, 1, 2] {
                assert_eq!(take(&mut places), Some(expected));
                places.idle(expected);
            }
        }
    }

    #[test]
    fn in_turn_the_number_in_flight_does_not_count() {
        let mut places = places(Spread::InTurn, &[1, 1, 2, 2]);
        assert_eq!(take(&mut places), Some(1));
        assert_eq!(take(&mut places), Some(3));
        places.idle(3);
        assert_eq!(take(&mut places), Some(0));
        assert_eq!(take(&mut places), Some(3));
    }

    #[test]
    fn uses_of_shared_connections_count_each() {
        let mut places = places(Spread::FewestOpenFirst, &[1, 2]);
        for index in [0, 1] {
            places.is_shared(index);
            places.busy(index);
        }
        let uses = |of: [usize; 2]| move |index: usize| of[index];
        assert_eq!(places.pick(true, uses([5, 3]), |_| true), Some(1));
        assert_eq!(places.pick(true, uses([5, 6]), |_| true), Some(0));
        assert_eq!(places.pick(true, uses([5, 6]), |it| it == 1), Some(1));
        assert_eq!(places.pick(true, uses([5, 6]), |_| false), None);
    }

    #[test]
    fn that_connections_have_several_uses_is_said_once_in_a_while() {
        let mut places = places(Spread::InTurn, &[1]);
        let now = Instant::now();
        for (after, is_said) in [
            (0, true),
            (0, false),
            (99, false),
            (100, true),
            (199, false),
        ] {
            let at = now + Duration::from_millis(after);
            assert_eq!(places.is_crowded(at), is_said, "after {after} ms");
        }
    }

    #[test]
    fn one_that_does_not_fit_is_passed_and_one_that_is_gone_is_forgotten() {
        let mut places = places(Spread::FewestOpenFirst, &[1, 1, 2]);
        assert_eq!(places.pick(false, |_| 0, |it| it != 0), Some(1));
        places.busy(1);
        places.closed(1);
        places.busy(0);
        places.closed(0);
        assert_eq!(take(&mut places), Some(2));
        places.closed(2);
        assert_eq!((places.addresses.len(), places.shared.len()), (0, 0));
    }
}
