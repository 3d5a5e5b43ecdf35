//! Addresses by rank, the lowest first.

use crate::pool::list::SlabIndex;

/// How many requests are in flight to an address, when a connection of it was taken last, and its own number, which decides
/// among those of which none was taken yet: from the highest bits on, so that they are compared at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank(u128);

impl Rank {
    /// # Panics
    ///
    /// If the number does not fit into 32 bits.
    #[inline]
    pub(super) fn new(in_flight: usize, taken: u64, number: usize) -> Self {
        let in_flight = u32::try_from(in_flight).unwrap_or(u32::MAX);
        let number = u32::try_from(number).expect("each address takes more bytes than one");
        Self(u128::from(in_flight) << 96 | u128::from(taken) << 32 | u128::from(number))
    }

    #[inline]
    pub(super) fn number(self) -> usize {
        self.0 as u32 as usize
    }
}

/// A binary heap that knows where each of its entries is, so that the rank of any of them changes in O(log n).
pub(super) struct Ranking {
    heap: Vec<Rank>,
    /// Where each address is in the heap, by its number.
    at: Vec<SlabIndex>,
}

impl Ranking {
    pub(super) const fn new() -> Self {
        Self {
            heap: Vec::new(),
            at: Vec::new(),
        }
    }

    /// The address with the lowest rank.
    #[inline]
    pub(super) fn first(&self) -> Option<usize> {
        self.heap.first().map(|rank| rank.number())
    }

    /// Adds the address of this rank, or changes its rank.
    #[inline]
    pub(super) fn set(&mut self, rank: Rank) {
        let at = match self.at[rank.number()].get() {
            Some(at) => at,
            None => {
                self.heap.push(rank);
                self.heap.len() - 1
            }
        };
        match self.heap.len() {
            1 => self.put(at, rank),
            _ => self.settle(at, rank),
        }
    }

    /// Addresses up to this number may be added.
    pub(super) fn make_room(&mut self, number: usize) {
        if self.at.len() <= number {
            self.at.resize(number + 1, SlabIndex::NONE);
        }
    }

    #[inline]
    pub(super) fn remove(&mut self, number: usize) {
        let Some(at) = self.at.get(number).and_then(|it| it.get()) else {
            return;
        };
        self.at[number] = SlabIndex::NONE;
        self.heap.swap_remove(at);
        if let Some(&moved) = self.heap.get(at) {
            self.settle(at, moved);
        }
    }

    /// Puts the entry where it belongs, from here on.
    fn settle(&mut self, mut at: usize, rank: Rank) {
        while at > 0 {
            let above = (at - 1) / 2;
            if self.heap[above] < rank {
                break;
            }
            self.put(at, self.heap[above]);
            at = above;
        }
        loop {
            let mut below = 2 * at + 1;
            if below >= self.heap.len() {
                break;
            }
            if below + 1 < self.heap.len() && self.heap[below + 1] < self.heap[below] {
                below += 1;
            }
            if rank < self.heap[below] {
                break;
            }
            self.put(at, self.heap[below]);
            at = below;
        }
        self.put(at, rank);
    }

    #[inline]
    fn put(&mut self, at: usize, rank: Rank) {
        self.heap[at] = rank;
        self.at[rank.number()] = SlabIndex::new(at);
    }

    /// Those that are in it, in no particular order.
    #[cfg(test)]
    pub(super) fn all(&self) -> &[Rank] {
        &self.heap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_of_any_ranks_comes_first() {
        let mut ranking = Ranking::new();
        ranking.make_room(19);
        let mut known = [None; 20];
        let mut drawn = 1_u64;
        for step in 0..2_000 {
            drawn = drawn.wrapping_mul(6_364_136_223_846_793_005) + 1;
            let number = (drawn >> 33) as usize % known.len();
            let in_flight = (drawn >> 40) as usize % 5;
            if (drawn >> 50).is_multiple_of(4) {
                known[number] = None;
                ranking.remove(number);
            } else {
                let rank = Rank::new(in_flight, (drawn >> 45) % 5, number);
                known[number] = Some(rank);
                ranking.set(rank);
            }
            let lowest = known.iter().flatten().min().map(|rank| rank.number());
            assert_eq!(ranking.first(), lowest, "in step {step}");
            let mut all = ranking.all().to_vec();
            all.sort_unstable_by_key(|rank| rank.number());
            assert!(all.iter().eq(known.iter().flatten()));
        }
    }
}
