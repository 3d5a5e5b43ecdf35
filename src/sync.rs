//! The locks and atomics on which decisions of several tasks depend: std's or, for `pool::interleavings`, those of the
//! model checker, which tries every order in which they can be used.
//!
//! `Arc` and `Weak` are std's in both cases, because methods take `Arc<Self>`; no decision depends on a reference
//! count.

#[cfg(all(test, tower_keep_alive_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, atomic};
#[cfg(not(all(test, tower_keep_alive_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, atomic};
