//! Counts the failures of one address.

use std::sync::Arc;

use crate::agent::{Ejection, EjectionReason};
use crate::sync::atomic::{AtomicU64, Ordering};

/// The exchanges of one address since it was readmitted, as far as they decide on its ejection.
#[derive(Debug, Default)]
pub(super) struct Tally {
    in_a_row: u32,
    /// Of the exchanges that count for the share.
    failed: u32,
    total: u32,
    /// Those since the last failure.
    successes: Arc<Successes>,
}

/// The successes of one address since its last failure. They change nothing before the next failure, so they are noted without a
/// lock.
#[derive(Debug, Default)]
pub(super) struct Successes(AtomicU64);

impl Successes {
    /// One more exchange has succeeded.
    #[inline]
    pub(super) fn add(&self, ejection: &Ejection) {
        if ejection.share.is_some() {
            self.0.fetch_add(1, Ordering::Relaxed);
        } else if self.0.load(Ordering::Relaxed) == 0 {
            // Without a share one is as good as many, and most callers find that there was one.
            self.0.store(1, Ordering::Relaxed);
        }
    }

    fn take(&self) -> u64 {
        self.0.swap(0, Ordering::Relaxed)
    }
}

impl Tally {
    /// Where successes are noted.
    pub(super) fn successes(&self) -> &Arc<Successes> {
        &self.successes
    }

    /// Forgets what was counted.
    pub(super) fn start_over(&mut self) {
        self.successes.take();
        (self.in_a_row, self.failed, self.total) = (0, 0, 0);
    }

    /// Returns the reason to eject the address, if there is one.
    pub(super) fn fails(&mut self, ejection: &Ejection) -> Option<EjectionReason> {
        self.count_successes(ejection);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let failures = self.in_a_row;
        if let Some(reason) = self.fails_of_share(ejection) {
            return Some(reason);
        }
        (failures >= ejection.consecutive).then_some(EjectionReason::Consecutive { failures })
    }

    fn count_successes(&mut self, ejection: &Ejection) {
        let successes = self.successes.take();
        if successes == 0 {
            return;
        }
        self.in_a_row = 0;
        if let Some(share) = ejection.share {
            let (total, of) = (u64::from(self.total) + successes, u64::from(share.of));
            if total >= of {
                self.failed = 0;
            }
            self.total = (total % of) as u32;
        }
    }

    /// Counts one more failure for the share.
    fn fails_of_share(&mut self, ejection: &Ejection) -> Option<EjectionReason> {
        let share = ejection.share?;
        self.failed += 1;
        self.total += 1;
        let (failures, of) = (self.failed, share.of);
        if self.total >= of {
            (self.failed, self.total) = (0, 0);
        }
        (failures >= share.failures).then_some(EjectionReason::FailureShare { failures, of })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_eject_and_a_success_between_them_starts_over() {
        let ejection = Ejection::new().consecutive(3);
        let mut tally = Tally::default();
        for fails in [true, true, false, true, true] {
            match fails {
                true => assert_eq!(tally.fails(&ejection), None),
                false => tally.successes().add(&ejection),
            }
        }
        let reason = EjectionReason::Consecutive { failures: 3 };
        assert_eq!(tally.fails(&ejection), Some(reason));
    }

    #[test]
    fn a_share_of_failures_ejects_as_soon_as_it_is_reached() {
        let ejection = Ejection::new().failure_share(0.5, 8);
        let mut tally = Tally::default();
        // Three of the first eight, and three of the next.
        for _ in 0..2 {
            for _ in 0..3 {
                assert_eq!(tally.fails(&ejection), None);
                tally.successes().add(&ejection);
            }
            tally.successes().add(&ejection);
            tally.successes().add(&ejection);
        }
        for _ in 0..3 {
            tally.successes().add(&ejection);
            assert_eq!(tally.fails(&ejection), None);
        }
        tally.successes().add(&ejection);
        let reason = EjectionReason::FailureShare { failures: 4, of: 8 };
        assert_eq!(tally.fails(&ejection), Some(reason));
    }

    #[test]
    fn successes_that_are_counted_late_fill_their_blocks() {
        let ejection = Ejection::new().failure_share(0.5, 8).consecutive(100);
        let mut tally = Tally::default();
        for _ in 0..3 {
            assert_eq!(tally.fails(&ejection), None);
        }
        // The rest of the block, two more, and seven of the next.
        for _ in 0..5 + 16 + 7 {
            tally.successes().add(&ejection);
        }
        assert_eq!(tally.fails(&ejection), None, "the last of its block");
        for _ in 0..3 {
            assert_eq!(tally.fails(&ejection), None);
        }
        let reason = EjectionReason::FailureShare { failures: 4, of: 8 };
        assert_eq!(tally.fails(&ejection), Some(reason));
        tally.start_over();
        assert_eq!(tally.fails(&ejection), None);
    }
}
