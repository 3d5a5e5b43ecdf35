//! The limits over all keys: how many connections are open, which key is next, and which connection has been idle
//! longest.
//!
//! Exists only if `max_connections` or `max_idle` is set. It has one lock, which is taken after a key's and never
//! before one. A key's entries here are updated under that key's lock whenever they change, so the two agree whenever
//! neither is locked.

use std::collections::BTreeMap;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use slab::Slab;

use crate::pool::config::PoolConfig;
use crate::pool::key_pool::KeyPool;
use crate::pool::list::{Linked, Links, List};

pub(super) struct TotalLimits<C> {
    max_open: usize,
    max_idle: usize,
    /// Permits that were given out, including those on their way to a key.
    open: usize,
    /// Draining connections, which are not included in `open`.
    draining: usize,
    /// Keys with connections that drain and were not let return their permits, because too many did.
    late_drains: Vec<Arc<KeyPool<C>>>,
    /// Connections that are being closed to make room for waiters.
    making_room: usize,
    /// The keys whose oldest blocked waiter waits only for the total limit, by its ticket.
    blocked_keys: BTreeMap<u64, BlockedKey<C>>,
    /// How many of them have no permit on its way.
    unclaimed: usize,
    /// The number of permits ever granted to waiters.
    granted: u64,
    idle: Slab<IdleEntry<C>>,
    /// The connection that has been idle longest is first.
    idle_order: List,
}

struct BlockedKey<C> {
    key_pool: Arc<KeyPool<C>>,
    claimed: bool,
}

/// An idle connection of a key, by its place there.
struct IdleEntry<C> {
    links: Links,
    key_pool: Arc<KeyPool<C>>,
    open: usize,
}

impl<C> Linked for IdleEntry<C> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// The total limits, during a step of one key.
pub(super) struct KeyTotal<'a, C> {
    key_pool: &'a Arc<KeyPool<C>>,
    total: &'a mut TotalLimits<C>,
}

/// What can be done for waiters without a key's lock.
pub(super) enum BalanceStep<C> {
    /// A permit was reserved for the oldest waiter of this key.
    Grant(Arc<KeyPool<C>>),
    /// The connection that has been idle longest is to be closed: to make room, or because too many are idle.
    Evict {
        key_pool: Arc<KeyPool<C>>,
        open: usize,
        for_room: bool,
    },
    /// Connections of this key that drain may return their permits now.
    LetDrain(Arc<KeyPool<C>>),
}

impl<C> TotalLimits<C> {
    pub(super) fn new(config: &PoolConfig) -> Self {
        Self {
            max_open: config.max_connections,
            max_idle: config.max_idle,
            open: 0,
            draining: 0,
            late_drains: Vec::new(),
            making_room: 0,
            blocked_keys: BTreeMap::new(),
            unclaimed: 0,
            granted: 0,
            idle: Slab::new(),
            idle_order: List::new(),
        }
    }

    /// Takes a permit if one is free and no key waits for it; an `urgent` caller does not give way to waiting keys.
    pub(super) fn reserve(&mut self, urgent: bool) -> bool {
        let free = self.open < self.max_open && (urgent || self.unclaimed == 0);
        self.open += usize::from(free);
        free
    }

    /// A permit is returned. `made_room`: it was freed for waiters.
    pub(super) fn release(&mut self, made_room: bool) {
        self.open -= 1;
        self.making_room -= usize::from(made_room);
    }

    /// Whether a key waits for which no connection is being closed.
    pub(super) fn lacks_room(&self) -> bool {
        self.unclaimed > self.making_room
    }

    /// A reserved permit was granted to a waiter.
    pub(super) fn has_granted(&mut self) {
        self.granted += 1;
    }

    pub(super) fn granted(&self) -> u64 {
        self.granted
    }

    /// Whether no permit is free.
    pub(super) fn is_full(&self) -> bool {
        self.open >= self.max_open
    }

    /// A draining connection has ended.
    pub(super) fn drained(&mut self) {
        self.draining -= 1;
    }

    /// A connection is being closed to make room for waiters.
    pub(super) fn will_make_room(&mut self) {
        self.making_room += 1;
    }

    /// The connection that should have made room was gone already.
    pub(super) fn made_no_room(&mut self) {
        self.making_room -= 1;
    }

    /// Whether a waiter of another key, which waits only for the total limit and has nothing on its way, is older than
    /// this ticket. `own`: the ticket with which the asking key waits itself.
    pub(super) fn has_older(&self, ticket: u64, own: Option<u64>) -> bool {
        self.unclaimed > self.making_room
            && self
                .blocked_keys
                .range(..ticket)
                .any(|(turn, blocked)| !blocked.claimed && Some(*turn) != own)
    }

    /// Whether any key has an idle connection that can be closed to make room.
    pub(super) fn has_idle(&self) -> bool {
        !self.idle_order.is_empty()
    }

    /// Returns the key pool, so that it is not dropped under a lock.
    pub(super) fn remove_idle(&mut self, key: usize) -> Arc<KeyPool<C>> {
        self.idle_order.remove(&mut self.idle, key);
        self.idle.remove(key).key_pool
    }

    /// The next step, if there is one. After a change, call this without a lock until it returns `None`.
    pub(super) fn next_step(&mut self) -> Option<BalanceStep<C>> {
        if self.idle_order.len() > self.max_idle {
            return self.evict(false);
        }
        if self.draining < self.max_open
            && let Some(key_pool) = self.late_drains.pop()
        {
            return Some(BalanceStep::LetDrain(key_pool));
        }
        if self.unclaimed == 0 {
            return None;
        }
        if self.open < self.max_open {
            let turn = self.blocked_keys.values_mut().find(|turn| !turn.claimed)?;
            turn.claimed = true;
            self.unclaimed -= 1;
            self.open += 1;
            return Some(BalanceStep::Grant(turn.key_pool.clone()));
        }
        if self.unclaimed > self.making_room {
            return self.evict(true);
        }
        None
    }

    fn evict(&mut self, for_room: bool) -> Option<BalanceStep<C>> {
        let idle = &self.idle[self.idle_order.head()?];
        self.making_room += usize::from(for_room);
        Some(BalanceStep::Evict {
            key_pool: idle.key_pool.clone(),
            open: idle.open,
            for_room,
        })
    }

    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.open == 0
            && self.draining == 0
            && self.making_room == 0
            && self.late_drains.is_empty()
            && self.blocked_keys.is_empty()
            && self.idle.is_empty()
    }
}

impl<'a, C> KeyTotal<'a, C> {
    pub(super) fn new(key_pool: &'a Arc<KeyPool<C>>, total: &'a mut TotalLimits<C>) -> Self {
        Self { key_pool, total }
    }

    /// Updates the key's ticket: from the one that it waited with to that of its oldest waiter that waits only for the
    /// total limit.
    pub(super) fn set_turn(&mut self, from: Option<u64>, to: Option<u64>) {
        if from == to {
            return;
        }
        if let Some(turn) = from.and_then(|from| self.blocked_keys.remove(&from)) {
            self.unclaimed -= usize::from(!turn.claimed);
        }
        if let Some(to) = to {
            let blocked = BlockedKey {
                key_pool: self.key_pool.clone(),
                claimed: false,
            };
            self.blocked_keys.insert(to, blocked);
            self.unclaimed += 1;
        }
    }

    /// A connection of this key drains, and returns its permit before it has ended. `false`: as many connections drain
    /// as may be open; the key is asked again when one of them has ended.
    pub(super) fn let_drain(&mut self) -> bool {
        let key_pool = self.key_pool;
        let total = &mut *self.total;
        if total.draining >= total.max_open {
            if !total.late_drains.iter().any(|it| Arc::ptr_eq(it, key_pool)) {
                total.late_drains.push(key_pool.clone());
            }
            return false;
        }
        total.draining += 1;
        total.open -= 1;
        true
    }

    /// Adds an idle connection of the key, and returns its place in the order of idleness.
    pub(super) fn add_idle(&mut self, open: usize) -> usize {
        let total = &mut *self.total;
        let place = total.idle.insert(IdleEntry {
            links: Links::default(),
            key_pool: self.key_pool.clone(),
            open,
        });
        total.idle_order.push_back(&mut total.idle, place);
        place
    }
}

impl<C> Deref for KeyTotal<'_, C> {
    type Target = TotalLimits<C>;

    fn deref(&self) -> &TotalLimits<C> {
        self.total
    }
}

impl<C> DerefMut for KeyTotal<'_, C> {
    fn deref_mut(&mut self) -> &mut TotalLimits<C> {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::tests::{A, Conn, ask};
    use crate::pool::{Decision, Pool};
    use crate::target::Reuse;

    #[test]
    fn room_that_was_not_made_is_not_waited_for() {
        let mut total = TotalLimits::<Conn>::new(&PoolConfig::new().max_connections(2));
        assert!(total.reserve(false));
        total.will_make_room();
        total.made_no_room();
        total.release(false);
        assert!(total.is_at_rest());
    }

    #[test]
    fn no_room_is_lacking_while_enough_is_being_made() {
        let mut total = TotalLimits::<Conn>::new(&PoolConfig::new().max_connections(1));
        assert!(!total.lacks_room(), "nobody waits");
        total.unclaimed = 1;
        assert!(total.lacks_room());
        total.will_make_room();
        assert!(!total.lacks_room());
    }

    #[test]
    fn older_is_another_key_for_which_nothing_is_on_its_way() {
        let pool = Pool::<Conn>::new(PoolConfig::new());
        let Decision::Make(permit, waiter) = ask(&pool, A, Reuse::Any) else {
            panic!("nothing is open");
        };
        for (claimed, own, is_older) in [
            (false, None, true),
            (false, Some(1), false),
            (true, None, false),
            (true, Some(1), false),
        ] {
            let mut total = TotalLimits::<Conn>::new(&PoolConfig::new().max_connections(1));
            let key_pool = permit.key_pool().clone();
            let blocked = BlockedKey { key_pool, claimed };
            total.blocked_keys.insert(1, blocked);
            total.unclaimed = 1;
            assert_eq!(total.has_older(2, own), is_older, "{claimed}, {own:?}");
            assert!(!total.has_older(1, own));
        }
        drop((permit, waiter));
    }

    /// By this a caller tells a long queue from one that stands still.
    #[test]
    fn each_permit_that_is_granted_counts_as_progress() {
        let mut total = TotalLimits::<Conn>::new(&PoolConfig::new().max_connections(2));
        for count in 1..=3 {
            total.has_granted();
            assert_eq!(total.granted(), count);
        }
    }
}
