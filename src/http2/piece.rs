//! A request's body in the hands of `h2`.

use std::sync::Arc;

use bytes::{Buf, Bytes};

use crate::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// How far `h2` has written the bodies of one use: it queues up to 400 KiB of a stream, and does not report when they
/// are written. `h2` calls the pieces under its lock, so only atomics are changed here.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// How many pieces `h2` has not written completely.
    pieces: AtomicU32,
    has_moved: AtomicBool,
}

impl Progress {
    /// Whether `h2` has written all pieces, or dropped them: those of a stream that was cut off stay in its buffer for a while.
    pub(super) fn is_over(&self) -> bool {
        self.pieces.load(Ordering::Acquire) == 0
    }

    /// Whether anything was written since the last call.
    pub(super) fn take_moved(&self) -> bool {
        self.has_moved.swap(false, Ordering::Relaxed)
    }
}

/// A piece of a body. `h2` drops it when it is written.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    progress: Arc<Progress>,
}

impl Piece {
    pub(super) fn new(bytes: Bytes, progress: &Arc<Progress>) -> Self {
        progress.pieces.fetch_add(1, Ordering::Relaxed);
        Self {
            bytes,
            progress: progress.clone(),
        }
    }
}

impl Buf for Piece {
    #[inline]
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.progress.has_moved.store(true, Ordering::Relaxed);
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.progress.pieces.fetch_sub(1, Ordering::Release);
    }
}
