//! Moments, and the clock that returns them.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// A point in time on two clocks.
///
/// The monotonic clock stops while a machine sleeps; the wall clock does not, but may be set back. A
/// [limit](crate::custom::Lifespan) is reached as soon as *either* clock has reached it, so setting the wall clock back has no
/// effect.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::custom::Moment;
///
/// let start = Moment::now();
/// let later = start.checked_add(Duration::from_secs(4)).unwrap();
/// assert!(!later.is_reached_at(start));
/// assert!(later.is_reached_at(later));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Moment {
    /// The monotonic clock; tokio's, so that it can be paused in tests.
    pub mono: Instant,
    /// The wall clock.
    pub wall: SystemTime,
}

impl Moment {
    /// Combines the times of both clocks, for a [`Clock`] in tests.
    #[must_use]
    pub const fn new(mono: Instant, wall: SystemTime) -> Self {
        Self { mono, wall }
    }

    /// The present time of both clocks.
    #[must_use]
    #[inline]
    pub fn now() -> Self {
        Self {
            mono: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The moment `by` later, or `None` if a clock cannot represent it: no limit.
    #[must_use]
    #[inline]
    pub fn checked_add(self, by: Duration) -> Option<Self> {
        Some(Self {
            mono: self.mono.checked_add(by)?,
            wall: self.wall.checked_add(by)?,
        })
    }

    /// The moment `by` before, or this one if a clock cannot represent it.
    pub(crate) fn earlier(self, by: Duration) -> Self {
        Self {
            mono: self.mono.checked_sub(by).unwrap_or(self.mono),
            wall: self.wall.checked_sub(by).unwrap_or(self.wall),
        }
    }

    /// Whether either clock has reached this moment at `now`.
    #[must_use]
    #[inline]
    pub fn is_reached_at(self, now: Self) -> bool {
        now.mono >= self.mono || now.wall >= self.wall
    }

    /// How long ago `earlier` was: the longer time of the two clocks, and never negative.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        let mono = self.mono.saturating_duration_since(earlier.mono);
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        mono.max(wall)
    }
}

/// A length of time in half the size of a [`Duration`]: in nanoseconds, up to 584 years. Anything longer is
/// [`Nanos::NONE`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Nanos(u64);

impl Nanos {
    pub(crate) const NONE: Self = Self(u64::MAX);
    pub(crate) const ZERO: Self = Self(0);

    /// The moment when it is over, or `None` if it is [`Nanos::NONE`], or if a clock cannot represent the moment.
    #[inline]
    pub(crate) fn after(self, start: Moment) -> Option<Moment> {
        if self == Self::NONE {
            return None;
        }
        start.checked_add(self.time())
    }

    #[inline]
    pub(crate) const fn from_duration(time: Duration) -> Self {
        let whole = time.as_secs().saturating_mul(1_000_000_000);
        Self(whole.saturating_add(time.subsec_nanos() as u64))
    }

    #[inline]
    pub(crate) const fn time(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// [`Nanos::NONE`] stays as it is.
    #[inline]
    pub(crate) const fn saturating_sub(self, less: Self) -> Self {
        match self {
            Self::NONE => Self::NONE,
            Self(nanos) => Self(nanos.saturating_sub(less.0)),
        }
    }
}

/// A length of time in a quarter of the size of a [`Duration`], for data that is copied with each request: whole
/// milliseconds, rounded up. 49 days or more means no limit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Millis(u32);

impl Millis {
    pub(crate) const ZERO: Self = Self(0);
    pub(crate) const NONE: Self = Self(u32::MAX);

    pub(crate) const fn from_duration(time: Duration) -> Self {
        let millis = time.as_nanos().div_ceil(1_000_000);
        match millis < u32::MAX as u128 {
            true => Self(millis as u32),
            false => Self::NONE,
        }
    }

    pub(crate) const fn time(self) -> Duration {
        match self.0 {
            u32::MAX => Duration::MAX,
            millis => Duration::from_millis(millis as u64),
        }
    }

    pub(crate) const fn nanos(self) -> Nanos {
        Nanos::from_duration(self.time())
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.time().fmt(f)
    }
}

impl From<Duration> for Nanos {
    #[inline]
    fn from(time: Duration) -> Self {
        Self::from_duration(time)
    }
}

impl fmt::Debug for Nanos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("none"),
            limit => limit.time().fmt(f),
        }
    }
}

/// Where a pool gets the present time from: [`Moment::now`], or a function in tests.
///
/// ```
/// use tower_keep_alive::custom::{Clock, Moment};
///
/// let noon = Moment::now();
/// let stopped = Clock::new(move || noon);
/// assert_eq!(stopped.now(), noon);
/// ```
#[derive(Clone, Default)]
pub struct Clock(Option<Arc<dyn Fn() -> Moment + Send + Sync>>);

impl Clock {
    /// A clock that calls `now`.
    pub fn new(now: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(now)))
    }

    /// The present time.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Moment {
        match &self.0 {
            Some(now) => now(),
            None => Moment::now(),
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Clock(replaced)"
        } else {
            "Clock"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_clock_ends_a_limit() {
        let start = Moment::now();
        let end = start.checked_add(Duration::from_secs(10)).unwrap();
        let suspended = Moment {
            mono: start.mono,
            wall: start.wall + Duration::from_secs(11),
        };
        let set_back = Moment {
            mono: start.mono + Duration::from_secs(9),
            wall: start.wall - Duration::from_secs(3600),
        };
        assert!(end.is_reached_at(suspended));
        assert!(!end.is_reached_at(set_back));
        assert_eq!(set_back.since(start), Duration::from_secs(9));
        assert_eq!(suspended.since(start), Duration::from_secs(11));
    }

    #[test]
    fn milliseconds_are_rounded_up_and_none_stays_none() {
        for (time, millis) in [
            (Duration::ZERO, Duration::ZERO),
            (Duration::from_nanos(1), Duration::from_millis(1)),
            (Duration::from_secs(7), Duration::from_secs(7)),
            (Duration::MAX, Duration::MAX),
        ] {
            assert_eq!(Millis::from_duration(time).time(), millis);
        }
        assert_eq!(Millis::from_duration(Duration::MAX).nanos(), Nanos::NONE);
    }

    #[test]
    fn a_limit_is_kept_to_the_nanosecond() {
        let start = Moment::now();
        for time in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::new(4, 999_999_999),
            Duration::from_secs(18_000_000_000),
        ] {
            assert_eq!(Nanos::from(time).after(start), start.checked_add(time));
        }
        for none in [
            Duration::MAX,
            Duration::from_secs(19_000_000_000),
            Duration::from_nanos(u64::MAX),
        ] {
            assert_eq!(Nanos::from(none), Nanos::NONE);
            assert_eq!(Nanos::from(none).after(start), None);
        }
    }

    #[test]
    fn no_clock_counts_to_the_end_of_time() {
        assert_eq!(Moment::now().checked_add(Duration::MAX), None);
    }
}
