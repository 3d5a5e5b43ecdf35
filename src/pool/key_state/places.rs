//! The connections of one key by address, and the choice of the next one to take. Plain data.

mod ranking;

use std::collections::VecDeque;
use std::mem;
use std::net::SocketAddr;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::agent::Spread;
use crate::pool::list::SlabIndex;
use ranking::{Rank, Ranking};

/// The connections of one key, in a list for each address. Connections are identified by their index in `open`.
pub(super) struct Places {
    spread: Spread,
    addresses: Slab<Place>,
    /// The address of each connection, by its index in `open`.
    of: Vec<Of>,
    /// Addresses with connections that are idle or shared, the next one first.
    ranking: Ranking,
    /// How often a connection was taken.
    taken: u64,
    /// From when on it is to be said that connections have several uses.
    crowded_from: Option<Instant>,
}

/// How often it is said at the most: whoever is told looks at all connections.
const CROWD_PAUSE: Duration = Duration::from_millis(100);

/// Where a connection leads.
#[derive(Clone, Copy)]
struct Of {
    place: SlabIndex,
    /// How many uses a shared connection has beyond the first.
    further: usize,
}

struct Place {
    /// `None` for connections whose address is unknown.
    address: Option<SocketAddr>,
    open: usize,
    /// In the order in which they became idle.
    idle: VecDeque<usize>,
    /// Shared connections that have uses and room for more.
    roomy: Vec<usize>,
    /// Uses that are given out, those of closing connections included.
    in_flight: usize,
    /// When one was taken last, as a count of takes; 0 for never.
    taken: u64,
}

impl Of {
    const NOWHERE: Self = Self {
        place: SlabIndex::NONE,
        further: 0,
    };
}

impl Place {
    /// Whether one of its connections may be taken.
    #[inline]
    fn is_listed(&self) -> bool {
        !self.idle.is_empty() || !self.roomy.is_empty()
    }

    /// The idle connection to take, whatever it is.
    #[inline]
    fn next_idle(&self, lifo: bool) -> Option<usize> {
        let next = match lifo {
            true => self.idle.back(),
            false => self.idle.front(),
        };
        next.copied()
    }

    /// The connection to take: of the shared ones with uses and room that with the fewest uses, or else an idle one.
    fn candidate(
        &self,
        lifo: bool,
        uses: impl Fn(usize) -> usize,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let roomy = self.roomy.iter().copied().filter(|&it| fits(it));
        let roomy = roomy.min_by_key(|&it| uses(it));
        let mut idle = self.idle.iter().copied();
        let idle = || match lifo {
            true => idle.rfind(|&it| fits(it)),
            false => idle.find(|&it| fits(it)),
        };
        roomy.or_else(idle)
    }
}

impl Places {
    pub(super) fn new(spread: Spread) -> Self {
        Self {
            spread,
            addresses: Slab::new(),
            of: Vec::new(),
            ranking: Ranking::new(),
            taken: 0,
            crowded_from: None,
        }
    }

    /// Whether it is to be said that a connection in use gets a further use, which is so once in a while.
    pub(super) fn is_crowd_due(&self, now: Instant) -> bool {
        self.crowded_from.is_none_or(|from| from <= now)
    }

    /// A connection in use has got a further use. Returns whether that is to be said.
    pub(super) fn note_crowded(&mut self, now: Instant) -> bool {
        let is_due = self.is_crowd_due(now);
        if is_due {
            self.crowded_from = now.checked_add(CROWD_PAUSE);
        }
        is_due
    }

    /// A connection was made, and is in use.
    pub(super) fn opened(&mut self, index: usize, address: Option<SocketAddr>) {
        let mut known = self.addresses.iter();
        let known = known.find(|(_, place)| place.address == address);
        let place = known.map(|(place, _)| place).unwrap_or_else(|| {
            self.addresses.insert(Place {
                address,
                open: 0,
                idle: VecDeque::new(),
                roomy: Vec::new(),
                in_flight: 0,
                taken: self.taken,
            })
        });
        self.ranking.make_room(place);
        let known = &mut self.addresses[place];
        known.open += 1;
        known.in_flight += 1;
        if self.of.len() <= index {
            self.of.resize(index + 1, Of::NOWHERE);
        }
        self.of[index].place = SlabIndex::new(place);
        self.rank(place);
    }

    /// Whether a shared connection has uses and room for more, which has changed. An address that has neither such a connection
    /// nor an idle one is passed over, however long the requests under way there take.
    pub(super) fn set_roomy(&mut self, index: usize, is_roomy: bool) {
        let Some(place) = self.place(index) else {
            return;
        };
        let roomy = &mut self.addresses[place].roomy;
        match is_roomy {
            true => roomy.push(index),
            false => roomy.retain(|&it| it != index),
        }
        self.rank(place);
    }

    /// So many uses of a shared connection are given out.
    pub(super) fn uses(&mut self, index: usize, uses: usize) {
        let Some(place) = self.place(index) else {
            return;
        };
        // One in use is included already.
        let further = uses.saturating_sub(1);
        let before = &mut self.of[index].further;
        if *before != further {
            let known = &mut self.addresses[place];
            known.in_flight = known.in_flight - *before + further;
            *before = further;
            self.rank(place);
        }
    }

    /// Its transport is gone, or there was none. It was neither idle nor roomy any more.
    pub(super) fn closed(&mut self, index: usize) {
        let Some(place) = self.place(index) else {
            return;
        };
        let Of { further, .. } = mem::replace(&mut self.of[index], Of::NOWHERE);
        let known = &mut self.addresses[place];
        known.in_flight -= 1 + further;
        known.open -= 1;
        if known.open == 0 {
            self.addresses.remove(place);
            self.ranking.remove(place);
        } else {
            self.rank(place);
        }
    }

    #[inline]
    pub(super) fn idle(&mut self, index: usize) {
        if let Some(place) = self.place(index) {
            let known = &mut self.addresses[place];
            known.idle.push_back(index);
            known.in_flight -= 1;
            self.ranking.set(self.rank_of(place));
        }
    }

    /// The connection is not idle any more.
    pub(super) fn busy(&mut self, index: usize) {
        if let Some(place) = self.place(index) {
            self.leaves_idle(place, index);
            self.rank(place);
        }
    }

    /// An idle connection was chosen, and is in use from now on.
    #[inline]
    pub(super) fn taken_idle(&mut self, index: usize) {
        if let Some(place) = self.place(index) {
            self.leaves_idle(place, index);
            self.taken += 1;
            let known = &mut self.addresses[place];
            known.taken = self.taken;
            match known.is_listed() {
                true => self.ranking.set(self.rank_of(place)),
                false => self.ranking.remove(place),
            }
        }
    }

    /// A connection was chosen.
    pub(super) fn taken(&mut self, index: usize) {
        if let Some(place) = self.place(index) {
            self.taken += 1;
            self.addresses[place].taken = self.taken;
            self.rank(place);
        }
    }

    #[inline]
    fn leaves_idle(&mut self, place: usize, index: usize) {
        let known = &mut self.addresses[place];
        let idle = &mut known.idle;
        // In a long list, the connection that is taken is the last one, and the one that expires the first.
        if idle.back() == Some(&index) {
            idle.pop_back();
        } else if let Some(at) = idle.iter().position(|&it| it == index) {
            idle.remove(at);
        } else {
            return;
        }
        known.in_flight += 1;
    }

    /// The next connection of the address that is next, if it may be taken. `uses` returns how many uses of a shared
    /// connection are given out, and `fits` whether it may be taken: one with uses and room, or an idle one, the last of
    /// them first if `lifo`.
    #[inline]
    pub(super) fn first(
        &self,
        lifo: bool,
        uses: impl Fn(usize) -> usize,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let known = &self.addresses[self.ranking.first()?];
        if known.roomy.is_empty() {
            return known.next_idle(lifo).filter(|&it| fits(it));
        }
        known.candidate(lifo, uses, fits)
    }

    /// The connection to take of the address that is next among those that have one that may be taken.
    pub(super) fn pick(
        &self,
        lifo: bool,
        uses: impl Fn(usize) -> usize,
        fits: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.first(lifo, &uses, &fits).or_else(|| {
            let candidates = self.addresses.iter().filter_map(|(place, known)| {
                let index = known.candidate(lifo, &uses, &fits)?;
                Some((self.rank_of(place), index))
            });
            let next = candidates.min_by_key(|&(rank, _)| rank);
            next.map(|(_, index)| index)
        })
    }

    #[inline]
    fn rank_of(&self, place: usize) -> Rank {
        let known = &self.addresses[place];
        let in_flight = match self.spread {
            Spread::InTurn => 0,
            _ => known.in_flight,
        };
        Rank::new(in_flight, known.taken, place)
    }

    /// What its rank depends on has changed.
    fn rank(&mut self, place: usize) {
        match self.addresses[place].is_listed() {
            true => self.ranking.set(self.rank_of(place)),
            false => self.ranking.remove(place),
        }
    }

    #[inline]
    fn place(&self, index: usize) -> Option<usize> {
        self.of.get(index)?.place.get()
    }

    /// Which connections are idle, by address.
    #[cfg(test)]
    pub(super) fn idle_now(&self) -> Vec<usize> {
        let idle = self.addresses.iter();
        idle.flat_map(|(_, place)| place.idle.iter().copied())
            .collect()
    }

    /// Which connections are roomy, by address.
    #[cfg(test)]
    pub(super) fn roomy_now(&self) -> Vec<usize> {
        let roomy = self.addresses.iter();
        roomy
            .flat_map(|(_, place)| place.roomy.iter().copied())
            .collect()
    }

    /// How many connections there are.
    #[cfg(test)]
    pub(super) fn open_now(&self) -> usize {
        self.addresses.iter().map(|(_, place)| place.open).sum()
    }

    /// Whether each address counts what is in flight to it, if `uses` are given out of each shared connection, and has the
    /// rank that follows.
    #[cfg(test)]
    pub(super) fn ranks_hold(&self, uses: impl Fn(usize) -> usize) -> bool {
        let counts = self.addresses.iter().all(|(place, known)| {
            let there = (0..self.of.len()).filter(|it| self.place(*it) == Some(place));
            let further = there.map(|it| uses(it).saturating_sub(1));
            known.in_flight == known.open - known.idle.len() + further.sum::<usize>()
        });
        let listed = self.addresses.iter().filter(|(_, it)| it.is_listed());
        let mut ranks: Vec<_> = listed.map(|(place, _)| self.rank_of(place)).collect();
        let lowest = ranks.iter().min().map(|rank| rank.number());
        let mut ranking = self.ranking.all().to_vec();
        ranks.sort_unstable();
        ranking.sort_unstable();
        counts && ranking == ranks && self.ranking.first() == lowest
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
        places.taken_idle(index);
        assert!(places.ranks_hold(|_| 0));
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
    fn whichever_connection_is_not_idle_any_more_the_others_are() {
        for leaves in 0..3 {
            let mut places = places(Spread::InTurn, &[1, 1, 1]);
            places.busy(leaves);
            let mut idle = places.idle_now();
            idle.sort_unstable();
            let others: Vec<_> = (0..3).filter(|it| *it != leaves).collect();
            assert_eq!(idle, others);
        }
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
            places.set_roomy(index, true);
            places.busy(index);
        }
        let pick = |places: &mut Places, of: [usize; 2], fits: &[usize]| {
            for index in [0, 1] {
                places.uses(index, of[index]);
            }
            assert!(places.ranks_hold(|it| of[it]));
            places.pick(true, |it| of[it], |it| fits.contains(&it))
        };
        assert_eq!(pick(&mut places, [5, 3], &[0, 1]), Some(1));
        assert_eq!(pick(&mut places, [5, 6], &[0, 1]), Some(0));
        assert_eq!(pick(&mut places, [5, 6], &[1]), Some(1));
        assert_eq!(pick(&mut places, [5, 6], &[]), None);
        places.taken(0);
        assert_eq!(pick(&mut places, [6, 6], &[0, 1]), Some(1), "in turn");
        places.set_roomy(1, false);
        places.closed(1);
        assert_eq!(pick(&mut places, [6, 0], &[0, 1]), Some(0));
    }

    /// Their requests may take hours, and meanwhile nobody looks there first.
    #[test]
    fn an_address_whose_connections_take_no_further_uses_is_not_the_next() {
        for spread in [Spread::FewestOpenFirst, Spread::InTurn] {
            let mut places = places(spread, &[1, 2]);
            for index in [0, 1] {
                places.set_roomy(index, true);
                places.busy(index);
            }
            let uses = |index| [1, 3][index];
            places.uses(1, 3);
            let first = |places: &Places| places.first(true, uses, |_| true);
            assert_eq!(first(&places), Some(0));
            places.set_roomy(0, false);
            assert!(places.ranks_hold(uses));
            assert_eq!(first(&places), Some(1), "{spread:?}");
            places.set_roomy(0, true);
            assert_eq!(first(&places), Some(0), "it has room again");
        }
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
            assert_eq!(places.note_crowded(at), is_said, "after {after} ms");
        }
    }

    #[test]
    fn one_that_does_not_fit_is_passed_and_one_that_is_gone_is_forgotten() {
        let mut places = places(Spread::FewestOpenFirst, &[1, 1, 2]);
        assert_eq!(places.first(false, |_| 0, |it| it == 2), None);
        assert_eq!(places.pick(false, |_| 0, |it| it == 2), Some(2));
        assert_eq!(places.pick(false, |_| 0, |it| it != 0), Some(1));
        places.busy(1);
        places.closed(1);
        places.busy(0);
        places.closed(0);
        assert_eq!(take(&mut places), Some(2));
        places.closed(2);
        assert_eq!((places.addresses.len(), places.ranking.first()), (0, None));
    }
}
