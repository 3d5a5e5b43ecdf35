//! One key's connections, line and count: plain data, without lock, clock or task.
//!
//! A connection is in `open` from before its connect begins until its transport is gone. A caller without a connection
//! is in the [`Line`].

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
use crate::connection::close_reason::Cause;
use crate::connection::lifespan::Deadline;
use crate::connection::poolable::Poolable;
use crate::connection::shared::Bond;
use crate::pool::config::{Limits, Scheduling};
use crate::pool::deferred::{After, Stop};
use crate::pool::key_pool::HostPool;
use crate::pool::list::{Linked, Links, List, Spot};
use crate::pool::pooled_conn::{Berth, Spoiled};
use crate::pool::total_limits::Admission;
use crate::pool::wait_queue::{Ask, Gift, LATER, Line, Place};
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::target::Reuse;
use stuck::Progress;

pub(super) struct Host<C> {
    open: Slab<Open<C>>,
    /// Those of `open` that the limits count: all but the one-shots.
    counted: usize,
    idle: List,
    line: Line<C>,
    /// Connections that are being closed for callers who are blocked: so many slots are on their way.
    dying: usize,
    /// The earliest deadline that the sweeper knows of. It comes to look then, whatever comes later.
    watched: Option<Instant>,
    /// The ticket under which this host waits for the total.
    turn: Option<u64>,
    progress: Progress,
    /// Out of the table: whoever still finds it looks again.
    pub(super) retired: bool,
}

struct Open<C> {
    links: Links,
    stage: Stage,
    idle: Option<Box<Berth<C>>>,
    one_shot: bool,
    /// Closed for a caller blocked here.
    dies: bool,
    /// Closed for a caller blocked by the total.
    makes_room: bool,
    /// It was told to go, and cannot be closed from here: that was at `closing`.
    is_stuck: bool,
    /// When it was first seen to be closing, in milliseconds since the pool began, and one more; 0 while it is not.
    closing: u32,
}

// Each connection has one, and a slab has room for twice as many.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Open<Box<()>>>() <= 40);

enum Stage {
    /// Boxed, where it is in a task of its own.
    Connecting(Option<Box<Connecting>>),
    Connected(Arc<Bond>),
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
pub(super) enum Taken<C> {
    /// One that is idle.
    Connection(Box<Berth<C>>),
    /// The right to make one, and a place in line beside.
    Make {
        slot: usize,
        waiter: usize,
    },
    Wait(usize),
    QueueFull(usize),
}

/// When a look is taken at what is overdue.
pub(super) struct Look {
    pub(super) now: Instant,
    /// Since the pool began, and one more.
    pub(super) millis: u32,
    /// How long a connection may take to close while somebody waits for its slot.
    pub(super) goodbye: Duration,
}

/// What a look has seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Something closes, and still has time.
    pub(super) is_left: bool,
    /// So long ago a connection was told to go that cannot be closed from here, and it has not gone.
    pub(super) stuck_for: Option<Duration>,
}

/// What every step of a host needs beside the host.
pub(super) struct Around<'a, C> {
    pub(super) me: &'a Arc<HostPool<C>>,
    pub(super) limits: &'a Limits,
    pub(super) total: Option<&'a mut Admission<C>>,
    pub(super) tickets: &'a AtomicU64,
    pub(super) stale: &'a mut u64,
    pub(super) after: &'a mut After<C>,
}

impl<C: Poolable> Host<C> {
    pub(super) fn new() -> Self {
        Self {
            open: Slab::new(),
            counted: 0,
            idle: List::new(),
            line: Line::new(),
            dying: 0,
            watched: None,
            turn: None,
            progress: Progress::default(),
            retired: false,
        }
    }

    /// Nothing open, nobody waiting.
    #[inline]
    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.line.is_empty()
    }

    #[inline]
    pub(super) fn idle_len(&self) -> usize {
        self.idle.len()
    }

    pub(super) fn bond(&self, slot: usize) -> Option<Arc<Bond>> {
        self.open.get(slot)?.bond().cloned()
    }

    pub(super) fn open_len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn connections(&self, now: Moment) -> impl Iterator<Item = ConnectionStatus> {
        self.open.iter().map(move |(_, open)| {
            let bond = open.bond();
            ConnectionStatus {
                id: bond.map(|bond| bond.id()),
                state: match bond {
                    None => ConnectionState::Connecting,
                    Some(_) if open.idle.is_some() => ConnectionState::Idle,
                    Some(_) => ConnectionState::Active,
                },
                age: bond
                    .and_then(|bond| bond.born())
                    .map_or(Duration::ZERO, |born| now.since(born)),
                uses: bond.map_or(0, |bond| bond.activity().uses()),
            }
        })
    }

    pub(super) fn line(&self) -> &Line<C> {
        &self.line
    }

    pub(super) fn set_connect_timeout(&mut self, waiter: usize, limit: Duration) {
        self.line.set_connect_timeout(waiter, limit);
    }

    /// The first in the order of scheduling, if it will do as it is.
    #[inline]
    pub(super) fn pick(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        scheduling: Scheduling,
    ) -> Option<Box<Berth<C>>> {
        let slot = match scheduling {
            Scheduling::Lifo => self.idle.tail(),
            Scheduling::Fifo => self.idle.head(),
        }?;
        let open = self.open.get_mut(slot)?;
        let will_do = |it: &mut Box<Berth<C>>| it.runtime() == runtime && it.is_over(now).is_none();
        let berth = open.idle.take_if(will_do)?;
        self.idle.remove(&mut self.open, slot);
        Some(berth)
    }

    /// Use, make or wait: the pool's one decision.
    #[inline]
    pub(super) fn take(&mut self, ask: Ask, now: Moment, around: &mut Around<'_, C>) -> Taken<C> {
        let fresh = ask.reuse == Reuse::Fresh;
        let mut urgent = ask.returning || fresh;
        if ask.reuse == Reuse::Any {
            while let Some((berth, why)) = self.take_idle(ask.runtime, now, around) {
                let Some(why) = why else {
                    return Taken::Connection(berth);
                };
                // Its slot comes when the transport is gone, and is this caller's before anybody else's.
                self.discard(Spoiled::new(berth, why), around);
                urgent = true;
            }
        }
        let ticket = around.ticket(urgent);
        if ask.reuse == Reuse::Never {
            return self.make(ticket, ask, now, true);
        }
        let may = self.counted < around.limits.max_connections_per_host;
        let blocked = self.line.blocked();
        let first = urgent || blocked == 0;
        if may && first && around.reserve(urgent) {
            return self.make(ticket, ask, now, false);
        }
        // Who is about to have a slot made free for it does not wait in line for one.
        let room = if may {
            around.total.as_ref().is_some_and(|total| total.has_idle())
        } else {
            !self.idle.is_empty()
        };
        if !urgent && !room && self.line.pending() >= around.limits.max_pending_per_host {
            return Taken::QueueFull(around.limits.max_pending_per_host);
        }
        // What is idle is of no use to this caller, but its slot is.
        if !may && let Some(slot) = self.idle.head() {
            let berth = self.unpark(slot, around).expect("in the idle list");
            self.close_for_blocked(berth, Cause::Room, around);
        }
        let waiter = self.line.join(ticket, ask, now.mono, Place::Blocked);
        self.settle(around);
        Taken::Wait(waiter)
    }

    /// A connection whose use is over: to the next in line, or idle, or closed. Says when the sweeper has to come to
    /// look, if it does not know.
    pub(super) fn put(
        &mut self,
        mut berth: Box<Berth<C>>,
        mode: Mode,
        now: Moment,
        around: &mut Around<'_, C>,
    ) -> Option<Moment> {
        let vetted = match mode {
            Mode::Destroyed => Err(Cause::Shutdown),
            Mode::Open | Mode::Draining => self.vet(&mut berth, now, around.limits),
        };
        let slot = match vetted {
            Ok(slot) => slot,
            Err(cause) => {
                around.after.close(berth, cause);
                return None;
            }
        };
        let runtime = berth.runtime();
        if let Some(next) = self.line.next_for_connection(runtime, self.dying) {
            if !next.can_use {
                self.close_for_blocked(berth, Cause::Room, around);
                return None;
            }
            if let Some(total) = &mut around.total
                && total.has_older(around.me, next.ticket)
            {
                total.will_make_room();
                self.open[slot].makes_room = true;
                around.after.close(berth, Cause::Room);
                return None;
            }
            self.line.give_connection(next.waiter, berth, around.after);
            self.settle(around);
            return None;
        }
        if mode == Mode::Draining {
            around.after.close(berth, Cause::Shutdown);
            return None;
        }
        if self.idle.len() >= around.limits.max_idle_per_host {
            around.after.close(berth, Cause::Surplus);
            return None;
        }
        if let Some(total) = &mut around.total {
            berth.place = Spot::new(total.add_idle(around.me, slot));
        }
        self.park(slot, berth)
    }

    /// The same, where nobody is in line and there is room: nothing follows from it for anybody else.
    #[inline]
    pub(super) fn keep(
        &mut self,
        mut berth: Box<Berth<C>>,
        now: Moment,
        limits: &Limits,
    ) -> Result<Option<Moment>, Box<Berth<C>>> {
        if !self.line.is_empty() || self.idle.len() >= limits.max_idle_per_host {
            return Err(berth);
        }
        match self.vet(&mut berth, now, limits) {
            Ok(slot) => Ok(self.park(slot, berth)),
            Err(_) => Err(berth),
        }
    }

    /// Its place, if it may be used again; as of now it is idle.
    #[inline]
    fn vet(&self, berth: &mut Berth<C>, now: Moment, limits: &Limits) -> Result<usize, Cause> {
        let was_idle = berth.idle_since.is_some();
        let since = *berth.idle_since.get_or_insert(now);
        // Otherwise its transport is gone, or it was detached: it has no place here any more.
        let (slot, open) = self.find(berth).ok_or(Cause::Peer)?;
        let conn = berth.connection_ref();
        if !conn.is_open() {
            return Err(Cause::Peer);
        }
        if !limits.keep_alive || open.one_shot {
            return Err(Cause::Final);
        }
        if let Some(cause) = conn.lifespan().close_reason(now) {
            return Err(cause);
        }
        let deadline = conn.lifespan().deadline(since);
        if let Some(Deadline { at, cause }) = deadline
            && was_idle
            && at.is_reached_at(now)
        {
            return Err(cause);
        }
        berth.deadline = deadline.map(|it| it.at);
        Ok(slot)
    }

    #[inline]
    fn park(&mut self, slot: usize, berth: Box<Berth<C>>) -> Option<Moment> {
        let deadline = berth.deadline;
        // There is none that would have to be dropped.
        self.open[slot].idle.get_or_insert(berth);
        self.idle.push_back(&mut self.open, slot);
        self.watch(deadline?)
    }

    /// The moment to tell the sweeper of, if it does not come to look before.
    #[inline]
    fn watch(&mut self, at: Moment) -> Option<Moment> {
        if self.watched.is_some_and(|watched| watched <= at.mono) {
            return None;
        }
        self.watched = Some(at.mono);
        Some(at)
    }

    /// The connect is over, and this is what it made.
    pub(super) fn connected(&mut self, slot: usize, bond: &Arc<Bond>) {
        self.open[slot].stage = Stage::Connected(bond.clone());
    }

    /// The transport is gone: the slot passes on.
    pub(super) fn release(&mut self, slot: usize, around: &mut Around<'_, C>) {
        let idle = self.unpark(slot, around);
        let open = self.open.remove(slot);
        if let Some(berth) = idle {
            around.after.close(berth, Cause::Peer);
        }
        self.dying -= usize::from(open.dies);
        if !open.one_shot {
            self.counted -= 1;
            if let Some(total) = &mut around.total {
                total.release(open.makes_room);
            }
        }
        self.settle(around);
    }

    /// A slot that the admission set aside for this host's oldest caller. `false`: nobody wants it.
    pub(super) fn grant_from_total(&mut self, around: &mut Around<'_, C>) -> bool {
        let head = self.line.first_blocked();
        let head = head.filter(|_| self.counted < around.limits.max_connections_per_host);
        if let Some((waiter, _)) = head {
            self.grant(waiter, around);
            if let Some(total) = &mut around.total {
                total.has_granted();
            }
        }
        self.settle(around);
        head.is_some()
    }

    /// Closes an idle connection, if it still is one.
    pub(super) fn evict(
        &mut self,
        slot: usize,
        for_room: bool,
        around: &mut Around<'_, C>,
    ) -> bool {
        let Some(berth) = self.unpark(slot, around) else {
            return false;
        };
        self.open[slot].makes_room = for_room;
        if for_room {
            around.after.alert();
        }
        let cause = if for_room {
            Cause::Room
        } else {
            Cause::Surplus
        };
        around.after.close(berth, cause);
        true
    }

    /// Closes the idle connections whose time is up, and says when the next one's is.
    pub(super) fn sweep(&mut self, now: Moment, around: &mut Around<'_, C>) -> Option<Moment> {
        let mut earliest: Option<Moment> = None;
        let mut next = self.idle.head();
        while let Some(slot) = next {
            next = List::next(&mut self.open, slot);
            let Some(at) = self.open[slot].idle.as_ref().and_then(|it| it.deadline) else {
                continue;
            };
            if at.is_reached_at(now) {
                let berth = self.unpark(slot, around).expect("in the idle list");
                let cause = berth.why_late();
                around.after.close(berth, cause);
            } else if earliest.is_none_or(|earliest| at.mono < earliest.mono) {
                earliest = Some(at);
            }
        }
        self.watched = earliest.map(|earliest| earliest.mono);
        earliest
    }

    pub(super) fn close_idle(&mut self, around: &mut Around<'_, C>) {
        while let Some(slot) = self.idle.head() {
            let berth = self.unpark(slot, around).expect("in the idle list");
            around.after.close(berth, Cause::Shutdown);
        }
    }

    /// Ends everything, in use or not.
    pub(super) fn destroy(&mut self, around: &mut Around<'_, C>) {
        self.close_idle(around);
        self.stop_connects(true, around);
        for (_, open) in &self.open {
            around.after.kill(open.bond().cloned());
        }
        self.line.refuse_all(around.after);
    }

    /// What there is for a waiter, or its waker kept, and whether it may not begin a connect.
    pub(super) fn collect(
        &mut self,
        waiter: usize,
        waker: &Waker,
        around: &mut Around<'_, C>,
    ) -> Result<Gift<C>, bool> {
        if let Some(missing) = self.line.comes(waiter) {
            self.serve_who_comes(waiter, missing, around);
        }
        let gift = self.line.collect(waiter, waker, around.after);
        gift.ok_or_else(|| self.line.is_blocked(waiter))
    }

    /// The waiter is gone; what it had not come for is the caller's to pass on.
    pub(super) fn abandon(&mut self, waiter: usize, around: &mut Around<'_, C>) -> Gift<C> {
        let gift = self.line.abandon(waiter, around.after);
        self.settle(around);
        gift
    }

    /// What is known here of a connection. Its transport may be gone already, and its place another's.
    #[inline]
    fn find(&self, berth: &Berth<C>) -> Option<(usize, &Open<C>)> {
        let slot = berth.slot()?;
        let bond = berth.connection_ref().lifespan().bond();
        let open = self.open.get(slot)?;
        open.bond()
            .is_some_and(|it| Arc::ptr_eq(it, bond))
            .then_some((slot, open))
    }

    /// The picked one, and what is wrong with it.
    #[inline]
    fn take_idle(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        around: &mut Around<'_, C>,
    ) -> Option<(Box<Berth<C>>, Option<Cause>)> {
        let lifo = around.limits.scheduling == Scheduling::Lifo;
        let mut picked = if lifo {
            self.idle.tail()
        } else {
            self.idle.head()
        };
        while let Some(slot) = picked.filter(|&slot| self.open[slot].runtime() != runtime) {
            picked = if lifo {
                List::prev(&mut self.open, slot)
            } else {
                List::next(&mut self.open, slot)
            };
        }
        let slot = picked?;
        let berth = self.unpark(slot, around).expect("in the idle list");
        let why = berth.is_over(now);
        Some((berth, why))
    }

    #[inline]
    fn unpark(&mut self, slot: usize, around: &mut Around<'_, C>) -> Option<Box<Berth<C>>> {
        let mut berth = self.open.get_mut(slot)?.idle.take()?;
        self.idle.remove(&mut self.open, slot);
        if let Some(total) = &mut around.total
            && let Some(place) = mem::replace(&mut berth.place, Spot::NONE).get()
        {
            around.after.let_go(total.remove_idle(place));
        }
        Some(berth)
    }

    /// Places for connections that nobody has asked for yet: as many as so many idle ones lack.
    pub(super) fn warm(&mut self, count: usize, around: &mut Around<'_, C>) -> Vec<usize> {
        let limits = around.limits;
        let count = if limits.keep_alive {
            count.min(limits.max_idle_per_host)
        } else {
            0
        };
        let mut places = Vec::new();
        while self.idle.len() + places.len() < count
            && self.counted < limits.max_connections_per_host
            && self.line.blocked() == 0
            && around.reserve(false)
        {
            places.push(self.open_slot(false));
        }
        places
    }

    fn make(&mut self, ticket: u64, ask: Ask, now: Moment, one_shot: bool) -> Taken<C> {
        let slot = self.open_slot(one_shot);
        // Who wants a new connection of its own takes nobody else's.
        let place = if ask.reuse == Reuse::Any {
            Place::Making
        } else {
            Place::Left
        };
        Taken::Make {
            slot,
            waiter: self.line.join(ticket, ask, now.mono, place),
        }
    }

    fn open_slot(&mut self, one_shot: bool) -> usize {
        self.counted += usize::from(!one_shot);
        self.open.insert(Open {
            links: Links::default(),
            stage: Stage::Connecting(None),
            idle: None,
            one_shot,
            dies: false,
            makes_room: false,
            is_stuck: false,
            closing: 0,
        })
    }

    /// It is of no use to the caller who has it, and who comes for its slot.
    pub(super) fn discard(&mut self, spoiled: Spoiled<C>, around: &mut Around<'_, C>) {
        let Spoiled { berth, cause } = spoiled;
        *around.stale += u64::from(cause == Cause::Stale);
        self.close_for_blocked(berth, cause, around);
    }

    /// Its slot is for whoever is blocked here, once the transport is gone.
    fn close_for_blocked(
        &mut self,
        berth: Box<Berth<C>>,
        cause: Cause,
        around: &mut Around<'_, C>,
    ) {
        if let Some((slot, open)) = self.find(&berth) {
            self.dying += usize::from(!open.dies);
            self.open[slot].dies = true;
            around.after.alert();
        }
        around.after.close(berth, cause);
    }

    /// Gives out what slots there are, and tells the admission whose turn it is here.
    fn settle(&mut self, around: &mut Around<'_, C>) {
        let max = around.limits.max_connections_per_host;
        if around.total.is_none() {
            while self.counted < max
                && let Some((waiter, _)) = self.line.first_blocked()
            {
                self.grant(waiter, around);
            }
            return;
        }
        let head = self.line.first_blocked().filter(|_| self.counted < max);
        let turn = head.map(|(_, ticket)| ticket);
        if let Some(total) = &mut around.total {
            total.set_turn(around.me, self.turn, turn);
        }
        self.turn = turn;
    }

    fn grant(&mut self, waiter: usize, around: &mut Around<'_, C>) {
        let slot = self.open_slot(false);
        self.line.give_slot(waiter, slot, around.after);
    }
}

impl<C: Poolable> Open<C> {
    /// Of an idle one.
    fn runtime(&self) -> Option<Id> {
        self.idle.as_ref().and_then(|berth| berth.runtime())
    }
}

impl<C> Open<C> {
    /// Once it is connected.
    #[inline]
    fn bond(&self) -> Option<&Arc<Bond>> {
        match &self.stage {
            Stage::Connecting(_) => None,
            Stage::Connected(bond) => Some(bond),
        }
    }
}

impl<C> Around<'_, C> {
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
