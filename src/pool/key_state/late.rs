//! Connections in use whose exchange should have ended by itself, seen from outside.
//!
//! The timeouts of an exchange are kept by the driver of its connection. Where the runtime of that is not driven, whoever is
//! blocked ends the exchange.

use std::time::Duration;

use tokio::time::Instant;

use super::{Open, Stage};
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;

/// What a look from outside has seen of a connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    /// Nothing that concerns the look.
    Fine,
    /// Its exchange should have ended, or is silent.
    Overdue,
    /// It is closing.
    Closing,
    /// It was told to close, and cannot be closed from outside.
    Stuck,
}

/// What a driver that is driven needs at the most after the moment when it should end an exchange.
const MARGIN: Duration = Duration::from_millis(100);

/// What lies between two looks counts as no more than this: for longer, the runtime of the look may have stood still, and
/// every other one beside it.
const MOST_BETWEEN: u32 = 100;

/// How long looks have to see it as it is now until the exchange is ended from outside; nothing, while it is not late. A
/// driver finds a silence up to an eighth late.
fn patience(shared: &ConnShared, now: Instant) -> Option<Duration> {
    // Both are asked each time: what has moved since the last look is asked of once.
    let is_silent = shared.activity().is_silent_from_outside();
    if shared.overdue(now, false).is_some() {
        return Some(MARGIN);
    }
    let limit = shared.activity().limit().filter(|_| is_silent)?;
    Some(limit.saturating_add(limit / 4).saturating_add(MARGIN))
}

/// Why it is ended, which its caller will hear.
fn reason(shared: &ConnShared, now: Instant) -> CloseReason {
    let timeout = shared.overdue(now, true);
    timeout.unwrap_or(CloseReason::Silence)
}

impl<C: Poolable> Open<C> {
    /// Of a connection that is not closing: why its exchange is to be ended now, if it is. So much time has passed since
    /// the look before.
    pub(super) fn look_at_use(
        &mut self,
        shared: &ConnShared,
        now: Instant,
        between: u32,
    ) -> Option<CloseReason> {
        // The uses of a shared connection have limits of their own, and the connection is not ended for one of them.
        let is_shared = matches!(self.stage, Stage::Shared(_));
        let patience = match self.idle.is_none() && !is_shared {
            true => patience(shared, now),
            false => None,
        };
        let is_due = see(&mut self.watch, &mut self.watched, patience, between);
        is_due.then(|| reason(shared, now))
    }
}

/// Whether it has been late for as long as there is patience for that.
fn see(watch: &mut Watch, watched: &mut u32, patience: Option<Duration>, between: u32) -> bool {
    let Some(patience) = patience else {
        *watch = Watch::Fine;
        return false;
    };
    if *watch != Watch::Overdue {
        (*watch, *watched) = (Watch::Overdue, 0);
        return false;
    }
    *watched = watched.saturating_add(between.min(MOST_BETWEEN));
    Duration::from_millis((*watched).into()) >= patience
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::timeout_kind::TimeoutKind;

    #[test]
    fn a_look_that_comes_late_counts_as_one_that_comes_in_time() {
        let (mut watch, mut watched) = (Watch::Fine, 0);
        let patience = Some(Duration::from_millis(250));
        let mut sees = |patience, between| see(&mut watch, &mut watched, patience, between);
        for _ in 0..2 {
            for (between, is_due) in [
                (u32::MAX, false),
                (50, false),
                (u32::MAX, false),
                (99, false),
            ] {
                assert_eq!(sees(patience, between), is_due);
            }
            // Something has moved.
            assert!(!sees(None, 50));
        }
        for _ in 0..3 {
            assert!(!sees(patience, 100));
        }
        assert!(sees(patience, 50));
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
        assert_eq!(patience(&shared, now), None, "it has just begun");
        let ten = Some(Duration::from_millis(10_100));
        assert_eq!(patience(&shared, now), ten);
        // The driver measures for itself.
        assert!(!activity.is_silent());
        assert!(activity.is_silent());
        activity.set_caller_waits(false);
        assert_eq!(patience(&shared, now), None, "nobody waits for more");
        activity.set_caller_waits(true);
        assert_eq!(patience(&shared, now), None, "somebody has just asked");
        assert_eq!(patience(&shared, now), ten);
        activity.end_use();
        assert_eq!(patience(&shared, now), None, "it is over");
    }

    #[test]
    fn a_limit_of_time_that_is_reached_is_told_to_the_caller() {
        let shared = ConnShared::new();
        let now = Instant::now();
        shared.activity().begin_use(1);
        let limit = Duration::from_secs(3);
        shared.limit_exchange(Some((now + limit, limit)), None);
        assert_eq!(patience(&shared, now), None);
        assert_eq!(patience(&shared, now + limit), Some(MARGIN));
        assert_eq!(shared.timed_out(1), None, "it still has time");
        assert_eq!(reason(&shared, now + limit), CloseReason::RequestTimeout);
        assert_eq!(shared.timed_out(1), Some((TimeoutKind::Request, limit)));
        // The next exchange has none.
        shared.activity().begin_use(2);
        assert_eq!(patience(&shared, now + limit), None);
    }
}
