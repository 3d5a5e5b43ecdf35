//! What the connection awaits from the server: whether it accepts a request's body, and the whole head of its response.

use std::sync::atomic::{AtomicU8, Ordering};

/// The state of `Expect: 100-continue` (RFC 9110 §10.1.1) in the latest request of a connection, and, for an exchange
/// that limits the wait for the head of its response, whether the head has arrived.
#[derive(Debug, Default)]
pub(crate) struct Expectation(AtomicU8);

/// The server has not answered yet.
const WAITS: u8 = 1;
/// The server accepts the body.
const MET: u8 = 2;
/// The server has answered without reading the body.
const UNMET: u8 = 4;
/// The arrival of the response's head has to be detected.
const WANTS_HEAD: u8 = 8;
/// The head has arrived.
const HAS_HEAD: u8 = 16;

impl Expectation {
    pub(crate) fn begin(&self) {
        self.0.store(WAITS, Ordering::Release);
    }

    /// Whether the bytes that the server sends before the end of the response's head have to be examined.
    #[inline]
    pub(crate) fn watches(&self) -> bool {
        self.0.load(Ordering::Acquire) & (WAITS | WANTS_HEAD) != 0
    }

    /// Whether the server has still to answer.
    #[inline]
    pub(crate) fn waits(&self) -> bool {
        self.0.load(Ordering::Acquire) & WAITS != 0
    }

    /// The server accepts the body, or rejects it. Ignored when nobody waits any more.
    pub(crate) fn settle(&self, wants_body: bool) {
        let settled = if wants_body { MET } else { UNMET };
        if self.waits() {
            self.0.fetch_xor(WAITS | settled, Ordering::AcqRel);
        }
    }

    /// Whether the server accepts the body; `None` if it has not answered.
    pub(crate) fn wants_body(&self) -> Option<bool> {
        match self.0.load(Ordering::Acquire) & (MET | UNMET) {
            MET => Some(true),
            UNMET => Some(false),
            _ => None,
        }
    }

    /// Begins to wait for the head of the next response. Called before its request is sent.
    pub(crate) fn want_head(&self) {
        self.0.fetch_and(!HAS_HEAD, Ordering::AcqRel);
        self.0.fetch_or(WANTS_HEAD, Ordering::AcqRel);
    }

    pub(crate) fn wants_head(&self) -> bool {
        self.0.load(Ordering::Acquire) & WANTS_HEAD != 0
    }

    /// The whole head was read.
    pub(crate) fn head_is_here(&self) {
        self.0.fetch_or(HAS_HEAD, Ordering::AcqRel);
        self.0.fetch_and(!WANTS_HEAD, Ordering::AcqRel);
    }

    pub(crate) fn has_head(&self) -> bool {
        self.0.load(Ordering::Acquire) & HAS_HEAD != 0
    }
}
