//! Deliveries that are not collected: how long they have been there, and taking them back.

use std::mem;

use slab::Slab;
use tokio::time::Instant;

use super::{Delivery, Listed, MissedTurn, QueueState, WaitNode, WaitQueue};
use crate::connection::poolable::Poolable;
use crate::pool::deferred::Deferred;

impl<C: Poolable> WaitQueue<C> {
    /// The waiter has a delivery, which is taken back if it is not collected.
    pub(super) fn note_delivery(&mut self, waiter: usize, deferred: &mut Deferred<C>) {
        self.delivery_count += 1;
        let node = &mut self.waiters[waiter];
        deferred.wake(node.waker.take());
        if node.delivery.listed.is_some() {
            return;
        }
        self.forget_collected();
        // Usually only uncollected deliveries are left. A waiter that does not collect keeps those behind it in the
        // list.
        if self.deliveries.len() > 2 * self.waiters.len() + 8 {
            let waiters = &self.waiters;
            self.deliveries.retain(|it| is_uncollected(waiters, it));
        }
        self.list(waiter);
        deferred.alert_of_delivery();
    }

    fn list(&mut self, waiter: usize) {
        let number = self.delivery_count;
        self.waiters[waiter].delivery.listed = Some(number);
        self.deliveries.push_back(Listed {
            waiter: self.waiter_id(waiter),
            number,
            seen: None,
        });
    }

    fn forget_collected(&mut self) {
        while let Some(front) = self.deliveries.front()
            && !is_uncollected(&self.waiters, front)
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
        for listed in unseen.take_while(|it| it.seen.is_none()) {
            listed.seen = Some(now);
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
        let front = *self.deliveries.front()?;
        if front.seen.is_none_or(|seen| seen > seen_by) {
            return None;
        }
        self.deliveries.pop_front();
        let waiter = front.waiter.index;
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
        let Some(front) = self.deliveries.front().copied() else {
            return false;
        };
        let node = &mut self.waiters[front.waiter.index];
        let is_due = front.seen.is_some_and(|seen| seen <= seen_by);
        let keeps = is_due && node.fresh && node.delivery.made;
        if keeps {
            node.delivery.listed = None;
            self.deliveries.pop_front();
            self.kept.push(front.waiter);
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
                self.list(waiter_id.index);
            }
        }
    }
}

/// Whether the waiter has not collected this delivery yet.
fn is_uncollected<C>(waiters: &Slab<WaitNode<C>>, listed: &Listed) -> bool {
    let node = waiters.get(listed.waiter.index);
    node.filter(|it| it.id == listed.waiter.id)
        .is_some_and(|it| it.delivery.listed == Some(listed.number) && !it.delivery.refused)
}

#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests {
    use super::*;
    use crate::pool::tests::Conn;
    use crate::pool::wait_queue::CheckoutRequest;
    use crate::target::Reuse;

    /// Of a crowd, and of those who come after it.
    #[test]
    fn what_was_collected_is_forgotten_behind_one_that_collects_nothing() {
        let mut queue = WaitQueue::<Conn>::new();
        let mut deferred = Deferred::new();
        let request = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: None,
            is_retry: false,
        };
        let deliver = |queue: &mut WaitQueue<Conn>, deferred: &mut Deferred<Conn>, ticket| {
            let waiter = queue.join(ticket, request, Instant::now(), QueueState::Blocked);
            queue.give_permit(waiter, 0, deferred);
            waiter
        };
        let _collects_nothing = deliver(&mut queue, &mut deferred, 0);
        let crowd = (1..40).map(|it| deliver(&mut queue, &mut deferred, it));
        let crowd: Vec<_> = crowd.collect();
        assert_eq!(queue.deliveries.len(), 40);
        for waiter in crowd {
            drop(queue.abandon(waiter, &mut deferred));
        }
        for ticket in 40..100 {
            let waiter = deliver(&mut queue, &mut deferred, ticket);
            drop(queue.abandon(waiter, &mut deferred));
            let listed = queue.deliveries.len();
            assert!(listed <= 13, "{listed} beside two waiters at the most");
        }
        assert!(queue.has_unclaimed_delivery());
    }
}
