//! Connections that several uses share and that may have no further uses: they *drain*, and end after their last use.

use std::mem;

use super::{Counting, KeyState, Open, Stage, StepCx};
use crate::agent::EventKind;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;

impl<C: Poolable> KeyState<C> {
    /// Gives out no further uses, and closes the connection after its last use; at once if it has none.
    pub(super) fn drain(&mut self, index: usize, reason: CloseReason, cx: &mut StepCx<'_, C>) {
        let Some(sharing) = self.open[index].sharing() else {
            return;
        };
        let begins = sharing.drains.is_none();
        if begins {
            self.counts.capacity(sharing.reported, None);
        }
        sharing.drains.get_or_insert(reason);
        if !mem::replace(&mut sharing.is_capacity_known, true) {
            self.capacity.becomes_known(index);
        }
        if sharing.uses == 0 {
            let reason = sharing.drains.unwrap_or(reason);
            if reason == CloseReason::Room {
                self.frees_for_key(index, cx);
            }
            self.close_whole(index, reason, cx);
            return;
        }
        if begins {
            let streams = sharing.uses;
            let kind = EventKind::Draining { reason, streams };
            if let Some(addresses) = cx.trials {
                addresses.drains(sharing.shared(), reason, cx.now.mono);
            }
            cx.deferred.emit(sharing.shared().clone(), kind);
        }
        let gone = sharing.gone.take();
        for pooled in mem::take(&mut sharing.spare).into_iter().chain(gone) {
            cx.deferred.drop_use(pooled);
        }
        self.note_uses(index);
        self.update_roomy(index);
        if reason == CloseReason::Room {
            self.frees_for_key(index, cx);
        } else {
            self.stop_counting(index, cx);
        }
    }

    /// Its permit goes to a blocked caller of this key.
    fn frees_for_key(&mut self, index: usize, cx: &mut StepCx<'_, C>) {
        let open = &mut self.open[index];
        if open.counting != Counting::Draining {
            self.incoming_permits += usize::from(!mem::replace(&mut open.frees_for_key, true));
            cx.deferred.alert();
        }
    }

    /// Draining may take long, and the server expects new requests on another connection. So a draining connection
    /// counts in no limit; but no more may drain than the limit itself allows.
    fn stop_counting(&mut self, index: usize, cx: &mut StepCx<'_, C>) {
        let open = &mut self.open[index];
        if open.counting != Counting::Counted
            || self.draining >= cx.config.max_connections_per_host
            || cx.total.as_mut().is_some_and(|it| !it.let_drain())
        {
            return;
        }
        open.counting = Counting::Draining;
        self.incoming_permits -= usize::from(mem::take(&mut open.frees_for_key));
        self.draining += 1;
        self.counted -= 1;
    }

    /// Fewer drain than before: those that were counted for that reason count no more, as far as they may.
    pub(in crate::pool) fn let_drain(&mut self, cx: &mut StepCx<'_, C>) {
        if !C::SHARED {
            return;
        }
        let late = |(_, open): &(usize, &Open<C>)| match &open.stage {
            // One that drains for room gives its permit to a caller that waits for it.
            Stage::Shared(sharing) => {
                open.counting == Counting::Counted
                    && sharing.drains.is_some_and(|it| it != CloseReason::Room)
            }
            _ => false,
        };
        let late: Vec<_> = self.open.iter().filter(late).map(|(it, _)| it).collect();
        for index in late {
            self.stop_counting(index, cx);
        }
        self.grant_permits(cx);
    }

    /// How many of the permits on their way to blocked callers depend on nobody's exchange. A connection that drains passes its
    /// permit on after its last use, which may take long: an idle connection is closed rather than waiting for that.
    pub(super) fn permits_soon(&self) -> usize {
        if !C::SHARED || self.incoming_permits == 0 {
            return self.incoming_permits;
        }
        let in_use = |open: &Open<C>| matches!(&open.stage, Stage::Shared(it) if it.uses() > 0);
        let late = self
            .open
            .iter()
            .filter(|(_, open)| open.frees_for_key && in_use(open));
        self.incoming_permits - late.count()
    }

    /// How many are draining, and not counted.
    #[cfg(test)]
    pub(in crate::pool) fn draining(&self) -> usize {
        self.draining
    }
}
