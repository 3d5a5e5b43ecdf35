//! The locks and atomics that several tasks decide by: std's; or the model checker's, where every order that they can be
//! taken in is tried (`pool::interleavings`).
//!
//! `Arc` and `Weak` are std's in both, since methods are called on an `Arc<Self>`: what is counted is not what decides.

#[cfg(all(test, tower_keep_alive_loom))]
pub(crate) use loom::sync::{Mutex, MutexGuard, RwLock, atomic};
#[cfg(not(all(test, tower_keep_alive_loom)))]
pub(crate) use std::sync::{Mutex, MutexGuard, RwLock, atomic};
