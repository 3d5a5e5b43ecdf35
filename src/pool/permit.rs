//! The right to have one connection open.

use std::sync::Arc;

use tokio::time::Instant;

use crate::connection::close_reason::Cause;
use crate::connection::poolable::Poolable;
use crate::connection::shared::CloseHook;
use crate::pool::key_pool::HostPool;
use crate::pool::list::Spot;
use crate::pool::pooled_conn::Berth;

/// The right to have one connection open. It exists before the connect begins, is with the connection for as long as
/// its transport lives, and then passes to the next in line: exactly once, because it is dropped once.
pub(crate) struct Slot<C: Poolable> {
    home: Arc<HostPool<C>>,
    place: Spot,
    /// Why it ends. `None` until a connect has begun on it: from then on it counts.
    cause: Option<Cause>,
}

impl<C: Poolable> Slot<C> {
    pub(super) fn new(home: Arc<HostPool<C>>, place: usize) -> Self {
        // Each connection has one, in its close hook.
        #[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
        const {
            assert!(size_of::<Self>() <= 16)
        };
        Self {
            home,
            place: Spot::new(place),
            cause: None,
        }
    }

    /// A connect begins, then.
    pub(crate) fn begin(&mut self) -> Instant {
        self.cause = Some(Cause::Cancelled);
        self.home.created().mono
    }

    /// There will be no connection.
    pub(crate) fn fail(mut self, cause: Cause) {
        self.cause = self.cause.and(Some(cause));
    }

    /// Here is the connection, whose connect began then: from now on the slot is its transport's.
    pub(crate) fn fill(self, mut conn: C, begun: Instant) -> Box<Berth<C>> {
        let home = self.home.clone();
        let place = self.place;
        home.connected(self.place(), begun, conn.lifespan());
        let mut slot = self;
        conn.on_close(CloseHook::new(move |cause| {
            slot.cause = Some(cause);
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
        self.place.get().expect("made of a place")
    }
}

impl<C: Poolable> Drop for Slot<C> {
    fn drop(&mut self) {
        if let Some(place) = self.place.get() {
            self.home.release(place, self.cause);
        }
    }
}
