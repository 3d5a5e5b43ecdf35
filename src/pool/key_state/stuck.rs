//! Callers that are blocked by a connection that cannot be closed from outside, and whose own runtime is not driven.
//!
//! Such a connection may keep its permit for ever. A caller waits for it no longer than its own connect may take.

use std::time::Duration;

use tokio::time::Instant;

use super::{KeyState, StepCx};
use crate::connection::poolable::Poolable;
use crate::pool::config::PoolConfig;

/// When a waiter last received a delivery, as far as checks have seen. While other waiters are served, a waiter is
/// waiting for its turn, and not for a connection that does not close.
#[derive(Default)]
pub(super) struct Progress {
    deliveries: u64,
    seen_at: Option<Instant>,
}

impl Progress {
    /// Whether there was no delivery for this time.
    fn has_stopped(&self, now: Instant, time: Duration) -> bool {
        self.seen_at
            .is_none_or(|at| now.saturating_duration_since(at) >= time)
    }

    fn update(&mut self, deliveries: u64, now: Instant) {
        if self.deliveries != deliveries {
            self.deliveries = deliveries;
            self.seen_at = Some(now);
        }
    }
}

/// The longest wait for a connection that cannot be closed, however long the caller's own connect may take.
const LONGEST: Duration = Duration::from_secs(8);

/// How long a connection that cannot be closed from outside may take to end its use while a caller waits for its
/// permit. Then it is told to close, and has the same time again for that: it closes if its runtime is driven.
pub(super) fn time_to_end_use(config: &PoolConfig) -> Duration {
    longest_wait(config.connect_timeout) / 2
}

/// How long a caller waits for a connection that cannot be closed. Less than its connect timeout, so that it gets its
/// error within that: checks are up to 50 ms apart.
fn longest_wait(connect_timeout: Duration) -> Duration {
    connect_timeout.min(LONGEST) / 4 * 3
}

impl<C: Poolable> KeyState<C> {
    /// Fails callers that are blocked by a connection that cannot be closed, and was told to close this long ago.
    /// `by_total`: the connection may be of another key, and the callers wait for the total limit.
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
        self.progress
            .update(self.queue.delivery_count() + granted, now);
        let progress = &self.progress;
        let why = |since: Instant, limit: Option<Duration>| {
            let time = longest_wait(limit.unwrap_or(cx.config.connect_timeout));
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
        assert_eq!(
            longest_wait(Duration::from_secs(1)),
            Duration::from_millis(750)
        );
        assert_eq!(longest_wait(Duration::MAX), Duration::from_secs(6));
    }
}
