//! How many connects a key needs for its waiters, if one connection can carry several uses.

/// What is known about a key's connections, and what is on its way. Plain data, without a lock, a clock or tasks.
///
/// A connection is on its way during its connect, and then until it has reported how many uses it can carry, or while
/// it reports none. Nobody knows that number before the first connection, so one connect is made for all waiters, and
/// more if it turns out to carry fewer uses than needed.
#[derive(Debug)]
pub(super) struct Capacity {
    connecting: usize,
    /// Connections whose capacity is not known.
    unknown: usize,
    /// A connect under way that nobody is to wait for, by its index in `open`: it spreads the load, and its address may not answer.
    aside: Option<usize>,
    /// Those of the `unknown` ones that such connects have made.
    unknown_aside: Vec<usize>,
    expected: Expected,
}

/// How many uses a connection of this key is expected to carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Unknown,
    /// The last connect has failed, or its connector reported that it may be for one use. Connects do not wait for each
    /// other then: every waiter would have to wait for each of them.
    SideBySide,
    /// One use, because connections are not shared: every caller may make its own.
    Exclusive,
    /// This many uses of a shared connection, which may be one.
    Known(usize),
}

impl Capacity {
    pub(super) const fn new() -> Self {
        Self {
            connecting: 0,
            unknown: 0,
            aside: None,
            unknown_aside: Vec::new(),
            expected: Expected::Unknown,
        }
    }

    pub(super) fn connect_begins(&mut self) {
        self.connecting += 1;
    }

    /// The connect that has begun with this index is one that nobody is to wait for.
    pub(super) fn set_aside(&mut self, index: usize) {
        self.aside = Some(index);
    }

    /// Whether there is no such connect.
    pub(super) fn has_none_aside(&self) -> bool {
        self.aside.is_none()
    }

    /// The connect with this index has ended without a connection.
    pub(super) fn connect_ends(&mut self, index: usize) {
        self.connecting -= 1;
        self.aside.take_if(|aside| *aside == index);
    }

    /// The connect with this index has made a connection, whose capacity is not known.
    pub(super) fn connected(&mut self, index: usize) {
        self.connecting -= 1;
        self.unknown += 1;
        let aside = self.aside.take_if(|aside| *aside == index);
        self.unknown_aside.extend(aside);
    }

    /// A connect has failed, or callers need not wait for its result.
    pub(super) fn go_side_by_side(&mut self) {
        if self.expected == Expected::Unknown {
            self.expected = Expected::SideBySide;
        }
    }

    /// A connection was made that several uses share.
    pub(super) fn shares(&mut self) {
        if self.expected == Expected::SideBySide {
            self.expected = Expected::Unknown;
        }
    }

    /// A connection is not shared.
    pub(super) fn is_exclusive(&mut self) {
        self.expected = Expected::Exclusive;
    }

    /// A shared connection carries this many uses.
    pub(super) fn learn(&mut self, uses: usize) {
        self.expected = Expected::Known(uses);
    }

    /// How many uses a connection carries, once that was learned.
    pub(super) fn expected(&self) -> Option<usize> {
        match self.expected {
            Expected::Exclusive => Some(1),
            Expected::Known(uses) => Some(uses),
            Expected::Unknown | Expected::SideBySide => None,
        }
    }

    /// The capacity of a connection is not known any more.
    pub(super) fn becomes_unknown(&mut self) {
        self.unknown += 1;
    }

    /// The capacity of the connection with this index is known, or of no interest any more.
    pub(super) fn becomes_known(&mut self, index: usize) {
        self.unknown -= 1;
        self.unknown_aside.retain(|&it| it != index);
    }

    /// Whether the connections of this key are known to be shared.
    pub(super) fn is_known_shared(&self) -> bool {
        matches!(self.expected, Expected::Known(2..))
    }

    /// Whether another connect has to begin for this many waiters: whether what is on its way leaves any of them
    /// unserved.
    pub(super) fn is_short_of(&self, takers: usize) -> bool {
        let aside = usize::from(self.aside.is_some()) + self.unknown_aside.len();
        let on_the_way = self.connecting + self.unknown - aside;
        match self.expected {
            Expected::Unknown => on_the_way == 0,
            Expected::SideBySide | Expected::Exclusive => true,
            Expected::Known(uses) => on_the_way.saturating_mul(uses) < takers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many connects begin while so many stand in line.
    fn begun(capacity: &mut Capacity, takers: usize, max: usize) -> usize {
        let mut begun = 0;
        while begun < max && capacity.is_short_of(takers) {
            capacity.connect_begins();
            begun += 1;
        }
        begun
    }

    #[test]
    fn one_connect_is_under_way_while_nothing_is_known() {
        let mut capacity = Capacity::new();
        assert_eq!(begun(&mut capacity, 100, 100), 1);
        capacity.connected(0);
        capacity.shares();
        assert_eq!(begun(&mut capacity, 99, 100), 0);
        // Ninety are left when it has taken its ten.
        capacity.becomes_known(0);
        capacity.learn(10);
        assert_eq!(begun(&mut capacity, 90, 100), 9);
    }

    #[test]
    fn each_caller_makes_its_own_where_connections_are_not_shared() {
        let mut capacity = Capacity::new();
        assert_eq!(begun(&mut capacity, 100, 100), 1);
        capacity.connect_ends(0);
        capacity.is_exclusive();
        assert!(!capacity.is_known_shared());
        assert_eq!(begun(&mut capacity, 99, 100), 100);
    }

    #[test]
    fn a_connect_that_was_left_counts_where_a_shared_connection_carries_one() {
        let mut capacity = Capacity::new();
        capacity.learn(1);
        assert_eq!(begun(&mut capacity, 3, 100), 3);
        // One caller is served otherwise, and another one comes.
        assert!(!capacity.is_short_of(3));
        assert!(capacity.is_short_of(4));
    }

    #[test]
    fn after_a_failure_connects_are_made_side_by_side_until_one_succeeds() {
        let mut capacity = Capacity::new();
        capacity.connect_begins();
        capacity.connect_ends(0);
        capacity.go_side_by_side();
        assert_eq!(begun(&mut capacity, 3, 3), 3);
        capacity.connected(0);
        capacity.shares();
        assert!(!capacity.is_short_of(100));
    }

    #[test]
    fn nobody_waits_for_a_connect_that_spreads_the_load() {
        let mut capacity = Capacity::new();
        capacity.learn(5);
        capacity.connect_begins();
        capacity.set_aside(7);
        assert!(capacity.is_short_of(1));
        capacity.connect_begins();
        assert!(!capacity.is_short_of(5));
        capacity.connect_ends(7);
        assert!(capacity.has_none_aside());
        assert!(!capacity.is_short_of(5));
        assert!(capacity.is_short_of(6));
    }

    /// It may never report it.
    #[test]
    fn nobody_waits_for_the_capacity_of_a_connection_that_spreads_the_load() {
        let mut capacity = Capacity::new();
        capacity.learn(5);
        for index in [7, 8] {
            capacity.connect_begins();
            capacity.set_aside(index);
            capacity.connected(index);
            assert!(capacity.has_none_aside(), "the next address has its turn");
            assert!(capacity.is_short_of(1));
        }
        capacity.connect_begins();
        capacity.connected(9);
        assert!(!capacity.is_short_of(5));
        for index in [8, 7, 9] {
            assert!(!capacity.is_short_of(5));
            capacity.becomes_known(index);
        }
        assert!(capacity.is_short_of(1));
        // What was aside once counts like any other.
        capacity.becomes_unknown();
        assert!(!capacity.is_short_of(5));
    }

    #[test]
    fn a_connection_that_carries_nothing_for_now_is_on_its_way() {
        let mut capacity = Capacity::new();
        capacity.learn(5);
        assert!(capacity.is_known_shared());
        capacity.becomes_unknown();
        assert!(!capacity.is_short_of(5));
        assert!(capacity.is_short_of(6));
    }

    #[test]
    fn what_a_connection_carries_is_expected_once_it_was_learned() {
        let mut capacity = Capacity::new();
        assert_eq!(capacity.expected(), None);
        capacity.learn(100);
        assert_eq!(capacity.expected(), Some(100));
        capacity.is_exclusive();
        assert_eq!(capacity.expected(), Some(1));
    }
}
