//! Work that others have not done in time: connects in tasks of their own, deliveries that are not collected, and
//! connections that do not close.

use std::ptr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::late::Watch;
use super::{Connecting, Counting, KeyState, Stage, StepCx, stuck};
use crate::agent::Mode;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::deferred::Stop;
use crate::pool::pooled_conn::{PooledConn, Rejected};
use crate::pool::wait_queue::{CheckoutRequest, MissedTurn, QueueState, WaiterId, ticket};

/// The parameters of one check.
pub(in crate::pool) struct Check {
    pub(in crate::pool) now: Instant,
    /// Milliseconds since the pool was made, plus one.
    pub(in crate::pool) millis: u32,
    /// How long a connection may take to close while a caller waits for its permit.
    pub(in crate::pool) close_grace: Duration,
}

/// The result of a check.
#[derive(Default)]
pub(in crate::pool) struct CheckResult {
    /// This key has to be checked again.
    pub(in crate::pool) check_again: bool,
    /// Something is closing, and still has time.
    pub(in crate::pool) is_left: bool,
    /// How long ago a connection was told to close that cannot be closed from outside and is still open.
    pub(in crate::pool) stuck_for: Option<Duration>,
}

impl CheckResult {
    /// Adds the result of another check.
    pub(in crate::pool) fn add(&mut self, other: &Self) {
        self.is_left |= other.is_left;
        self.stuck_for = self.stuck_for.max(other.stuck_for);
    }
}

impl<C: Poolable> KeyState<C> {
    /// The connect runs in a task of its own.
    pub(in crate::pool) fn set_connecting(
        &mut self,
        index: usize,
        connect: Weak<dyn Stop>,
        due: Option<Instant>,
    ) {
        self.open[index].stage = Stage::Connecting(Some(Box::new(Connecting {
            connect,
            due,
            is_left: false,
        })));
    }

    /// The connect goes on without its caller. It may be over already, and its place taken by another one.
    pub(in crate::pool) fn leave_connecting(&mut self, index: usize, connect: &Weak<dyn Stop>) {
        if let Some(open) = self.open.get_mut(index)
            && let Stage::Connecting(Some(connecting)) = &mut open.stage
            && ptr::addr_eq(connecting.connect.as_ptr(), connect.as_ptr())
        {
            connecting.is_left = true;
        }
    }

    /// Delivers a connection to the caller that it was made for, if it is still waiting.
    pub(in crate::pool) fn deliver(
        &mut self,
        waiter_id: WaiterId,
        mut pooled: Box<PooledConn<C>>,
        cx: &mut StepCx<'_, C>,
    ) {
        if !self.queue.awaits(waiter_id) {
            return self.put(pooled, cx);
        }
        // It counts as idle until its caller collects it.
        pooled.idle_since = Some(cx.now);
        let is_shared = self
            .find(&pooled)
            .is_some_and(|(_, open)| open.counting != Counting::OneShot);
        let other = self
            .queue
            .give_made(waiter_id.index, pooled, is_shared, cx.deferred);
        if let Some(other) = other {
            self.put(other, cx);
        }
    }

    /// Notes which deliveries are uncollected at this check. If one is still uncollected at a later check, its caller
    /// was not polled: a stall that held up the caller would have held up the check, too.
    pub(in crate::pool) fn note_uncollected(&mut self, now: Instant) {
        self.queue.note_uncollected(now);
    }

    /// Takes back deliveries that were seen at `seen_by` and are still uncollected: each goes to the next waiter, or
    /// becomes idle.
    pub(in crate::pool) fn take_back(&mut self, seen_by: Instant, cx: &mut StepCx<'_, C>) {
        // With a total limit, callers of other keys may need it.
        let keeps_own = cx.total.is_none();
        while let Some(delivery) = self.queue.take_back(seen_by, keeps_own) {
            if let Some(index) = delivery.permit {
                self.release(index, None, cx);
            }
            if let Some(pooled) = delivery.connection {
                self.put(pooled, cx);
            }
        }
    }

    /// Whether there are uncollected deliveries.
    pub(in crate::pool) fn has_unclaimed_delivery(&mut self) -> bool {
        self.queue.has_unclaimed_delivery()
    }

    /// Whether checks have to begin at this key: somebody waits here, has an uncollected delivery, or has a connection
    /// closed for it. Other overdue work of this key is found by the checks for callers that wait for the total limit.
    #[inline]
    pub(in crate::pool) fn begin_watch(&mut self) -> bool {
        let begins = !self.is_watched && !self.retired && self.needs_checks();
        self.is_watched |= begins;
        begins
    }

    /// The same, after a check.
    pub(in crate::pool) fn continue_watch(&mut self) -> bool {
        let goes_on = self.needs_checks();
        self.is_watched &= goes_on;
        goes_on
    }

    fn needs_checks(&self) -> bool {
        self.queue.pending() > 0
            || self.queue.has_deliveries()
            || self.incoming_permits + self.making_room > 0
    }

    /// Ends connects and closes that take too long.
    pub(in crate::pool) fn check_overdue(
        &mut self,
        check: &Check,
        cx: &mut StepCx<'_, C>,
    ) -> CheckResult {
        let mut result = CheckResult::default();
        let between = check.millis.saturating_sub(self.checked_at);
        self.checked_at = check.millis;
        for (_, open) in &mut self.open {
            if let Stage::Connecting(connecting) = &open.stage {
                if let Some(connecting) = connecting
                    && connecting.due.is_some_and(|due| due <= check.now)
                {
                    let connect = connecting.connect.clone();
                    cx.deferred.stop(connect, CloseReason::ConnectTimeout);
                }
                continue;
            }
            let Some(shared) = open.shared() else {
                continue;
            };
            let shared = shared.clone();
            let Some(time) = shared.time_to_close(check.close_grace) else {
                let end = |of_use: Arc<ConnShared>, reason| {
                    cx.deferred.end_use(of_use.end_use(reason));
                };
                if open.check_uses(check.now, between, end) {
                    continue;
                }
                if let Some(reason) = open.check_use(&shared, check.now, between) {
                    shared.condemn(reason);
                    cx.deferred.force(shared);
                    result.is_left = true;
                }
                continue;
            };
            if !matches!(open.watch, Watch::Closing | Watch::Stuck) {
                open.watch = Watch::Closing;
                open.watched = check.millis;
            }
            let spent = check.millis.saturating_sub(open.watched);
            let spent = Duration::from_millis(spent.into());
            if open.watch == Watch::Stuck {
                result.stuck_for = result.stuck_for.max(Some(spent));
                continue;
            }
            let can_be_closed = shared.can_be_closed();
            let time = match can_be_closed {
                true => time,
                false => time.min(stuck::time_to_end_use(cx.config)),
            };
            if time > spent {
                result.is_left = true;
                continue;
            }
            // Under the lock: whoever brings it back until that is done has it closed here, and it is not used again.
            shared.condemn(CloseReason::Abandoned);
            cx.deferred.force(shared);
            if !can_be_closed {
                if open.counting != Counting::OneShot {
                    open.watch = Watch::Stuck;
                }
                open.watched = check.millis;
            }
        }
        result
    }

    /// Stops the connects that nobody waits for, or all of them.
    pub(in crate::pool) fn stop_connects(&mut self, all: bool, cx: &mut StepCx<'_, C>) {
        for (_, open) in &mut self.open {
            if let Stage::Connecting(Some(connecting)) = &open.stage
                && (all || connecting.is_left)
            {
                let connect = connecting.connect.clone();
                cx.deferred.stop(connect, CloseReason::Cancelled);
            }
        }
    }

    /// A caller that has missed its turn is polled again, and takes what is available now.
    #[cold]
    pub(super) fn serve_rejoined(
        &mut self,
        waiter: usize,
        missing: MissedTurn,
        cx: &mut StepCx<'_, C>,
    ) {
        if let Some(runtime) = self.queue.accepts(waiter) {
            if C::SHARED
                && self.places.is_none()
                && let Some(pooled) = self.take_roomy(runtime, cx)
            {
                return self.queue.give_now(waiter, pooled);
            }
            while let Some((pooled, why)) = self.take_one(runtime, cx) {
                let Some(why) = why else {
                    return self.queue.give_now(waiter, pooled);
                };
                self.discard(Rejected::new(pooled, why), cx);
            }
        }
        if missing == MissedTurn::Made {
            return self.queue.set_lost(waiter);
        }
        let is_full = self.counted >= cx.config.max_connections_per_host;
        if self.queue.is_blocked(waiter)
            && is_full
            && self.queue.blocked() > self.permits_soon()
            && let Some(index) = self.idle_to_replace(self.queue.accepts(waiter))
        {
            let pooled = self.remove_whole(index, cx).expect("in the idle list");
            self.close_for_blocked(pooled, CloseReason::Room, cx);
        }
        self.grant_permits(cx);
    }

    /// Adds a waiter whose delivery is a connection that it has already and cannot use yet.
    pub(in crate::pool) fn leave_for_new(
        &mut self,
        pooled: Box<PooledConn<C>>,
        request: CheckoutRequest,
        number: u64,
        cx: &mut StepCx<'_, C>,
    ) -> usize {
        let ticket = ticket(number, true);
        let state = QueueState::Detached;
        let waiter = self.queue.join(ticket, request, cx.now.mono, state);
        self.leave_for(waiter, pooled, false, cx);
        waiter
    }

    /// The same for an existing waiter.
    pub(in crate::pool) fn leave_for(
        &mut self,
        waiter: usize,
        pooled: Box<PooledConn<C>>,
        is_connecting: bool,
        cx: &mut StepCx<'_, C>,
    ) {
        let other = self
            .queue
            .leave_for(waiter, pooled, is_connecting, cx.deferred);
        if let Some(other) = other {
            // Its own connect has delivered in the meantime.
            self.put(other, cx);
        }
        if cx.mode == Mode::Destroyed {
            // It was not in the queue when the others were refused.
            self.queue.refuse(waiter, cx.deferred);
        }
    }

    /// The waiter cannot use its delivery, and its own connect goes on: it returns to the queue.
    pub(in crate::pool) fn requeue(&mut self, waiter: usize, number: u64, cx: &mut StepCx<'_, C>) {
        self.queue.requeue(waiter, ticket(number, true));
        if cx.mode == Mode::Destroyed {
            // It was not in the queue when the others were refused.
            self.queue.refuse(waiter, cx.deferred);
        }
    }
}
