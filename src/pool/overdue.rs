//! Checks for overdue work while callers are blocked: uncollected deliveries, connects beyond their timeout,
//! connections that do not close.
//!
//! Each of these depends on a future or a task that may not be polled: it is an arm of a `select!` that has moved on,
//! or its runtime is alive but not driven. A blocked caller that is polled has a runtime that is driven, so the check
//! runs there.

use std::mem;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::{Handle, Id};
use tokio::sync::Notify;

use crate::connection::poolable::Poolable;
use crate::pool::key_pool::KeyPool;
use crate::pool::key_state::CheckResult;
use crate::pool::shared::Shared;
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// One task in each runtime that has blocked callers, and for a short time in a runtime that has made a delivery.
pub(super) struct Overdue {
    runtimes: Mutex<Vec<Runtime>>,
    /// A delivery should be collected soon.
    is_alert: AtomicBool,
    alert: Arc<Notify>,
    /// The interval of checks while `is_alert`.
    alert_interval: Duration,
}

struct Runtime {
    id: Id,
    blocked: usize,
    /// Whether the task that checks runs in it.
    has_task: bool,
}

/// The interval of checks without such a delivery: for work that begins without the pool, such as the end of a body.
const INTERVAL: Duration = Duration::from_millis(50);

impl Overdue {
    pub(super) fn new(hand_over_timeout: Duration) -> Self {
        Self {
            runtimes: Mutex::new(Vec::new()),
            is_alert: AtomicBool::new(false),
            alert: Arc::new(Notify::new()),
            alert_interval: hand_over_timeout.clamp(Duration::from_millis(1), INTERVAL),
        }
    }

    /// A delivery was made: a check follows soon, in this runtime if in no other.
    #[inline]
    pub(super) fn alert<C: Poolable>(&self, pool: &Weak<Shared<C>>) {
        if self.is_alert.load(Ordering::Relaxed) || self.is_alert.swap(true, Ordering::SeqCst) {
            return;
        }
        self.alert.notify_waiters();
        if let Ok(here) = Handle::try_current() {
            let mut runtimes = self.runtimes();
            if !runtimes.iter().any(|it| it.has_task && it.id == here.id()) {
                let at = at(&mut runtimes, here.id());
                runtimes[at].has_task = true;
                drop(runtimes);
                self.spawn_task(&here, pool);
            }
        } else {
            // There is no runtime here: the next delivery tries again.
            self.is_alert.store(false, Ordering::SeqCst);
        }
    }

    /// A caller of this runtime is blocked, until [`leave`](Self::leave).
    pub(super) fn join<C: Poolable>(&self, pool: &Weak<Shared<C>>) -> Option<Id> {
        let here = Handle::try_current().ok()?;
        let mut runtimes = self.runtimes();
        let at = at(&mut runtimes, here.id());
        runtimes[at].blocked += 1;
        if !mem::replace(&mut runtimes[at].has_task, true) {
            drop(runtimes);
            self.spawn_task(&here, pool);
        }
        Some(here.id())
    }

    fn spawn_task<C: Poolable>(&self, runtime: &Handle, pool: &Weak<Shared<C>>) {
        let guard = TaskGuard {
            pool: pool.clone(),
            id: Some(runtime.id()),
        };
        runtime.spawn(check_repeatedly(guard, self.alert.clone()));
    }

    pub(super) fn leave(&self, id: Id) {
        let mut runtimes = self.runtimes();
        if let Some(at) = runtimes.iter().position(|it| it.id == id) {
            runtimes[at].blocked -= 1;
            if runtimes[at].blocked == 0 && !runtimes[at].has_task {
                runtimes.swap_remove(at);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_alert(&self) -> bool {
        self.is_alert.load(Ordering::SeqCst)
    }

    /// How many runtimes have blocked callers, or a task.
    #[cfg(test)]
    pub(super) fn runtimes_now(&self) -> usize {
        self.runtimes().len()
    }

    fn interval(&self) -> Duration {
        if self.is_alert.load(Ordering::SeqCst) {
            self.alert_interval
        } else {
            INTERVAL
        }
    }

    /// Whether a caller of this runtime is blocked, or a delivery is uncollected. If not, its task ends, and the next
    /// one starts another.
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

    /// Whether any caller is blocked, in whatever runtime.
    fn has_blocked(&self) -> bool {
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
            has_task: false,
        });
        runtimes.len() - 1
    })
}

/// Lives as long as the task: a runtime may drop it at any time.
struct TaskGuard<C: Poolable> {
    pool: Weak<Shared<C>>,
    /// Taken once the end of the task is recorded.
    id: Option<Id>,
}

impl<C: Poolable> Drop for TaskGuard<C> {
    fn drop(&mut self) {
        if let Some(id) = self.id
            && let Some(pool) = self.pool.upgrade()
        {
            let mut runtimes = pool.overdue.runtimes();
            if let Some(at) = runtimes.iter().position(|it| it.id == id) {
                runtimes[at].has_task = false;
                if runtimes[at].blocked == 0 {
                    runtimes.swap_remove(at);
                }
            }
        }
    }
}

/// Ends when no caller of its runtime is blocked and no delivery is uncollected. It does not keep the pool alive while
/// it waits.
async fn check_repeatedly<C: Poolable>(mut guard: TaskGuard<C>, alert: Arc<Notify>) {
    while let Some(id) = guard.id {
        let alerted = alert.notified();
        let Some(interval) = guard.pool.upgrade().map(|pool| pool.overdue.interval()) else {
            return;
        };
        if tokio::time::timeout(interval, alerted).await.is_ok() {
            continue;
        }
        let Some(pool) = guard.pool.upgrade() else {
            return;
        };
        if pool.overdue.goes_on(id) {
            pool.check_overdue(pool.overdue.has_blocked());
        } else {
            guard.id = None;
        }
    }
}

impl<C: Poolable> Shared<C> {
    /// Takes back deliveries that were not collected. `all`: callers wait for permits, too, so connects and closes that
    /// take too long are ended. Schedules another check for those that still have time.
    pub(super) fn check_overdue(&self, all: bool) {
        self.overdue.is_alert.store(false, Ordering::SeqCst);
        let mut sum = CheckResult::default();
        // Only keys where something happens are checked; idle ones are not.
        let watched = mem::take(&mut *self.watched());
        let mut kept = Vec::new();
        for key_pool in watched.iter().filter_map(Weak::upgrade) {
            let result = key_pool.check_overdue(all);
            sum.add(&result);
            if result.check_again {
                kept.push(key_pool);
            }
        }
        self.watched().extend(kept.iter().map(Arc::downgrade));
        // No permit of any key is on its way, and every idle connection has been closed.
        if all && self.lock_total().is_some_and(|total| total.lacks_room()) {
            self.table
                .each(|key_pool| sum.add(&key_pool.check_overdue(true)));
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

    /// Checks every key, for a drain that waits until all are quiet.
    pub(super) fn check_all_keys(&self) {
        self.table.each(|key_pool| {
            key_pool.check_overdue(true);
        });
    }

    /// Has this key checked.
    #[cold]
    pub(super) fn watch_key(&self, key_pool: &Arc<KeyPool<C>>) {
        self.watched().push(Arc::downgrade(key_pool));
    }

    /// The key pool was removed from the table.
    #[cold]
    pub(super) fn unwatch_key(&self, key_pool: &Arc<KeyPool<C>>) {
        let ended = Arc::downgrade(key_pool);
        self.watched().retain(|it| !it.ptr_eq(&ended));
    }
}
