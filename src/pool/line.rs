//! The callers of one key who have no connection yet.
//!
//! A caller is *making* while a connect of its own is under way (it will take whatever comes first), and *blocked* while
//! it may not begin one. Both are in the order of arrival. What a caller is given is left in its place until it comes
//! for it; a caller who is gone instead leaves it to the next.

use std::mem;
use std::task::Waker;

use slab::Slab;
use tokio::runtime::Id;

use crate::pool::after::After;
use crate::pool::berth::{Berth, current_runtime};
use crate::pool::list::{Linked, Links, List};
use crate::poolable::Poolable;
use crate::target::{Reuse, Target};

/// The tickets of those who are not urgent: behind all who are.
pub(super) const LATER: u64 = 1 << 63;

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) reuse: Reuse,
    /// Where the caller is: a connection's driver lives in one runtime, and serves callers there only.
    pub(crate) runtime: Option<Id>,
    /// Goes to the head of the line: it had its turn, and what it got was of no use.
    pub(crate) returning: bool,
}

impl Ask {
    /// What a target asks for, from here.
    #[inline]
    pub(crate) fn of(target: &impl Target) -> Self {
        Self {
            reuse: target.reuse(),
            runtime: current_runtime(),
            returning: target.is_returning(),
        }
    }
}

pub(super) struct Line<C> {
    waiters: Slab<Waiting<C>>,
    making: Queue,
    blocked: Queue,
}

struct Waiting<C> {
    links: Links,
    ticket: u64,
    /// Does not take a used connection.
    fresh: bool,
    runtime: Option<Id>,
    place: Place,
    waker: Option<Waker>,
    gift: Gift<C>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Making,
    Blocked,
    /// Served, or in need of nothing that others give.
    Left,
}

/// In the order of tickets: the urgent before all others.
struct Queue {
    list: List,
    last_urgent: Option<usize>,
}

/// What waits for a caller to come for it.
pub(super) struct Gift<C> {
    /// A connection that another caller gave back.
    pub(super) connection: Option<Box<Berth<C>>>,
    /// The right to make one.
    pub(super) slot: Option<usize>,
    pub(super) refused: bool,
}

/// Whose turn it is when a connection is given back.
pub(super) struct Next {
    pub(super) waiter: usize,
    pub(super) ticket: u64,
    /// If not, the connection is closed for its slot.
    pub(super) can_use: bool,
}

impl<C: Poolable> Line<C> {
    pub(super) fn new() -> Self {
        Self {
            waiters: Slab::new(),
            making: Queue::new(),
            blocked: Queue::new(),
        }
    }

    /// Nobody here, and nothing left to come for.
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many may not begin a connect.
    pub(super) fn blocked(&self) -> usize {
        self.blocked.list.len()
    }

    /// Whether somebody waits whom a connection made for nobody would serve.
    pub(super) fn has_takers(&self) -> bool {
        self.blocked() + self.making.list.len() > 0
    }

    /// The oldest who may not begin a connect, and its ticket.
    pub(super) fn first_blocked(&self) -> Option<(usize, u64)> {
        let head = self.blocked.list.head()?;
        Some((head, self.waiters[head].ticket))
    }

    pub(super) fn join(&mut self, ticket: u64, ask: Ask, place: Place) -> usize {
        let waiter = self.waiters.insert(Waiting {
            links: Links::default(),
            ticket,
            fresh: ask.reuse != Reuse::Any,
            runtime: ask.runtime,
            place: Place::Left,
            waker: None,
            gift: Gift::EMPTY,
        });
        self.line_up(waiter, place);
        waiter
    }

    /// The oldest caller who has a use for a connection of this runtime that is given back: to take it, or, if it cannot
    /// use it and no slot is on its way to it, to have it closed. `coming`: how many slots are on their way.
    pub(super) fn next_for_connection(
        &mut self,
        runtime: Option<Id>,
        coming: usize,
    ) -> Option<Next> {
        let mut blocked = self.blocked.list.head();
        for _ in 0..coming {
            let Some(key) = blocked.filter(|&key| !self.waiters[key].can_use(runtime)) else {
                break;
            };
            blocked = List::next(&mut self.waiters, key);
        }
        let mut making = self.making.list.head();
        while let Some(key) = making.filter(|&key| !self.waiters[key].can_use(runtime)) {
            making = List::next(&mut self.waiters, key);
        }
        let waiter = match (making, blocked) {
            (Some(making), Some(blocked)) => {
                let earlier = self.waiters[making].ticket < self.waiters[blocked].ticket;
                if earlier { making } else { blocked }
            }
            (making, blocked) => making.or(blocked)?,
        };
        let waiting = &self.waiters[waiter];
        Some(Next {
            waiter,
            ticket: waiting.ticket,
            can_use: waiting.can_use(runtime),
        })
    }

    pub(super) fn give_connection(
        &mut self,
        waiter: usize,
        berth: Box<Berth<C>>,
        after: &mut After<C>,
    ) {
        self.leave(waiter);
        let waiting = &mut self.waiters[waiter];
        waiting.gift.connection = Some(berth);
        after.wake(waiting.waker.take());
    }

    /// From now on it is one of those who are making.
    pub(super) fn give_slot(&mut self, waiter: usize, slot: usize, after: &mut After<C>) {
        self.leave(waiter);
        let waiting = &mut self.waiters[waiter];
        waiting.gift.slot = Some(slot);
        after.wake(waiting.waker.take());
        if !waiting.fresh {
            self.line_up(waiter, Place::Making);
        }
    }

    pub(super) fn refuse(&mut self, waiter: usize, after: &mut After<C>) {
        let waiting = &mut self.waiters[waiter];
        waiting.gift.refused = true;
        after.wake(waiting.waker.take());
    }

    pub(super) fn refuse_all(&mut self, after: &mut After<C>) {
        for (_, waiting) in &mut self.waiters {
            waiting.gift.refused = true;
            after.wake(waiting.waker.take());
        }
    }

    /// What there is for a waiter, or its waker kept.
    pub(super) fn collect(
        &mut self,
        waiter: usize,
        waker: &Waker,
        after: &mut After<C>,
    ) -> Option<Gift<C>> {
        let waiting = &mut self.waiters[waiter];
        if waiting.gift.is_empty() {
            if !waiting.waker.as_ref().is_some_and(|it| it.will_wake(waker)) {
                after.forget(waiting.waker.replace(waker.clone()));
            }
            return None;
        }
        Some(mem::replace(&mut waiting.gift, Gift::EMPTY))
    }

    /// The waiter is gone; what it had not come for is the caller's to pass on.
    pub(super) fn abandon(&mut self, waiter: usize, after: &mut After<C>) -> Gift<C> {
        self.leave(waiter);
        let Waiting { gift, waker, .. } = self.waiters.remove(waiter);
        after.forget(waker);
        gift
    }

    fn line_up(&mut self, waiter: usize, place: Place) {
        self.waiters[waiter].place = place;
        match place {
            Place::Making => self.making.insert(&mut self.waiters, waiter),
            Place::Blocked => self.blocked.insert(&mut self.waiters, waiter),
            Place::Left => {}
        }
    }

    fn leave(&mut self, waiter: usize) {
        match mem::replace(&mut self.waiters[waiter].place, Place::Left) {
            Place::Making => self.making.remove(&mut self.waiters, waiter),
            Place::Blocked => self.blocked.remove(&mut self.waiters, waiter),
            Place::Left => {}
        }
    }

    /// How many neighbours those who left have touched.
    #[cfg(test)]
    pub(super) fn touched(&self) -> usize {
        self.blocked.list.touched + self.making.list.touched
    }
}

impl Queue {
    const fn new() -> Self {
        Self {
            list: List::new(),
            last_urgent: None,
        }
    }

    /// Behind the last of its kind or, having waited in the other queue, a step or two before it.
    fn insert<C>(&mut self, waiters: &mut Slab<Waiting<C>>, waiter: usize) {
        let ticket = waiters[waiter].ticket;
        let urgent = ticket & LATER == 0;
        let mut before = if urgent {
            self.last_urgent
        } else {
            self.list.tail()
        };
        let last = before;
        while let Some(key) = before.filter(|&key| waiters[key].ticket > ticket) {
            before = List::prev(waiters, key);
        }
        if urgent && before == last {
            self.last_urgent = Some(waiter);
        }
        self.list.insert_after(waiters, before, waiter);
    }

    fn remove<C>(&mut self, waiters: &mut Slab<Waiting<C>>, waiter: usize) {
        if self.last_urgent == Some(waiter) {
            // Before an urgent one stand urgent ones only.
            self.last_urgent = List::prev(waiters, waiter);
        }
        self.list.remove(waiters, waiter);
    }
}

impl<C> Gift<C> {
    const EMPTY: Self = Self {
        connection: None,
        slot: None,
        refused: false,
    };

    fn is_empty(&self) -> bool {
        self.connection.is_none() && self.slot.is_none() && !self.refused
    }
}

impl<C> Waiting<C> {
    fn can_use(&self, runtime: Option<Id>) -> bool {
        !self.fresh && self.runtime == runtime
    }
}

impl<C> Linked for Waiting<C> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}
