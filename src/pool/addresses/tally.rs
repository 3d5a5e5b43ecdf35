//! Counts the failures of one address.

use crate::agent::{Ejection, EjectionReason};

/// The exchanges of one address since it was readmitted, as far as they decide on its ejection.
#[derive(Debug, Default)]
pub(super) struct Tally {
    in_a_row: u32,
    /// Of the exchanges that count for the share.
    failed: u32,
    total: u32,
}

impl Tally {
    pub(super) fn succeeds(&mut self, ejection: &Ejection) {
        self.in_a_row = 0;
        self.counts(ejection, 0);
    }

    /// Returns the reason to eject the address, if there is one.
    pub(super) fn fails(&mut self, ejection: &Ejection) -> Option<EjectionReason> {
        self.in_a_row = self.in_a_row.saturating_add(1);
        let failures = self.in_a_row;
        if let Some(reason) = self.counts(ejection, 1) {
            return Some(reason);
        }
        (failures >= ejection.consecutive).then_some(EjectionReason::Consecutive { failures })
    }

    /// Counts one more exchange for the share.
    fn counts(&mut self, ejection: &Ejection, failed: u32) -> Option<EjectionReason> {
        let share = ejection.share?;
        self.failed += failed;
        self.total += 1;
        let (failures, of) = (self.failed, share.of);
        if self.total >= of {
            (self.failed, self.total) = (0, 0);
        }
        let is_reached = failed > 0 && failures >= share.failures;
        is_reached.then_some(EjectionReason::FailureShare { failures, of })
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
                false => tally.succeeds(&ejection),
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
                tally.succeeds(&ejection);
            }
            tally.succeeds(&ejection);
            tally.succeeds(&ejection);
        }
        for _ in 0..3 {
            tally.succeeds(&ejection);
            assert_eq!(tally.fails(&ejection), None);
        }
        tally.succeeds(&ejection);
        let reason = EjectionReason::FailureShare { failures: 4, of: 8 };
        assert_eq!(tally.fails(&ejection), Some(reason));
    }
}
