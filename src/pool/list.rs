//! Lists whose nodes are entries of a slab: insertion and removal in O(1) at any place.

use std::mem;

use slab::Slab;

/// An optional key of a slab entry, in half of its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlabIndex(u32);

impl SlabIndex {
    pub(super) const NONE: Self = Self(u32::MAX);

    /// # Panics
    ///
    /// If the slab has more than four billion entries, each of which is a connection or a caller and takes hundreds of
    /// bytes.
    #[inline]
    pub(super) fn new(key: usize) -> Self {
        match u32::try_from(key) {
            Ok(key) if key != u32::MAX => Self(key),
            _ => panic!("a slab has more entries than can be"),
        }
    }

    #[inline]
    pub(super) fn get(self) -> Option<usize> {
        (self != Self::NONE).then_some(self.0 as usize)
    }
}

/// A node's links; a node is in one list at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    prev: SlabIndex,
    next: SlabIndex,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            prev: SlabIndex::NONE,
            next: SlabIndex::NONE,
        }
    }
}

pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
}

/// The ends of a list of slab entries. Several lists can share one slab; an entry is in one of them at a time.
#[derive(Debug)]
pub(super) struct List {
    head: SlabIndex,
    tail: SlabIndex,
    len: usize,
    /// How many neighbours were visited by removals.
    #[cfg(test)]
    pub(super) touched: usize,
}

impl List {
    pub(super) const fn new() -> Self {
        Self {
            head: SlabIndex::NONE,
            tail: SlabIndex::NONE,
            len: 0,
            #[cfg(test)]
            touched: 0,
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline]
    pub(super) fn head(&self) -> Option<usize> {
        self.head.get()
    }

    #[inline]
    pub(super) fn tail(&self) -> Option<usize> {
        self.tail.get()
    }

    #[inline]
    pub(super) fn next<N: Linked>(nodes: &mut Slab<N>, key: usize) -> Option<usize> {
        nodes[key].links().next.get()
    }

    #[inline]
    pub(super) fn prev<N: Linked>(nodes: &mut Slab<N>, key: usize) -> Option<usize> {
        nodes[key].links().prev.get()
    }

    #[inline(always)]
    pub(super) fn push_back<N: Linked>(&mut self, nodes: &mut Slab<N>, key: usize) {
        let spot = SlabIndex::new(key);
        let prev = mem::replace(&mut self.tail, spot);
        match prev.get() {
            Some(prev) => nodes[prev].links().next = spot,
            None => self.head = spot,
        }
        let next = SlabIndex::NONE;
        *nodes[key].links() = Links { prev, next };
        self.len += 1;
    }

    /// `None`: at the front.
    #[inline]
    pub(super) fn insert_after<N: Linked>(
        &mut self,
        nodes: &mut Slab<N>,
        before: Option<usize>,
        key: usize,
    ) {
        let spot = SlabIndex::new(key);
        let next = match before {
            Some(before) => mem::replace(&mut nodes[before].links().next, spot),
            None => mem::replace(&mut self.head, spot),
        };
        match next.get() {
            Some(next) => nodes[next].links().prev = spot,
            None => self.tail = spot,
        }
        *nodes[key].links() = Links {
            prev: before.map_or(SlabIndex::NONE, SlabIndex::new),
            next,
        };
        self.len += 1;
    }

    #[inline(always)]
    pub(super) fn remove<N: Linked>(&mut self, nodes: &mut Slab<N>, key: usize) {
        let Links { prev, next } = mem::take(nodes[key].links());
        match prev.get() {
            Some(prev) => nodes[prev].links().next = next,
            None => self.head = next,
        }
        match next.get() {
            Some(next) => nodes[next].links().prev = prev,
            None => self.tail = prev,
        }
        #[cfg(test)]
        {
            self.touched +=
                usize::from(prev != SlabIndex::NONE) + usize::from(next != SlabIndex::NONE);
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Node(Links);

    impl Linked for Node {
        fn links(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    fn keys(list: &List, nodes: &mut Slab<Node>) -> Vec<usize> {
        let forward: Vec<_> =
            std::iter::successors(list.head(), |&key| List::next(nodes, key)).collect();
        let mut backward: Vec<_> =
            std::iter::successors(list.tail(), |&key| List::prev(nodes, key)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        assert_eq!(forward.len(), list.len());
        forward
    }

    #[test]
    fn a_spot_is_its_key_or_none() {
        for key in [0, 1, u32::MAX as usize - 1] {
            assert_eq!(SlabIndex::new(key).get(), Some(key));
        }
        assert_eq!(SlabIndex::NONE.get(), None);
    }

    #[test]
    #[should_panic = "more entries than can be"]
    fn no_key_is_taken_for_none() {
        let _ = SlabIndex::new(u32::MAX as usize);
    }

    #[test]
    fn order_is_kept_from_both_ends() {
        let mut nodes = Slab::new();
        let mut list = List::new();
        let [a, b, c, d] = [(); 4].map(|()| nodes.insert(Node::default()));
        list.push_back(&mut nodes, b);
        list.push_back(&mut nodes, c);
        list.insert_after(&mut nodes, None, a);
        list.insert_after(&mut nodes, Some(b), d);
        assert_eq!(keys(&list, &mut nodes), [a, b, d, c]);
        for (gone, left) in [
            (b, vec![a, d, c]),
            (c, vec![a, d]),
            (a, vec![d]),
            (d, vec![]),
        ] {
            list.remove(&mut nodes, gone);
            assert_eq!(keys(&list, &mut nodes), left);
        }
        assert_eq!(list.len(), 0);
    }
}
