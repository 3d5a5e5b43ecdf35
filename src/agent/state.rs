//! The counters of an agent, and its pools.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::agent::event::Listeners;
#[cfg(feature = "metrics")]
use crate::agent::metrics::Labelled;
use crate::agent::{
    AddressStatus, ConnectionStatus, HostSettings, LearnedIdleLimit, LookupStatus, Prewarmed,
    ProtocolStatus, Status,
};
use crate::connection::close_reason::CloseReason;
use crate::connection::shared::ConnShared;
use crate::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::target::Destination;
use crate::target::key::Key;

/// Held by handles and pools, and by a pool for as long as one of its connections lives.
pub(crate) struct AgentState {
    created: AtomicU64,
    closes: [AtomicU64; CloseReason::ALL.len()],
    completed: AtomicU64,
    /// Exchanges on a connection that was made for them.
    first_uses: AtomicU64,
    /// Exchanges that got no connection.
    denied: AtomicU64,
    /// Exchanges with a response whose body was not completed.
    cut_short: AtomicU64,
    /// Exchanges that failed on their connection.
    failed: AtomicU64,
    /// How often an exchange went on to another connection.
    resent: AtomicU64,
    reused: AtomicU64,
    stale: AtomicU64,
    mode: AtomicU8,
    pub(super) listeners: Listeners,
    name: std::sync::RwLock<Option<Arc<str>>>,
    #[cfg(feature = "metrics")]
    pub(super) labelled: Labelled,
    /// Notified whenever a key pool becomes quiet; `drain` waits for it.
    pub(crate) quiet: Notify,
    pools: Mutex<Vec<Weak<dyn PoolControl>>>,
    makers: Mutex<Vec<Weak<dyn Prewarm>>>,
    /// Detached connections, for `destroy`.
    detached: Mutex<Vec<Weak<ConnShared>>>,
}

/// What a handle does with a pool whose connection type it does not know.
pub(crate) trait PoolControl: Send + Sync {
    fn key_counts(&self, count: &mut dyn FnMut(&Key, KeyCounts));
    fn connections(&self, key: &Key, list: &mut Vec<ConnectionStatus>);
    /// Reports each address of an open connection.
    fn addresses(&self, visit: &mut dyn FnMut(&Key, SocketAddr, AddressStatus));
    /// Reports each key whose idle limit was learned.
    fn learned(&self, visit: &mut dyn FnMut(&Key, LearnedIdleLimit));
    /// Reports each key whose name is followed.
    fn lookups(&self, visit: &mut dyn FnMut(&Key, LookupStatus));
    /// Reports each key with settings of its own.
    fn host_settings(&self, visit: &mut dyn FnMut(&Key, &HostSettings));
    fn close_idle(&self);
    /// Closes everything, and fails all waiting callers.
    fn destroy(&self);
    fn is_quiet(&self) -> bool;
    /// Checks for overdue work.
    fn check_overdue(&self);
}

/// Makes connections in advance; the type of the pool is erased.
pub(crate) trait Prewarm: Send + Sync {
    fn prewarm(self: Arc<Self>, target: Destination, count: usize) -> Prewarming;
    /// Makes as many connections as the spare ones of this target's key lack.
    fn make_spare(self: Arc<Self>, target: Destination, keeps_idle: bool) -> MakingSpare;
    /// Makes a connection that spreads the load of this target's key, if one of its addresses needs one.
    fn make_to_spread(self: Arc<Self>, target: Destination) -> MakingSpare;
    /// Whether the pool is open and has this target's key.
    fn has_key(&self, target: &Destination) -> bool;
}

/// Resolves when the last connect of one service is over.
pub(crate) type Prewarming = Pin<Box<dyn Future<Output = Prewarmed> + Send>>;

/// Resolves when the last of the connects is over.
pub(crate) type MakingSpare = Pin<Box<dyn Future<Output = Spare> + Send>>;

/// How it stands with the connections of one key that are made ahead.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spare {
    /// There are enough, until then at least.
    Enough(Option<Instant>),
    /// All that were missing were made.
    Made,
    /// Some could not be made.
    Failed,
    /// None are needed any more.
    Over,
}

/// The present numbers of one key pool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyCounts {
    pub(crate) idle: usize,
    pub(crate) active: usize,
    /// Those of them whose exchange has got the head of its response.
    pub(crate) answering: usize,
    pub(crate) pending: usize,
    pub(crate) protocols: ProtocolStatus,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Mode {
    Open,
    Draining,
    Destroyed,
}

impl AgentState {
    pub(crate) fn new() -> Self {
        Self {
            created: AtomicU64::new(0),
            closes: std::array::from_fn(|_| AtomicU64::new(0)),
            completed: AtomicU64::new(0),
            first_uses: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            cut_short: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            reused: AtomicU64::new(0),
            stale: AtomicU64::new(0),
            mode: AtomicU8::new(Mode::Open as u8),
            listeners: Listeners::default(),
            name: std::sync::RwLock::default(),
            #[cfg(feature = "metrics")]
            labelled: Labelled::default(),
            quiet: Notify::new(),
            pools: Mutex::new(Vec::new()),
            makers: Mutex::new(Vec::new()),
            detached: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn set_name(&self, name: Arc<str>) {
        *self.name.write().unwrap_or_else(PoisonError::into_inner) = Some(name);
    }

    pub(crate) fn name(&self) -> Option<Arc<str>> {
        let name = self.name.read().unwrap_or_else(PoisonError::into_inner);
        name.clone()
    }

    pub(crate) fn created(&self) {
        self.created.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn closed(&self, reason: CloseReason) {
        self.closes[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn completed(&self) {
        self.completed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn used_first(&self) {
        self.first_uses.fetch_add(1, Ordering::Relaxed);
    }

    /// A caller got no connection.
    pub(crate) fn denied(&self) {
        self.denied.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection gave its request back, which is sent on another one.
    pub(crate) fn resent(&self) {
        self.resent.fetch_add(1, Ordering::Relaxed);
    }

    /// An exchange was not completed; `failed` unless its caller gave it up.
    pub(crate) fn uncompleted(&self, has_head: bool, failed: bool) {
        self.cut_short.fetch_add(has_head.into(), Ordering::Relaxed);
        self.failed.fetch_add(failed.into(), Ordering::Relaxed);
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

    /// Only ever moves forward. Seen by everybody who takes a key's lock after this.
    pub(crate) fn close(&self, mode: Mode) {
        self.mode.fetch_max(mode as u8, Ordering::SeqCst);
    }

    pub(crate) fn add(&self, pool: Weak<dyn PoolControl>) {
        let mut pools = lock(&self.pools);
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(pool);
    }

    pub(crate) fn add_maker(&self, maker: Weak<dyn Prewarm>) {
        let mut makers = lock(&self.makers);
        makers.retain(|maker| maker.strong_count() > 0);
        makers.push(maker);
    }

    pub(crate) fn makers(&self) -> Vec<Arc<dyn Prewarm>> {
        lock(&self.makers)
            .iter()
            .filter_map(Weak::upgrade)
            .collect()
    }

    pub(crate) fn add_detached(&self, shared: Weak<ConnShared>) {
        let mut detached = lock(&self.detached);
        // Amortised: checked only when it would have to grow.
        if detached.len() == detached.capacity() {
            detached.retain(|shared| shared.strong_count() > 0);
        }
        detached.push(shared);
    }

    pub(crate) fn kill_detached(&self) {
        let detached = std::mem::take(&mut *lock(&self.detached));
        for shared in detached.iter().filter_map(Weak::upgrade) {
            shared.kill(CloseReason::Shutdown);
            shared.force();
        }
    }

    pub(crate) fn each_pool(&self, mut act: impl FnMut(&dyn PoolControl)) {
        // Not under the lock, because the end of a pool may call this again.
        let pools: Vec<_> = lock(&self.pools).iter().filter_map(Weak::upgrade).collect();
        for pool in pools {
            act(&*pool);
        }
    }

    pub(crate) fn counts(&self) -> Status {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let resent = load(&self.resent);
        let (completed, reused) = (load(&self.completed), load(&self.reused));
        let denied = load(&self.denied);
        let mut status = Status {
            name: self.name().map(|name| name.as_ref().to_owned()),
            created: self.created.load(Ordering::Relaxed),
            started: (reused + load(&self.first_uses) + denied).saturating_sub(resent),
            answered: completed + load(&self.cut_short),
            completed,
            failed: load(&self.failed) + denied,
            resent,
            reused,
            stale: self.stale.load(Ordering::Relaxed),
            ..Status::default()
        };
        for reason in CloseReason::ALL {
            let count = self.closes[reason as usize].load(Ordering::Relaxed);
            if count > 0 {
                status.count_close(reason, count);
            }
        }
        status
    }
}

impl fmt::Debug for AgentState {
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

    impl Prewarm for Gone {
        fn prewarm(self: Arc<Self>, _: Destination, _: usize) -> Prewarming {
            unreachable!("it is gone")
        }

        fn make_spare(self: Arc<Self>, _: Destination, _: bool) -> MakingSpare {
            unreachable!("it is gone")
        }

        fn make_to_spread(self: Arc<Self>, _: Destination) -> MakingSpare {
            unreachable!("it is gone")
        }

        fn has_key(&self, _: &Destination) -> bool {
            unreachable!("it is gone")
        }
    }

    impl PoolControl for Gone {
        fn key_counts(&self, _: &mut dyn FnMut(&Key, KeyCounts)) {
            unreachable!("it is gone")
        }

        fn connections(&self, _: &Key, _: &mut Vec<ConnectionStatus>) {
            unreachable!("it is gone")
        }

        fn addresses(&self, _: &mut dyn FnMut(&Key, SocketAddr, AddressStatus)) {
            unreachable!("it is gone")
        }

        fn learned(&self, _: &mut dyn FnMut(&Key, LearnedIdleLimit)) {
            unreachable!("it is gone")
        }

        fn lookups(&self, _: &mut dyn FnMut(&Key, LookupStatus)) {
            unreachable!("it is gone")
        }

        fn host_settings(&self, _: &mut dyn FnMut(&Key, &HostSettings)) {
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

        fn check_overdue(&self) {
            unreachable!("it is gone")
        }
    }

    /// An application may make a service for each of its tasks, and upgrade connections for as long as it runs.
    #[test]
    fn nothing_is_kept_of_what_is_gone() {
        let agent = AgentState::new();
        for _ in 0..1000 {
            let (service, shared) = (Arc::new(Gone), Arc::new(ConnShared::new()));
            let maker: Weak<dyn Prewarm> = Arc::<Gone>::downgrade(&service);
            let pool: Weak<dyn PoolControl> = Arc::<Gone>::downgrade(&service);
            agent.add_maker(maker);
            agent.add(pool);
            agent.add_detached(Arc::downgrade(&shared));
        }
        let left = (lock(&agent.makers).len(), lock(&agent.pools).len());
        assert_eq!(left, (1, 1));
        assert!(lock(&agent.detached).len() < 10);
        assert!(agent.makers().is_empty());
        agent.each_pool(|_| unreachable!("it is gone"));
    }
}
