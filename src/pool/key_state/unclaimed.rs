//! Who does not come for what is there: connects in tasks of their own, hand-overs that nobody claims, connections that do
//! not close.

use std::ptr;
use std::sync::Weak;
use std::time::Duration;

use tokio::time::Instant;

use super::{Around, Connecting, Host, Look, Seen, Stage, stuck};
use crate::agent::Mode;
use crate::clock::Moment;
use crate::connection::close_reason::Cause;
use crate::connection::poolable::Poolable;
use crate::pool::deferred::Stop;
use crate::pool::pooled_conn::{Berth, Spoiled};
use crate::pool::wait_queue::{Missing, Whom};

impl<C: Poolable> Host<C> {
    /// The connect is in a task of its own.
    pub(in crate::pool) fn set_connecting(
        &mut self,
        slot: usize,
        connect: Weak<dyn Stop>,
        due: Option<Instant>,
    ) {
        self.open[slot].stage = Stage::Connecting(Some(Box::new(Connecting {
            connect,
            due,
            is_left: false,
        })));
    }

    /// The connect goes on without its caller. It may be over already, and its place another's.
    pub(in crate::pool) fn leave_connecting(&mut self, slot: usize, connect: &Weak<dyn Stop>) {
        if let Some(open) = self.open.get_mut(slot)
            && let Stage::Connecting(Some(connecting)) = &mut open.stage
            && ptr::addr_eq(connecting.connect.as_ptr(), connect.as_ptr())
        {
            connecting.is_left = true;
        }
    }

    /// Here is what was made for a caller, who may not be here any more. Says when the sweeper has to come to look.
    pub(in crate::pool) fn deliver(
        &mut self,
        whom: Whom,
        mut berth: Box<Berth<C>>,
        mode: Mode,
        now: Moment,
        around: &mut Around<'_, C>,
    ) -> Option<Moment> {
        if !self.line.awaits(whom) {
            return self.put(berth, mode, now, around);
        }
        // It is idle until its caller comes for it.
        berth.idle_since = Some(now);
        let is_shared = self.find(&berth).is_some_and(|(_, open)| !open.one_shot);
        let other = self
            .line
            .give_made(whom.place, berth, is_shared, around.after);
        self.put(other?, mode, now, around)
    }

    /// A look is taken now. What is unclaimed now and still is at a later look, was not come for: whatever held up its caller's
    /// task until now has held up this look, too.
    pub(in crate::pool) fn see(&mut self, now: Instant) {
        self.line.see(now);
    }

    /// Takes back what was seen by then and is not come for: it goes to the next in line, or is idle.
    pub(in crate::pool) fn take_back(
        &mut self,
        seen_by: Instant,
        mode: Mode,
        now: Moment,
        around: &mut Around<'_, C>,
    ) -> Option<Moment> {
        let mut watch: Option<Moment> = None;
        while let Some(gift) = self.line.take_back(seen_by) {
            if let Some(slot) = gift.slot {
                self.release(slot, around);
            }
            if let Some(berth) = gift.connection {
                watch = self.put(berth, mode, now, around).or(watch);
            }
        }
        watch
    }

    /// Whether somebody was given something and has not come for it.
    pub(in crate::pool) fn is_unclaimed(&mut self) -> bool {
        self.line.is_unclaimed()
    }

    /// Ends what connects or closes for too long.
    pub(in crate::pool) fn look(&mut self, look: &Look, around: &mut Around<'_, C>) -> Seen {
        let mut seen = Seen::default();
        for (_, open) in &mut self.open {
            match &open.stage {
                Stage::Connecting(None) => {}
                Stage::Connecting(Some(connecting)) => {
                    if connecting.due.is_some_and(|due| due <= look.now) {
                        let connect = connecting.connect.clone();
                        around.after.stop(connect, Cause::ConnectTimeout);
                    }
                }
                Stage::Connected(bond) => {
                    let Some(time) = bond.time_to_close(look.goodbye) else {
                        open.closing = 0;
                        open.is_stuck = false;
                        continue;
                    };
                    if open.closing == 0 {
                        open.closing = look.millis;
                    }
                    let spent = look.millis.saturating_sub(open.closing);
                    let spent = Duration::from_millis(spent.into());
                    if open.is_stuck {
                        seen.stuck_for = seen.stuck_for.max(Some(spent));
                        continue;
                    }
                    let can_be_closed = bond.can_be_closed();
                    let time = match can_be_closed {
                        true => time,
                        false => time.min(stuck::time_to_go(around.limits)),
                    };
                    if time > spent {
                        seen.is_left = true;
                        continue;
                    }
                    around.after.force(bond.clone());
                    if !can_be_closed {
                        open.is_stuck = !open.one_shot;
                        open.closing = look.millis;
                    }
                }
            }
        }
        seen
    }

    /// Stops the connects that nobody waits for, or all of them.
    pub(in crate::pool) fn stop_connects(&mut self, all: bool, around: &mut Around<'_, C>) {
        for (_, open) in &mut self.open {
            if let Stage::Connecting(Some(connecting)) = &open.stage
                && (all || connecting.is_left)
            {
                let connect = connecting.connect.clone();
                around.after.stop(connect, Cause::Cancelled);
            }
        }
    }

    /// One who has missed its turn is polled: what there is for it now is its own.
    #[cold]
    pub(super) fn serve_who_comes(
        &mut self,
        waiter: usize,
        missing: Missing,
        around: &mut Around<'_, C>,
    ) {
        if let Some(runtime) = self.line.takes(waiter) {
            let now = around.limits.clock.now();
            while let Some((berth, why)) = self.take_idle(runtime, now, around) {
                let Some(why) = why else {
                    return self.line.hand(waiter, berth);
                };
                self.discard(Spoiled::new(berth, why), around);
            }
        }
        if missing == Missing::Made {
            return self.line.lose(waiter);
        }
        let is_full = self.counted >= around.limits.max_connections_per_host;
        if self.line.is_blocked(waiter)
            && is_full
            && self.line.blocked() > self.dying
            && let Some(slot) = self.idle.head()
        {
            let berth = self.unpark(slot, around).expect("in the idle list");
            self.close_for_blocked(berth, Cause::Room, around);
        }
        self.settle(around);
    }

    /// The waiter has no use for what it was given, and its own connect goes on: it stands in line again.
    pub(in crate::pool) fn line_up_again(
        &mut self,
        waiter: usize,
        mode: Mode,
        around: &mut Around<'_, C>,
    ) {
        let ticket = around.ticket(true);
        self.line.line_up_again(waiter, ticket);
        if mode == Mode::Destroyed {
            // It was not in line when the others were told.
            self.line.refuse(waiter, around.after);
        }
    }
}
