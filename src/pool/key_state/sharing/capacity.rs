//! The capacity that a connection reports.

use std::mem;

use super::{KeyState, Sharing, StepCx};
use crate::agent::EventKind;
use crate::connection::poolable::Poolable;

impl<C: Poolable> KeyState<C> {
    /// Reads the connection's capacity.
    pub(in crate::pool::key_state) fn read_capacity(
        &mut self,
        index: usize,
        cx: &mut StepCx<'_, C>,
    ) {
        let Some(sharing) = self.open[index].sharing() else {
            return;
        };
        let conn = sharing.whole.connection_ref();
        let capacity = conn.capacity();
        // A connection that may be dead does not count as on its way.
        let is_left = conn.is_doubted() || sharing.drains.is_some();
        let is_known = is_left || capacity.is_some_and(|it| it > 0);
        let was_known = mem::replace(&mut sharing.is_capacity_known, is_known);
        match (was_known, is_known) {
            (false, true) => self.capacity.becomes_known(index),
            (true, false) => self.capacity.becomes_unknown(),
            _ => {}
        }
        if let Some(uses) = capacity.filter(|&it| it > 0) {
            self.capacity.learn(uses);
        }
        if sharing.drains.is_none()
            && let Some(capacity) = capacity
            && sharing.reported != Some(capacity)
        {
            let before = sharing.reported.replace(capacity);
            self.counts.capacity(before, Some(capacity));
            let kind = EventKind::CapacityChanged { capacity, before };
            cx.deferred.emit(sharing.shared.clone(), kind);
        }
    }

    /// The connection takes no further uses, and its capacity does not count any more.
    pub(super) fn forget_report(&mut self, sharing: &Sharing<C>) {
        if sharing.drains.is_none() {
            self.counts.capacity(sharing.reported, None);
        }
    }
}
