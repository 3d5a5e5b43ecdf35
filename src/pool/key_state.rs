//! The state of one key: its connections, its queue and its counts. Plain data, without a lock, a clock or tasks.
//!
//! A connection is in `open` from before its connect begins until its transport is gone. A caller without a connection
//! is in the [`WaitQueue`].

mod addresses;
mod draining;
mod ends;
mod late;
mod learned;
mod made;
mod places;
mod sharing;
mod spread;
mod status;
mod stuck;
#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests;
mod unclaimed;

use std::mem;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Id;
use tokio::time::Instant;

use crate::agent::{Mode, Spread};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Deadline;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::addresses::AddressBook;
use crate::pool::capacity::Capacity;
use crate::pool::config::{PoolConfig, Scheduling};
use crate::pool::deferred::{Deferred, Stop};
use crate::pool::gauges::Counts;
use crate::pool::learned::LearnedIdle;
use crate::pool::list::{Linked, Links, List, SlabIndex};
use crate::pool::pooled_conn::{PooledConn, Rejected};
use crate::pool::total_limits::KeyTotal;
use crate::pool::wait_queue::{CheckoutRequest, Delivery, QueueState, WaitQueue, ticket};
use crate::target::Reuse;
use late::Watch;
use places::Places;
use sharing::Sharing;
use stuck::Progress;
pub(super) use unclaimed::{Check, CheckResult};

pub(super) struct KeyState<C> {
    open: Slab<Open<C>>,
    /// How many of `open` count in the limits: all but one-shot and draining connections.
    counted: usize,
    /// How many of the others are draining.
    draining: usize,
    idle: List,
    /// Shared connections that have uses and room for more.
    roomy: List,
    /// Connections by address, if the load is spread.
    places: Option<Box<Places>>,
    /// How many idle connections `keep` may keep: `max_idle_per_host`, or 0 if a learned limit has to be applied to each.
    plain_idle_limit: usize,
    /// After how long the server closes idle ones.
    learned: Option<Box<LearnedIdle>>,
    capacity: Capacity,
    /// What the gauges show.
    counts: Counts,
    queue: WaitQueue<C>,
    /// Connections that are being closed for blocked callers of this key: the number of permits on their way.
    incoming_permits: usize,
    /// When the sweeper is due next for this key; it runs then, whatever happens meanwhile.
    sweep_at: Option<Instant>,
    /// The ticket with which this key waits for the total limit.
    turn: Option<u64>,
    progress: Progress,
    /// When the last check was, in milliseconds since the pool was made, plus one.
    checked_at: u32,
    /// Connections that are being closed for callers that are blocked by the total limit.
    making_room: usize,
    /// This key is in the list of keys to check for overdue work.
    pub(super) is_watched: bool,
    /// Removed from the table: a caller that still finds this key pool has to look it up again.
    pub(super) retired: bool,
}

struct Open<C> {
    links: Links,
    stage: Stage<C>,
    idle: Option<Box<PooledConn<C>>>,
    counting: Counting,
    /// It is being closed for a caller that is blocked at this key.
    frees_for_key: bool,
    /// It is being closed for a caller that is blocked by the total limit.
    frees_for_total: bool,
    watch: Watch,
    /// While it is closing: when that was first seen, in milliseconds since the pool was made, plus one. While it is
    /// overdue: for how many milliseconds that has been seen.
    watched: u32,
}

/// Whether a connection counts in the limits.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    Counted,
    OneShot,
    /// It drains, which may take long.
    Draining,
}

// Every connection has one, and a slab may have room for twice as many.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Open<Box<()>>>() <= 40);

enum Stage<C> {
    /// Boxed if the connect runs in a task of its own.
    Connecting(Option<Box<Connecting>>),
    /// Connected; whether the connection is shared is not known yet.
    Made(Arc<ConnShared>),
    Connected(Arc<ConnShared>),
    /// A shared connection, kept here while its uses are given out.
    Shared(Box<Sharing<C>>),
}

struct Connecting {
    connect: Weak<dyn Stop>,
    /// When the pool cancels the connect, unless its own runtime has done so.
    due: Option<Instant>,
    /// The connect goes on without its caller.
    is_left: bool,
}

impl<C> Linked for Open<C> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// The result of a checkout.
pub(super) enum KeyDecision<C> {
    /// A connection that can be used now.
    Connection(Box<PooledConn<C>>),
    /// A permit to connect, and a place in the queue.
    Make {
        index: usize,
        waiter: usize,
    },
    Wait(usize),
    QueueFull(usize),
}

/// What a step of a key needs besides its state.
pub(super) struct StepCx<'a, C> {
    pub(super) config: &'a PoolConfig,
    /// The mode of the agent, read under the key's lock.
    pub(super) mode: Mode,
    pub(super) now: Moment,
    pub(super) total: Option<KeyTotal<'a, C>>,
    /// If the key chooses among addresses: where a caller claims to try an ejected one again.
    pub(super) trials: Option<&'a AddressBook>,
    /// What follows from the step.
    pub(super) deferred: &'a mut Deferred<C>,
}

impl<C: Poolable> KeyState<C> {
    pub(super) fn new(config: &PoolConfig) -> Self {
        let spread = config.spread;
        Self {
            plain_idle_limit: config.max_idle_per_host,
            learned: None,
            places: (spread != Spread::AsResolved).then(|| Box::new(Places::new(spread))),
            open: Slab::new(),
            counted: 0,
            draining: 0,
            idle: List::new(),
            roomy: List::new(),
            capacity: Capacity::new(),
            counts: Counts::default(),
            queue: WaitQueue::new(),
            incoming_permits: 0,
            sweep_at: None,
            turn: None,
            progress: Progress::default(),
            checked_at: 0,
            making_room: 0,
            is_watched: false,
            retired: false,
        }
    }

    /// Nothing is open, and nobody is waiting.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.queue.is_empty()
    }

    #[inline]
    pub(super) fn idle_len(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn shared(&self, index: usize) -> Option<Arc<ConnShared>> {
        self.open.get(index)?.shared().cloned()
    }

    #[inline]
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    pub(super) fn queue(&self) -> &WaitQueue<C> {
        &self.queue
    }

    pub(super) fn set_connect_timeout(&mut self, waiter: usize, limit: Duration) {
        self.queue.set_connect_timeout(waiter, limit);
    }

    /// Takes the next connection in the order of scheduling, if it is usable as it is; also returns whether it was
    /// idle. A connection with uses and room for more is preferred to an idle one.
    #[inline]
    pub(super) fn pop_idle(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        scheduling: Scheduling,
    ) -> Option<(Box<PooledConn<C>>, bool)> {
        if self.places.is_some() {
            return self.pop_spread(runtime, now, scheduling);
        }
        if C::SHARED && !self.roomy.is_empty() {
            // If the first is not usable, another one of this list may be, which is preferred to any idle one.
            return Some((self.pop_roomy(runtime, now, scheduling)?, false));
        }
        let index = match scheduling {
            Scheduling::Lifo => self.idle.tail(),
            Scheduling::Fifo => self.idle.head(),
        }?;
        Some((self.pop_idle_at(index, runtime, now)?, true))
    }

    /// The idle connection of this place, if it is usable as it is.
    #[inline]
    fn pop_idle_at(
        &mut self,
        index: usize,
        runtime: Option<Id>,
        now: Moment,
    ) -> Option<Box<PooledConn<C>>> {
        let open = self.open.get_mut(index)?;
        if C::SHARED && !open.is_roomy() {
            return None;
        }
        let is_shared = C::SHARED && matches!(open.stage, Stage::Shared(_));
        let fits = |it: &PooledConn<C>| it.runtime() == runtime && it.close_reason(now).is_none();
        let pooled = open.idle.take_if(|it| fits(it))?;
        self.idle.remove(&mut self.open, index);
        self.counts.taken(&pooled);
        if is_shared {
            self.begin_use(index, &pooled);
        }
        Some(pooled)
    }

    /// The pool's one decision: use an idle connection, connect, or wait. `number`: the caller's number in the order of
    /// arrival.
    #[inline]
    pub(super) fn take(
        &mut self,
        mut request: CheckoutRequest,
        number: u64,
        cx: &mut StepCx<'_, C>,
    ) -> KeyDecision<C> {
        if request.reuse == Reuse::FreshUnlessShared {
            request.reuse = match C::SHARED && self.capacity.is_known_shared() {
                true => Reuse::Any,
                false => Reuse::Fresh,
            };
        }
        let fresh = request.reuse == Reuse::Fresh;
        let mut urgent = request.is_retry || fresh;
        let (tries, made_way) = match request.reuse {
            Reuse::Any => self.tries(request.runtime, cx),
            _ => (false, false),
        };
        urgent |= made_way;
        if request.reuse == Reuse::Any && !tries {
            if C::SHARED
                && self.places.is_none()
                && let Some(pooled) = self.take_roomy(request.runtime, cx)
            {
                return KeyDecision::Connection(pooled);
            }
            while let Some((pooled, why)) = self.take_one(request.runtime, cx) {
                let Some(why) = why else {
                    return KeyDecision::Connection(pooled);
                };
                // The permit is released when the transport is gone, and goes to this caller before all others.
                self.discard(Rejected::new(pooled, why), cx);
                urgent = true;
            }
        }
        let ticket = ticket(number, urgent);
        if request.reuse == Reuse::Never {
            return self.make(ticket, request, true, cx);
        }
        let may = self.counted < cx.config.max_connections_per_host;
        let is_short = fresh || tries || self.is_short(1);
        let first = urgent || self.queue.blocked() == 0;
        if may && first && is_short && cx.reserve(urgent) {
            return self.make(ticket, request, false, cx);
        }
        let idle_to_replace = self.idle_to_replace((!fresh).then_some(request.runtime));
        // A caller does not count in the queue's limit if a connection is about to be closed for it, or if a connect
        // under way will serve it.
        let room = if !is_short {
            true
        } else if may {
            cx.total.as_ref().is_some_and(|total| total.has_idle())
        } else {
            idle_to_replace.is_some()
        };
        if !urgent && !room && self.queue.pending() >= cx.config.max_pending_per_host {
            return KeyDecision::QueueFull(cx.config.max_pending_per_host);
        }
        // This caller cannot use the idle connection, but it can use its permit, unless one was closed for it above.
        if let Some(index) = idle_to_replace.filter(|_| !may && !made_way) {
            let pooled = self.remove_whole(index, cx).expect("in the idle list");
            self.close_for_blocked(pooled, CloseReason::Room, cx);
        }
        let waiter = self
            .queue
            .join(ticket, request, cx.now.mono, QueueState::Blocked);
        self.grant_permits(cx);
        KeyDecision::Wait(waiter)
    }

    /// Returns a connection whose use is over: to the next waiter, to the idle list, or closed.
    pub(super) fn put(&mut self, mut pooled: Box<PooledConn<C>>, cx: &mut StepCx<'_, C>) {
        if C::SHARED
            && let Some(index) = self.index_of_use(&pooled)
        {
            return self.put_use(index, pooled, cx);
        }
        let checked = match (cx.mode, self.find(&pooled)) {
            (Mode::Destroyed, _) => Err(CloseReason::Shutdown),
            // Its transport is gone, or it was detached, and it has no place here any more.
            (_, None) => Err(CloseReason::Peer),
            (_, Some((index, open))) => open
                .check_reusable(&mut pooled, cx.now, cx.config)
                .map(|()| index),
        };
        let index = match checked {
            Ok(index) => index,
            Err(reason) => return cx.deferred.close(pooled, reason),
        };
        let runtime = pooled.runtime();
        if let Some(next) = self.queue.next_for_connection(runtime, self.permits_soon()) {
            let reason = match next.can_use {
                false => Some(CloseReason::Room),
                true => self.trial_closes(cx),
            };
            if let Some(reason) = reason {
                return self.close_for_blocked(pooled, reason, cx);
            }
            if let Some(total) = &mut cx.total
                && total.has_older(next.ticket, self.turn)
            {
                total.will_make_room();
                self.open[index].frees_for_total = true;
                self.making_room += 1;
                return cx.deferred.close(pooled, CloseReason::Room);
            }
            self.queue.give_connection(next.waiter, pooled, cx.deferred);
            return self.grant_permits(cx);
        }
        if cx.mode == Mode::Draining {
            return cx.deferred.close(pooled, CloseReason::Shutdown);
        }
        if self.idle.len() >= cx.config.max_idle_per_host {
            return cx.deferred.close(pooled, CloseReason::Surplus);
        }
        self.make_idle(index, pooled, cx);
    }

    /// The connection, which may be used again, is idle from now on.
    pub(super) fn make_idle(
        &mut self,
        index: usize,
        mut pooled: Box<PooledConn<C>>,
        cx: &mut StepCx<'_, C>,
    ) {
        if let Some(total) = &mut cx.total {
            pooled.total_index = SlabIndex::new(total.add_idle(index));
        }
        self.note_idle(index);
        self.apply_learned(&mut pooled, cx);
        let sweep_at = self.push_idle(index, pooled);
        cx.deferred.sweep_at = sweep_at.or(cx.deferred.sweep_at);
    }

    /// The same if nobody is waiting and there is room, so that no other caller is affected. Also returns whether the
    /// connection is now idle.
    #[inline]
    pub(super) fn keep(
        &mut self,
        mut pooled: Box<PooledConn<C>>,
        now: Moment,
        config: &PoolConfig,
    ) -> Result<(Option<Moment>, bool), Box<PooledConn<C>>> {
        if !self.queue.is_empty() {
            return Err(pooled);
        }
        let Some((index, open)) = self.find(&pooled) else {
            return Err(pooled);
        };
        let kept = if C::SHARED && matches!(open.stage, Stage::Shared(_)) {
            self.keep_use(index, pooled, now)?
        } else if self.idle.len() >= self.plain_idle_limit
            || open.check_reusable(&mut pooled, now, config).is_err()
        {
            return Err(pooled);
        } else {
            (self.push_idle(index, pooled), true)
        };
        if self.places.is_some() {
            self.note_kept(index, kept.1);
        }
        Ok(kept)
    }

    #[inline(always)]
    fn push_idle(&mut self, index: usize, pooled: Box<PooledConn<C>>) -> Option<Moment> {
        let deadline = pooled.deadline;
        self.counts.kept(&pooled);
        // Never drops a connection, because the entry is empty.
        self.open[index].idle.get_or_insert(pooled);
        self.idle.push_back(&mut self.open, index);
        self.arm_sweeper(deadline?)
    }

    /// The deadline, if the sweeper does not run before it anyway.
    #[inline]
    fn arm_sweeper(&mut self, at: Moment) -> Option<Moment> {
        if self.sweep_at.is_some_and(|sweep_at| sweep_at <= at.mono) {
            return None;
        }
        self.sweep_at = Some(at.mono);
        Some(at)
    }

    /// Grants a permit that was reserved under the total limit to this key's oldest waiter. `false`: nobody needs it.
    pub(super) fn grant_from_total(&mut self, cx: &mut StepCx<'_, C>) -> bool {
        let head = self.queue.first_blocked();
        let head = head.filter(|_| self.counted < cx.config.max_connections_per_host);
        let head = head.filter(|&(waiter, _)| self.is_short_for(waiter));
        if let Some((waiter, _)) = head {
            self.grant(waiter, cx);
            if let Some(total) = &mut cx.total {
                total.has_granted();
            }
        }
        self.grant_permits(cx);
        head.is_some()
    }

    /// Returns the delivery of a waiter that is polled in this runtime, or stores its waker. `Err`: whether the waiter has
    /// no permit to connect.
    pub(super) fn collect(
        &mut self,
        waiter: usize,
        runtime: Option<Id>,
        waker: &Waker,
        cx: &mut StepCx<'_, C>,
    ) -> Result<Delivery<C>, bool> {
        self.queue.set_runtime(waiter, runtime);
        if let Some(missing) = self.queue.rejoin(waiter) {
            self.serve_rejoined(waiter, missing, cx);
        }
        let delivery = self.queue.collect(waiter, waker, cx.deferred);
        self.note_collected(delivery.as_ref());
        delivery.ok_or_else(|| self.queue.is_blocked(waiter))
    }

    /// The waiter is gone; the caller of this method passes on the delivery that was not collected.
    pub(super) fn abandon(&mut self, waiter: usize, cx: &mut StepCx<'_, C>) -> Delivery<C> {
        let delivery = self.queue.abandon(waiter, cx.deferred);
        self.grant_permits(cx);
        delivery
    }

    /// The entry of a connection. Its transport may be gone already, and its place taken by another one.
    #[inline]
    fn find(&self, pooled: &PooledConn<C>) -> Option<(usize, &Open<C>)> {
        let index = pooled.index()?;
        let shared = pooled.connection_ref().lifespan().shared();
        let shared = match C::SHARED {
            true => match shared.connection() {
                // It counts as over already.
                Some(_) if shared.is_gone() => return None,
                connection => connection.unwrap_or(shared),
            },
            false => shared,
        };
        let open = self.open.get(index)?;
        open.shared()
            .is_some_and(|it| Arc::ptr_eq(it, shared))
            .then_some((index, open))
    }

    /// Takes an idle connection, or a use of one with room, and the reason if it is not usable.
    #[inline]
    fn take_one(
        &mut self,
        runtime: Option<Id>,
        cx: &mut StepCx<'_, C>,
    ) -> Option<(Box<PooledConn<C>>, Option<CloseReason>)> {
        match self.places {
            None => self.take_idle(runtime, cx),
            Some(_) => self.take_spread(runtime, cx),
        }
    }

    /// Takes an idle connection, and the reason if it is not usable.
    #[inline]
    fn take_idle(
        &mut self,
        runtime: Option<Id>,
        cx: &mut StepCx<'_, C>,
    ) -> Option<(Box<PooledConn<C>>, Option<CloseReason>)> {
        let lifo = cx.config.scheduling == Scheduling::Lifo;
        let mut picked = if lifo {
            self.idle.tail()
        } else {
            self.idle.head()
        };
        let passes = |open: &Open<C>| open.runtime() != runtime || C::SHARED && !open.is_roomy();
        while let Some(index) = picked.filter(|&index| passes(&self.open[index])) {
            picked = if lifo {
                List::prev(&mut self.open, index)
            } else {
                List::next(&mut self.open, index)
            };
        }
        Some(self.take_idle_at(picked?, cx))
    }

    #[inline]
    fn take_idle_at(
        &mut self,
        index: usize,
        cx: &mut StepCx<'_, C>,
    ) -> (Box<PooledConn<C>>, Option<CloseReason>) {
        let pooled = self.remove_idle(index, cx).expect("in the idle list");
        let why = pooled.close_reason(cx.now);
        if C::SHARED {
            self.begin_use(index, &pooled);
        }
        (pooled, why)
    }

    #[inline]
    fn remove_idle(&mut self, index: usize, cx: &mut StepCx<'_, C>) -> Option<Box<PooledConn<C>>> {
        let mut pooled = self.open.get_mut(index)?.idle.take()?;
        self.idle.remove(&mut self.open, index);
        self.counts.taken(&pooled);
        if let Some(places) = &mut self.places {
            places.busy(index);
        }
        if let Some(total) = &mut cx.total
            && let Some(state) = mem::replace(&mut pooled.total_index, SlabIndex::NONE).get()
        {
            cx.deferred.drop_later(total.remove_idle(state));
        }
        Some(pooled)
    }

    /// The caller cannot use the connection, and gets its permit instead.
    pub(super) fn discard(&mut self, rejected: Rejected<C>, cx: &mut StepCx<'_, C>) {
        cx.deferred.stale += u64::from(rejected.reason == CloseReason::Stale);
        if C::SHARED
            && let Some(index) = self.index_of_use(&rejected.pooled)
        {
            return self.discard_use(index, rejected, cx);
        }
        let Rejected { pooled, reason } = rejected;
        self.close_for_blocked(pooled, reason, cx);
    }

    /// Closes a connection; its permit goes to a blocked caller of this key once the transport is gone.
    fn close_for_blocked(
        &mut self,
        pooled: Box<PooledConn<C>>,
        reason: CloseReason,
        cx: &mut StepCx<'_, C>,
    ) {
        if let Some((index, open)) = self.find(&pooled) {
            self.incoming_permits += usize::from(!open.frees_for_key);
            self.open[index].frees_for_key = true;
            cx.deferred.alert();
        }
        cx.deferred.close(pooled, reason);
    }

    /// Grants free permits, and updates this key's ticket for the total limit.
    fn grant_permits(&mut self, cx: &mut StepCx<'_, C>) {
        let max = cx.config.max_connections_per_host;
        if cx.total.is_none() {
            while self.counted < max
                && let Some((waiter, _)) = self.queue.first_blocked()
                && self.is_short_for(waiter)
            {
                self.grant(waiter, cx);
            }
            return;
        }
        let head = self.queue.first_blocked().filter(|_| self.counted < max);
        let head = head.filter(|&(waiter, _)| self.is_short_for(waiter));
        let turn = head.map(|(_, ticket)| ticket);
        if let Some(total) = &mut cx.total {
            total.set_turn(self.turn, turn);
        }
        self.turn = turn;
    }

    /// Whether a connect has to begin for this blocked waiter.
    #[inline]
    fn is_short_for(&self, waiter: usize) -> bool {
        self.is_short(0) || self.queue.accepts(waiter).is_none()
    }

    fn grant(&mut self, waiter: usize, cx: &mut StepCx<'_, C>) {
        let index = self.insert_open(false);
        self.queue.give_permit(waiter, index, cx.deferred);
    }
}

impl<C: Poolable> Open<C> {
    /// Checks whether its connection may be used again, which counts as idle from now on.
    #[inline]
    fn check_reusable(
        &self,
        pooled: &mut PooledConn<C>,
        now: Moment,
        config: &PoolConfig,
    ) -> Result<(), CloseReason> {
        let was_idle = pooled.idle_since.is_some();
        let since = pooled.idle_since.unwrap_or(now);
        pooled.idle_since = Some(since);
        let conn = pooled.connection_ref();
        if !conn.is_open() {
            return Err(CloseReason::Peer);
        }
        if !config.keep_alive || self.counting == Counting::OneShot {
            return Err(CloseReason::Final);
        }
        if let Some(reason) = conn.lifespan().close_reason(now) {
            return Err(reason);
        }
        let deadline = conn.lifespan().deadline(since);
        if let Some(Deadline { at, reason }) = deadline
            && was_idle
            && at.is_reached_at(now)
        {
            return Err(reason);
        }
        pooled.deadline = deadline.map(|it| it.at);
        Ok(())
    }

    /// The runtime of an idle connection.
    fn runtime(&self) -> Option<Id> {
        self.idle.as_ref().and_then(|pooled| pooled.runtime())
    }

    /// `None` while the connect is under way.
    #[inline]
    fn shared(&self) -> Option<&Arc<ConnShared>> {
        match &self.stage {
            Stage::Connected(shared) => Some(shared),
            Stage::Connecting(_) => None,
            // Constant if connections are not shared, so that only one comparison is left.
            _ if !C::SHARED => None,
            Stage::Made(shared) => Some(shared),
            Stage::Shared(sharing) => Some(sharing.shared()),
        }
    }
}

impl<C> StepCx<'_, C> {
    fn reserve(&mut self, urgent: bool) -> bool {
        let total = self.total.as_mut();
        total.is_none_or(|total| total.reserve(urgent))
    }
}
