//! How connections end: when their transports are gone, when they expire, when others need their place, or all of them.

use std::time::Duration;

use super::{Counting, KeyState, Stage, StepCx};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::pool::list::List;

impl<C: Poolable> KeyState<C> {
    /// The transport is gone, or there never was one: the permit passes on. `ended`: why, if a connect has begun.
    /// Returns the limit that was learned from this end, if any.
    pub(in crate::pool) fn release(
        &mut self,
        index: usize,
        ended: Option<CloseReason>,
        cx: &mut StepCx<'_, C>,
    ) -> Option<Duration> {
        let failed = matches!(
            ended,
            Some(CloseReason::Connect | CloseReason::ConnectTimeout)
        );
        let kept = self.remove_whole(index, cx);
        let learned = match (&kept, ended) {
            (Some(kept), Some(reason)) => self.learn_from_close(kept, reason, cx),
            _ => None,
        };
        let open = self.open.remove(index);
        self.counts.closed(open.shared().map(|it| &**it));
        if let Some(places) = &mut self.places {
            places.closed(index);
        }
        if let Some(pooled) = kept {
            cx.deferred.close(pooled, CloseReason::Peer);
        }
        self.incoming_permits -= usize::from(open.frees_for_key);
        self.making_room -= usize::from(open.frees_for_total);
        if C::SHARED && open.counting != Counting::OneShot {
            match &open.stage {
                Stage::Connecting(_) => self.capacity.connect_ends(index),
                Stage::Made(_) => self.capacity.becomes_known(index),
                Stage::Connected(_) | Stage::Shared(_) => {}
            }
            if failed {
                self.capacity.go_side_by_side();
            }
        }
        if open.counting == Counting::Draining {
            self.draining -= 1;
            if let Some(total) = &mut cx.total {
                total.drained();
            }
            self.let_drain(cx);
        } else if open.counting != Counting::OneShot {
            self.counted -= 1;
            if let Some(total) = &mut cx.total {
                total.release(open.frees_for_total);
            }
        }
        self.grant_permits(cx);
        learned
    }

    /// Closes a connection if it is still idle.
    pub(in crate::pool) fn evict(
        &mut self,
        index: usize,
        for_room: bool,
        cx: &mut StepCx<'_, C>,
    ) -> bool {
        let is_idle = self.open.get(index).is_some_and(|it| it.idle.is_some());
        let Some(pooled) = is_idle.then(|| self.remove_whole(index, cx)).flatten() else {
            return false;
        };
        self.open[index].frees_for_total = for_room;
        self.making_room += usize::from(for_room);
        if for_room {
            cx.deferred.alert();
        }
        let reason = if for_room {
            CloseReason::Room
        } else {
            CloseReason::Surplus
        };
        cx.deferred.close(pooled, reason);
        self.grant_after_close(cx);
        true
    }

    /// Closes the idle connections that have expired, and returns the next deadline.
    pub(in crate::pool) fn sweep(&mut self, cx: &mut StepCx<'_, C>) -> Option<Moment> {
        let mut earliest: Option<Moment> = None;
        let mut next = self.idle.head();
        while let Some(index) = next {
            next = List::next(&mut self.open, index);
            let Some(at) = self.open[index].idle.as_ref().and_then(|it| it.deadline) else {
                continue;
            };
            if at.is_reached_at(cx.now) {
                let pooled = self.remove_whole(index, cx).expect("in the idle list");
                let reason = pooled.expiry_reason();
                cx.deferred.close(pooled, reason);
            } else if earliest.is_none_or(|earliest| at.mono < earliest.mono) {
                earliest = Some(at);
            }
        }
        self.sweep_at = earliest.map(|earliest| earliest.mono);
        self.grant_after_close(cx);
        earliest
    }

    /// Idle connections were closed. If a caller was waiting for capacity of one of them, another connection is made.
    fn grant_after_close(&mut self, cx: &mut StepCx<'_, C>) {
        if C::SHARED {
            self.grant_permits(cx);
        }
    }

    pub(in crate::pool) fn close_idle(&mut self, cx: &mut StepCx<'_, C>) {
        self.close_each_idle(cx);
        self.grant_after_close(cx);
    }

    fn close_each_idle(&mut self, cx: &mut StepCx<'_, C>) {
        while let Some(index) = self.idle.head() {
            let pooled = self.remove_whole(index, cx).expect("in the idle list");
            cx.deferred.close(pooled, CloseReason::Shutdown);
        }
    }

    /// Closes everything, in use or not.
    pub(in crate::pool) fn destroy(&mut self, cx: &mut StepCx<'_, C>) {
        self.close_each_idle(cx);
        self.stop_connects(true, cx);
        for (_, open) in &self.open {
            cx.deferred.kill(open.shared().cloned());
        }
        self.queue.refuse_all(cx.deferred);
    }
}
