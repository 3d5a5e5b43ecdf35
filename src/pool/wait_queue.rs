//! The callers of one key who have no connection yet.
//!
//! A caller is *making* while a connect of its own is under way (it will take whatever comes first), and *blocked* while
//! it may not begin one. Both are in the order of arrival. What a caller is given is left in its place until it comes
//! for it; a caller who is gone instead leaves it to the next.
//!
//! A caller who does not come for what it was given, because its future is not polled, loses it to the next in line. It
//! *misses* turns from then on, until it is polled: then it stands where it stood.

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

/// The tickets of those who are not urgent: behind all who are.
pub(super) const LATER: u64 = 1 << 63;

/// What a caller asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CheckoutRequest {
    pub(crate) reuse: Reuse,
    /// Where the caller is: a connection's driver lives in one runtime, and serves callers there only.
    pub(crate) runtime: Option<Id>,
    /// Goes to the head of the line: it had its turn, and what it got was of no use.
    pub(crate) is_retry: bool,
}

impl CheckoutRequest {
    /// What a target asks for, from here.
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
    making: TicketQueue,
    blocked: TicketQueue,
    /// Who was given something, the earliest first, and when that was first seen to be unclaimed. Those who have come for it,
    /// or are gone, stay in it until they are come upon.
    given: VecDeque<(WaiterId, Option<Instant>)>,
    /// Who does not come for a connection of its own, which nobody else is in need of.
    kept: Vec<WaiterId>,
    /// How many of those who miss turns may not begin a connect.
    missing_blocked: usize,
    /// How often a caller was given something.
    gifts: u64,
    next_id: u64,
}

/// A caller in line. Its place may be another's when it is gone, its number never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaiterId {
    pub(super) index: usize,
    id: u64,
}

struct WaitNode<C> {
    links: Links,
    ticket: u64,
    id: u64,
    /// Does not take a used connection.
    fresh: bool,
    runtime: Option<Id>,
    /// When it joined.
    since: Instant,
    /// How long its own connect may take, if that is not the pool's limit.
    connect_timeout: Option<Duration>,
    state: QueueState,
    /// What it was given was taken back, and it has not been polled since: then it stands here.
    misses: Option<MissedTurn>,
    waker: Option<Waker>,
    delivery: Delivery<C>,
}

/// Where a caller stands who has missed its turn, as soon as it is polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MissedTurn {
    QueueState(QueueState),
    /// It has made its connection, and that went to another.
    Made,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueueState {
    Connecting,
    Blocked,
    /// Served, or in need of nothing that others give.
    Detached,
}

/// In the order of tickets: the urgent before all others.
struct TicketQueue {
    list: List,
    last_urgent: Option<usize>,
}

/// What waits for a caller to come for it.
pub(super) struct Delivery<C> {
    /// A connection that another caller gave back.
    pub(super) connection: Option<Box<PooledConn<C>>>,
    /// The right to make one.
    pub(super) permit: Option<usize>,
    pub(super) refused: bool,
    /// The connection is the one that was made for it.
    pub(super) made: bool,
    /// The connection that was made for it went to another, and there is none in its stead.
    pub(super) lost: bool,
    /// It was blocked for so long by a connection that cannot be closed.
    pub(super) stuck_for: Option<Duration>,
    /// Where it stood when it was given the connection.
    stood: QueueState,
    /// It is among those who were given something.
    unclaimed: bool,
}

/// Whose turn it is when a connection is given back.
pub(super) struct NextWaiter {
    pub(super) waiter: usize,
    pub(super) ticket: u64,
    /// If not, the connection is closed for its permit.
    pub(super) can_use: bool,
}

impl<C: Poolable> WaitQueue<C> {
    pub(super) fn new() -> Self {
        Self {
            waiters: Slab::new(),
            making: TicketQueue::new(),
            blocked: TicketQueue::new(),
            given: VecDeque::new(),
            kept: Vec::new(),
            missing_blocked: 0,
            gifts: 0,
            next_id: 0,
        }
    }

    /// Nobody here, and nothing left to come for.
    pub(super) fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// How many may not begin a connect, and come for what they are given.
    pub(super) fn blocked(&self) -> usize {
        self.blocked.list.len()
    }

    /// How many may not begin a connect.
    pub(super) fn pending(&self) -> usize {
        self.blocked() + self.missing_blocked
    }

    /// Whether somebody waits whom a connection made for nobody would serve.
    pub(super) fn has_takers(&self) -> bool {
        self.takers() > 0
    }

    /// How many wait whom a connection made for nobody would serve.
    pub(super) fn takers(&self) -> usize {
        self.blocked() + self.making.list.len()
    }

    /// The oldest who may not begin a connect, and its ticket.
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
            misses: None,
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

    /// A caller whose own connect is under way has no use for what it was given, and stands in line again.
    pub(super) fn requeue(&mut self, waiter: usize, ticket: u64) {
        if !self.waiters[waiter].delivery.is_empty() {
            // Its connect has delivered in the meantime: that is there to be claimed, and nothing else may be given.
            return;
        }
        self.leave(waiter);
        self.waiters[waiter].ticket = ticket;
        self.enqueue(waiter, QueueState::Connecting);
    }

    /// The oldest caller who has a use for a connection of this runtime that is given back: to take it, or, if it cannot
    /// use it and no permit is on its way to it, to have it closed. `coming`: how many permits are on their way.
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
        self.given_to(waiter, deferred);
    }

    /// Gives it a connection that it has come for and is not ready for; or gives that back, where there is something for it
    /// already. If it is taken back, its caller stands where it would without it.
    pub(super) fn leave_for(
        &mut self,
        waiter: usize,
        pooled: Box<PooledConn<C>>,
        is_making: bool,
        deferred: &mut Deferred<C>,
    ) -> Option<Box<PooledConn<C>>> {
        if !self.waiters[waiter].delivery.is_empty() {
            return Some(pooled);
        }
        self.give_connection(waiter, pooled, deferred);
        self.waiters[waiter].delivery.stood = match is_making {
            true => QueueState::Connecting,
            false => QueueState::Blocked,
        };
        None
    }

    /// From now on it is one of those who are making.
    pub(super) fn give_permit(&mut self, waiter: usize, permit: usize, deferred: &mut Deferred<C>) {
        self.leave(waiter);
        let node = &mut self.waiters[waiter];
        node.delivery.permit = Some(permit);
        if !node.fresh {
            self.enqueue(waiter, QueueState::Connecting);
        }
        self.given_to(waiter, deferred);
    }

    /// Whether this caller is still here for the connection that is made for it.
    pub(super) fn awaits(&self, waiter_id: WaiterId) -> bool {
        let node = self
            .waiters
            .get(waiter_id.index)
            .filter(|it| it.id == waiter_id.id);
        node.is_some_and(|it| !it.delivery.refused)
    }

    /// What is made for it is here, and it wants nothing else. `false`: it is gone.
    pub(super) fn has_its_own(&mut self, waiter_id: WaiterId) -> bool {
        let is_here = self.awaits(waiter_id);
        if is_here {
            self.leave(waiter_id.index);
        }
        is_here
    }

    /// The connection that was made for it, in the stead of one that it has not come for. `is_shared`: others could use it,
    /// if it does not come.
    pub(super) fn give_made(
        &mut self,
        waiter: usize,
        pooled: Box<PooledConn<C>>,
        is_shared: bool,
        deferred: &mut Deferred<C>,
    ) -> Option<Box<PooledConn<C>>> {
        self.comes(waiter);
        self.leave(waiter);
        let node = &mut self.waiters[waiter];
        let other = node.delivery.connection.replace(pooled);
        node.delivery.made = true;
        if is_shared {
            self.given_to(waiter, deferred);
        } else {
            deferred.wake(node.waker.take());
        }
        other
    }

    fn given_to(&mut self, waiter: usize, deferred: &mut Deferred<C>) {
        self.gifts += 1;
        let node = &mut self.waiters[waiter];
        deferred.wake(node.waker.take());
        if mem::replace(&mut node.delivery.unclaimed, true) {
            return;
        }
        self.forget_those_who_came();
        // As a rule only those who have not come are left. One who does not come keeps those behind it.
        if self.given.len() > 2 * self.waiters.len() + 8 {
            let waiters = &self.waiters;
            self.given
                .retain(|(waiter_id, _)| has_unclaimed(waiters, *waiter_id));
        }
        self.given.push_back((self.waiter_id(waiter), None));
        deferred.alert_of_delivery();
    }

    fn forget_those_who_came(&mut self) {
        while let Some((waiter_id, _)) = self.given.front()
            && !has_unclaimed(&self.waiters, *waiter_id)
        {
            self.given.pop_front();
        }
    }

    /// Whether somebody was given something and has not come for it.
    pub(super) fn is_unclaimed(&mut self) -> bool {
        self.forget_those_who_came();
        !self.given.is_empty()
    }

    /// The same, or somebody was and has come for it in the meantime.
    pub(super) fn has_given(&self) -> bool {
        !self.given.is_empty()
    }

    /// What is unclaimed now was seen now, unless it was before.
    pub(super) fn see(&mut self, now: Instant) {
        let unseen = self.given.iter_mut().rev();
        for (_, seen) in unseen.take_while(|(_, seen)| seen.is_none()) {
            *seen = Some(now);
        }
    }

    /// Takes from somebody what was seen to be unclaimed by then, if there is such a one; it misses turns from now on.
    ///
    /// `keeps_own`: a caller who wants a connection of its own keeps the one that was made for it for as long as nobody waits
    /// here. It has no use for another, and would make one each time.
    pub(super) fn take_back(&mut self, seen_by: Instant, keeps_own: bool) -> Option<Delivery<C>> {
        while keeps_own && !self.has_takers() && self.keep_own(seen_by) {}
        self.forget_those_who_came();
        let &(waiter_id, seen) = self.given.front()?;
        if seen.is_none_or(|seen| seen > seen_by) {
            return None;
        }
        self.given.pop_front();
        let waiter = waiter_id.index;
        self.leave(waiter);
        let node = &mut self.waiters[waiter];
        let delivery = mem::replace(&mut node.delivery, Delivery::EMPTY);
        let misses = if delivery.made {
            MissedTurn::Made
        } else if delivery.permit.is_some() {
            MissedTurn::QueueState(QueueState::Blocked)
        } else {
            MissedTurn::QueueState(delivery.stood)
        };
        node.misses = Some(misses);
        self.missing_blocked += usize::from(misses == MissedTurn::QueueState(QueueState::Blocked));
        Some(delivery)
    }

    /// Whether the next one that would be taken back is kept for its caller instead.
    fn keep_own(&mut self, seen_by: Instant) -> bool {
        self.forget_those_who_came();
        let Some(&(waiter_id, Some(seen))) = self.given.front() else {
            return false;
        };
        let node = &mut self.waiters[waiter_id.index];
        let keeps = seen <= seen_by && node.fresh && node.delivery.made;
        if keeps {
            node.delivery.unclaimed = false;
            self.given.pop_front();
            self.kept.push(waiter_id);
        }
        keeps
    }

    /// Somebody waits here now: what is kept for callers who do not come is to be taken back from them, too.
    fn offer_kept(&mut self) {
        for waiter_id in mem::take(&mut self.kept) {
            let node = self.waiters.get_mut(waiter_id.index);
            if let Some(node) = node.filter(|it| it.id == waiter_id.id)
                && node.delivery.made
                && node.delivery.connection.is_some()
            {
                node.delivery.unclaimed = true;
                self.given.push_back((waiter_id, None));
            }
        }
    }

    /// One who has missed turns is polled: where it stands from now on.
    pub(super) fn comes(&mut self, waiter: usize) -> Option<MissedTurn> {
        let misses = self.waiters[waiter].misses.take()?;
        if let MissedTurn::QueueState(state) = misses {
            self.missing_blocked -= usize::from(state == QueueState::Blocked);
            self.enqueue(waiter, state);
        }
        Some(misses)
    }

    /// What it takes when it is polled: a connection of its runtime, or none if it wants a new one.
    pub(super) fn takes(&self, waiter: usize) -> Option<Option<Id>> {
        let node = &self.waiters[waiter];
        (!node.fresh).then_some(node.runtime)
    }

    /// Somebody polls it now, and it takes what is there.
    pub(super) fn hand(&mut self, waiter: usize, pooled: Box<PooledConn<C>>) {
        self.leave(waiter);
        self.waiters[waiter].delivery.connection = Some(pooled);
    }

    /// The connection that was made for it is another's.
    pub(super) fn lose(&mut self, waiter: usize) {
        self.waiters[waiter].delivery.lost = true;
    }

    #[cfg(test)]
    pub(super) fn misses(&self, waiter: usize) -> bool {
        self.waiters[waiter].misses.is_some()
    }

    /// Whether there is something for it to come for.
    #[cfg(test)]
    pub(super) fn is_given(&self, waiter: usize) -> bool {
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

    /// How long this caller's own connect may take.
    pub(super) fn set_connect_timeout(&mut self, waiter: usize, limit: Duration) {
        self.waiters[waiter].connect_timeout = Some(limit);
    }

    /// How often a caller was given something.
    pub(super) fn gifts(&self) -> u64 {
        self.gifts
    }

    /// Tells those of the blocked whom `why` says something of, by when they joined and how long their own connects may take,
    /// that their permits cannot be had.
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

    /// It is polled here, and so it takes connections of this runtime.
    pub(super) fn is_polled_in(&mut self, waiter: usize, runtime: Option<Id>) {
        let node = &mut self.waiters[waiter];
        node.runtime = runtime.or(node.runtime);
    }

    /// What there is for a waiter, or its waker kept.
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

    /// The waiter is gone; what it had not come for is the caller's to pass on.
    pub(super) fn abandon(&mut self, waiter: usize, deferred: &mut Deferred<C>) -> Delivery<C> {
        self.leave(waiter);
        let WaitNode {
            delivery,
            waker,
            misses,
            ..
        } = self.waiters.remove(waiter);
        self.missing_blocked -=
            usize::from(misses == Some(MissedTurn::QueueState(QueueState::Blocked)));
        deferred.forget(waker);
        delivery
    }

    fn enqueue(&mut self, waiter: usize, state: QueueState) {
        self.waiters[waiter].state = state;
        match state {
            QueueState::Connecting => self.making.insert(&mut self.waiters, waiter),
            QueueState::Blocked => {
                self.blocked.insert(&mut self.waiters, waiter);
                self.offer_kept();
            }
            QueueState::Detached => {}
        }
    }

    /// Says where it stood.
    fn leave(&mut self, waiter: usize) -> QueueState {
        let stood = mem::replace(&mut self.waiters[waiter].state, QueueState::Detached);
        match stood {
            QueueState::Connecting => self.making.remove(&mut self.waiters, waiter),
            QueueState::Blocked => self.blocked.remove(&mut self.waiters, waiter),
            QueueState::Detached => {}
        }
        stood
    }

    /// How many neighbours those who left have touched.
    #[cfg(test)]
    pub(super) fn touched(&self) -> usize {
        self.blocked.list.touched + self.making.list.touched
    }
}

impl TicketQueue {
    const fn new() -> Self {
        Self {
            list: List::new(),
            last_urgent: None,
        }
    }

    /// Behind the last of its kind or, having waited in the other queue, a step or two before it.
    fn insert<C>(&mut self, waiters: &mut Slab<WaitNode<C>>, waiter: usize) {
        let ticket = waiters[waiter].ticket;
        let urgent = ticket & LATER == 0;
        let mut before = if urgent {
            self.last_urgent
        } else {
            self.list.tail()
        };
        let last = before;
        // Who has missed its turn is older than all others, as a rule.
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
            // Before an urgent one stand urgent ones only.
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
        unclaimed: false,
    };

    fn is_empty(&self) -> bool {
        self.connection.is_none()
            && self.permit.is_none()
            && !self.refused
            && !self.lost
            && self.stuck_for.is_none()
    }
}

/// Whether it is still here, and has not come for what it was given.
fn has_unclaimed<C>(waiters: &Slab<WaitNode<C>>, waiter_id: WaiterId) -> bool {
    let node = waiters
        .get(waiter_id.index)
        .filter(|it| it.id == waiter_id.id);
    node.is_some_and(|it| it.delivery.unclaimed && !it.delivery.refused)
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
