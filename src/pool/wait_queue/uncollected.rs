//! Deliveries that are not collected: how long they have been there, and taking them back.

use std::mem;

use slab::Slab;
use tokio::time::Instant;

use super::{Delivery, MissedTurn, QueueState, WaitNode, WaitQueue, WaiterId};
use crate::connection::poolable::Poolable;
use crate::pool::deferred::Deferred;

impl<C: Poolable> WaitQueue<C> {
    /// The waiter has a delivery, which is taken back if it is not collected.
    pub(super) fn note_delivery(&mut self, waiter: usize, deferred: &mut Deferred<C>) {
        self.delivery_count += 1;
        let node = &mut self.waiters[waiter];
        deferred.wake(node.waker.take());
        if mem::replace(&mut node.delivery.unclaimed, true) {
            return;
        }
        self.forget_collected();
        // Usually only uncollected deliveries are left. A waiter that does not collect keeps those behind it in the
        // list.
        if self.deliveries.len() > 2 * self.waiters.len() + 8 {
            let waiters = &self.waiters;
            self.deliveries
                .retain(|(waiter_id, _)| has_unclaimed(waiters, *waiter_id));
        }
        self.deliveries.push_back((self.waiter_id(waiter), None));
        deferred.alert_of_delivery();
    }

    fn forget_collected(&mut self) {
        while let Some((waiter_id, _)) = self.deliveries.front()
            && !has_unclaimed(&self.waiters, *waiter_id)
        {
            self.deliveries.pop_front();
        }
    }

    /// Whether there are uncollected deliveries.
    pub(in crate::pool) fn has_unclaimed_delivery(&mut self) -> bool {
        self.forget_collected();
        !self.deliveries.is_empty()
    }

    /// The same, including those that were collected and not removed yet.
    pub(in crate::pool) fn has_deliveries(&self) -> bool {
        !self.deliveries.is_empty()
    }

    /// Notes when uncollected deliveries were first seen.
    pub(in crate::pool) fn note_uncollected(&mut self, now: Instant) {
        let unseen = self.deliveries.iter_mut().rev();
        for (_, seen) in unseen.take_while(|(_, seen)| seen.is_none()) {
            *seen = Some(now);
        }
    }

    /// Takes back one delivery that was seen uncollected by `seen_by`, if there is one; its waiter misses turns from
    /// now on.
    ///
    /// `keeps_own`: a waiter that wants a connection of its own keeps the one made for it while nobody else waits here.
    /// It cannot use another one, and would make one after the other.
    pub(in crate::pool) fn take_back(
        &mut self,
        seen_by: Instant,
        keeps_own: bool,
    ) -> Option<Delivery<C>> {
        while keeps_own && !self.has_takers() && self.keep_own(seen_by) {}
        self.forget_collected();
        let &(waiter_id, seen) = self.deliveries.front()?;
        if seen.is_none_or(|seen| seen > seen_by) {
            return None;
        }
        self.deliveries.pop_front();
        let waiter = waiter_id.index;
        self.leave(waiter);
        let node = &mut self.waiters[waiter];
        let delivery = mem::replace(&mut node.delivery, Delivery::EMPTY);
        // A caller that has lost the connection made for it may have had another delivery since.
        let missed = if delivery.made || node.missed == Some(MissedTurn::Made) {
            MissedTurn::Made
        } else if delivery.permit.is_some() {
            MissedTurn::QueueState(QueueState::Blocked)
        } else {
            MissedTurn::QueueState(delivery.stood)
        };
        node.missed = Some(missed);
        self.missed_blocked += usize::from(missed == MissedTurn::QueueState(QueueState::Blocked));
        Some(delivery)
    }

    /// Whether the next waiter in order keeps its delivery.
    fn keep_own(&mut self, seen_by: Instant) -> bool {
        self.forget_collected();
        let Some(&(waiter_id, Some(seen))) = self.deliveries.front() else {
            return false;
        };
        let node = &mut self.waiters[waiter_id.index];
        let keeps = seen <= seen_by && node.fresh && node.delivery.made;
        if keeps {
            node.delivery.unclaimed = false;
            self.deliveries.pop_front();
            self.kept.push(waiter_id);
        }
        keeps
    }

    /// Somebody waits here now, so deliveries that were kept for their waiters may be taken back, too.
    pub(super) fn relist_kept(&mut self) {
        for waiter_id in mem::take(&mut self.kept) {
            let node = self.waiters.get_mut(waiter_id.index);
            if let Some(node) = node.filter(|it| it.id == waiter_id.id)
                && node.delivery.made
                && node.delivery.connection.is_some()
            {
                node.delivery.unclaimed = true;
                self.deliveries.push_back((waiter_id, None));
            }
        }
    }
}

/// Whether it still has an uncollected delivery.
fn has_unclaimed<C>(waiters: &Slab<WaitNode<C>>, waiter_id: WaiterId) -> bool {
    let node = waiters
        .get(waiter_id.index)
        .filter(|it| it.id == waiter_id.id);
    node.is_some_and(|it| it.delivery.unclaimed && !it.delivery.refused)
}
