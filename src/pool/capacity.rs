//! How many connections a key needs for those in line, where one connection may carry several uses.

/// What is known of one key, and what is on its way: without lock, clock or task.
///
/// A connection is on its way while its connect is under way, and then for as long as it has not said how many uses it can
/// carry, or says that it can carry none. Nobody knows before the first one how many that will be: so there is one connect
/// for a whole crowd, and more when it turns out to carry less than the crowd needs.
#[derive(Debug)]
pub(super) struct Capacity {
    connecting: usize,
    /// Connected, and what they carry is not known.
    unheard: usize,
    expected: Expected,
}

/// What one connection of this key carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Unknown,
    /// The last connect has failed, or whoever makes one says that it might be for one use. Connects are not made one after the
    /// other: each would be waited for by all.
    SideBySide,
    /// So many uses. One, where a connection is not shared: then every caller may make its own.
    Known(usize),
}

impl Capacity {
    pub(super) const fn new() -> Self {
        Self {
            connecting: 0,
            unheard: 0,
            expected: Expected::Unknown,
        }
    }

    pub(super) fn connect_begins(&mut self) {
        self.connecting += 1;
    }

    /// Whether it made a connection or not.
    pub(super) fn connect_ends(&mut self) {
        self.connecting -= 1;
    }

    /// A connect has failed, or it is said that nobody is to wait for what becomes of one.
    pub(super) fn go_side_by_side(&mut self) {
        if self.expected == Expected::Unknown {
            self.expected = Expected::SideBySide;
        }
    }

    /// A connection is there that several uses can share.
    pub(super) fn is_shared(&mut self) {
        if self.expected == Expected::SideBySide {
            self.expected = Expected::Unknown;
        }
    }

    /// A connection carries so many uses.
    pub(super) fn learn(&mut self, uses: usize) {
        self.expected = Expected::Known(uses);
    }

    /// What a connection carries is not known.
    pub(super) fn is_unheard(&mut self) {
        self.unheard += 1;
    }

    pub(super) fn is_heard(&mut self) {
        self.unheard -= 1;
    }

    /// Whether one more connect should begin for so many in line: whether there are any whom nothing on its way will serve.
    pub(super) fn is_short_of(&self, takers: usize) -> bool {
        let on_the_way = self.connecting + self.unheard;
        match self.expected {
            Expected::Unknown => on_the_way == 0,
            Expected::SideBySide | Expected::Known(1) => true,
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
        capacity.connect_ends();
        capacity.is_shared();
        capacity.is_unheard();
        assert_eq!(begun(&mut capacity, 99, 100), 0);
        // Ninety are left when it has taken its ten.
        capacity.is_heard();
        capacity.learn(10);
        assert_eq!(begun(&mut capacity, 90, 100), 9);
    }

    #[test]
    fn each_caller_makes_its_own_where_a_connection_is_for_one() {
        let mut capacity = Capacity::new();
        assert_eq!(begun(&mut capacity, 100, 100), 1);
        capacity.connect_ends();
        capacity.learn(1);
        assert_eq!(begun(&mut capacity, 99, 99), 99);
    }

    #[test]
    fn after_a_failure_connects_are_made_side_by_side_until_one_succeeds() {
        let mut capacity = Capacity::new();
        capacity.connect_begins();
        capacity.connect_ends();
        capacity.go_side_by_side();
        assert_eq!(begun(&mut capacity, 3, 3), 3);
        capacity.connect_ends();
        capacity.is_shared();
        capacity.is_unheard();
        assert!(!capacity.is_short_of(100));
    }

    #[test]
    fn a_connection_that_carries_nothing_for_now_is_on_its_way() {
        let mut capacity = Capacity::new();
        capacity.learn(5);
        capacity.is_unheard();
        assert!(!capacity.is_short_of(5));
        assert!(capacity.is_short_of(6));
    }
}
