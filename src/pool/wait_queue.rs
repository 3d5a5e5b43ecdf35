//! The callers of one key that have no connection yet.
//!
//! A caller is *connecting* while its own connect is under way (it takes whatever comes first), and *blocked* while it has
//! no permit. Both lists are in order of arrival. A delivery stays in the caller's node until the caller collects it;
//! if the caller is dropped, the delivery passes to the next one.
//!
//! A caller that does not collect its delivery, because its future is not polled, loses it to the next caller. From
//! then on it *misses* turns until it is polled, and then stands at its old place.

mod uncollected;

use std::collections::VecDeque;
use std::mem;
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Id;
use tokio::time::Instant;

use crate::connection::poolable::Poolable;
use crate::pool::deferred::Deferred;
use crate::pool::list::{Linked, Links, List};
use crate::pool::pooled_conn::{PooledConn, current_runtime};
use crate::target::{Internal, Reuse, Target};

/// Added to the tickets of callers that are not urgent, so that all urgent callers precede them.
pub(super) const LATER: u64 = 1 << 63;

/// The place of a caller among all callers of the pool, by its number in the order of arrival.
pub(super) fn ticket(number: u64, urgent: bool) -> u64 {
    if urgent { number } else { number | LATER }
}

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckoutRequest {
    pub(crate) reuse: Reuse,
    /// The caller's runtime: a connection's driver lives in one runtime, and serves only callers there.
    pub(crate) runtime: Option<Id>,
    /// Joins at the head of the queue: the caller had its turn, and could not use what it got.
    pub(crate) is_retry: bool,
}

impl CheckoutRequest {
    /// The request of a target, made in the current runtime.
    #[inline]
    pub(crate) fn from_target(target: &impl Target) -> Self {
        Self {
            reuse: target.reuse(),
            runtime: current_runtime(),
            is_retry: target.is_retry(Internal::NEW),
        }
    }
}

pub(super) struct WaitQueue<C> {
    waiters: Slab<WaitNode<C>>,
    connecting: TicketQueue,
    blocked: TicketQueue,
    /// Deliveries that may be taken back, the earliest first. Those that were collected, or whose waiter is gone, are removed
    /// lazily.
    deliveries: VecDeque<Listed>,
    /// Waiters that do not collect a connection of their own which nobody else needs.
    kept: Vec<WaiterId>,
    /// How many of the waiters that miss turns have no permit.
    missed_blocked: usize,
    /// The number of deliveries ever made.
    delivery_count: u64,
    next_id: u64,
}

/// A waiter. Its index may be reused when it is gone, its number is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterId {
    pub(super) index: usize,
    id: u64,
}

struct WaitNode<C> {
    links: Links,
    ticket: u64,
    id: u64,
    /// Takes only a new connection.
    fresh: bool,
    runtime: Option<Id>,
    /// When it joined.
    since: Instant,
    /// How long its own connect may take, if that differs from the pool's limit.
    connect_timeout: Option<Duration>,
    state: QueueState,
    /// Its delivery was taken back, and it has not been polled since. Where it stands then.
    missed: Option<MissedTurn>,
    waker: Option<Waker>,
    delivery: Delivery<C>,
}

/// Where a waiter that has missed its turn stands once it is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissedTurn {
    QueueState(QueueState),
    /// Its connect is over, and the connection went to another caller.
    Made,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueState {
    Connecting,
    Blocked,
    /// Served, or in need of nothing from other callers.
    Detached,
}

/// In the order of tickets: urgent ones first.
struct TicketQueue {
    list: List,
    last_urgent: Option<usize>,
}

/// What is ready for a waiter to collect.
pub(super) struct Delivery<C> {
    /// A connection that another caller returned.
    pub(super) connection: Option<Box<PooledConn<C>>>,
    /// A permit to connect.
    pub(super) permit: Option<usize>,
    pub(super) refused: bool,
    /// The connection is the one that was made for this waiter.
    pub(super) made: bool,
    /// The connection that was made for this waiter went to another one, and there is no replacement.
    pub(super) lost: bool,
    /// How long it was blocked by a connection that cannot be closed.
    pub(super) stuck_for: Option<Duration>,
    /// Where it stood when it was given the connection.
    stood: QueueState,
    /// Its number, while it is listed in `deliveries` and not collected.
    listed: Option<u64>,
}

/// A delivery that may be taken back.
#[derive(Clone, Copy)]
struct Listed {
    waiter: WaiterId,
    /// A waiter may collect one delivery and have another while the first is still in the list.
    number: u64,
    /// When it was first seen uncollected.
    seen: Option<Instant>,
}

/// Which waiter is next when a connection is returned.
pub(super) struct NextWaiter {
    pub(super) waiter: usize,
    pub(super) ticket: u64,
    /// If false, the connection is closed for its permit.
    pub(super) can_use: bool,
}

impl<C: Poolable> WaitQueue<C> {
    pub(super) fn new() -> Self {
        Self {
            waiters: Slab::new(),
            connecting: TicketQueue::new(),
            blocked: TicketQueue::new(),
            deliveries: VecDeque::new(),
            kept: Vec::new(),
            missed_blocked: 0,
            delivery_count: 0,
            next_id: 0,
        }
    }

    /// No waiters and no deliveries.
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many have no permit, and are polled.
    pub(super) fn blocked(&self) -> usize {
        self.blocked.list.len()
    }

    /// How many have no permit.
    pub(super) fn pending(&self) -> usize {
        self.blocked() + self.missed_blocked
    }

    /// Whether a caller is waiting that a connection made for nobody would serve.
    pub(super) fn has_takers(&self) -> bool {
        self.takers() > 0
    }

    /// How many callers are waiting that a connection made for nobody would serve.
    pub(super) fn takers(&self) -> usize {
        self.blocked() + self.connecting.list.len()
    }

    /// The oldest waiter without a permit, and its ticket.
    pub(super) fn first_blocked(&self) -> Option<(usize, u64)> {
        let head = self.blocked.list.head()?;
        Some((head, self.waiters[head].ticket))
    }

    pub(super) fn join(
        &mut self,
        ticket: u64,
        request: CheckoutRequest,
        since: Instant,
        state: QueueState,
    ) -> usize {
        let id = self.next_id;
        self.next_id += 1;
        let waiter = self.waiters.insert(WaitNode {
            links: Links::default(),
            ticket,
            id,
            fresh: request.reuse != Reuse::Any,
            runtime: request.runtime,
            since,
            connect_timeout: None,
            state: QueueState::Detached,
            missed: None,
            waker: None,
            delivery: Delivery::EMPTY,
        });
        self.enqueue(waiter, state);
        waiter
    }

    pub(super) fn waiter_id(&self, waiter: usize) -> WaiterId {
        WaiterId {
            index: waiter,
            id: self.waiters[waiter].id,
        }
    }

    /// Returns a waiter to the queue that cannot use its delivery, while its own connect goes on.
    pub(super) fn requeue(&mut self, waiter: usize, ticket: u64) {
        if !self.waiters[waiter].delivery.is_empty() {
            // Its own connect has delivered in the meantime, so it gets nothing else.
            return;
        }
        self.leave(waiter);
        self.waiters[waiter].ticket = ticket;
        self.enqueue(waiter, QueueState::Connecting);
    }

    /// The oldest waiter that benefits from a returned connection of this runtime: it takes the connection or, if it
    /// cannot use it and no permit is on its way for it, has it closed. `coming`: the number of permits on their way.
    pub(super) fn next_for_connection(
        &mut self,
        runtime: Option<Id>,
        coming: usize,
    ) -> Option<NextWaiter> {
        let mut blocked = self.blocked.list.head();
        for _ in 0..coming {
            let Some(key) = blocked.filter(|&key| !self.waiters[key].can_use(runtime)) else {
                break;
            };
            blocked = List::next(&mut self.waiters, key);
        }
        let mut connecting = self.connecting.list.head();
        while let Some(key) = connecting.filter(|&key| !self.waiters[key].can_use(runtime)) {
            connecting = List::next(&mut self.waiters, key);
        }
        let waiter = match (connecting, blocked) {
            (Some(connecting), Some(blocked)) => {
                let earlier = self.waiters[connecting].ticket < self.waiters[blocked].ticket;
                if earlier { connecting } else { blocked }
            }
            (connecting, blocked) => connecting.or(blocked)?,
        };
        let node = &self.waiters[waiter];
        Some(NextWaiter {
            waiter,
            ticket: node.ticket,
            can_use: node.can_use(runtime),
        })
    }

    pub(super) fn give_connection(
        &mut self,
        waiter: usize,
        pooled: Box<PooledConn<C>>,
        deferred: &mut Deferred<C>,
    ) {
        let stood = self.leave(waiter);
        let node = &mut self.waiters[waiter];
        node.delivery.connection = Some(pooled);
        node.delivery.stood = stood;
        self.note_delivery(waiter, deferred);
    }

    /// Delivers to a waiter the connection that it has collected and cannot use yet; returned if the waiter has another
    /// delivery already. If it is taken back, the waiter stands where it would stand without it.
    pub(super) fn leave_for(
        &mut self,
        waiter: usize,
        pooled: Box<PooledConn<C>>,
        is_connecting: bool,
        deferred: &mut Deferred<C>,
    ) -> Option<Box<PooledConn<C>>> {
        if !self.waiters[waiter].delivery.is_empty() {
            return Some(pooled);
        }
        self.give_connection(waiter, pooled, deferred);
        self.waiters[waiter].delivery.stood = match is_connecting {
            true => QueueState::Connecting,
            false => QueueState::Blocked,
        };
        None
    }

    /// Gives the waiter a permit; from now on it is *connecting*.
    pub(super) fn give_permit(&mut self, waiter: usize, permit: usize, deferred: &mut Deferred<C>) {
        self.leave(waiter);
        let node = &mut self.waiters[waiter];
        node.delivery.permit = Some(permit);
        if !node.fresh {
            self.enqueue(waiter, QueueState::Connecting);
        }
        self.note_delivery(waiter, deferred);
    }

    /// Whether the waiter still waits for the connection that is made for it.
    pub(super) fn awaits(&self, waiter_id: WaiterId) -> bool {
        let node = self
            .waiters
            .get(waiter_id.index)
            .filter(|it| it.id == waiter_id.id);
        node.is_some_and(|it| !it.delivery.refused)
    }

    /// The waiter has its own new connection, and needs nothing else. `false`: it is gone.
    pub(super) fn leave_with_own(&mut self, waiter_id: WaiterId) -> bool {
        let is_here = self.awaits(waiter_id);
        if is_here {
            self.leave(waiter_id.index);
        }
        is_here
    }

    /// Delivers the connection that was made for a waiter, in place of an uncollected delivery. `is_shared`: other
    /// callers may use the connection if the waiter does not collect it.
    pub(super) fn give_made(
        &mut self,
        waiter: usize,
        pooled: Box<PooledConn<C>>,
        is_shared: bool,
        deferred: &mut Deferred<C>,
    ) -> Option<Box<PooledConn<C>>> {
        self.end_missing(waiter);
        self.leave(waiter);
        let node = &mut self.waiters[waiter];
        let other = node.delivery.connection.replace(pooled);
        node.delivery.made = true;
        if is_shared {
            self.note_delivery(waiter, deferred);
        } else {
            deferred.wake(node.waker.take());
        }
        other
    }

    /// A waiter that has missed turns is polled; returns where it stands from now on. A waiter with a delivery collects
    /// that first.
    pub(super) fn rejoin(&mut self, waiter: usize) -> Option<MissedTurn> {
        match self.waiters[waiter].delivery.is_empty() {
            true => self.end_missing(waiter),
            false => None,
        }
    }

    fn end_missing(&mut self, waiter: usize) -> Option<MissedTurn> {
        let missed = self.waiters[waiter].missed.take()?;
        if let MissedTurn::QueueState(state) = missed {
            self.missed_blocked -= usize::from(state == QueueState::Blocked);
            self.enqueue(waiter, state);
        }
        Some(missed)
    }

    /// Which connections it takes when it is polled: those of this runtime; `None` if it wants a new one.
    pub(super) fn accepts(&self, waiter: usize) -> Option<Option<Id>> {
        let node = &self.waiters[waiter];
        (!node.fresh).then_some(node.runtime)
    }

    /// Gives the connection to the waiter that is being polled.
    pub(super) fn give_now(&mut self, waiter: usize, pooled: Box<PooledConn<C>>) {
        self.leave(waiter);
        self.waiters[waiter].delivery.connection = Some(pooled);
    }

    /// The connection that was made for it belongs to another caller.
    pub(super) fn set_lost(&mut self, waiter: usize) {
        self.waiters[waiter].delivery.lost = true;
    }

    #[cfg(test)]
    pub(super) fn missed(&self, waiter: usize) -> bool {
        self.waiters[waiter].missed.is_some()
    }

    /// Whether it has a delivery.
    #[cfg(test)]
    pub(super) fn has_delivery(&self, waiter: usize) -> bool {
        !self.waiters[waiter].delivery.is_empty()
    }

    pub(super) fn is_blocked(&self, waiter: usize) -> bool {
        self.waiters[waiter].state == QueueState::Blocked
    }

    pub(super) fn refuse(&mut self, waiter: usize, deferred: &mut Deferred<C>) {
        let node = &mut self.waiters[waiter];
        node.delivery.refused = true;
        deferred.wake(node.waker.take());
    }

    pub(super) fn refuse_all(&mut self, deferred: &mut Deferred<C>) {
        for (_, node) in &mut self.waiters {
            node.delivery.refused = true;
            deferred.wake(node.waker.take());
        }
    }

    /// Sets how long the waiter's own connect may take.
    pub(super) fn set_connect_timeout(&mut self, waiter: usize, limit: Duration) {
        self.waiters[waiter].connect_timeout = Some(limit);
    }

    /// The number of deliveries ever made.
    pub(super) fn delivery_count(&self) -> u64 {
        self.delivery_count
    }

    /// Fails blocked waiters for which `why` returns a time, given when they joined and their connect timeouts: their
    /// permits cannot be had.
    pub(super) fn fail_blocked(
        &mut self,
        why: impl Fn(Instant, Option<Duration>) -> Option<Duration>,
        deferred: &mut Deferred<C>,
    ) {
        let mut next = self.blocked.list.head();
        while let Some(waiter) = next {
            next = List::next(&mut self.waiters, waiter);
            let node = &self.waiters[waiter];
            if let Some(waited) = why(node.since, node.connect_timeout) {
                self.leave(waiter);
                let node = &mut self.waiters[waiter];
                node.delivery.stuck_for = Some(waited);
                deferred.wake(node.waker.take());
            }
        }
    }

    /// The waiter is polled in this runtime, and takes connections of it.
    pub(super) fn set_runtime(&mut self, waiter: usize, runtime: Option<Id>) {
        let node = &mut self.waiters[waiter];
        node.runtime = runtime.or(node.runtime);
    }

    /// Returns the delivery of a waiter, or stores its waker.
    pub(super) fn collect(
        &mut self,
        waiter: usize,
        waker: &Waker,
        deferred: &mut Deferred<C>,
    ) -> Option<Delivery<C>> {
        let node = &mut self.waiters[waiter];
        if node.delivery.is_empty() {
            if !node.waker.as_ref().is_some_and(|it| it.will_wake(waker)) {
                deferred.forget(node.waker.replace(waker.clone()));
            }
            return None;
        }
        Some(mem::replace(&mut node.delivery, Delivery::EMPTY))
    }

    /// The waiter is gone; the caller of this method passes on the delivery that was not collected.
    pub(super) fn abandon(&mut self, waiter: usize, deferred: &mut Deferred<C>) -> Delivery<C> {
        self.leave(waiter);
        let WaitNode {
            delivery,
            waker,
            missed,
            ..
        } = self.waiters.remove(waiter);
        self.missed_blocked -=
            usize::from(missed == Some(MissedTurn::QueueState(QueueState::Blocked)));
        deferred.forget(waker);
        delivery
    }

    fn enqueue(&mut self, waiter: usize, state: QueueState) {
        self.waiters[waiter].state = state;
        match state {
            QueueState::Connecting => self.connecting.insert(&mut self.waiters, waiter),
            QueueState::Blocked => {
                self.blocked.insert(&mut self.waiters, waiter);
                self.relist_kept();
            }
            QueueState::Detached => {}
        }
    }

    /// Returns where it stood.
    fn leave(&mut self, waiter: usize) -> QueueState {
        let stood = mem::replace(&mut self.waiters[waiter].state, QueueState::Detached);
        match stood {
            QueueState::Connecting => self.connecting.remove(&mut self.waiters, waiter),
            QueueState::Blocked => self.blocked.remove(&mut self.waiters, waiter),
            QueueState::Detached => {}
        }
        stood
    }

    /// How many neighbours of leaving waiters were visited.
    #[cfg(test)]
    pub(super) fn touched(&self) -> usize {
        self.blocked.list.touched + self.connecting.list.touched
    }
}

impl TicketQueue {
    const fn new() -> Self {
        Self {
            list: List::new(),
            last_urgent: None,
        }
    }

    /// Inserts at the end of its kind or, if the waiter comes from the other list, at its place a step or two before.
    fn insert<C>(&mut self, waiters: &mut Slab<WaitNode<C>>, waiter: usize) {
        let ticket = waiters[waiter].ticket;
        let urgent = ticket & LATER == 0;
        let mut before = if urgent {
            self.last_urgent
        } else {
            self.list.tail()
        };
        let last = before;
        // A waiter that has missed its turn is usually the oldest.
        if self
            .list
            .head()
            .is_some_and(|head| waiters[head].ticket > ticket)
        {
            before = None;
        }
        while let Some(key) = before.filter(|&key| waiters[key].ticket > ticket) {
            before = List::prev(waiters, key);
        }
        if urgent && before == last {
            self.last_urgent = Some(waiter);
        }
        self.list.insert_after(waiters, before, waiter);
    }

    fn remove<C>(&mut self, waiters: &mut Slab<WaitNode<C>>, waiter: usize) {
        if self.last_urgent == Some(waiter) {
            // Only urgent waiters precede an urgent one.
            self.last_urgent = List::prev(waiters, waiter);
        }
        self.list.remove(waiters, waiter);
    }
}

impl<C> Delivery<C> {
    const EMPTY: Self = Self {
        connection: None,
        permit: None,
        refused: false,
        made: false,
        lost: false,
        stuck_for: None,
        stood: QueueState::Detached,
        listed: None,
    };

    fn is_empty(&self) -> bool {
        self.connection.is_none()
            && self.permit.is_none()
            && !self.refused
            && !self.lost
            && self.stuck_for.is_none()
    }
}

impl<C> WaitNode<C> {
    fn can_use(&self, runtime: Option<Id>) -> bool {
        !self.fresh && self.runtime == runtime
    }
}

impl<C> Linked for WaitNode<C> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}
