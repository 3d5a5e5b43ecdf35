//! What is awaited of the server: that it says whether it wants the body of a request, and the whole head of its response.

use std::sync::atomic::{AtomicU8, Ordering};

/// What has become of `Expect: 100-continue` (RFC 9110 §10.1.1) in the latest request of a connection, and whether the head
/// of the response is here, for an exchange that limits the wait for it.
#[derive(Debug, Default)]
pub(crate) struct Expectation(AtomicU8);

/// The server has said nothing yet.
const WAITS: u8 = 1;
/// It wants the body.
const MET: u8 = 2;
/// It has answered without the body.
const UNMET: u8 = 4;
/// Somebody has to know when the head of the response is here.
const WANTS_HEAD: u8 = 8;
/// It is.
const HAS_HEAD: u8 = 16;

impl Expectation {
    pub(crate) fn begin(&self) {
        self.0.store(WAITS, Ordering::Release);
    }

    /// Whether anything of what the server sends before its response has come to its end is to be looked at.
    #[inline]
    pub(crate) fn watches(&self) -> bool {
        self.0.load(Ordering::Acquire) & (WAITS | WANTS_HEAD) != 0
    }

    /// Whether the server is still to say something.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.0.load(Ordering::Acquire) & WAITS != 0
    }

    /// The server says that it wants the body, or that it does not. What comes after the wait changes nothing.
    pub(crate) fn settle(&self, wants_body: bool) {
        let settled = if wants_body { MET } else { UNMET };
        if self.waits() {
            self.0.fetch_xor(WAITS | settled, Ordering::AcqRel);
        }
    }

    /// What the server has said, if anything.
    pub(crate) fn wants_body(&self) -> Option<bool> {
        match self.0.load(Ordering::Acquire) & (MET | UNMET) {
            MET => Some(true),
            UNMET => Some(false),
            _ => None,
        }
    }

    /// The head of the next response is awaited. Said before its request is sent.
    pub(crate) fn want_head(&self) {
        self.0.fetch_and(!HAS_HEAD, Ordering::AcqRel);
        self.0.fetch_or(WANTS_HEAD, Ordering::AcqRel);
    }

    pub(crate) fn wants_head(&self) -> bool {
        self.0.load(Ordering::Acquire) & WANTS_HEAD != 0
    }

    /// All of the head has been read.
    pub(crate) fn head_is_here(&self) {
        self.0.fetch_or(HAS_HEAD, Ordering::AcqRel);
        self.0.fetch_and(!WANTS_HEAD, Ordering::AcqRel);
    }

    pub(crate) fn has_head(&self) -> bool {
        self.0.load(Ordering::Acquire) & HAS_HEAD != 0
    }
}
