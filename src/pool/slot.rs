//! The right to have one connection open.

use std::sync::Arc;

use tokio::time::Instant;

use crate::bond::CloseHook;
use crate::cause::Cause;
use crate::pool::berth::Berth;
use crate::pool::host_pool::HostPool;
use crate::poolable::Poolable;

/// The right to have one connection open. It exists before the connect begins, is with the connection for as long as
/// its transport lives, and then passes to the next in line: exactly once, because it is dropped once.
pub(crate) struct Slot<C: Poolable> {
    home: Arc<HostPool<C>>,
    place: usize,
    /// When a connect began on it: from then on it counts.
    begun: Option<Instant>,
    cause: Cause,
}

impl<C: Poolable> Slot<C> {
    pub(super) fn new(home: Arc<HostPool<C>>, place: usize) -> Self {
        Self {
            home,
            place,
            begun: None,
            cause: Cause::Cancelled,
        }
    }

    /// A connect begins.
    pub(crate) fn begin(&mut self) {
        self.begun = Some(self.home.created().mono);
    }

    /// There will be no connection.
    pub(crate) fn fail(mut self, cause: Cause) {
        self.cause = cause;
    }

    /// Here is the connection: from now on the slot is its transport's.
    pub(crate) fn fill(self, mut conn: C) -> Box<Berth<C>> {
        let home = self.home.clone();
        let place = self.place;
        home.connected(place, self.begun, conn.lifespan());
        let mut slot = self;
        conn.on_close(CloseHook::new(move |cause| {
            slot.cause = cause;
            drop(slot);
        }));
        let mut berth = Box::new(Berth::new(place, conn));
        berth.set_home(home);
        berth
    }

    pub(crate) fn home(&self) -> &Arc<HostPool<C>> {
        &self.home
    }

    pub(crate) fn place(&self) -> usize {
        self.place
    }
}

impl<C: Poolable> Drop for Slot<C> {
    fn drop(&mut self) {
        self.home
            .release(self.place, self.begun.map(|_| self.cause));
    }
}
