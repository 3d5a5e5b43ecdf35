//! The counts since the start, and the pools that they are of.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Notify;

use crate::agent::event::Listeners;
use crate::agent::{ConnectionStatus, Status, Warmed};
use crate::connection::close_reason::Cause;
use crate::connection::shared::Bond;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::target::Destination;
use crate::target::key::Key;

/// Held by handles and pools alike, and by a pool for as long as one of its connections lives.
pub(crate) struct Books {
    created: AtomicU64,
    closes: [AtomicU64; Cause::ALL.len()],
    requests: AtomicU64,
    reused: AtomicU64,
    stale: AtomicU64,
    mode: AtomicU8,
    pub(super) listeners: Listeners,
    /// Told whenever a host pool goes quiet: what `drain` waits for.
    pub(crate) quiet: Notify,
    pools: Mutex<Vec<Weak<dyn Control>>>,
    makers: Mutex<Vec<Weak<dyn Warm>>>,
    /// Detached connections, for `destroy`.
    detached: Mutex<Vec<Weak<Bond>>>,
}

/// What a handle does with a pool whose connections have types that it does not know.
pub(crate) trait Control: Send + Sync {
    fn census(&self, count: &mut dyn FnMut(&Key, Census));
    fn connections(&self, key: &Key, list: &mut Vec<ConnectionStatus>);
    fn close_idle(&self);
    /// Closes everything and fails whoever waits.
    fn destroy(&self);
    fn is_quiet(&self) -> bool;
    /// Takes from others what they had for too long.
    fn look(&self);
}

/// Who makes connections for a pool, its type forgotten.
pub(crate) trait Warm: Send + Sync {
    fn warm(self: Arc<Self>, target: Destination, count: usize) -> Warming;
}

/// Resolves when the last connect of one service is over.
pub(crate) type Warming = Pin<Box<dyn Future<Output = Warmed> + Send>>;

/// The present of one host pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Census {
    pub(crate) idle: usize,
    pub(crate) active: usize,
    pub(crate) pending: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Mode {
    Open,
    Draining,
    Destroyed,
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            created: AtomicU64::new(0),
            closes: std::array::from_fn(|_| AtomicU64::new(0)),
            requests: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            mode: AtomicU8::new(Mode::Open as u8),
            listeners: Listeners::default(),
            quiet: Notify::new(),
            pools: Mutex::new(Vec::new()),
            makers: Mutex::new(Vec::new()),
            detached: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn created(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, cause: Cause) {
        self.closes[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn completed(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn reused(&self) {
        self.reused.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn stale(&self, count: u64) {
        self.stale.fetch_add(count, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Ordering::SeqCst) {
            0 => Mode::Open,
            1 => Mode::Draining,
            _ => Mode::Destroyed,
        }
    }

    /// Only ever forward. Whoever takes a host's lock after this sees it.
    pub(crate) fn close(&self, mode: Mode) {
        self.mode.fetch_max(mode as u8, Ordering::SeqCst);
    }

    pub(crate) fn add(&self, pool: Weak<dyn Control>) {
        let mut pools = lock(&self.pools);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    pub(crate) fn add_maker(&self, maker: Weak<dyn Warm>) {
        let mut makers = lock(&self.makers);
        makers.retain(|maker| maker.strong_count() > 0);
        makers.push(maker);
    }

    pub(crate) fn makers(&self) -> Vec<Arc<dyn Warm>> {
        lock(&self.makers)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    pub(crate) fn add_detached(&self, bond: Weak<Bond>) {
        let mut detached = lock(&self.detached);
        // Amortized: looked through only when it would have to grow.
        if detached.len() == detached.capacity() {
            detached.retain(|bond| bond.strong_count() > 0);
        }
        detached.push(bond);
    }

    pub(crate) fn kill_detached(&self) {
        let detached = std::mem::take(&mut *lock(&self.detached));
        for bond in detached.iter().filter_map(Weak::upgrade) {
            bond.kill(Cause::Shutdown);
            bond.force();
        }
    }

    pub(crate) fn each_pool(&self, mut act: impl FnMut(&dyn Control)) {
        // Not under the lock: a pool's own end may come back here.
        let pools: Vec<_> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        for pool in pools {
            act(&*pool);
        }
    }

    pub(crate) fn counts(&self) -> Status {
        let mut status = Status {
            created: self.created.load(Ordering::Relaxed),
            requests: self.requests.load(Ordering::Relaxed),
            reused: self.reused.load(Ordering::Relaxed),
            stale: self.stale.load(Ordering::Relaxed),
            ..Status::default()
        };
        for cause in Cause::ALL {
            let count = self.closes[cause as usize].load(Ordering::Relaxed);
            if count > 0 {
                status.count_close(cause, count);
            }
        }
        status
    }
}

impl fmt::Debug for Books {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts().fmt(f)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of a service that comes and goes.
    struct Gone;

    impl Warm for Gone {
        fn warm(self: Arc<Self>, _: Destination, _: usize) -> Warming {
            unreachable!("it is gone")
        }
    }

    impl Control for Gone {
        fn census(&self, _: &mut dyn FnMut(&Key, Census)) {
            unreachable!("it is gone")
        }

        fn connections(&self, _: &Key, _: &mut Vec<ConnectionStatus>) {
            unreachable!("it is gone")
        }

        fn close_idle(&self) {
            unreachable!("it is gone")
        }

        fn destroy(&self) {
            unreachable!("it is gone")
        }

        fn is_quiet(&self) -> bool {
            unreachable!("it is gone")
        }

        fn look(&self) {
            unreachable!("it is gone")
        }
    }

    /// An application may make a service for each of its tasks, and upgrade connections for as long as it runs.
    #[test]
    fn nothing_is_kept_of_what_is_gone() {
        let books = Books::new();
        for _ in 0..1000 {
            let (service, bond) = (Arc::new(Gone), Arc::new(Bond::new()));
            let maker: Weak<dyn Warm> = Arc::<Gone>::downgrade(&service);
            let pool: Weak<dyn Control> = Arc::<Gone>::downgrade(&service);
            books.add_maker(maker);
            books.add(pool);
            books.add_detached(Arc::downgrade(&bond));
        }
        let left = (lock(&books.makers).len(), lock(&books.pools).len());
        assert_eq!(left, (1, 1));
        assert!(lock(&books.detached).len() < 10);
        assert!(books.makers().is_empty());
        books.each_pool(|_| unreachable!("it is gone"));
    }
}
