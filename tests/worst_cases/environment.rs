//! The environment of a test: a runtime of its own, alone in the process; and the check that nothing is left behind.

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive::{AgentHandle, CloseReason, KeepAliveLayer};

use crate::support::{alive_tasks, eventually};

#[cfg(target_os = "linux")]
pub(crate) use crate::support::fd_count;
#[cfg(not(target_os = "linux"))]
pub(crate) fn fd_count() -> usize {
    0
}

pub(crate) type Layers = KeepAliveLayer<Full<bytes::Bytes>>;

/// Runs a test while no other one does: they count what the whole process has.
pub(crate) fn alone<R>(test: impl FnOnce() -> R) -> R {
    static HOUSE: Mutex<()> = Mutex::new(());
    let _house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    test()
}

/// A runtime that only works while somebody waits on it.
pub(crate) fn current_thread() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A runtime that works by itself.
pub(crate) fn multi_thread(workers: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A runtime whose time goes on when nothing else does.
pub(crate) fn paused() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

/// Runs `test` to its end on `runtime`; then no task and no descriptor may be left of it.
pub(crate) fn leaves_nothing<F: Future>(runtime: &Runtime, test: F) -> F::Output {
    runtime.block_on(async {
        let (tasks, fds) = (alive_tasks(), fd_count());
        let output = test.await;
        eventually("no task is left", || alive_tasks() <= tasks).await;
        eventually("no descriptor is left", || fd_count() <= fds).await;
        output
    })
}

/// A test of its own on a current-thread runtime.
pub(crate) fn on_current_thread<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    alone(|| leaves_nothing(&current_thread(), async { test().await }))
}

/// A test of its own on a runtime with several threads.
pub(crate) fn on_threads<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    alone(|| leaves_nothing(&multi_thread(2), async { test().await }))
}

/// A test of its own in paused time.
pub(crate) fn in_paused_time<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    alone(|| leaves_nothing(&paused(), async { test().await }))
}

/// Drops the last of an agent: everything it had is closed, and was counted.
pub(crate) async fn closes_all<S>(client: S, handle: &AgentHandle) {
    drop(client);
    eventually("all are closed and counted", || {
        let status = handle.status();
        status.open() == 0
            && status.pending.is_empty()
            && status.created == status.closed + status.detached
    })
    .await;
}

pub(crate) fn closes(handle: &AgentHandle, reason: CloseReason) -> u64 {
    handle.status().closes.get(&reason).copied().unwrap_or(0)
}

/// So many by default, and so many where the whole figure is wanted.
pub(crate) fn runs(few: usize, full: usize) -> usize {
    if std::env::var_os("TRUST_FULL").is_some() {
        full
    } else {
        few
    }
}

/// Numbers that look random, and are the same every time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(0x9E37_79B9_7F4A_7C15 ^ seed.wrapping_add(1).wrapping_mul(0xBF58_476D_1CE4_E5B9))
    }

    /// From 0 to `sides - 1`.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % sides
    }
}
