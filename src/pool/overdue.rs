//! Looks for what is overdue while callers are blocked: hand-overs that nobody came for, connects that have used up their
//! time, connections that do not close.
//!
//! Each of these is some other future's or task's to do, and that may not be polled: it is an arm of a `select!` that has
//! moved on, or its runtime is alive and not driven. A caller who is blocked and is polled has a runtime that is driven. So
//! the look is taken from there.

use std::mem;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use crate::connection::poolable::Poolable;
use crate::pool::key_pool::KeyPool;
use crate::pool::key_state::Seen;
use crate::pool::shared::Shared;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// One task in each runtime that has blocked callers, and for a moment in one where something was left for somebody.
pub(super) struct Overdue {
    runtimes: Mutex<Vec<Runtime>>,
    /// Something was left that somebody should come for soon.
    is_alert: AtomicBool,
    alert: Arc<Notify>,
    /// How often to look when there is.
    often: Duration,
}

struct Runtime {
    id: Id,
    blocked: usize,
    /// Its task is there.
    looks: bool,
}

/// How often to look when nothing is known to be left: at what begins without the pool, as the end of a body does.
const SELDOM: Duration = Duration::from_millis(50);

impl Overdue {
    pub(super) fn new(hand_over_timeout: Duration) -> Self {
        Self {
            runtimes: Mutex::new(Vec::new()),
            is_alert: AtomicBool::new(false),
            alert: Arc::new(Notify::new()),
            often: hand_over_timeout.clamp(Duration::from_millis(1), SELDOM),
        }
    }

    /// Something was left for somebody to come for: a look is taken soon, from here if from nowhere else.
    #[inline]
    pub(super) fn alert<C: Poolable>(&self, pool: &Weak<Shared<C>>) {
        if self.is_alert.load(Ordering::Relaxed) || self.is_alert.swap(true, Ordering::SeqCst) {
            return;
        }
        self.alert.notify_waiters();
        if let Ok(here) = Handle::try_current() {
            let mut runtimes = self.runtimes();
            if !runtimes.iter().any(|it| it.looks && it.id == here.id()) {
                let at = at(&mut runtimes, here.id());
                runtimes[at].looks = true;
                drop(runtimes);
                self.look_from(&here, pool);
            }
        } else {
            // Nobody can look from here: the next one to leave something tries again.
            self.is_alert.store(false, Ordering::SeqCst);
        }
    }

    /// A caller of this runtime is blocked, until [`leave`](Self::leave).
    pub(super) fn join<C: Poolable>(&self, pool: &Weak<Shared<C>>) -> Option<Id> {
        let here = Handle::try_current().ok()?;
        let mut runtimes = self.runtimes();
        let at = at(&mut runtimes, here.id());
        runtimes[at].blocked += 1;
        if !mem::replace(&mut runtimes[at].looks, true) {
            drop(runtimes);
            self.look_from(&here, pool);
        }
        Some(here.id())
    }

    fn look_from<C: Poolable>(&self, runtime: &Handle, pool: &Weak<Shared<C>>) {
        let looks = Looks {
            pool: pool.clone(),
            id: Some(runtime.id()),
        };
        runtime.spawn(look(looks, self.alert.clone()));
    }

    pub(super) fn leave(&self, id: Id) {
        let mut runtimes = self.runtimes();
        if let Some(at) = runtimes.iter().position(|it| it.id == id) {
            runtimes[at].blocked -= 1;
            if runtimes[at].blocked == 0 && !runtimes[at].looks {
                runtimes.swap_remove(at);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_alert(&self) -> bool {
        self.is_alert.load(Ordering::SeqCst)
    }

    fn rest(&self) -> Duration {
        if self.is_alert.load(Ordering::SeqCst) {
            self.often
        } else {
            SELDOM
        }
    }

    /// Whether anybody of this runtime is blocked, or something is left. If not, its task ends, and the next one begins
    /// another.
    fn goes_on(&self, id: Id) -> bool {
        let mut runtimes = self.runtimes();
        let at = runtimes.iter().position(|it| it.id == id);
        let is_alert = self.is_alert.load(Ordering::SeqCst);
        let goes_on = at.is_some_and(|at| is_alert || runtimes[at].blocked > 0);
        if !goes_on && let Some(at) = at {
            runtimes.swap_remove(at);
        }
        goes_on
    }

    /// Whether anybody is blocked, wherever.
    fn is_wanted(&self) -> bool {
        self.runtimes().iter().any(|it| it.blocked > 0)
    }

    fn runtimes(&self) -> MutexGuard<'_, Vec<Runtime>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn at(runtimes: &mut Vec<Runtime>, id: Id) -> usize {
    let at = runtimes.iter().position(|it| it.id == id);
    at.unwrap_or_else(|| {
        runtimes.push(Runtime {
            id,
            blocked: 0,
            looks: false,
        });
        runtimes.len() - 1
    })
}

/// With the task for as long as it lives: a runtime may drop it at any time.
struct Looks<C: Poolable> {
    pool: Weak<Shared<C>>,
    /// Until it is known there that the task ends.
    id: Option<Id>,
}

impl<C: Poolable> Drop for Looks<C> {
    fn drop(&mut self) {
        if let Some(id) = self.id
            && let Some(pool) = self.pool.upgrade()
        {
            let mut runtimes = pool.overdue.runtimes();
            if let Some(at) = runtimes.iter().position(|it| it.id == id) {
                runtimes[at].looks = false;
                if runtimes[at].blocked == 0 {
                    runtimes.swap_remove(at);
                }
            }
        }
    }
}

/// Ends when nobody of its runtime is blocked any more and nothing is left. Has no hold on the pool while it waits.
async fn look<C: Poolable>(mut looks: Looks<C>, alert: Arc<Notify>) {
    while let Some(id) = looks.id {
        let told = alert.notified();
        let Some(rest) = looks.pool.upgrade().map(|pool| pool.overdue.rest()) else {
            return;
        };
        if tokio::time::timeout(rest, told).await.is_ok() {
            continue;
        }
        let Some(pool) = looks.pool.upgrade() else {
            return;
        };
        if pool.overdue.goes_on(id) {
            pool.look(pool.overdue.is_wanted());
        } else {
            looks.id = None;
        }
    }
}

impl<C: Poolable> Shared<C> {
    /// Takes from others what they were given and have not come for. `all`: somebody waits for places, too, and so what
    /// connects or closes for too long is ended. What still has time is looked at again.
    pub(super) fn look(&self, all: bool) {
        self.overdue.is_alert.store(false, Ordering::SeqCst);
        let mut sum = Seen::default();
        // Keys at which nothing happens, idle ones above all, are not looked at.
        let watched = mem::take(&mut *self.watched());
        let mut kept = Vec::new();
        for key_pool in watched.iter().filter_map(Weak::upgrade) {
            let seen = key_pool.look(all);
            sum.add(&seen);
            if seen.goes_on {
                kept.push(key_pool);
            }
        }
        self.watched().extend(kept.iter().map(Arc::downgrade));
        // No permit of any key is on its way, and whatever was idle has been closed.
        if all && self.lock_total().is_some_and(|total| total.lacks_room()) {
            self.table.each(|key_pool| sum.add(&key_pool.look(true)));
        }
        if sum.is_left {
            self.overdue.is_alert.store(true, Ordering::SeqCst);
        }
        if let Some(stuck_for) = sum.stuck_for.filter(|_| self.has_total()) {
            for key_pool in kept {
                key_pool.fail_stuck_in_total(stuck_for);
            }
        }
    }

    /// Every key, for whoever waits until all are quiet.
    pub(super) fn look_everywhere(&self) {
        self.table.each(|key_pool| {
            key_pool.look(true);
        });
    }

    /// Looks are to be taken at this key.
    #[cold]
    pub(super) fn watch_key(&self, key_pool: &Arc<KeyPool<C>>) {
        self.watched().push(Arc::downgrade(key_pool));
    }

    /// It is out of the table.
    #[cold]
    pub(super) fn watch_no_more(&self, key_pool: &Arc<KeyPool<C>>) {
        let ended = Arc::downgrade(key_pool);
        self.watched().retain(|it| !it.ptr_eq(&ended));
    }
}
