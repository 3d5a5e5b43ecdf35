//! Ends exchanges that their drivers should have ended.
//!
//! The driver of a connection enforces the timeouts of its exchanges. If the runtime of the driver is not driven, the checks for
//! blocked callers end the exchange.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::{Open, Stage};
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;

/// What the checks have found about a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Nothing is overdue.
    Fine,
    /// Its exchange should have ended, or is silent.
    Overdue,
    /// It is closing.
    Closing,
    /// It was asked to close, and cannot be closed from outside.
    Stuck,
}

/// The longest time that a driver in a driven runtime takes to end an exchange after its deadline.
const MARGIN: Duration = Duration::from_millis(100);

/// A gap between two checks counts as at most this, in milliseconds: in a longer one the runtime of the check may have stood
/// still, and all other runtimes with it.
const LONGEST_GAP: u32 = 100;

/// How long the connection has to stay as it is until the checks end its exchange; `None` if the exchange is not late. A
/// driver detects a silence up to an eighth late.
fn grace(shared: &ConnShared, now: Instant) -> Option<Duration> {
    // Called every time, because the call clears the flag of the last read or write.
    let is_silent = shared.activity().is_silent_from_outside();
    if shared.overdue(now, false).is_some() {
        return Some(MARGIN);
    }
    let limit = shared.activity().limit().filter(|_| is_silent)?;
    Some(limit.saturating_add(limit / 4).saturating_add(MARGIN))
}

/// Why the exchange is ended, for the error of its caller.
fn reason(shared: &ConnShared, now: Instant) -> CloseReason {
    let timeout = shared.overdue(now, true);
    timeout.unwrap_or(CloseReason::Silence)
}

impl<C: Poolable> Open<C> {
    /// Checks a connection that is not closing: returns why its exchange has to end now, if it has to. `gap`: the
    /// milliseconds since the last check.
    pub(super) fn check_use(
        &mut self,
        shared: &ConnShared,
        now: Instant,
        gap: u32,
    ) -> Option<CloseReason> {
        let grace = match self.idle.is_none() {
            true => grace(shared, now),
            false => None,
        };
        let is_due = is_due(&mut self.watch, &mut self.watched, grace, gap);
        is_due.then(|| reason(shared, now))
    }

    /// The same for the uses of a shared connection, which is not ended for one of them. Returns whether it is shared.
    pub(super) fn check_uses(
        &mut self,
        now: Instant,
        gap: u32,
        mut end: impl FnMut(Arc<ConnShared>, CloseReason),
    ) -> bool {
        let Stage::Shared(sharing) = &mut self.stage else {
            return false;
        };
        for it in &mut sharing.made {
            let Some(shared) = it.shared() else {
                continue;
            };
            let grace = match shared.activity().is_in_use() {
                true => grace(&shared, now),
                false => None,
            };
            if is_due(&mut it.watch, &mut it.watched, grace, gap) {
                let reason = reason(&shared, now);
                end(shared, reason);
            }
        }
        true
    }
}

/// A use of a shared connection, and what checks have seen of it.
pub(super) struct MadeUse {
    shared: Weak<ConnShared>,
    watch: Watch,
    watched: u32,
}

impl MadeUse {
    pub(super) fn new(shared: &Arc<ConnShared>) -> Self {
        Self {
            shared: Arc::downgrade(shared),
            watch: Watch::Fine,
            watched: 0,
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        self.shared.strong_count() > 0
    }

    pub(super) fn shared(&self) -> Option<Arc<ConnShared>> {
        self.shared.upgrade()
    }
}

/// Whether the exchange has been late for the whole grace period.
fn is_due(watch: &mut Watch, watched: &mut u32, grace: Option<Duration>, gap: u32) -> bool {
    let Some(grace) = grace else {
        *watch = Watch::Fine;
        return false;
    };
    if *watch != Watch::Overdue {
        (*watch, *watched) = (Watch::Overdue, 0);
        return false;
    }
    *watched = watched.saturating_add(gap.min(LONGEST_GAP));
    Duration::from_millis((*watched).into()) >= grace
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::shared::Blame;
    use crate::error::timeout_kind::TimeoutKind;

    #[test]
    fn a_late_check_counts_as_one_in_time() {
        let (mut watch, mut watched) = (Watch::Fine, 0);
        let grace = Some(Duration::from_millis(250));
        let mut due = |grace, gap| is_due(&mut watch, &mut watched, grace, gap);
        for _ in 0..2 {
            for (gap, is_due) in [
                (u32::MAX, false),
                (50, false),
                (u32::MAX, false),
                (99, false),
            ] {
                assert_eq!(due(grace, gap), is_due);
            }
            // Something has moved.
            assert!(!due(None, 50));
        }
        for _ in 0..3 {
            assert!(!due(grace, 100));
        }
        assert!(due(grace, 50));
    }

    #[test]
    fn a_use_is_forgotten_once_it_is_gone() {
        let shared = Arc::new(ConnShared::new());
        let made = MadeUse::new(&shared);
        assert!(made.is_kept());
        drop(shared);
        assert!(!made.is_kept());
    }

    #[test]
    fn silence_is_ended_after_the_driver_would_have_ended_it() {
        let shared = ConnShared::new();
        let now = Instant::now();
        let activity = shared.activity();
        activity.tighten(Duration::from_secs(8));
        activity.begin_use(1);
        activity.written(false);
        activity.read(true);
        assert_eq!(grace(&shared, now), None, "it has just begun");
        let ten = Some(Duration::from_millis(10_100));
        assert_eq!(grace(&shared, now), ten);
        // The driver measures for itself.
        assert!(!activity.is_silent());
        assert!(activity.is_silent());
        activity.set_caller_waits(false);
        assert_eq!(grace(&shared, now), None, "nobody waits for more");
        activity.set_caller_waits(true);
        assert_eq!(grace(&shared, now), None, "somebody has just asked");
        assert_eq!(grace(&shared, now), ten);
        activity.end_use();
        assert_eq!(grace(&shared, now), None, "it is over");
    }

    #[test]
    fn the_caller_gets_the_time_limit_that_was_reached() {
        let shared = ConnShared::new();
        let now = Instant::now();
        shared.activity().begin_use(1);
        let limit = Duration::from_secs(3);
        shared.limit_exchange(Some((now + limit, limit)), None, Blame::default());
        assert_eq!(grace(&shared, now), None);
        assert_eq!(grace(&shared, now + limit), Some(MARGIN));
        assert_eq!(shared.timed_out(1), None, "it still has time");
        assert_eq!(reason(&shared, now + limit), CloseReason::RequestTimeout);
        assert_eq!(shared.timed_out(1), Some((TimeoutKind::Request, limit)));
        // The next exchange has none.
        shared.activity().begin_use(2);
        assert_eq!(grace(&shared, now + limit), None);
    }
}
