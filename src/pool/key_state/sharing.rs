//! Connections that several uses share: the pool keeps the connection itself, and splits uses off it.
//!
//! A connection with uses and room for more is in the list `roomy`; one without uses is idle, like any other. A
//! connection that may have no further uses *drains*: it ends after its last use.

mod heard;

use std::mem;
use std::sync::{Arc, Weak};

use tokio::runtime::Id;

use super::{KeyState, Open, Stage, StepCx};
use crate::agent::Mode;
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Deadline;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::config::Scheduling;
use crate::pool::key_pool::KeyPool;
use crate::pool::list::{List, SlabIndex};
use crate::pool::pooled_conn::{PooledConn, Rejected};

/// The pool's part of a connection that several uses share.
pub(in crate::pool) struct Sharing<C> {
    shared: Arc<ConnShared>,
    /// The connection itself, which is never given out.
    pub(super) whole: Box<PooledConn<C>>,
    /// Uses that are over, kept for the next ones, so that a warm use does not allocate.
    pub(super) spare: Vec<Box<PooledConn<C>>>,
    /// The uses that were made, whether they are given out, over or dropped.
    made: Vec<Weak<ConnShared>>,
    /// A use that was gone as soon as it was made: the connection makes no further ones.
    pub(super) gone: Option<Box<PooledConn<C>>>,
    /// How many uses are given out.
    pub(super) uses: usize,
    /// How many uses were ever given out, without those that were returned unused.
    begun: u64,
    /// Its capacity is known.
    pub(super) is_heard: bool,
    /// The capacity that it has last reported.
    pub(super) reported: Option<usize>,
    is_listed: bool,
    /// Why it may have no further uses.
    pub(super) drains: Option<CloseReason>,
}

/// How many uses that are over are kept for the next ones.
const MAX_SPARE: usize = 100;

impl<C: Poolable> Sharing<C> {
    /// With its first use given out.
    pub(super) fn new(shared: Arc<ConnShared>, whole: Box<PooledConn<C>>) -> Self {
        Self {
            shared,
            whole,
            spare: Vec::new(),
            made: Vec::new(),
            gone: None,
            uses: 1,
            begun: 0,
            is_heard: false,
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
            self.made.retain(|it| it.strong_count() > 0);
        }
        let shared = pooled.connection_ref().lifespan().shared();
        self.made.push(Arc::downgrade(shared));
    }

    /// The number of exchanges whose response has begun.
    pub(super) fn answering(&self) -> usize {
        let made = self.made.iter().filter_map(Weak::upgrade);
        made.filter(|it| it.activity().is_answering()).count()
    }

    #[inline]
    fn capacity(&self) -> usize {
        self.whole.connection_ref().capacity().unwrap_or(1)
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
    pub(super) fn why_over(&self, now: Moment) -> Option<CloseReason> {
        let conn = self.whole.connection_ref();
        if !conn.is_open() || self.gone.is_some() {
            // Whoever saw it end has recorded the reason.
            return Some(self.shared.reason().unwrap_or(CloseReason::Peer));
        }
        conn.lifespan().close_reason(now)
    }

    /// Splits off one more use; `None` if the connection can make none.
    #[inline]
    pub(super) fn split(
        &mut self,
        index: usize,
        now: Moment,
        key_pool: &Arc<KeyPool<C>>,
    ) -> Option<Box<PooledConn<C>>> {
        let mut pooled = match self.spare.pop() {
            Some(pooled) => pooled,
            None => self.another(index, key_pool)?,
        };
        self.uses += 1;
        self.begin(&pooled);
        pooled.idle_since = Some(now);
        // Its idle limit does not apply while other uses are given out.
        let deadline = pooled.connection_ref().lifespan().deadline(now);
        let deadline = deadline.filter(|it| it.reason == CloseReason::Age);
        pooled.deadline = deadline.map(|it| it.at);
        Some(pooled)
    }

    /// Makes a new use, if the connection can.
    fn another(&mut self, index: usize, key_pool: &Arc<KeyPool<C>>) -> Option<Box<PooledConn<C>>> {
        if self.gone.is_some() {
            return None;
        }
        let conn = self.whole.connection().another()?;
        match key_pool.use_of(index, &self.whole, conn) {
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

    /// The use is over, or was returned unused.
    #[inline]
    fn end(&mut self, pooled: &PooledConn<C>) {
        let lifespan = pooled.connection_ref().lifespan();
        self.whole.connection().lifespan_mut().tighten_as(lifespan);
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
    pub(super) fn place_of_use(&self, pooled: &PooledConn<C>) -> Option<usize> {
        let (index, open) = self.find(pooled)?;
        matches!(open.stage, Stage::Shared(_)).then_some(index)
    }

    /// A use of the first connection of `roomy` in the order of scheduling, if it is usable as it is.
    #[inline]
    pub(super) fn pick_roomy(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
        scheduling: Scheduling,
        key_pool: &Arc<KeyPool<C>>,
    ) -> Option<Box<PooledConn<C>>> {
        let index = match scheduling {
            Scheduling::Lifo => self.roomy.tail(),
            Scheduling::Fifo => self.roomy.head(),
        }?;
        let sharing = self.open[index].sharing()?;
        if sharing.whole.runtime() != runtime
            || !sharing.has_room()
            || sharing.why_over(now).is_some()
        {
            return None;
        }
        let pooled = sharing.split(index, now, key_pool)?;
        self.list(index);
        Some(pooled)
    }

    /// A use of a connection of `roomy`. Those that may have no further uses begin to drain.
    pub(super) fn take_roomy(
        &mut self,
        runtime: Option<Id>,
        now: Moment,
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
            if let Some(reason) = sharing.why_over(now) {
                self.drain(index, reason, cx);
                drained = true;
                continue;
            }
            if sharing.whole.runtime() != runtime {
                continue;
            }
            if sharing.has_room() {
                taken = sharing.split(index, now, cx.me);
            }
            self.list(index);
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
            sharing.begin(pooled);
            self.list(index);
        }
    }

    /// The use is over, and no other caller is affected. Returns a deadline that the sweeper does not know yet, and
    /// whether the connection is now idle.
    #[inline]
    pub(super) fn keep_use(
        &mut self,
        index: usize,
        mut pooled: Box<PooledConn<C>>,
        now: Moment,
    ) -> Result<(Option<Moment>, bool), Box<PooledConn<C>>> {
        let has_room = self.idle.len() < self.keeps_plain;
        let Some(sharing) = self.open[index].sharing() else {
            return Err(pooled);
        };
        let is_last = sharing.uses == 1;
        if is_last {
            // Seen by whoever checks for uses from here on.
            sharing.shared.activity().end_use();
        }
        let lifespan = pooled.connection_ref().lifespan();
        if sharing.drains.is_some()
            || sharing.spare.len() >= MAX_SPARE
            || is_last && (!has_room || pooled.idle_since.is_some())
            || sharing.why_over(now).is_some()
            || lifespan.close_reason(now).is_some()
        {
            return Err(pooled);
        }
        sharing.end(&pooled);
        if !is_last {
            sharing.spare.push(pooled);
            self.list(index);
            return Ok((None, false));
        }
        pooled.idle_since = Some(now);
        pooled.deadline = lifespan_deadline(&pooled, now).map(|it| it.at);
        self.list(index);
        Ok((self.push_idle(index, pooled), true))
    }

    /// The use is over, or is returned unused.
    pub(super) fn put_use(
        &mut self,
        index: usize,
        pooled: Box<PooledConn<C>>,
        mode: Mode,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Moment> {
        let since = pooled.idle_since.unwrap_or(now);
        // The number of uses is checked by the connection itself: some of those that were given out before this one may
        // be returned unused.
        let over = pooled
            .connection_ref()
            .lifespan()
            .close_reason_after(0, now);
        self.end_use(index, pooled, cx);
        if let Some(reason) = over {
            self.drain(index, reason, cx);
        }
        let sweep_at = self.offer(index, since, mode, now, cx);
        self.grant_permits(cx);
        sweep_at
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
        mode: Mode,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Moment> {
        self.sharing_of(index, shared)?.end_one();
        let sweep_at = self.offer(index, now, mode, now, cx);
        self.grant_permits(cx);
        sweep_at
    }

    /// The connection's capacity has changed, or it takes no further uses.
    pub(in crate::pool) fn changed(
        &mut self,
        index: usize,
        shared: &Arc<ConnShared>,
        mode: Mode,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Moment> {
        self.sharing_of(index, shared)?;
        self.hear(index, cx);
        // Removed from the idle list for now; `offer` decides again.
        let parked = self.remove_idle(index, cx);
        let since = parked.as_ref().and_then(|it| it.idle_since).unwrap_or(now);
        if let (Some(pooled), Some(sharing)) = (parked, self.open[index].sharing()) {
            sharing.spare.push(pooled);
        }
        let sweep_at = self.offer(index, since, mode, now, cx);
        self.grant_permits(cx);
        sweep_at
    }

    fn sharing_of(&mut self, index: usize, shared: &Arc<ConnShared>) -> Option<&mut Sharing<C>> {
        let sharing = self.open.get_mut(index)?.sharing();
        sharing.filter(|it| Arc::ptr_eq(&it.shared, shared))
    }

    /// Offers the connection's room to the queue. Without uses, it becomes idle, counted from `since`, or is closed.
    /// Returns a deadline that the sweeper does not know yet.
    fn offer(
        &mut self,
        index: usize,
        since: Moment,
        mode: Mode,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Moment> {
        loop {
            let sharing = self.open[index].sharing()?;
            let (is_idle, runtime) = (sharing.uses == 0, sharing.whole.runtime());
            let over = match mode {
                Mode::Destroyed => Some(CloseReason::Shutdown),
                _ => sharing.drains.or_else(|| sharing.why_over(now)),
            };
            if let Some(reason) = over {
                // One of the last uses may still be returned unused. Unless somebody waits, the connection keeps open
                // for that.
                let may_come_back =
                    reason == CloseReason::Uses && !is_idle && sharing.drains.is_none();
                if !may_come_back || self.queue.takers() > 0 {
                    self.drain(index, reason, cx);
                    return None;
                }
                break;
            }
            if !sharing.has_room() {
                break;
            }
            let Some(next) = self
                .queue
                .next_for_connection(runtime, self.incoming_permits)
            else {
                break;
            };
            let is_full = self.counted >= cx.config.max_connections_per_host
                || cx.total.as_ref().is_some_and(|total| total.is_full());
            if !next.can_use {
                if is_full {
                    self.drain(index, CloseReason::Room, cx);
                    return None;
                }
                break;
            }
            if is_idle
                && let Some(total) = &mut cx.total
                && total.has_older(cx.me, next.ticket)
            {
                total.will_make_room();
                self.open[index].frees_for_total = true;
                self.making_room += 1;
                self.close_whole(index, CloseReason::Room, cx);
                return None;
            }
            let sharing = self.open[index].sharing()?;
            let Some(pooled) = sharing.split(index, now, cx.me) else {
                self.drain(index, CloseReason::Peer, cx);
                return None;
            };
            self.queue.give_connection(next.waiter, pooled, cx.deferred);
        }
        self.list(index);
        let sharing = self.open[index].sharing()?;
        if sharing.uses > 0 {
            return None;
        }
        if mode == Mode::Draining {
            self.close_whole(index, CloseReason::Shutdown, cx);
            return None;
        }
        if self.idle.len() >= cx.config.max_idle_per_host {
            self.close_whole(index, CloseReason::Surplus, cx);
            return None;
        }
        self.park_use(index, since, now, cx)
    }

    fn park_use(
        &mut self,
        index: usize,
        since: Moment,
        now: Moment,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Moment> {
        let sharing = self.open[index].sharing()?;
        let spare = sharing.spare.pop();
        let pooled = spare.or_else(|| sharing.another(index, cx.me));
        let Some(mut pooled) = pooled else {
            self.close_whole(index, CloseReason::Peer, cx);
            return None;
        };
        pooled.idle_since = Some(since);
        let deadline = lifespan_deadline(&pooled, since);
        pooled.deadline = deadline.map(|it| it.at);
        if let Some(Deadline { at, reason }) = deadline
            && at.is_reached_at(now)
        {
            sharing.spare.push(pooled);
            self.close_whole(index, reason, cx);
            return None;
        }
        if let Some(total) = &mut cx.total {
            pooled.total_index = SlabIndex::new(total.add_idle(cx.me, index));
        }
        self.note_idle(index);
        self.keep_to_learned(&mut pooled, now, cx.config);
        self.push_idle(index, pooled)
    }

    /// The caller cannot use this use, because the connection takes no further ones.
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
        if let Some(pooled) = self.unpark_whole(index, cx) {
            cx.deferred.close(pooled, reason);
        }
    }

    /// Takes the connection itself out of the pool, idle or not, to close it.
    pub(super) fn unpark_whole(
        &mut self,
        index: usize,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Box<PooledConn<C>>> {
        let parked = self.remove_idle(index, cx);
        if !C::SHARED {
            return parked;
        }
        let open = self.open.get_mut(index)?;
        let Some(sharing) = open.sharing() else {
            return parked;
        };
        if sharing.is_listed {
            self.roomy.remove(&mut self.open, index);
        }
        let open = &mut self.open[index];
        let shared = open.shared()?.clone();
        let Stage::Shared(sharing) = mem::replace(&mut open.stage, Stage::Connected(shared)) else {
            return parked;
        };
        self.forget_report(&sharing);
        let Sharing {
            mut whole,
            spare,
            gone,
            is_heard,
            ..
        } = *sharing;
        if !is_heard {
            self.capacity.is_heard();
        }
        if let Some(parked) = &parked {
            whole.idle_since = parked.idle_since;
            whole.deadline = parked.deadline;
        }
        for pooled in spare.into_iter().chain(gone).chain(parked) {
            cx.deferred.drop_use(pooled);
        }
        Some(whole)
    }

    /// Updates whether it is in the list `roomy`.
    #[inline]
    pub(super) fn list(&mut self, index: usize) {
        let Some(sharing) = self.open[index].sharing() else {
            return;
        };
        let is_roomy = sharing.uses > 0 && sharing.has_room();
        if mem::replace(&mut sharing.is_listed, is_roomy) == is_roomy {
            return;
        }
        if is_roomy {
            self.roomy.push_back(&mut self.open, index);
        } else {
            self.roomy.remove(&mut self.open, index);
        }
    }

    /// An idle connection that this caller cannot use; but its permit can be used.
    pub(super) fn useless(&self, takes: Option<Option<Id>>) -> Option<usize> {
        let index = self.idle.head()?;
        let open = &self.open[index];
        // It was skipped because it had no capacity, which may have changed since.
        let comes = C::SHARED && takes == Some(open.runtime());
        (!comes).then_some(index)
    }

    /// For each shared connection, by number: how many uses are given out, and whether it drains.
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
