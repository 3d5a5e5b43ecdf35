//! Lists whose nodes live in a slab: joined and left in O(1), wherever in the list.

use slab::Slab;

const NONE: usize = usize::MAX;

/// A node's place in the one list that it is in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Links {
    prev: usize,
    next: usize,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            prev: NONE,
            next: NONE,
        }
    }
}

pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
}

/// The ends of a list through some of the nodes of a slab. Several lists can run through one slab, a node being in one
/// at a time.
#[derive(Debug)]
pub(super) struct List {
    head: usize,
    tail: usize,
    len: usize,
    /// Neighbours looked at when leaving.
    #[cfg(test)]
    pub(super) touched: usize,
}

impl List {
    pub(super) const fn new() -> Self {
        Self {
            head: NONE,
            tail: NONE,
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
        (self.head != NONE).then_some(self.head)
    }

    #[inline]
    pub(super) fn tail(&self) -> Option<usize> {
        (self.tail != NONE).then_some(self.tail)
    }

    #[inline]
    pub(super) fn next<N: Linked>(nodes: &mut Slab<N>, key: usize) -> Option<usize> {
        let next = nodes[key].links().next;
        (next != NONE).then_some(next)
    }

    #[inline]
    pub(super) fn prev<N: Linked>(nodes: &mut Slab<N>, key: usize) -> Option<usize> {
        let prev = nodes[key].links().prev;
        (prev != NONE).then_some(prev)
    }

    #[inline]
    pub(super) fn push_back<N: Linked>(&mut self, nodes: &mut Slab<N>, key: usize) {
        self.insert_after(nodes, self.tail(), key);
    }

    /// `None`: in front of all.
    #[inline]
    pub(super) fn insert_after<N: Linked>(
        &mut self,
        nodes: &mut Slab<N>,
        before: Option<usize>,
        key: usize,
    ) {
        let next = match before {
            Some(before) => std::mem::replace(&mut nodes[before].links().next, key),
            None => std::mem::replace(&mut self.head, key),
        };
        if next == NONE {
            self.tail = key;
        } else {
            nodes[next].links().prev = key;
        }
        *nodes[key].links() = Links {
            prev: before.unwrap_or(NONE),
            next,
        };
        self.len += 1;
    }

    #[inline]
    pub(super) fn remove<N: Linked>(&mut self, nodes: &mut Slab<N>, key: usize) {
        let Links { prev, next } = std::mem::take(nodes[key].links());
        if prev == NONE {
            self.head = next;
        } else {
            nodes[prev].links().next = next;
        }
        if next == NONE {
            self.tail = prev;
        } else {
            nodes[next].links().prev = prev;
        }
        #[cfg(test)]
        {
            self.touched += usize::from(prev != NONE) + usize::from(next != NONE);
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
