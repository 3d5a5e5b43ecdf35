//! The limits over all keys: how many connections are open, whose turn is next, and which one has been idle longest.
//!
//! Here only where `max_connections` or `max_idle` is set, behind one lock that is taken after a host's and never
//! before one. What a host has in this file is brought up to date whenever that host's lock is held and something
//! changed, so that the two never disagree when neither is locked.

use std::collections::BTreeMap;
use std::sync::Arc;

use slab::Slab;

use crate::pool::config::PoolConfig;
use crate::pool::key_pool::KeyPool;
use crate::pool::list::{Linked, Links, List};

pub(super) struct TotalLimits<C> {
    max_open: usize,
    max_idle: usize,
    /// Permits given out, with those on their way to a host.
    open: usize,
    /// Connections that drain, and are not among those.
    draining: usize,
    /// Connections that are being closed for the sake of those in line.
    making_room: usize,
    /// The hosts whose oldest blocked caller waits for the total only, by that caller's ticket.
    blocked_keys: BTreeMap<u64, BlockedKey<C>>,
    /// How many of them have no permit on its way.
    unclaimed: usize,
    /// How many permits callers of the line were given.
    granted: u64,
    idle: Slab<IdleEntry<C>>,
    /// Idle for longest first.
    idle_order: List,
}

struct BlockedKey<C> {
    key_pool: Arc<KeyPool<C>>,
    claimed: bool,
}

/// An idle connection of some host, by its place there.
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

/// What can be done for those in line without the lock of a host.
pub(super) enum BalanceStep<C> {
    /// A permit was set aside for the oldest caller of this host.
    Grant(Arc<KeyPool<C>>),
    /// This idle connection, idle for longest, goes: to make room, or because there are too many.
    Evict {
        key_pool: Arc<KeyPool<C>>,
        open: usize,
        for_room: bool,
    },
}

impl<C> TotalLimits<C> {
    pub(super) fn new(config: &PoolConfig) -> Self {
        Self {
            max_open: config.max_connections,
            max_idle: config.max_idle,
            open: 0,
            draining: 0,
            making_room: 0,
            blocked_keys: BTreeMap::new(),
            unclaimed: 0,
            granted: 0,
            idle: Slab::new(),
            idle_order: List::new(),
        }
    }

    /// A permit at once, if there is one and nobody waits for it; `urgent` does not ask who waits.
    pub(super) fn reserve(&mut self, urgent: bool) -> bool {
        let free = self.open < self.max_open && (urgent || self.unclaimed == 0);
        self.open += usize::from(free);
        free
    }

    /// A permit comes back. `made_room`: it was freed for the sake of those in line.
    pub(super) fn release(&mut self, made_room: bool) {
        self.open -= 1;
        self.making_room -= usize::from(made_room);
    }

    /// Whether somebody waits for whom no connection is being closed.
    pub(super) fn lacks_room(&self) -> bool {
        self.unclaimed > self.making_room
    }

    /// A permit that was set aside has found its caller.
    pub(super) fn has_granted(&mut self) {
        self.granted += 1;
    }

    pub(super) fn granted(&self) -> u64 {
        self.granted
    }

    /// A connection drains, and gives its permit back before it has ended. `false`: as many as may be open do so already.
    pub(super) fn let_drain(&mut self) -> bool {
        let may = self.draining < self.max_open;
        self.draining += usize::from(may);
        self.open -= usize::from(may);
        may
    }

    /// One that did so has ended.
    pub(super) fn drained(&mut self) {
        self.draining -= 1;
    }

    /// A connection is being closed for the sake of those in line.
    pub(super) fn will_make_room(&mut self) {
        self.making_room += 1;
    }

    /// What was to make room was gone already.
    pub(super) fn made_no_room(&mut self) {
        self.making_room -= 1;
    }

    /// Brings the host's turn up to date: from the ticket it stood under to the one of its oldest caller who waits for
    /// the total only.
    pub(super) fn set_turn(
        &mut self,
        key_pool: &Arc<KeyPool<C>>,
        from: Option<u64>,
        to: Option<u64>,
    ) {
        if from == to {
            return;
        }
        if let Some(turn) = from.and_then(|from| self.blocked_keys.remove(&from)) {
            self.unclaimed -= usize::from(!turn.claimed);
        }
        if let Some(to) = to {
            let key_pool = key_pool.clone();
            self.blocked_keys.insert(
                to,
                BlockedKey {
                    key_pool,
                    claimed: false,
                },
            );
            self.unclaimed += 1;
        }
    }

    /// Whether a caller of another host, waiting for the total only and with nothing on its way, is older than this
    /// ticket.
    pub(super) fn has_older(&self, key_pool: &Arc<KeyPool<C>>, ticket: u64) -> bool {
        self.unclaimed > self.making_room
            && self
                .blocked_keys
                .range(..ticket)
                .any(|(_, turn)| !turn.claimed && !Arc::ptr_eq(&turn.key_pool, key_pool))
    }

    /// Whether a connection of some host can be closed to make room.
    pub(super) fn has_idle(&self) -> bool {
        !self.idle_order.is_empty()
    }

    pub(super) fn add_idle(&mut self, key_pool: &Arc<KeyPool<C>>, open: usize) -> usize {
        let key = self.idle.insert(IdleEntry {
            links: Links::default(),
            key_pool: key_pool.clone(),
            open,
        });
        self.idle_order.push_back(&mut self.idle, key);
        key
    }

    /// Gives the host back, so that it is not dropped under a lock.
    pub(super) fn remove_idle(&mut self, key: usize) -> Arc<KeyPool<C>> {
        self.idle_order.remove(&mut self.idle, key);
        self.idle.remove(key).key_pool
    }

    /// The next thing to do, if there is one. Whoever changed something asks until there is none, holding no lock.
    pub(super) fn next_step(&mut self) -> Option<BalanceStep<C>> {
        if self.idle_order.len() > self.max_idle {
            return self.evict(false);
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
            && self.blocked_keys.is_empty()
            && self.idle.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::tests::Conn;

    #[test]
    fn room_that_was_not_made_is_not_waited_for() {
        let mut total = TotalLimits::<Conn>::new(&PoolConfig::new().max_connections(2));
        assert!(total.reserve(false));
        total.will_make_room();
        total.made_no_room();
        total.release(false);
        assert!(total.is_at_rest());
    }
}
