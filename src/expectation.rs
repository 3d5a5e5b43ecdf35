//! Whether a server is still to say that it wants the body of a request.

use std::sync::atomic::{AtomicU8, Ordering};

/// What has become of `Expect: 100-continue` (RFC 9110 §10.1.1) in the latest request of a connection.
#[derive(Debug, Default)]
pub(crate) struct Expectation(AtomicU8);

/// The server has said nothing yet.
const WAITS: u8 = 1;
/// It wants the body.
const MET: u8 = 2;
/// It has answered without the body.
const UNMET: u8 = 3;

impl Expectation {
    pub(crate) fn begin(&self) {
        self.0.store(WAITS, Ordering::Release);
    }

    /// Whether the server is still to say something.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.0.load(Ordering::Acquire) == WAITS
    }

    /// The server says that it wants the body, or that it does not.
    pub(crate) fn settle(&self, wants_body: bool) {
        let settled = if wants_body { MET } else { UNMET };
        // What comes after the wait changes nothing.
        let _ = self
            .0
            .compare_exchange(WAITS, settled, Ordering::AcqRel, Ordering::Acquire);
    }

    /// What the server has said, if anything.
    pub(crate) fn wants_body(&self) -> Option<bool> {
        match self.0.load(Ordering::Acquire) {
            MET => Some(true),
            UNMET => Some(false),
            _ => None,
        }
    }
}
