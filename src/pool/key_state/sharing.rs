//! Connections that several uses share: the pool keeps the connection itself, and splits uses off it.
//!
//! A connection with uses and room for more is in the list `roomy`; one without uses is idle, like any other. A
//! connection that may have no further uses *drains*: it ends after its last use.

mod capacity;

use std::mem;
use std::sync::Arc;

use tokio::runtime::Id;

use super::late::MadeUse;
use super::{KeyState, Open, Stage, StepCx};
use crate::agent::Mode;
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Deadline;
use crate::connection::poolable::Poolable;
use crate::connection::shared::{CloseHook, ConnShared};
use crate::pool::config::Scheduling;
use crate::pool::list::List;
use crate::pool::pooled_conn::{PooledConn, Rejected};
use crate::pool::wait_queue::Delivery;

/// The pool's part of a connection that several uses share.
pub(in crate::pool) struct Sharing<C> {
    shared: Arc<ConnShared>,
    /// Makes the close hook of a use, by which its drop is counted.
    new_hook: NewHook,
    /// The connection itself, which is never given out.
    pub(super) whole: Box<PooledConn<C>>,
    /// Uses that are over, kept for the next ones, so that a warm use does not allocate.
    pub(super) spare: Vec<Box<PooledConn<C>>>,
    /// The uses that were made, whether they are given out, over or dropped.
    pub(super) made: Vec<MadeUse>,
    /// A use that was gone as soon as it was made: the connection makes no further ones.
    pub(super) gone: Option<Box<PooledConn<C>>>,
    /// How many uses are given out.
    pub(super) uses: usize,
    /// How many uses were ever given out, without those that were returned unused.
    begun: u64,
    /// Since when it is idle, while all uses that are given out were handed to waiters that have not collected them.
    idle_since: Option<Moment>,
    /// Its limits became shorter by those that one use was given, so the other uses may lack them.
    has_limits_of_uses: bool,
    /// It tries an ejected address again, with one use at a time.
    pub(super) is_trial: bool,
    /// Whether its capacity is known.
    pub(super) is_capacity_known: bool,
    /// The capacity that it has last reported.
    pub(super) reported: Option<usize>,
    is_listed: bool,
    /// Why it may have no further uses.
    pub(super) drains: Option<CloseReason>,
}

/// Makes the close hook of a new use.
pub(in crate::pool) type NewHook = Box<dyn Fn() -> CloseHook + Send>;

/// How many uses that are over are kept for the next ones.
const MAX_SPARE: usize = 100;

impl<C: Poolable> Sharing<C> {
    /// With its first use given out.
    pub(super) fn new(
        shared: Arc<ConnShared>,
        whole: Box<PooledConn<C>>,
        new_hook: NewHook,
    ) -> Self {
        Self {
            shared,
            new_hook,
            whole,
            spare: Vec::new(),
            made: Vec::new(),
            gone: None,
            uses: 1,
            begun: 0,
            idle_since: None,
            has_limits_of_uses: false,
            is_trial: false,
            is_capacity_known: false,
            reported: None,
            is_listed: false,
            drains: None,
        }
    }

    pub(super) fn shared(&self) -> &Arc<ConnShared> {
        &self.shared
    }

    /// How many uses are given out.
    pub(super) fn uses(&self) -> usize {
        self.uses
    }

    /// Registers a new use.
    pub(super) fn add(&mut self, pooled: &PooledConn<C>) {
        if self.made.len() == self.made.capacity() {
            self.made.retain(MadeUse::is_kept);
        }
        let shared = pooled.connection_ref().lifespan().shared();
        self.made.push(MadeUse::new(shared));
    }

    /// The number of exchanges whose response has begun.
    pub(super) fn answering(&self) -> usize {
        let made = self.made.iter().filter_map(MadeUse::shared);
        made.filter(|it| it.activity().is_answering()).count()
    }

    #[inline]
    fn capacity(&self) -> usize {
        let capacity = self.whole.connection_ref().capacity().unwrap_or(1);
        match self.is_trial {
            true => capacity.min(1),
            false => capacity,
        }
    }

    /// Whether a caller in this runtime may have a use of it.
    pub(super) fn fits(&self, runtime: Option<Id>) -> bool {
        self.whole.runtime() == runtime && self.has_room()
    }

    #[inline]
    fn has_room(&self) -> bool {
        self.drains.is_none() && self.uses < self.capacity()
    }

    /// Why it may have no further uses, if so.
    #[inline]
    pub(super) fn close_reason(&self, now: Moment) -> Option<CloseReason> {
        let conn = self.whole.connection_ref();
        if !conn.is_open() || self.gone.is_some() {
            // Whoever saw it end has recorded the reason.
            return Some(self.shared.reason().unwrap_or(CloseReason::Peer));
        }
        let reason = conn.lifespan().close_reason(now);
        reason.or_else(|| self.expired(self.idle_since?, now))
    }

    /// The limit that it has reached at `now`, being idle since `since`.
    #[cold]
    fn expired(&self, since: Moment, now: Moment) -> Option<CloseReason> {
        let deadline = lifespan_deadline(&self.whole, since)?;
        deadline.at.is_reached_at(now).then_some(deadline.reason)
    }

    /// Splits off one more use; `None` if the connection can make none. `idle_since`: since when the connection is idle,
    /// and goes on to be until a waiter collects the use; `None` if it is in use from now on, or was before.
    #[inline]
    pub(super) fn split(
        &mut self,
        now: Moment,
        idle_since: Option<Moment>,
    ) -> Option<Box<PooledConn<C>>> {
        let mut pooled = match self.spare.pop() {
            Some(pooled) => pooled,
            None => self.another()?,
        };
        self.uses += 1;
        self.begin(&pooled);
        self.tighten(&mut pooled);
        self.idle_since = idle_since;
        let since = idle_since.unwrap_or(now);
        pooled.idle_since = Some(since);
        let deadline = lifespan_deadline(&pooled, since);
        // The idle limit does not apply while the connection is in use.
        let deadline = deadline.filter(|it| idle_since.is_some() || it.reason == CloseReason::Age);
        pooled.deadline = deadline.map(|it| it.at);
        Some(pooled)
    }

    /// Makes a new use, if the connection can.
    fn another(&mut self) -> Option<Box<PooledConn<C>>> {
        if self.gone.is_some() {
            return None;
        }
        let conn = self.whole.connection().another()?;
        match self.whole.new_use(conn, (self.new_hook)()) {
            Ok(pooled) => {
                self.add(&pooled);
                Some(pooled)
            }
            Err(gone) => {
                // Dropped later, without the lock.
                self.gone = Some(gone);
                None
            }
        }
    }

    /// The use is given out from now on.
    #[inline]
    pub(super) fn begin(&mut self, pooled: &PooledConn<C>) {
        let shared = pooled.connection_ref().lifespan().shared();
        shared.activity().follow(self.begun);
        self.begun += 1;
        self.shared.activity().begin_use(self.begun);
    }

    /// The limits that other uses were given apply to this one, too.
    #[inline]
    fn tighten(&self, pooled: &mut PooledConn<C>) {
        if self.has_limits_of_uses {
            let limits = self.whole.connection_ref().lifespan();
            pooled.connection().lifespan_mut().tighten_as(limits);
        }
    }

    /// The use is over, or was returned unused.
    #[inline]
    fn end(&mut self, pooled: &PooledConn<C>) {
        let lifespan = pooled.connection_ref().lifespan();
        let whole = self.whole.connection().lifespan_mut();
        self.has_limits_of_uses |= whole.tighten_as(lifespan);
        if pooled.idle_since.is_some() {
            self.begun -= 1;
            self.shared.activity().begin_use(self.begun);
        }
        self.end_one();
    }

    #[inline]
    fn end_one(&mut self) {
        self.uses -= 1;
        if self.uses == 0 {
            self.shared.activity().end_use();
        }
    }
}

impl<C: Poolable> Open<C> {
    #[inline]
    pub(super) fn sharing(&mut self) -> Option<&mut Sharing<C>> {
        match &mut self.stage {
            Stage::Shared(sharing) => Some(sharing),
            _ => None,
        }
    }

    /// Whether it is in the list of those with uses and room.
    #[cfg(test)]
    pub(super) fn is_listed_roomy(&self) -> bool {
        matches!(&self.stage, Stage::Shared(sharing) if sharing.is_listed)
    }

    /// Whether it has room; an idle one may have none for now.
    #[inline]
    pub(super) fn is_roomy(&self) -> bool {
        match &self.stage {
            Stage::Shared(sharing) => sharing.has_room(),
            _ => true,
        }
    }
}

impl<C: Poolable> KeyState<C> {
    /// The place of the connection, if this is a use that belongs to this key.
    #[inline]
    pub(super) fn index_of_use(&self, pooled: &PooledConn<C>) -> Option<usize> {
        let (index, open) = self.find(pooled)?;
        matches!(open.stage, Stage::Shared(_)).then_some(index)
    }

    /// A use of the first connection of `roomy` in the order of scheduling, if it is usable as it is.
    #[inline]
    pub(super) fn pop_roomy(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        scheduling: Scheduling,
    ) -> Option<Box<PooledConn<C>>> {
        let index = match scheduling {
            Scheduling::Lifo => self.roomy.tail(),
            Scheduling::Fifo => self.roomy.head(),
        }?;
        let sharing = self.open[index].sharing()?;
        if sharing.whole.runtime() != runtime
            || !sharing.has_room()
            || sharing.close_reason(now).is_some()
        {
            return None;
        }
        let pooled = sharing.split(now, None)?;
        self.update_roomy(index);
        Some(pooled)
    }

    /// A use of a connection of `roomy`. Those that may have no further uses begin to drain.
    pub(super) fn take_roomy(
        &mut self,
        runtime: Option<Id>,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Box<PooledConn<C>>> {
        let lifo = cx.config.scheduling == Scheduling::Lifo;
        let mut next = if lifo {
            self.roomy.tail()
        } else {
            self.roomy.head()
        };
        let mut drained = false;
        let mut taken = None;
        while let Some(index) = next {
            next = if lifo {
                List::prev(&mut self.open, index)
            } else {
                List::next(&mut self.open, index)
            };
            let sharing = self.open[index].sharing().expect("in the list of these");
            if let Some(reason) = sharing.close_reason(cx.now) {
                self.drain(index, reason, cx);
                drained = true;
                continue;
            }
            if sharing.whole.runtime() != runtime {
                continue;
            }
            if sharing.has_room() {
                taken = sharing.split(cx.now, None);
            }
            self.update_roomy(index);
            if taken.is_some() {
                break;
            }
        }
        if drained {
            self.grant_permits(cx);
        }
        taken
    }

    /// An idle connection has its first use.
    #[inline]
    pub(super) fn begin_use(&mut self, index: usize, pooled: &PooledConn<C>) {
        if let Some(sharing) = self.open[index].sharing() {
            sharing.uses = 1;
            sharing.idle_since = None;
            sharing.begin(pooled);
            self.update_roomy(index);
        }
    }

    /// A waiter has collected this. If it is a use of a shared connection, that is not idle any more.
    pub(super) fn note_collected(&mut self, delivery: Option<&Delivery<C>>) {
        if C::SHARED
            && let Some(pooled) = delivery.and_then(|it| it.connection.as_ref())
            && let Some(index) = self.index_of_use(pooled)
            && let Some(sharing) = self.open[index].sharing()
        {
            sharing.idle_since = None;
        }
    }

    /// The use is over, and no other caller is affected. Returns a deadline that the sweeper does not know yet, and
    /// whether the connection is now idle.
    #[inline(always)]
    pub(super) fn keep_use(
        &mut self,
        index: usize,
        mut pooled: Box<PooledConn<C>>,
        now: Moment,
    ) -> Result<(Option<Moment>, bool), Box<PooledConn<C>>> {
        let has_room = self.idle.len() < self.plain_idle_limit;
        let Some(sharing) = self.open[index].sharing() else {
            return Err(pooled);
        };
        let is_last = sharing.uses == 1;
        if is_last {
            // Visible from here on to a thread that checks whether the connection is in use.
            sharing.shared.activity().end_use();
        }
        let lifespan = pooled.connection_ref().lifespan();
        if sharing.drains.is_some()
            || sharing.spare.len() >= MAX_SPARE
            || is_last && (!has_room || pooled.idle_since.is_some())
            || sharing.close_reason(now).is_some()
            || lifespan.close_reason(now).is_some()
        {
            return Err(pooled);
        }
        sharing.end(&pooled);
        if !is_last {
            sharing.spare.push(pooled);
            self.update_roomy(index);
            return Ok((None, false));
        }
        sharing.tighten(&mut pooled);
        pooled.idle_since = Some(now);
        pooled.deadline = lifespan_deadline(&pooled, now).map(|it| it.at);
        self.update_roomy(index);
        Ok((self.push_idle(index, pooled), true))
    }

    /// The use is over, or is returned unused.
    pub(super) fn put_use(
        &mut self,
        index: usize,
        pooled: Box<PooledConn<C>>,
        cx: &mut StepCx<'_, C>,
    ) {
        let since = pooled.idle_since.unwrap_or(cx.now);
        // The number of uses is checked by the connection itself: some of those that were given out before this one may
        // be returned unused.
        let over = pooled
            .connection_ref()
            .lifespan()
            .close_reason_after(0, cx.now);
        self.end_use(index, pooled, cx);
        if let Some(reason) = over {
            self.drain(index, reason, cx);
        }
        self.offer(index, since, cx);
        self.grant_permits(cx);
    }

    fn end_use(&mut self, index: usize, pooled: Box<PooledConn<C>>, cx: &mut StepCx<'_, C>) {
        let sharing = self.open[index].sharing().expect("looked up before");
        sharing.end(&pooled);
        if sharing.drains.is_none() && sharing.spare.len() < MAX_SPARE {
            sharing.spare.push(pooled);
        } else {
            cx.deferred.drop_use(pooled);
        }
    }

    /// A use was dropped.
    pub(in crate::pool) fn use_gone(
        &mut self,
        index: usize,
        shared: &Arc<ConnShared>,
        cx: &mut StepCx<'_, C>,
    ) {
        let Some(sharing) = self.sharing_of(index, shared) else {
            return;
        };
        sharing.end_one();
        self.offer(index, cx.now, cx);
        self.grant_permits(cx);
    }

    /// The connection's capacity has changed, or it takes no further uses.
    pub(in crate::pool) fn changed(
        &mut self,
        index: usize,
        shared: &Arc<ConnShared>,
        cx: &mut StepCx<'_, C>,
    ) {
        if self.sharing_of(index, shared).is_none() {
            return;
        }
        self.read_capacity(index, cx);
        // Removed from the idle list for now; `offer` decides again.
        let idle = self.remove_idle(index, cx);
        let since = idle.as_ref().and_then(|it| it.idle_since);
        let since = since.unwrap_or(cx.now);
        if let (Some(pooled), Some(sharing)) = (idle, self.open[index].sharing()) {
            sharing.spare.push(pooled);
        }
        self.offer(index, since, cx);
        self.grant_permits(cx);
    }

    fn sharing_of(&mut self, index: usize, shared: &Arc<ConnShared>) -> Option<&mut Sharing<C>> {
        let sharing = self.open.get_mut(index)?.sharing();
        sharing.filter(|it| Arc::ptr_eq(&it.shared, shared))
    }

    /// Offers the connection's room to the queue. Without uses, it becomes idle, counted from `since`, or is closed.
    fn offer(&mut self, index: usize, since: Moment, cx: &mut StepCx<'_, C>) {
        if let Some(sharing) = self.open[index].sharing()
            && sharing.uses == 0
        {
            sharing.idle_since = Some(since);
        }
        loop {
            let Some(sharing) = self.open[index].sharing() else {
                return;
            };
            let (is_idle, runtime) = (sharing.uses == 0, sharing.whole.runtime());
            let over = match cx.mode {
                Mode::Destroyed => Some(CloseReason::Shutdown),
                _ => sharing.drains.or_else(|| sharing.close_reason(cx.now)),
            };
            if let Some(reason) = over {
                // One of the last uses may still be returned unused. Unless somebody waits, the connection keeps open
                // for that.
                let may_come_back =
                    reason == CloseReason::Uses && !is_idle && sharing.drains.is_none();
                if !may_come_back || self.queue.takers() > 0 {
                    return self.drain(index, reason, cx);
                }
                break;
            }
            if !sharing.has_room() {
                break;
            }
            let is_full = self.counted >= cx.config.max_connections_per_host
                || cx.total.as_ref().is_some_and(|total| total.is_full());
            // A waiter that cannot use the connection gets a permit if one is free, and does not hold up those behind it.
            let permits = match is_full {
                false => usize::MAX,
                true if is_idle => self.permits_soon(),
                true => self.incoming_permits,
            };
            let Some(next) = self.queue.next_for_connection(runtime, permits) else {
                if !is_full && self.queue.blocked() > 0 {
                    // If this takes the last permit, the connection is closed for the next waiter.
                    self.grant_permits(cx);
                    if self.counted >= cx.config.max_connections_per_host {
                        continue;
                    }
                }
                break;
            };
            if !next.can_use {
                return self.drain(index, CloseReason::Room, cx);
            }
            if is_idle
                && let Some(total) = &mut cx.total
                && total.has_older(next.ticket, self.turn)
            {
                total.will_make_room();
                self.open[index].frees_for_total = true;
                self.making_room += 1;
                return self.close_whole(index, CloseReason::Room, cx);
            }
            if let Some(reason) = self.trial_closes(cx) {
                return self.drain(index, reason, cx);
            }
            let Some(sharing) = self.open[index].sharing() else {
                return;
            };
            let Some(pooled) = sharing.split(cx.now, sharing.idle_since) else {
                return self.drain(index, CloseReason::Peer, cx);
            };
            if !is_idle {
                self.note_crowded(cx);
            }
            self.queue.give_connection(next.waiter, pooled, cx.deferred);
        }
        self.note_uses(index);
        self.update_roomy(index);
        if self.open[index].sharing().is_none_or(|it| it.uses > 0) {
            return;
        }
        if cx.mode == Mode::Draining {
            return self.close_whole(index, CloseReason::Shutdown, cx);
        }
        if self.idle.len() >= cx.config.max_idle_per_host {
            return self.close_whole(index, CloseReason::Surplus, cx);
        }
        self.make_use_idle(index, since, cx);
    }

    fn make_use_idle(&mut self, index: usize, since: Moment, cx: &mut StepCx<'_, C>) {
        let Some(sharing) = self.open[index].sharing() else {
            return;
        };
        let spare = sharing.spare.pop();
        let Some(mut pooled) = spare.or_else(|| sharing.another()) else {
            return self.close_whole(index, CloseReason::Peer, cx);
        };
        sharing.tighten(&mut pooled);
        pooled.idle_since = Some(since);
        pooled.deadline = lifespan_deadline(&pooled, since).map(|it| it.at);
        self.make_idle(index, pooled, cx);
    }

    /// Takes back a use that its caller rejects, because the connection takes no further uses.
    pub(super) fn discard_use(
        &mut self,
        index: usize,
        rejected: Rejected<C>,
        cx: &mut StepCx<'_, C>,
    ) {
        self.end_use(index, rejected.pooled, cx);
        self.drain(index, rejected.reason, cx);
        self.grant_permits(cx);
    }

    pub(super) fn close_whole(
        &mut self,
        index: usize,
        reason: CloseReason,
        cx: &mut StepCx<'_, C>,
    ) {
        if let Some(pooled) = self.remove_whole(index, cx) {
            cx.deferred.close(pooled, reason);
        }
    }

    /// Takes the connection itself out of the pool, idle or not, to close it.
    pub(super) fn remove_whole(
        &mut self,
        index: usize,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Box<PooledConn<C>>> {
        let idle = self.remove_idle(index, cx);
        if !C::SHARED {
            return idle;
        }
        let open = self.open.get_mut(index)?;
        let Some(sharing) = open.sharing() else {
            return idle;
        };
        if mem::take(&mut sharing.is_listed) {
            self.leaves_roomy(index);
        }
        let open = &mut self.open[index];
        let shared = open.shared()?.clone();
        let Stage::Shared(sharing) = mem::replace(&mut open.stage, Stage::Connected(shared)) else {
            return idle;
        };
        self.note_uses(index);
        self.forget_report(&sharing);
        let Sharing {
            mut whole,
            spare,
            gone,
            is_capacity_known,
            ..
        } = *sharing;
        if !is_capacity_known {
            self.capacity.becomes_known(index);
        }
        if let Some(idle) = &idle {
            whole.idle_since = idle.idle_since;
            whole.deadline = idle.deadline;
        }
        for pooled in spare.into_iter().chain(gone).chain(idle) {
            cx.deferred.drop_use(pooled);
        }
        Some(whole)
    }

    /// Adds the connection to `roomy`, or removes it, as its room requires.
    #[inline]
    pub(super) fn update_roomy(&mut self, index: usize) {
        let Some(sharing) = self.open[index].sharing() else {
            return;
        };
        let is_roomy = sharing.uses > 0 && sharing.has_room();
        if mem::replace(&mut sharing.is_listed, is_roomy) == is_roomy {
            return;
        }
        if !is_roomy {
            return self.leaves_roomy(index);
        }
        self.roomy.push_back(&mut self.open, index);
        if let Some(places) = &mut self.places {
            places.set_roomy(index, true);
        }
    }

    fn leaves_roomy(&mut self, index: usize) {
        self.roomy.remove(&mut self.open, index);
        if let Some(places) = &mut self.places {
            places.set_roomy(index, false);
        }
    }

    /// An idle connection that a caller which accepts `takes` cannot use, but whose permit it can use.
    pub(super) fn idle_to_replace(&self, takes: Option<Option<Id>>) -> Option<usize> {
        let index = self.idle.head()?;
        let open = &self.open[index];
        // The caller skipped it for lack of capacity, which may have changed since.
        let comes = C::SHARED && takes == Some(open.runtime());
        (!comes).then_some(index)
    }

    /// How many uses of each shared connection are given out, and whether it drains, by number.
    #[cfg(test)]
    pub(in crate::pool) fn shared_now(&mut self) -> std::collections::BTreeMap<u64, (usize, bool)> {
        let open = self.open.iter_mut();
        let shared = open.filter_map(|(_, open)| open.sharing());
        shared
            .map(|it| (it.shared.id(), (it.uses, it.drains.is_some())))
            .collect()
    }
}

#[inline]
fn lifespan_deadline<C: Poolable>(pooled: &PooledConn<C>, since: Moment) -> Option<Deadline> {
    pooled.connection_ref().lifespan().deadline(since)
}
