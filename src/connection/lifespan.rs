//! The limits of one connection, as data.

use std::any::Any;
use std::fmt;
use std::hash::BuildHasher;
use std::mem;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use foldhash::quality::RandomState;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::clock::{Moment, Nanos};
use crate::connection::close_reason::CloseReason;
use crate::connection::shared::{CloseHook, ConnShared, TransportGuard};

/// The limits of one connection, and what happens when it ends.
///
/// Every connection has a lifespan. Limits only ever *tighten*: whatever the order and the number of calls, the
/// shortest limit applies. The pool enforces the limits when it takes, returns or hands over a connection, and when a
/// deadline passes while the connection is idle. Only [`limit_inactivity`](Self::limit_inactivity)
/// interrupts an exchange; the connection's driver enforces it.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::{CloseReason, custom::{Lifespan, Moment}};
///
/// let mut lifespan = Lifespan::new();
/// lifespan.limit_idle(Duration::from_secs(15));
/// lifespan.limit_idle(Duration::from_secs(4));
/// lifespan.limit_idle(Duration::from_secs(90));
/// let deadline = lifespan.deadline(Moment::now()).unwrap();
/// assert_eq!(deadline.reason, CloseReason::Idle);
/// assert!(deadline.at.mono.elapsed() < Duration::from_secs(1));
/// ```
#[must_use]
pub struct Lifespan {
    max_age: Nanos,
    max_idle: Nanos,
    max_uses: u64,
    /// The idle time left by the last exchange's hint.
    hint_idle: Nanos,
    /// The uses left by the last exchange's hint.
    hint_uses: u32,
    /// If it came from the pool: from when to when it was idle before this checkout.
    idle: Option<(Instant, Instant)>,
    /// The age at which a timer closes the connection.
    hard_age: Nanos,
    shared: Arc<ConnShared>,
    /// Until a driver takes the transport's guard: from then on the transport ends with the driver, not with this
    /// lifespan.
    has_transport: bool,
    ended: bool,
    /// No exchange was begun in this use, which counts as unfinished.
    unused: bool,
}

// Every connection has one.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Lifespan>() <= 88);

/// What the server said about the connection in one exchange. The next exchange replaces it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerHint {
    /// The longest time that the server keeps it idle, less the safety margin.
    pub(crate) idle: Nanos,
    /// How many more exchanges the server accepts on it; `u32::MAX` is no limit.
    pub(crate) uses: u32,
}

impl ServerHint {
    pub(crate) const NONE: Self = Self {
        idle: Nanos::NONE,
        uses: u32::MAX,
    };
}

/// When an idle connection expires, and by which limit.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Deadline {
    /// The moment, on two clocks.
    pub at: Moment,
    /// The limit: [`CloseReason::Idle`] or [`CloseReason::Age`].
    pub reason: CloseReason,
}

impl Lifespan {
    /// A lifespan without limits.
    pub fn new() -> Self {
        Self::of(Arc::new(ConnShared::new()))
    }

    fn of(shared: Arc<ConnShared>) -> Self {
        Self {
            max_age: Nanos::NONE,
            max_idle: Nanos::NONE,
            max_uses: u64::MAX,
            hint_idle: Nanos::NONE,
            hint_uses: u32::MAX,
            idle: None,
            hard_age: Nanos::NONE,
            shared,
            has_transport: true,
            ended: false,
            unused: false,
        }
    }

    /// The lifespan of one more use of a shared connection, with the same limits. It does not own the connection's
    /// transport.
    ///
    /// ```
    /// use tower_keep_alive::custom::Lifespan;
    ///
    /// let mut connection = Lifespan::new();
    /// connection.limit_uses(100);
    /// let first = connection.another();
    /// assert!(!first.is_reused());
    /// ```
    pub fn another(&self) -> Self {
        let mut other = Self::of(self.shared.another());
        other.tighten_as(self);
        other.hard_age = self.hard_age;
        other
    }

    /// Adds the limits of `other`. Returns whether any of its own became shorter by that.
    #[inline]
    pub(crate) fn tighten_as(&mut self, other: &Self) -> bool {
        // Named one by one, so that a new limit cannot be forgotten here.
        let Self {
            max_age,
            max_idle,
            max_uses,
            // Hints belong to the other's last exchange.
            hint_idle: _,
            hint_uses: _,
            // State of the other, not a limit.
            idle: _,
            hard_age: _,
            shared: _,
            has_transport: _,
            ended: _,
            unused: _,
        } = other;
        let is_shorter =
            *max_age < self.max_age || *max_idle < self.max_idle || *max_uses < self.max_uses;
        if is_shorter {
            self.max_age = self.max_age.min(*max_age);
            self.max_idle = self.max_idle.min(*max_idle);
            self.max_uses = self.max_uses.min(*max_uses);
        }
        is_shorter
    }

    /// Limits the age, counted from the connect: the connection is not used again once it is `max` old. An exchange
    /// under way is not interrupted.
    pub fn limit_age(&mut self, max: Duration) {
        self.max_age = self.max_age.min(max.into());
    }

    /// Limits how long the connection may be idle.
    pub fn limit_idle(&mut self, max: Duration) {
        self.max_idle = self.max_idle.min(max.into());
    }

    /// Limits how many times the connection may be used.
    pub fn limit_uses(&mut self, max: u64) {
        self.max_uses = self.max_uses.min(max);
    }

    /// Limits how long the connection may be silent while it is in use. The connection's driver enforces it.
    pub fn limit_inactivity(&mut self, max: Duration) {
        self.shared.activity().tighten(max);
    }

    /// Replaces the limit, even by a longer one.
    pub(crate) fn set_age_limit(&mut self, max: Duration) {
        self.max_age = max.into();
    }

    /// Replaces the limit, even by a longer one.
    pub(crate) fn set_idle_limit(&mut self, max: Duration) {
        self.max_idle = max.into();
    }

    /// Replaces the limit, even by a larger one.
    pub(crate) fn set_uses_limit(&mut self, max: u64) {
        self.max_uses = max;
    }

    /// `max`, shortened by at most `part` of it; by how much differs for each connection.
    pub(crate) fn with_jitter(&self, max: Duration, part: f64) -> Duration {
        if max == Duration::MAX {
            return max;
        }
        let part = 1.0 - part * self.jitter_sample();
        // As a float, the longest durations round up beyond `Duration::MAX`.
        Duration::try_from_secs_f64(max.as_secs_f64() * part).map_or(max, |less| less.min(max))
    }

    /// Ties `guard` to the connection: it is dropped when the transport is gone.
    pub fn attach(&mut self, guard: impl Any + Send + Sync) {
        self.shared.attach(Box::new(guard));
    }

    /// Takes the guard that a driver task keeps beside the transport and drops after it. While nobody has taken it, the
    /// transport counts as gone when this lifespan is dropped. `None` if it was taken before.
    pub fn take_transport_guard(&mut self) -> Option<TransportGuard> {
        let has_transport = mem::take(&mut self.has_transport);
        has_transport.then(|| TransportGuard::new(self.shared.clone()))
    }

    /// Sets the task that owns the transport. It is aborted when the connection has to end in the middle of a use.
    pub fn set_driver(&mut self, driver: AbortHandle) {
        self.shared.set_driver(driver);
    }

    /// Runs `hook` when the transport is gone.
    pub fn on_close(&mut self, hook: CloseHook) {
        self.shared.on_close(hook);
    }

    /// Marks the connection as not to be used again, and why. It is closed when its present user returns it; a connection that
    /// several uses share gets no further uses, and is closed after the last one.
    pub fn end(&mut self, reason: CloseReason) {
        match self.shared.connection() {
            Some(connection) => connection.condemn(reason),
            None => self.end_use(reason),
        }
    }

    /// The same, where other uses of the same connection may go on and be followed by more.
    pub(crate) fn end_use(&mut self, reason: CloseReason) {
        self.ended = true;
        self.shared.set_close_reason(reason);
    }

    /// When the connection expires, if it has been idle since `idle_since`; `None` without a limit.
    #[must_use]
    #[inline(always)]
    pub fn deadline(&self, idle_since: Moment) -> Option<Deadline> {
        let max_idle = self.max_idle.min(self.hint_idle);
        let idle = max_idle.after(idle_since).map(|at| Deadline {
            at,
            reason: CloseReason::Idle,
        });
        let age = self.death().map(|at| Deadline {
            at,
            reason: CloseReason::Age,
        });
        match (idle, age) {
            (Some(idle), Some(age)) if age.at.mono < idle.at.mono => Some(age),
            (None, age) => age,
            (idle, _) => idle,
        }
    }

    /// Why the connection may not be used again: it has [ended](Self::end), or one of its limits is reached at `now`.
    /// `None` if it may be used.
    #[must_use]
    #[inline]
    pub fn close_reason(&self, now: Moment) -> Option<CloseReason> {
        self.close_reason_after(self.uses(), now)
    }

    /// The same, after `uses` uses.
    #[inline(always)]
    pub(crate) fn close_reason_after(&self, uses: u64, now: Moment) -> Option<CloseReason> {
        if self.ended {
            return Some(self.shared.reason().unwrap_or(CloseReason::Dropped));
        }
        if let Some(reason) = self.shared.excluded() {
            return Some(reason);
        }
        if uses >= self.max_uses || self.hint_uses == 0 {
            return Some(CloseReason::Uses);
        }
        if self.hint_idle.min(self.max_idle) == Nanos::ZERO {
            return Some(CloseReason::Idle);
        }
        self.death()?.is_reached_at(now).then_some(CloseReason::Age)
    }

    /// When it reaches its maximum age.
    #[inline]
    fn death(&self) -> Option<Moment> {
        match self.max_age {
            Nanos::NONE => None,
            max_age => self.death_at(max_age),
        }
    }

    // Not inlined, so that `death` is: by default connections have no maximum age.
    #[inline(never)]
    fn death_at(&self, max_age: Nanos) -> Option<Moment> {
        max_age.after(self.shared.born()?)
    }

    /// Whether the connection came from the pool, rather than being made for the present checkout.
    #[must_use]
    #[inline]
    pub fn is_reused(&self) -> bool {
        self.idle.is_some()
    }

    /// How many times the connection was checked out, including this time.
    #[must_use]
    #[inline]
    pub fn uses(&self) -> u64 {
        self.shared.activity().uses()
    }

    /// How long it was idle before this checkout.
    #[must_use]
    pub fn idle_for(&self) -> Duration {
        self.idle.map_or(Duration::ZERO, |(since, until)| {
            until.saturating_duration_since(since)
        })
    }

    #[inline]
    pub(crate) fn idle(&self) -> Option<(Instant, Instant)> {
        self.idle
    }

    /// A number from 0 up to 1 that differs from connection to connection and stays the same for each. It is a hash of
    /// the connection's number, because consecutive numbers have to give values far apart.
    pub(crate) fn jitter_sample(&self) -> f64 {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);
        let hash = HASHER.hash_one(self.shared.id());
        // A double holds exactly 53 bits.
        (hash >> 11) as f64 / (1u64 << 53) as f64
    }

    #[inline]
    pub(crate) fn shared(&self) -> &Arc<ConnShared> {
        &self.shared
    }

    /// The transport is usable from `now` on.
    pub(crate) fn begin(&self, now: Moment) {
        self.shared.begin(now);
    }

    /// `idle`: from when to when it was idle; `None` if it was made for this checkout.
    #[inline]
    pub(crate) fn check_out(&mut self, idle: Option<(Instant, Instant)>) {
        let before = if idle.is_some() { self.uses() } else { 0 };
        self.shared.activity().begin_use(before + 1);
        if self.is_unfinished() {
            self.unused = false;
            self.shared.set_unfinished(false);
        }
        self.idle = idle;
        if self.hint_uses != u32::MAX {
            self.hint_uses = self.hint_uses.saturating_sub(1);
        }
    }

    #[inline]
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Its caller has no exchange for it after all.
    #[cold]
    pub(crate) fn leave_unused(&mut self) {
        self.unused = true;
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.unused
    }

    pub(crate) fn leave_unfinished(&self) {
        self.shared.set_unfinished(true);
    }

    /// Whether the use has ended before its exchange; the connection itself decides whether it can still be reused.
    #[inline]
    pub(crate) fn is_unfinished(&self) -> bool {
        self.unused || self.shared.is_unfinished()
    }

    /// The time left until this age, if no timer of the same or a lower age was started before.
    pub(crate) fn limit_age_hard(&mut self, max: Duration, now: Moment) -> Option<Duration> {
        self.limit_age(max);
        if self.hard_age <= max.into() {
            return None;
        }
        self.hard_age = max.into();
        let age = self
            .shared
            .born()
            .map_or(Duration::ZERO, |born| now.since(born));
        Some(max.saturating_sub(age))
    }

    /// Whether the server has said, in its last response, for how long it may be idle.
    pub(crate) fn has_idle_hint(&self) -> bool {
        self.hint_idle != Nanos::NONE
    }

    #[inline]
    pub(crate) fn set_server_hint(&mut self, server_hint: ServerHint) {
        self.hint_idle = server_hint.idle;
        self.hint_uses = server_hint.uses;
    }
}

impl Default for Lifespan {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Lifespan {
    fn drop(&mut self) {
        self.shared.set_orphaned();
        drop(self.take_transport_guard());
    }
}

impl fmt::Debug for Lifespan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lifespan")
            .field("id", &self.shared.id())
            .field("max_age", &self.max_age)
            .field("max_idle", &self.max_idle)
            .field("max_uses", &self.max_uses)
            .field("uses", &self.uses())
            .field("reused", &self.is_reused())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn born(now: Moment) -> Lifespan {
        let lifespan = Lifespan::new();
        lifespan.begin(now);
        lifespan
    }

    #[test]
    fn the_shortest_limit_stands() {
        let now = Moment::now();
        let mut lifespan = born(now);
        assert!(lifespan.deadline(now).is_none());
        lifespan.limit_age(5 * SECOND);
        lifespan.limit_age(9 * SECOND);
        assert_eq!(lifespan.deadline(now).unwrap().reason, CloseReason::Age);
        lifespan.limit_idle(3 * SECOND);
        let deadline = lifespan.deadline(now).unwrap();
        assert_eq!(deadline.reason, CloseReason::Idle);
        assert_eq!(deadline.at, now.checked_add(3 * SECOND).unwrap());
        let later = now.checked_add(4 * SECOND).unwrap();
        assert_eq!(lifespan.deadline(later).unwrap().reason, CloseReason::Age);
    }

    #[test]
    fn a_word_only_shortens_and_is_replaced() {
        let now = Moment::now();
        let mut lifespan = born(now);
        lifespan.limit_idle(4 * SECOND);
        let at = |lifespan: &Lifespan| lifespan.deadline(now).unwrap().at;
        for (idle, expected) in [
            (2 * SECOND, 2 * SECOND),
            (60 * SECOND, 4 * SECOND),
            (Duration::MAX, 4 * SECOND),
        ] {
            lifespan.set_server_hint(ServerHint {
                idle: idle.into(),
                ..ServerHint::NONE
            });
            assert_eq!(at(&lifespan), now.checked_add(expected).unwrap());
            assert_eq!(lifespan.close_reason(now), None);
        }
        lifespan.set_server_hint(ServerHint {
            idle: Nanos::ZERO,
            ..ServerHint::NONE
        });
        assert_eq!(lifespan.close_reason(now), Some(CloseReason::Idle));
    }

    #[test]
    fn uses_run_out_by_either_limit() {
        let now = Moment::now();
        let mut lifespan = born(now);
        lifespan.limit_uses(2);
        lifespan.check_out(None);
        assert_eq!(lifespan.close_reason(now), None);
        lifespan.check_out(Some((now.mono, now.mono)));
        assert_eq!(lifespan.close_reason(now), Some(CloseReason::Uses));

        let mut lifespan = born(now);
        lifespan.set_server_hint(ServerHint {
            uses: 1,
            ..ServerHint::NONE
        });
        assert_eq!(lifespan.close_reason(now), None);
        lifespan.check_out(Some((now.mono, now.mono)));
        assert_eq!(lifespan.close_reason(now), Some(CloseReason::Uses));
        lifespan.set_server_hint(ServerHint::NONE);
        assert_eq!(lifespan.close_reason(now), None);
    }

    #[test]
    fn age_counts_from_the_connect() {
        let now = Moment::now();
        let mut lifespan = born(now);
        lifespan.limit_age(SECOND);
        assert_eq!(lifespan.close_reason(now), None);
        let later = now.checked_add(SECOND).unwrap();
        assert_eq!(lifespan.close_reason(later), Some(CloseReason::Age));
    }

    /// Connections that are made together do not end together.
    #[test]
    fn lots_of_neighbours_have_nothing_in_common() {
        let lots: Vec<_> = (0..64).map(|_| Lifespan::new().jitter_sample()).collect();
        let mut steps: Vec<_> = lots
            .windows(2)
            .map(|pair| ((pair[1] - pair[0] + 1.0) % 1.0 * 1_000.0) as u32)
            .collect();
        steps.sort_unstable();
        steps.dedup();
        assert!(steps.len() > 40, "{lots:?}");
    }

    #[test]
    fn the_time_idle_is_the_one_before_this_use() {
        let mut lifespan = Lifespan::new();
        assert_eq!(lifespan.idle_for(), Duration::ZERO);
        let now = Instant::now();
        lifespan.check_out(Some((now, now + 4 * SECOND)));
        assert_eq!(lifespan.idle_for(), 4 * SECOND);
        lifespan.check_out(Some((now + 4 * SECOND, now + 4 * SECOND)));
        assert_eq!(lifespan.idle_for(), Duration::ZERO);
    }

    #[test]
    fn of_two_limits_that_end_together_the_one_for_idleness_is_told() {
        let now = Moment::now();
        let mut lifespan = born(now);
        lifespan.limit_age(SECOND);
        lifespan.limit_idle(SECOND);
        assert_eq!(lifespan.deadline(now).unwrap().reason, CloseReason::Idle);
        lifespan.limit_age(SECOND / 2);
        assert_eq!(lifespan.deadline(now).unwrap().reason, CloseReason::Age);
    }
}
