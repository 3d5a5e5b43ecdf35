//! Measures how long streams are silent.

use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::connection::close_reason::CloseReason;
use crate::http2::shared::Http2Shared;
use crate::sync::atomic::{AtomicU32, Ordering};
use crate::sync::{Mutex, MutexGuard};

/// The streams that were in progress at the last step, by id, and whether any data of them has arrived since. Younger
/// streams are not included: they have begun since, and count as active. So most frames cost one comparison.
#[derive(Debug, Default)]
pub(super) struct Watched {
    youngest: AtomicU32,
    /// Ordered by id.
    streams: Mutex<Vec<(u32, bool)>>,
}

impl Watched {
    /// Data of this stream has arrived.
    #[inline]
    pub(super) fn moved(&self, id: u32) {
        if id <= self.youngest.load(Ordering::Relaxed) {
            self.note(id);
        }
    }

    #[cold]
    fn note(&self, id: u32) {
        let mut streams = self.streams();
        if let Ok(place) = streams.binary_search_by_key(&id, |it| it.0) {
            streams[place].1 = true;
        }
    }

    /// Returns the streams of which data has arrived since the last call, and watches `ids` from now on.
    fn watch(&self, mut ids: Vec<u32>) -> Vec<(u32, bool)> {
        ids.sort_unstable();
        self.youngest
            .store(ids.last().copied().unwrap_or(0), Ordering::Relaxed);
        let watched = ids.into_iter().map(|id| (id, false)).collect();
        std::mem::replace(&mut *self.streams(), watched)
    }

    fn streams(&self) -> MutexGuard<'_, Vec<(u32, bool)>> {
        // Nothing that can panic runs under this lock, so it is never poisoned.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// In how many steps the shortest limit is measured: a silence is detected at most one step late.
const STEPS: u32 = 8;

/// Measures the silence of all streams of a connection with one timer, which runs only while there are any.
#[derive(Debug, Default)]
pub(super) struct Silence {
    step: Duration,
    next: Option<Instant>,
}

impl Silence {
    /// When the next step is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// There are streams with a limit of `limit` milliseconds.
    pub(super) fn limit(&mut self, limit: u32, now: Instant) {
        let step = Duration::from_millis(limit.max(1).into()) / STEPS;
        self.step = step;
        let next = now.checked_add(step);
        self.next = match (self.next, next) {
            (Some(before), Some(next)) => Some(before.min(next)),
            (_, next) => next,
        };
    }

    /// Ends the streams that have been silent for too long.
    pub(super) fn step(&mut self, shared: &Http2Shared, now: Instant) {
        if !shared.has_streams() {
            self.next = None;
            shared.forget_limit();
            if !shared.has_streams() {
                shared.watched().watch(Vec::new());
                return;
            }
        }
        self.next = now.checked_add(self.step);
        // A stream without activity at this step has had none since the step before.
        let begun = now.checked_sub(self.step).unwrap_or(now);
        let made = shared.uses().made.clone();
        let busy = made.iter().filter_map(std::sync::Weak::upgrade);
        let busy: Vec<_> = busy
            .filter(|it| it.is_busy())
            .filter_map(|it| {
                // Before the stream: if its exchange ends meanwhile, the next one is not taken for it.
                let number = it.conn().activity().uses();
                Some((it.id()?, number, it))
            })
            .collect();
        let moved = shared
            .watched()
            .watch(busy.iter().map(|(id, ..)| *id).collect());
        for (id, number, stream) in busy {
            let place = moved.binary_search_by_key(&id, |it| it.0);
            // A stream that has begun since counts as active.
            let is_read = place.is_ok_and(|place| moved[place].1);
            let activity = stream.conn().activity();
            if stream.progress().take_moved() || is_read {
                activity.moved();
            }
            let Some(since) = stream.silent_since(activity.is_silent(), begun) else {
                continue;
            };
            let limit = activity.limit();
            if limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit) {
                stream.fail(number, CloseReason::Silence);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::connection::shared::ConnShared;

    #[test]
    fn only_streams_of_which_something_has_come_have_moved() {
        let watched = Watched::default();
        watched.moved(1);
        assert!(watched.watch(vec![7, 3, 5]).is_empty());
        for id in [3, 4, 7, 9] {
            watched.moved(id);
        }
        let moved = watched.watch(vec![5]);
        assert_eq!(moved, [(3, true), (5, false), (7, true)]);
        watched.moved(7);
        assert_eq!(watched.watch(Vec::new()), [(5, false)]);
    }

    #[test]
    fn nothing_is_measured_while_there_are_no_streams() {
        let shared = Http2Shared::new(Arc::new(ConnShared::new()), 100, 100, 0);
        let (mut silence, now) = (Silence::default(), Instant::now());
        silence.limit(8_000, now);
        let step = Duration::from_secs(1);
        assert_eq!(silence.next(), now.checked_add(step));
        silence.step(&shared, now + step);
        assert_eq!(silence.next(), None);
    }
}
