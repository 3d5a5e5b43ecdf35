//! Spare connections of one key: whether they are wanted, and whether there are enough.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// A key is in use for so long after its last request.
const IN_USE: Duration = Duration::from_secs(300);

/// How long before its expiry a spare connection is replaced; or a quarter of its time, if that is less.
const LEAD: Duration = Duration::from_millis(500);

/// Shared by the key pool and by the task that makes the connections.
#[derive(Debug)]
pub(crate) struct Spares {
    /// When a caller asked last, if connections are kept idle.
    used: Option<Mutex<Instant>>,
    /// Notified when there may be too few.
    short: Notify,
    /// Notified when the load may need to be spread.
    narrow: Notify,
    /// Whether the task that makes them exists.
    has_task: AtomicBool,
}

impl Spares {
    /// `keeps_idle`: there is a number of connections that are kept idle.
    pub(crate) fn new(keeps_idle: bool) -> Self {
        Self {
            used: keeps_idle.then(|| Mutex::new(Instant::now())),
            short: Notify::new(),
            narrow: Notify::new(),
            has_task: AtomicBool::new(false),
        }
    }

    /// A caller asks for a connection of this key.
    pub(super) fn is_used(&self) {
        if let Some(used) = &self.used {
            *used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }

    pub(super) fn are_short(&self) {
        self.short.notify_one();
        self.narrow.notify_one();
    }

    /// Until when the key counts as in use; for as long as it has connections, if none are kept idle.
    pub(crate) fn in_use_until(&self) -> Option<Instant> {
        let used = self.used.as_ref()?;
        Some(*used.lock().unwrap_or_else(PoisonError::into_inner) + IN_USE)
    }

    /// Until there may be too few.
    pub(crate) async fn short(&self) {
        self.short.notified().await;
    }

    /// Until an address may need a connection, because all requests go to others.
    pub(crate) async fn narrow(&self) {
        self.narrow.notified().await;
    }

    /// The right to be the one task that makes them; nothing if there is one.
    pub(crate) fn task(self: Arc<Self>) -> Option<SparesTask> {
        let is_new = !self.has_task.swap(true, Ordering::AcqRel);
        is_new.then(|| SparesTask(self))
    }
}

/// Held by the task that makes the spare connections; when it is dropped, the next connect of the key begins another.
#[derive(Debug)]
pub(crate) struct SparesTask(Arc<Spares>);

impl SparesTask {
    pub(crate) fn spares(&self) -> &Spares {
        &self.0
    }
}

impl Drop for SparesTask {
    fn drop(&mut self) {
        self.0.has_task.store(false, Ordering::Release);
    }
}

/// When a connection that is idle from `since` until `ends` has to be replaced.
pub(super) fn replaced_at(since: Instant, ends: Instant) -> Instant {
    let time = ends.saturating_duration_since(since);
    since + (time - LEAD.min(time / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spare_one_is_replaced_before_its_time_is_up() {
        let now = Instant::now();
        for (time, at) in [(4000, 3500), (2000, 1500), (400, 300), (0, 0)] {
            let [time, at] = [time, at].map(Duration::from_millis);
            assert_eq!(replaced_at(now, now + time), now + at);
        }
    }

    #[test]
    fn one_task_makes_them() {
        let spares = Arc::new(Spares::new(true));
        let task = spares.clone().task();
        assert!(task.is_some() && spares.clone().task().is_none());
        drop(task);
        assert!(spares.task().is_some());
    }
}
