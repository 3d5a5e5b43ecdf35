//! A place in line.

use std::sync::Arc;
use std::task::{Context, Poll};

use crate::pool::berth::Berth;
use crate::pool::host_pool::HostPool;
use crate::pool::slot::Slot;
use crate::poolable::Poolable;

/// A place in line. Dropping it leaves the line at once, and passes on what was given to it and not come for.
pub(crate) struct Waiter<C: Poolable> {
    home: Arc<HostPool<C>>,
    place: usize,
}

/// What a waiter is given.
pub(crate) enum Turn<C: Poolable> {
    /// A connection that another caller gave back.
    Connection(Box<Berth<C>>),
    /// The right to make one.
    Make(Slot<C>),
    /// The agent is destroyed.
    Refused,
}

impl<C: Poolable> Waiter<C> {
    pub(super) fn new(home: Arc<HostPool<C>>, place: usize) -> Self {
        Self { home, place }
    }

    pub(crate) fn poll_turn(&self, cx: &Context<'_>) -> Poll<Turn<C>> {
        let Some(mut gift) = self.home.collect(self.place, cx.waker()) else {
            return Poll::Pending;
        };
        // A slot that is not needed passes on when it is dropped.
        let slot = gift
            .slot
            .take()
            .map(|slot| Slot::new(self.home.clone(), slot));
        let connection = gift.connection.take();
        Poll::Ready(match (connection, slot) {
            (connection, _) if gift.refused => {
                if let Some(berth) = connection {
                    self.home.put(berth);
                }
                Turn::Refused
            }
            (Some(mut berth), _) => {
                berth.set_home(self.home.clone());
                Turn::Connection(berth)
            }
            (None, Some(slot)) => Turn::Make(slot),
            (None, None) => unreachable!("a gift is not empty"),
        })
    }
}

impl<C: Poolable> Drop for Waiter<C> {
    fn drop(&mut self) {
        let gift = self.home.abandon(self.place);
        if let Some(slot) = gift.slot {
            drop(Slot::new(self.home.clone(), slot));
        }
        if let Some(berth) = gift.connection {
            self.home.put(berth);
        }
    }
}
