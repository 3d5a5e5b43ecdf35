//! The locks and atomics on which decisions of several tasks depend: std's or, for `pool::interleavings` and
//! `http2::interleavings`, those of the model checker, which tries every order in which they can be used.
//!
//! `Arc` and `Weak` are std's in both cases, because methods take `Arc<Self>`; no decision depends on a reference
//! count.

#[cfg(all(test, tower_keep_alive_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, atomic};
#[cfg(not(all(test, tower_keep_alive_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, atomic};

/// Tries every order of a model with at most `preemptions` preemptions, and prints how many there were.
#[cfg(all(test, tower_keep_alive_loom))]
pub(crate) fn explore(name: &str, preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    use std::sync::Arc;
    // std's, because counting is no step of the model.
    use std::sync::atomic::{AtomicUsize, Ordering};
    let executions = Arc::new(AtomicUsize::new(0));
    let counted = executions.clone();
    let mut checker = loom::model::Builder::new();
    // `LOOM_MAX_PREEMPTIONS` overrides it.
    let preemptions = *checker.preemption_bound.get_or_insert(preemptions);
    checker.max_branches = 10_000;
    checker.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    let executions = executions.load(Ordering::Relaxed);
    println!("trust 7: {executions} executions, up to {preemptions} preemptions: {name}");
}
