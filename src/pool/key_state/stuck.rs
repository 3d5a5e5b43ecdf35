//! Callers who are blocked by a connection that nobody here can close: its transport has no way to be closed from outside of
//! its driver, and the runtime of that is not driven.
//!
//! Such a connection may keep its permit for ever. Nobody who is blocked waits for that longer than its own connect may take.

use std::time::Duration;

use tokio::time::Instant;

use super::{KeyState, StepCx};
use crate::connection::poolable::Poolable;
use crate::pool::config::PoolConfig;

/// When callers in line were last given something, as far as looks have seen: while others are served, a caller waits for
/// its turn, and not for a connection that does not close.
#[derive(Default)]
pub(super) struct Progress {
    given: u64,
    seen_at: Option<Instant>,
}

impl Progress {
    /// Whether nothing was given for so long.
    fn has_stopped(&self, now: Instant, time: Duration) -> bool {
        self.seen_at
            .is_none_or(|at| now.saturating_duration_since(at) >= time)
    }

    fn see(&mut self, given: u64, now: Instant) {
        if self.given != given {
            self.given = given;
            self.seen_at = Some(now);
        }
    }
}

/// The longest that a caller waits for a connection that cannot be closed, however long its own connect may take.
const LONGEST: Duration = Duration::from_secs(8);

/// How long a connection that cannot be closed may take for a use that ends, while somebody waits for its permit; then it is told
/// to go. As long again is left for that: where its runtime is driven, it goes.
pub(super) fn time_to_go(config: &PoolConfig) -> Duration {
    patience(config.connect_timeout) / 2
}

/// How long a caller who may connect for so long waits for a connection that cannot be closed. Less than all of that time,
/// so that it hears within it: looks are up to 50 ms apart.
fn patience(connect_timeout: Duration) -> Duration {
    connect_timeout.min(LONGEST) / 4 * 3
}

impl<C: Poolable> KeyState<C> {
    /// Tells callers who are blocked by a connection that cannot be closed, and was told to go so long ago. `by_total`: it
    /// is one of any host, and they wait for the total.
    pub(in crate::pool) fn fail_stuck(
        &mut self,
        stuck_for: Duration,
        by_total: bool,
        now: Instant,
        cx: &mut StepCx<'_, C>,
    ) {
        let is_full = self.counted >= cx.config.max_connections_per_host;
        if is_full == by_total {
            return;
        }
        let granted = cx.total.as_ref().map_or(0, |total| total.granted());
        self.progress.see(self.queue.gifts() + granted, now);
        let progress = &self.progress;
        let why = |since: Instant, limit: Option<Duration>| {
            let time = patience(limit.unwrap_or(cx.config.connect_timeout));
            let is_due = stuck_for >= time / 2
                && now.saturating_duration_since(since) >= time
                && progress.has_stopped(now, time);
            is_due.then_some(time)
        };
        self.queue.fail_blocked(why, cx.deferred);
        self.grant_permits(cx);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_ever_where_a_connect_may_take_any_time() {
        assert_eq!(patience(Duration::from_secs(1)), Duration::from_millis(750));
        assert_eq!(patience(Duration::MAX), Duration::from_secs(6));
    }
}
