//! A place in line.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::runtime::Id;

use crate::connection::poolable::Poolable;
use crate::pool::key_pool::HostPool;
use crate::pool::permit::Slot;
use crate::pool::pooled_conn::{Berth, Spoiled};
use crate::pool::wait_queue::Whom;

/// A place in line. Dropping it leaves the line at once, and passes on what was given to it and not come for.
pub(crate) struct Waiter<C: Poolable> {
    home: Arc<HostPool<C>>,
    place: usize,
    /// The runtime that looks for what is overdue, while this caller is blocked.
    looks: Mutex<Option<Id>>,
}

/// What a waiter is given.
pub(crate) enum Turn<C: Poolable> {
    /// A connection that another caller gave back.
    Connection(Box<Berth<C>>),
    /// The connection that was made for it.
    Made(Box<Berth<C>>),
    /// The right to make one.
    Make(Slot<C>),
    /// The agent is destroyed.
    Refused,
    /// The connection that was made for it went to another, since it did not come for it.
    Lost,
    /// It was blocked for so long by a connection that cannot be closed.
    Stuck(Duration),
}

impl<C: Poolable> Waiter<C> {
    pub(super) fn new(home: Arc<HostPool<C>>, place: usize) -> Self {
        Self {
            home,
            place,
            looks: Mutex::new(None),
        }
    }

    pub(crate) fn poll_turn(&self, cx: &Context<'_>) -> Poll<Turn<C>> {
        let mut gift = match self.home.collect(self.place, cx.waker()) {
            Ok(gift) => gift,
            Err(is_blocked) => {
                if is_blocked {
                    let from_here = || self.home.pool().look_from_here();
                    let mut looks = self.looks();
                    *looks = looks.or_else(from_here);
                }
                return Poll::Pending;
            }
        };
        self.look_no_more();
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
                if gift.made {
                    Turn::Made(berth)
                } else {
                    Turn::Connection(berth)
                }
            }
            (None, Some(slot)) => Turn::Make(slot),
            (None, None) => gift.stuck_for.map_or(Turn::Lost, Turn::Stuck),
        })
    }

    /// The caller in this place, for whom a connection is made.
    pub(crate) fn whom(&self) -> Whom {
        self.home.whom(self.place)
    }

    /// How long its own connect may take, where that is not the pool's limit.
    pub(crate) fn set_connect_timeout(&self, limit: Duration) {
        self.home.set_connect_timeout(self.place, limit);
    }

    /// It has no use for what it was given, and its own connect goes on: back in line.
    pub(crate) fn line_up_again(&self, spoiled: Spoiled<C>) {
        self.home.line_up_again(self.place, spoiled);
    }

    #[cfg(test)]
    pub(super) fn misses(&self) -> bool {
        self.home.lock().line().misses(self.place)
    }

    fn look_no_more(&self) {
        if let Some(runtime) = self.looks().take() {
            self.home.pool().look_no_more(runtime);
        }
    }
}

impl<C: Poolable> Waiter<C> {
    fn looks(&self) -> MutexGuard<'_, Option<Id>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Poolable> Drop for Waiter<C> {
    fn drop(&mut self) {
        self.look_no_more();
        let gift = self.home.abandon(self.place);
        if let Some(slot) = gift.slot {
            drop(Slot::new(self.home.clone(), slot));
        }
        if let Some(berth) = gift.connection {
            self.home.put(berth);
        }
    }
}
