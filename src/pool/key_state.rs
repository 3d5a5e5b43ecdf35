//! One key's connections, line and count: plain data, without lock, clock or task.
//!
//! A connection is in `open` from before its connect begins until its transport is gone. A caller without a connection
//! is in the [`WaitQueue`].

mod addresses;
mod ends;
mod learned;
mod made;
mod places;
mod sharing;
mod spread;
mod stuck;
mod unclaimed;

use std::mem;
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use slab::Slab;
use tokio::runtime::Id;
use tokio::time::Instant;

use crate::agent::{ConnectionState, ConnectionStatus, Mode};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Deadline;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::capacity::Capacity;
use crate::pool::config::{PoolConfig, Scheduling, Spread};
use crate::pool::deferred::{Deferred, Stop};
use crate::pool::key_pool::KeyPool;
use crate::pool::learned::LearnedIdle;
use crate::pool::list::{Linked, Links, List, SlabIndex};
use crate::pool::pooled_conn::{PooledConn, Rejected, current_runtime};
use crate::pool::total_limits::TotalLimits;
use crate::pool::wait_queue::{CheckoutRequest, Delivery, LATER, QueueState, WaitQueue};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::target::Reuse;
use places::Places;
use sharing::Sharing;
use stuck::Progress;
pub(super) use unclaimed::{Look, Seen};

pub(super) struct KeyState<C> {
    open: Slab<Open<C>>,
    /// Those of `open` that the limits count: all but the one-shots, and what drains.
    counted: usize,
    /// Those of the others that drain.
    draining: usize,
    idle: List,
    /// Those with uses and room for more, where several uses share a connection.
    roomy: List,
    /// Which of them lead where, if that decides what is taken.
    places: Option<Box<Places>>,
    /// How many idle ones are kept without a further look at what is known of the key: as many as may be, or none.
    keeps_plain: usize,
    /// After how long the server closes idle ones.
    learned: Option<Box<LearnedIdle>>,
    capacity: Capacity,
    queue: WaitQueue<C>,
    /// Connections that are being closed for callers who are blocked: so many permits are on their way.
    incoming_permits: usize,
    /// The earliest deadline that the sweeper knows of. It comes to look then, whatever comes later.
    sweep_at: Option<Instant>,
    /// The ticket under which this host waits for the total.
    turn: Option<u64>,
    progress: Progress,
    /// How many connections are being closed for callers who are blocked by the total.
    making_room: usize,
    /// It is among those that looks are taken at.
    pub(super) is_watched: bool,
    /// Out of the table: whoever still finds it looks again.
    pub(super) retired: bool,
}

struct Open<C> {
    links: Links,
    stage: Stage<C>,
    idle: Option<Box<PooledConn<C>>>,
    counting: Counting,
    /// Closed for a caller blocked here.
    frees_for_key: bool,
    /// Closed for a caller blocked by the total.
    frees_for_total: bool,
    /// It was told to go, and cannot be closed from here: that was at `closing`.
    is_stuck: bool,
    /// When it was first seen to be closing, in milliseconds since the pool began, and one more; 0 while it is not.
    closing: u32,
}

/// Whether the limits count a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counting {
    Counted,
    OneShot,
    /// It drains, which may take long.
    Draining,
}

// Each connection has one, and a slab has room for twice as many.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Open<Box<()>>>() <= 40);

enum Stage<C> {
    /// Boxed, where it is in a task of its own.
    Connecting(Option<Box<Connecting>>),
    /// Connected, and it is not known yet whether it is shared.
    Made(Arc<ConnShared>),
    Connected(Arc<ConnShared>),
    /// Kept here while several uses of it are out.
    Shared(Box<Sharing<C>>),
}

struct Connecting {
    connect: Weak<dyn Stop>,
    /// When it is given up, if its own runtime has not done so.
    due: Option<Instant>,
    /// It goes on without its caller.
    is_left: bool,
}

impl<C> Linked for Open<C> {
    fn links(&mut self) -> &mut Links {
        &mut self.links
    }
}

/// What a caller gets.
pub(super) enum KeyDecision<C> {
    /// One that is idle.
    Connection(Box<PooledConn<C>>),
    /// The right to make one, and a place in line beside.
    Make {
        index: usize,
        waiter: usize,
    },
    Wait(usize),
    QueueFull(usize),
}

/// What every step of a host needs beside the host.
pub(super) struct StepCx<'a, C> {
    pub(super) me: &'a Arc<KeyPool<C>>,
    pub(super) config: &'a PoolConfig,
    pub(super) total: Option<&'a mut TotalLimits<C>>,
    pub(super) tickets: &'a AtomicU64,
    pub(super) stale: &'a mut u64,
    pub(super) deferred: &'a mut Deferred<C>,
}

impl<C: Poolable> KeyState<C> {
    pub(super) fn new(config: &PoolConfig) -> Self {
        let spread = config.spread;
        Self {
            keeps_plain: config.max_idle_per_host,
            learned: None,
            places: (spread != Spread::AsResolved).then(|| Box::new(Places::new(spread))),
            open: Slab::new(),
            counted: 0,
            draining: 0,
            idle: List::new(),
            roomy: List::new(),
            capacity: Capacity::new(),
            queue: WaitQueue::new(),
            incoming_permits: 0,
            sweep_at: None,
            turn: None,
            progress: Progress::default(),
            making_room: 0,
            is_watched: false,
            retired: false,
        }
    }

    /// Nothing open, nobody waiting.
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

    pub(super) fn open_len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn connections(&self, now: Moment) -> impl Iterator<Item = ConnectionStatus> {
        self.open.iter().map(move |(_, open)| {
            let shared = open.shared();
            ConnectionStatus {
                id: shared.map(|shared| shared.id()),
                state: match shared {
                    None => ConnectionState::Connecting,
                    Some(_) if open.idle.is_some() => ConnectionState::Idle,
                    Some(_) => ConnectionState::Active,
                },
                age: shared
                    .and_then(|shared| shared.born())
                    .map_or(Duration::ZERO, |born| now.since(born)),
                uses: shared.map_or(0, |shared| shared.activity().uses()),
                remote_addr: shared.and_then(|shared| shared.remote_addr()),
            }
        })
    }

    /// How many exchanges are under way whose response has begun.
    pub(super) fn answering(&self) -> usize {
        let in_use = self.open.iter().filter(|(_, open)| open.idle.is_none());
        in_use
            .map(|(_, open)| match &open.stage {
                Stage::Shared(sharing) => sharing.answering(),
                _ => usize::from(open.shared().is_some_and(|it| it.activity().is_answering())),
            })
            .sum()
    }

    pub(super) fn queue(&self) -> &WaitQueue<C> {
        &self.queue
    }

    pub(super) fn set_connect_timeout(&mut self, waiter: usize, limit: Duration) {
        self.queue.set_connect_timeout(waiter, limit);
    }

    /// The first in the order of scheduling, if it will do as it is, and whether it was idle. One that is in use and has room
    /// comes before one that is idle.
    #[inline]
    pub(super) fn pop_idle(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        scheduling: Scheduling,
        key_pool: &Arc<KeyPool<C>>,
    ) -> Option<(Box<PooledConn<C>>, bool)> {
        if C::SHARED && !self.roomy.is_empty() {
            // Where the first will not do, another of these may, before any that is idle.
            let pooled = self.pick_roomy(runtime, now, scheduling, key_pool)?;
            return Some((pooled, false));
        }
        let index = match scheduling {
            Scheduling::Lifo => self.idle.tail(),
            Scheduling::Fifo => self.idle.head(),
        }?;
        let open = self.open.get_mut(index)?;
        if C::SHARED && !open.is_roomy() {
            return None;
        }
        let will_do =
            |it: &mut Box<PooledConn<C>>| it.runtime() == runtime && it.is_over(now).is_none();
        let pooled = open.idle.take_if(will_do)?;
        self.idle.remove(&mut self.open, index);
        if C::SHARED {
            self.begin_use(index, &pooled);
        }
        Some((pooled, true))
    }

    /// Use, make or wait: the pool's one decision.
    #[inline]
    pub(super) fn take(
        &mut self,
        request: CheckoutRequest,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> KeyDecision<C> {
        let fresh = request.reuse == Reuse::Fresh;
        let mut urgent = request.is_retry || fresh;
        if request.reuse == Reuse::Any {
            if C::SHARED
                && self.places.is_none()
                && let Some(pooled) = self.take_roomy(request.runtime, now, cx)
            {
                return KeyDecision::Connection(pooled);
            }
            while let Some((pooled, why)) = self.take_one(request.runtime, now, cx) {
                let Some(why) = why else {
                    return KeyDecision::Connection(pooled);
                };
                // Its permit comes when the transport is gone, and is this caller's before anybody else's.
                self.discard(Rejected::new(pooled, why), cx);
                urgent = true;
            }
        }
        let ticket = cx.ticket(urgent);
        if request.reuse == Reuse::Never {
            return self.make(ticket, request, now, true);
        }
        let may = self.counted < cx.config.max_connections_per_host;
        let is_short = fresh || self.is_short(1);
        let blocked = self.queue.blocked();
        let first = urgent || blocked == 0;
        if may && first && is_short && cx.reserve(urgent) {
            return self.make(ticket, request, now, false);
        }
        let useless = self.useless((!fresh).then_some(request.runtime));
        // Who is about to have a permit made free for it does not wait in line for one, nor does who is served by what is on its
        // way.
        let room = if !is_short {
            true
        } else if may {
            cx.total.as_ref().is_some_and(|total| total.has_idle())
        } else {
            useless.is_some()
        };
        if !urgent && !room && self.queue.pending() >= cx.config.max_pending_per_host {
            return KeyDecision::QueueFull(cx.config.max_pending_per_host);
        }
        // What is idle is of no use to this caller, but its permit is.
        if !may && let Some(index) = useless {
            let pooled = self.unpark_whole(index, cx).expect("in the idle list");
            self.close_for_blocked(pooled, CloseReason::Room, cx);
        }
        let waiter = self
            .queue
            .join(ticket, request, now.mono, QueueState::Blocked);
        self.grant_permits(cx);
        KeyDecision::Wait(waiter)
    }

    /// A connection whose use is over: to the next in line, or idle, or closed. Says when the sweeper has to come to
    /// look, if it does not know.
    pub(super) fn put(
        &mut self,
        mut pooled: Box<PooledConn<C>>,
        mode: Mode,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Moment> {
        if C::SHARED
            && let Some(index) = self.place_of_use(&pooled)
        {
            return self.put_use(index, pooled, mode, now, cx);
        }
        let checked = match mode {
            Mode::Destroyed => Err(CloseReason::Shutdown),
            Mode::Open | Mode::Draining => self.check_reusable(&mut pooled, now, cx.config),
        };
        let index = match checked {
            Ok(index) => index,
            Err(reason) => {
                cx.deferred.close(pooled, reason);
                return None;
            }
        };
        let runtime = pooled.runtime();
        if let Some(next) = self
            .queue
            .next_for_connection(runtime, self.incoming_permits)
        {
            if !next.can_use {
                self.close_for_blocked(pooled, CloseReason::Room, cx);
                return None;
            }
            if let Some(total) = &mut cx.total
                && total.has_older(cx.me, next.ticket)
            {
                total.will_make_room();
                self.open[index].frees_for_total = true;
                self.making_room += 1;
                cx.deferred.close(pooled, CloseReason::Room);
                return None;
            }
            self.queue.give_connection(next.waiter, pooled, cx.deferred);
            self.grant_permits(cx);
            return None;
        }
        if mode == Mode::Draining {
            cx.deferred.close(pooled, CloseReason::Shutdown);
            return None;
        }
        if self.idle.len() >= cx.config.max_idle_per_host {
            cx.deferred.close(pooled, CloseReason::Surplus);
            return None;
        }
        if let Some(total) = &mut cx.total {
            pooled.total_index = SlabIndex::new(total.add_idle(cx.me, index));
        }
        self.note_idle(index);
        self.keep_to_learned(&mut pooled, now, cx.config);
        self.push_idle(index, pooled)
    }

    /// The same, where nobody is in line and there is room: nothing follows from it for anybody else. Whether the connection
    /// is idle now, beside that.
    #[inline]
    pub(super) fn keep(
        &mut self,
        mut pooled: Box<PooledConn<C>>,
        now: Moment,
        config: &PoolConfig,
    ) -> Result<(Option<Moment>, bool), Box<PooledConn<C>>> {
        if C::SHARED
            && self.queue.is_empty()
            && let Some(index) = self.place_of_use(&pooled)
        {
            return self.keep_use(index, pooled, now);
        }
        if !self.queue.is_empty() || self.idle.len() >= self.keeps_plain {
            return Err(pooled);
        }
        match self.check_reusable(&mut pooled, now, config) {
            Ok(index) => Ok((self.push_idle(index, pooled), true)),
            Err(_) => Err(pooled),
        }
    }

    /// Its place, if it may be used again; as of now it is idle.
    #[inline]
    fn check_reusable(
        &self,
        pooled: &mut PooledConn<C>,
        now: Moment,
        config: &PoolConfig,
    ) -> Result<usize, CloseReason> {
        let was_idle = pooled.idle_since.is_some();
        let since = *pooled.idle_since.get_or_insert(now);
        // Otherwise its transport is gone, or it was detached: it has no place here any more.
        let (index, open) = self.find(pooled).ok_or(CloseReason::Peer)?;
        let conn = pooled.connection_ref();
        if !conn.is_open() {
            return Err(CloseReason::Peer);
        }
        if !config.keep_alive || open.counting == Counting::OneShot {
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
        Ok(index)
    }

    #[inline]
    fn push_idle(&mut self, index: usize, pooled: Box<PooledConn<C>>) -> Option<Moment> {
        let deadline = pooled.deadline;
        // There is none that would have to be dropped.
        self.open[index].idle.get_or_insert(pooled);
        self.idle.push_back(&mut self.open, index);
        self.arm_sweeper(deadline?)
    }

    /// The moment to tell the sweeper of, if it does not come to look before.
    #[inline]
    fn arm_sweeper(&mut self, at: Moment) -> Option<Moment> {
        if self.sweep_at.is_some_and(|sweep_at| sweep_at <= at.mono) {
            return None;
        }
        self.sweep_at = Some(at.mono);
        Some(at)
    }

    /// A permit that the admission set aside for this host's oldest caller. `false`: nobody wants it.
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

    /// What there is for a waiter, or its waker kept, and whether it may not begin a connect.
    pub(super) fn collect(
        &mut self,
        waiter: usize,
        waker: &Waker,
        cx: &mut StepCx<'_, C>,
    ) -> Result<Delivery<C>, bool> {
        self.queue.is_polled_in(waiter, current_runtime());
        if let Some(missing) = self.queue.comes(waiter) {
            self.serve_who_comes(waiter, missing, cx);
        }
        let delivery = self.queue.collect(waiter, waker, cx.deferred);
        delivery.ok_or_else(|| self.queue.is_blocked(waiter))
    }

    /// The waiter is gone; what it had not come for is the caller's to pass on.
    pub(super) fn abandon(&mut self, waiter: usize, cx: &mut StepCx<'_, C>) -> Delivery<C> {
        let delivery = self.queue.abandon(waiter, cx.deferred);
        self.grant_permits(cx);
        delivery
    }

    /// What is known here of a connection. Its transport may be gone already, and its place another's.
    #[inline]
    fn find(&self, pooled: &PooledConn<C>) -> Option<(usize, &Open<C>)> {
        let index = pooled.index()?;
        let shared = pooled.connection_ref().lifespan().shared();
        let shared = match C::SHARED {
            true => shared.connection().unwrap_or(shared),
            false => shared,
        };
        let open = self.open.get(index)?;
        open.shared()
            .is_some_and(|it| Arc::ptr_eq(it, shared))
            .then_some((index, open))
    }

    /// One that is idle, or that has room for a use more, and what is wrong with it.
    #[inline]
    fn take_one(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> Option<(Box<PooledConn<C>>, Option<CloseReason>)> {
        match self.places {
            None => self.take_idle(runtime, now, cx),
            Some(_) => self.take_spread(runtime, now, cx),
        }
    }

    /// The picked one, and what is wrong with it.
    #[inline]
    fn take_idle(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
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
        Some(self.take_idle_at(picked?, now, cx))
    }

    #[inline]
    fn take_idle_at(
        &mut self,
        index: usize,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> (Box<PooledConn<C>>, Option<CloseReason>) {
        let pooled = self.remove_idle(index, cx).expect("in the idle list");
        let why = pooled.is_over(now);
        if C::SHARED {
            self.begin_use(index, &pooled);
        }
        (pooled, why)
    }

    #[inline]
    fn remove_idle(&mut self, index: usize, cx: &mut StepCx<'_, C>) -> Option<Box<PooledConn<C>>> {
        let mut pooled = self.open.get_mut(index)?.idle.take()?;
        self.idle.remove(&mut self.open, index);
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

    /// It is of no use to the caller who has it, and who comes for its permit.
    pub(super) fn discard(&mut self, rejected: Rejected<C>, cx: &mut StepCx<'_, C>) {
        *cx.stale += u64::from(rejected.reason == CloseReason::Stale);
        if C::SHARED
            && let Some(index) = self.place_of_use(&rejected.pooled)
        {
            return self.discard_use(index, rejected, cx);
        }
        let Rejected { pooled, reason } = rejected;
        self.close_for_blocked(pooled, reason, cx);
    }

    /// Its permit is for whoever is blocked here, once the transport is gone.
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

    /// Gives out what permits there are, and tells the admission whose turn it is here.
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
            total.set_turn(cx.me, self.turn, turn);
        }
        self.turn = turn;
    }

    /// Whether a connect is to begin for this one, who is blocked.
    #[inline]
    fn is_short_for(&self, waiter: usize) -> bool {
        self.is_short(0) || self.queue.takes(waiter).is_none()
    }

    fn grant(&mut self, waiter: usize, cx: &mut StepCx<'_, C>) {
        let index = self.insert_open(false);
        self.queue.give_permit(waiter, index, cx.deferred);
    }
}

impl<C: Poolable> Open<C> {
    /// Of an idle one.
    fn runtime(&self) -> Option<Id> {
        self.idle.as_ref().and_then(|pooled| pooled.runtime())
    }

    /// Once it is connected.
    #[inline]
    fn shared(&self) -> Option<&Arc<ConnShared>> {
        match &self.stage {
            Stage::Connected(shared) => Some(shared),
            Stage::Connecting(_) => None,
            // Never where connections are not shared: then there is one comparison.
            _ if !C::SHARED => None,
            Stage::Made(shared) => Some(shared),
            Stage::Shared(sharing) => Some(sharing.shared()),
        }
    }
}

impl<C> StepCx<'_, C> {
    fn reserve(&mut self, urgent: bool) -> bool {
        self.total
            .as_mut()
            .is_none_or(|total| total.reserve(urgent))
    }

    /// A place among all callers of the pool, in the order of arrival; the urgent come before everybody else.
    fn ticket(&self, urgent: bool) -> u64 {
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        if urgent { ticket } else { ticket | LATER }
    }
}
