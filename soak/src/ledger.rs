//! What happened.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::temper::Temper;

/// So many faults are kept with their words.
const KEPT: usize = 20;

/// What no run may have; one of them fails the soak.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// An answer, or a part of it, that is not the request's own.
    Mismatch,
    /// A request that nothing excuses failed.
    Failed,
    /// No answer and no error.
    Hang,
    /// A request was executed twice that may not be.
    Twice,
    /// The server was sent what is no request, or not the upload.
    Desync,
    /// A connection was used that should have been given up.
    Misused,
    /// More transports than the limits allow.
    TooMany,
    /// A place that nobody gets again.
    SlotLost,
    /// The counts do not agree, or something is left.
    Leak,
}

/// Counts since the start; bounded, however long it runs.
#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) requests: AtomicU64,
    /// Seen above the retry policy, and below it.
    pub(crate) calls: AtomicU64,
    pub(crate) tries: AtomicU64,
    pub(crate) whole: AtomicU64,
    /// Given up by the caller before the end.
    pub(crate) cancelled: AtomicU64,
    pub(crate) left: AtomicU64,
    /// Failed, and may.
    pub(crate) failed: AtomicU64,
    /// Refused by a limit of the line.
    pub(crate) refused: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) tls: AtomicU64,
    pub(crate) bytes: AtomicU64,
    pub(crate) stale: AtomicU64,
    pub(crate) reused: AtomicU64,
    /// Requests over HTTP/2, in rounds of their own.
    pub(crate) http2: AtomicU64,
    /// How often the addresses of a name changed, or lookups began to fail.
    pub(crate) dns_changes: AtomicU64,
    done: [AtomicU64; Temper::ALL.len() + 1],
    wrong: Mutex<(BTreeMap<Wrong, u64>, Vec<String>)>,
}

/// One more.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

pub(crate) fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// Locks even after a panic, which has its own report.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ledger {
    /// The server has done this.
    pub(crate) fn did(&self, temper: Temper) {
        count(&self.done[temper as usize]);
    }

    pub(crate) fn done(&self, temper: Temper) -> u64 {
        read(&self.done[temper as usize])
    }

    /// All that servers did wrong on purpose.
    pub(crate) fn injected(&self) -> u64 {
        let faults = Temper::ALL.into_iter().filter(|it| it.is_fault());
        faults.map(|it| self.done(it)).sum()
    }

    pub(crate) fn wrong(&self, what: Wrong, words: String) {
        let mut wrong = lock(&self.wrong);
        *wrong.0.entry(what).or_default() += 1;
        if wrong.1.len() < KEPT {
            eprintln!("{what:?}: {words}");
            wrong.1.push(words);
        }
    }

    pub(crate) fn how_often(&self, what: Wrong) -> u64 {
        lock(&self.wrong).0.get(&what).copied().unwrap_or(0)
    }

    pub(crate) fn is_clean(&self) -> bool {
        lock(&self.wrong).0.is_empty()
    }
}
