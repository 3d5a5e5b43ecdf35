//! What a server has counted.

use super::head::Head;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(super) struct Tally {
    pub(super) accepted: usize,
    pub(super) open: usize,
    pub(super) max_open: usize,
    pub(super) heads: Vec<Head>,
}

/// One open connection: counted until it is dropped.
pub(super) struct Open(Arc<Mutex<Tally>>);

impl Open {
    /// Counts a connection as accepted and open, and gives its index.
    pub(super) fn new(shared: &Arc<Mutex<Tally>>) -> (usize, Self) {
        let mut tally = lock(shared);
        let index = tally.accepted;
        tally.accepted += 1;
        tally.open += 1;
        tally.max_open = tally.max_open.max(tally.open);
        (index, Self(shared.clone()))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        lock(&self.0).open -= 1;
    }
}

/// Locks even after a panic: the test that panicked has to report its own reason, not ours.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
