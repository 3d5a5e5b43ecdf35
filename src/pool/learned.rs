//! Learns after how long a server closes idle connections, from those that it has closed. Plain data.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How many closes have to agree.
const ENOUGH: usize = 3;
/// How many closes are considered.
const LATEST: usize = 16;
/// How long a close is considered.
const AGE: Duration = Duration::from_secs(600);
/// Closes within this time have one cause, for example that the server ends: they count as one.
const TOGETHER: Duration = Duration::from_millis(100);
/// A connection that is closed within this time after its last use was not closed for being idle.
const AT_ONCE: Duration = Duration::from_millis(100);

/// What is known about one key.
#[derive(Debug, Default)]
pub(super) struct LearnedIdle {
    /// When each close was seen, and how long the connection had been idle.
    seen: VecDeque<(Instant, Duration)>,
    /// The number of closes since there was a long time without any.
    closes: u64,
    latest: Option<Instant>,
    limit: Option<Duration>,
    /// The limit before it was forgotten: one close that agrees restores it.
    before: Option<Duration>,
}

impl LearnedIdle {
    /// The server has closed a connection that had been idle for `idle`. Returns the limit if it has changed.
    pub(super) fn closed(&mut self, idle: Duration, now: Instant) -> Option<Duration> {
        if idle < AT_ONCE {
            return None;
        }
        self.forget_old(now);
        let is_together = |latest: Instant| now.saturating_duration_since(latest) < TOGETHER;
        self.closes += 1;
        if self.latest.replace(now).is_some_and(is_together) {
            return None;
        }
        if self.seen.len() == LATEST {
            self.seen.pop_front();
        }
        self.seen.push_back((now, idle));
        let again = self
            .before
            .filter(|before| agree(*before, less_margin(idle)));
        let limit = match again {
            Some(before) => before.min(less_margin(idle)),
            None => less_margin(self.agreed()?),
        };
        if self.limit.is_some_and(|known| known <= limit) {
            return None;
        }
        self.limit = Some(limit);
        self.before = None;
        Some(limit)
    }

    /// How long a connection may be idle, if that is known.
    pub(super) fn limit(&mut self, now: Instant) -> Option<Duration> {
        self.forget_old(now);
        self.limit
    }

    /// The number of closes from which the limit was learned.
    pub(super) fn closes(&self) -> u64 {
        self.closes
    }

    /// Whether nothing of it is valid any more.
    pub(super) fn is_old(&self, now: Instant) -> bool {
        self.is_older_than(AGE * 6, now)
    }

    fn is_older_than(&self, age: Duration, now: Instant) -> bool {
        let since = |latest| now.saturating_duration_since(latest);
        self.latest.is_none_or(|latest| since(latest) >= age)
    }

    fn forget_old(&mut self, now: Instant) {
        if self.is_old(now) {
            *self = Self::default();
        } else if self.is_older_than(AGE, now) {
            self.before = self.limit.take().or(self.before);
            self.closes = 0;
        }
        while let Some((at, _)) = self.seen.front()
            && now.saturating_duration_since(*at) >= AGE
        {
            self.seen.pop_front();
        }
    }

    /// The shortest time with which enough others agree, at least half of all.
    fn agreed(&self) -> Option<Duration> {
        let mut times: Vec<_> = self.seen.iter().map(|(_, idle)| *idle).collect();
        times.sort_unstable();
        let enough = ENOUGH.max(times.len().div_ceil(2));
        let agrees = |group: &&[Duration]| group.last().is_some_and(|last| agree(group[0], *last));
        times.windows(enough).find(agrees).map(|group| group[0])
    }
}

/// Whether two times are equal apart from the differences of timers and network paths.
fn agree(shorter: Duration, longer: Duration) -> bool {
    longer <= shorter + shorter / 10 + Duration::from_millis(50)
}

/// Subtracts a tenth, at most half a second, so that a request that is sent then arrives in time.
fn less_margin(shortest: Duration) -> Duration {
    shortest - (shortest / 10).min(Duration::from_millis(500))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// After closes a second apart, after these times of idleness in milliseconds.
    fn after(times: &[u64]) -> (LearnedIdle, Instant) {
        let mut learned = LearnedIdle::default();
        let mut now = Instant::now();
        for &time in times {
            now += SECOND;
            learned.closed(millis(time), now);
        }
        (learned, now)
    }

    #[test]
    fn it_takes_three_closes_that_agree() {
        for (times, expected) in [
            (&[3000, 3000][..], None),
            (&[3010, 3000, 3040], Some(2700)),
            (&[5100, 5000, 5050, 5200], Some(4500)),
            (&[20_000, 20_100, 20_200], Some(19_500)),
            // A server that restarts now and then.
            (&[700, 3900, 1500], None),
            (&[100, 3000, 700, 3010, 3005], Some(2700)),
            (&[100, 3000, 700, 1000, 2000, 3010, 3005], None),
            // Closed with the end of its use.
            (&[1, 1, 1, 99], None),
        ] {
            let (mut learned, now) = after(times);
            assert_eq!(learned.limit(now), expected.map(millis), "{times:?}");
        }
    }

    #[test]
    fn it_only_shortens() {
        let (mut learned, mut now) = after(&[3000, 3000, 3000]);
        for time in [2800, 2800, 2800, 9000, 9000, 9000, 9000] {
            now += SECOND;
            learned.closed(millis(time), now);
        }
        assert_eq!(learned.limit(now), Some(millis(2520)));
        assert_eq!(learned.closes(), 10);
    }

    #[test]
    fn those_that_come_together_are_one() {
        let mut learned = LearnedIdle::default();
        let now = Instant::now();
        for _ in 0..100 {
            assert_eq!(learned.closed(3 * SECOND, now), None);
        }
        assert_eq!(learned.limit(now), None);
        let mut limits = [1, 2].map(|later| learned.closed(3 * SECOND, now + later * SECOND));
        assert_eq!(limits, [None, Some(millis(2700))]);
        limits = [3, 4].map(|later| learned.closed(3 * SECOND, now + later * SECOND));
        assert_eq!(limits, [None, None], "it is no news");
    }

    #[test]
    fn it_is_forgotten_after_ten_minutes_without_a_close() {
        let (mut learned, mut now) = after(&[3000, 3000, 3000]);
        now += AGE - SECOND;
        assert!(learned.limit(now).is_some() && !learned.is_old(now));
        now += SECOND;
        assert_eq!(learned.limit(now), None);
        assert_eq!(learned.closes(), 0);
        // A close that agrees with the former limit restores it; another one does not.
        learned.closed(millis(9000), now);
        assert_eq!(learned.limit(now), None);
        now += SECOND;
        assert_eq!(learned.closed(millis(3010), now), Some(millis(2700)));
        assert!(!learned.is_old(now + AGE) && learned.is_old(now + AGE * 6));
        assert_eq!(learned.limit(now + AGE * 6), None);
        assert_eq!(learned.closed(millis(3010), now + AGE * 6), None);
    }
}
