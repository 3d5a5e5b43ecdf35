//! Closes idle connections when they expire.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::pool::shared::Shared;

/// One timer for the whole pool, set to the earliest deadline. Returning a connection costs one comparison, unless its
/// deadline is the earliest.
pub(super) struct Sweeper {
    signal: Arc<Signal>,
}

struct Signal {
    epoch: Instant,
    /// When to sweep next, in nanoseconds since `epoch`.
    next: AtomicU64,
    /// A sweeping task exists.
    is_running: AtomicBool,
    stopped: AtomicBool,
    sooner: Notify,
}

const NEVER: u64 = u64::MAX;

impl Sweeper {
    pub(super) fn new() -> Self {
        Self {
            signal: Arc::new(Signal {
                epoch: Instant::now(),
                next: AtomicU64::new(NEVER),
                is_running: AtomicBool::new(false),
                stopped: AtomicBool::new(false),
                sooner: Notify::new(),
            }),
        }
    }

    /// Has `pool` swept at `at` or earlier.
    pub(super) fn arm<C: Poolable>(&self, at: Moment, pool: &Weak<Shared<C>>) {
        let signal = &self.signal;
        let at = signal.since_epoch(at);
        if signal.next.load(Ordering::Relaxed) <= at && signal.is_running.load(Ordering::Relaxed) {
            return;
        }
        if signal.next.fetch_min(at, Ordering::SeqCst) > at {
            signal.sooner.notify_one();
        }
        if !signal.is_running.swap(true, Ordering::SeqCst) {
            match Handle::try_current() {
                Ok(runtime) => {
                    let guard = RunningGuard(signal.clone());
                    runtime.spawn(sweep(guard, pool.clone()));
                }
                // Returned outside of a runtime: the next put inside of a runtime starts the task.
                Err(_) => signal.is_running.store(false, Ordering::SeqCst),
            }
        }
    }

    pub(super) fn stop(&self) {
        self.signal.stopped.store(true, Ordering::SeqCst);
        self.signal.sooner.notify_one();
    }
}

impl Signal {
    fn since_epoch(&self, at: Moment) -> u64 {
        let since = at.mono.saturating_duration_since(self.epoch);
        u64::try_from(since.as_nanos()).unwrap_or(NEVER)
    }
}

/// Lives as long as the task. If the task's runtime is dropped, the next put starts another task.
struct RunningGuard(Arc<Signal>);

impl Drop for RunningGuard {
    fn drop(&mut self) {
        self.0.is_running.store(false, Ordering::SeqCst);
    }
}

/// Ends when the pool's last owner is gone. It has no timer while nothing is idle, and does not keep the pool alive
/// while it waits.
async fn sweep<C: Poolable>(guard: RunningGuard, pool: Weak<Shared<C>>) {
    let signal = &guard.0;
    // Sweeps that follow one another closely are combined, so that sweeping many connections never takes more than a
    // twentieth of a core.
    let mut rest = Duration::ZERO;
    while !signal.stopped.load(Ordering::SeqCst) {
        let next = signal.next.load(Ordering::SeqCst);
        let due = signal
            .epoch
            .checked_add(Duration::from_nanos(next))
            .filter(|_| next != NEVER);
        let Some(due) = due else {
            signal.sooner.notified().await;
            continue;
        };
        let due = due.max(Instant::now() + rest);
        if tokio::time::timeout_at(due, signal.sooner.notified())
            .await
            .is_ok()
        {
            continue;
        }
        let Some(pool) = pool.upgrade() else { return };
        // Deadlines that are set from here on are combined in `next` with what the sweep returns.
        signal.next.store(NEVER, Ordering::SeqCst);
        let (earliest, looked_at) = pool.sweep();
        if let Some(earliest) = earliest {
            signal
                .next
                .fetch_min(signal.since_epoch(earliest), Ordering::SeqCst);
        }
        // About 20 ns for each connection. At least 1 ms, so that a replaced clock that lags does not cause a busy
        // loop.
        rest = Duration::from_millis(1).max(Duration::from_nanos(400 * looked_at as u64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connection::close_reason::CloseReason;
    use crate::pool::tests::{at_rest, made};
    use crate::pool::{Pool, PoolConfig};

    /// Far above what the wall clock, which is not paused, moves in a test.
    const STEP: Duration = Duration::from_secs(10);

    const HOSTS: [&str; 6] = [
        "http://a/",
        "http://b/",
        "http://c/",
        "http://d/",
        "http://e/",
        "http://f/",
    ];

    /// Connections to these hosts, given back in this order, each of which may be idle for so many steps.
    async fn each_closes_in_its_time(idle: &[(&'static str, u32)]) {
        let pool = Pool::new(PoolConfig::new());
        let conns: Vec<_> = idle.iter().map(|&(host, _)| made(&pool, host)).collect();
        for (mut conn, &(_, steps)) in conns.into_iter().zip(idle) {
            conn.connection().lifespan_mut().limit_idle(STEP * steps);
            conn.give_back();
        }
        tokio::time::sleep(STEP / 2).await;
        let last = idle.iter().map(|&(_, steps)| steps).max().unwrap();
        for step in 1..=last {
            tokio::time::sleep(STEP).await;
            let expected = idle.iter().filter(|&&(_, steps)| steps > step).count();
            let open = pool.handle().status().open();
            assert_eq!(open, expected, "after {step} steps: {idle:?}");
        }
        assert_eq!(
            pool.handle().status().closes[&CloseReason::Idle],
            idle.len() as u64
        );
        at_rest(pool);
    }

    #[tokio::test(start_paused = true)]
    async fn each_idle_connection_of_a_host_closes_in_its_time() {
        for order in [
            [1, 2, 3],
            [1, 3, 2],
            [2, 1, 3],
            [2, 3, 1],
            [3, 1, 2],
            [3, 2, 1],
        ] {
            each_closes_in_its_time(&order.map(|steps| (HOSTS[0], steps))).await;
        }
    }

    /// The order in which hosts are looked at is the table's, and another in every run.
    #[tokio::test(start_paused = true)]
    async fn each_idle_connection_of_many_hosts_closes_in_its_time() {
        for first in 0..HOSTS.len() {
            let turn = |(index, host): (usize, &&'static str)| {
                (*host, ((index + first) % HOSTS.len()) as u32 + 1)
            };
            let idle: Vec<_> = HOSTS.iter().enumerate().map(turn).collect();
            each_closes_in_its_time(&idle).await;
        }
    }
}
