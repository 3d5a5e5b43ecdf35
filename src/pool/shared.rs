//! The state that all key pools of a pool share.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Id;
use tokio::time::Instant;

use crate::agent::{
    AddressStatus, AgentState, ConnectionStatus, EventKind, HostSettings, KeyCounts,
    LearnedIdleLimit, LookupStatus, Mode, PoolControl, Prewarm,
};
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::error::Denied;
use crate::pool::addresses::{Change, EjectingPool, FollowedPool};
use crate::pool::config::PoolConfig;
use crate::pool::gauges::Gauges;
use crate::pool::key_pool::{Decision, KeyPool, Spare};
use crate::pool::key_state::Check;
use crate::pool::memory::Memory;
use crate::pool::overdue::Overdue;
use crate::pool::permit::ConnPermit;
use crate::pool::pooled_conn::Rejected;
use crate::pool::sweeper::Sweeper;
use crate::pool::table::Table;
use crate::pool::total_limits::{BalanceStep, TotalLimits};
use crate::pool::wait_queue::CheckoutRequest;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::target::key::Key;
use crate::target::key::KeyRef;

/// How long a connection may take to close while a caller waits for its permit, before it is closed from outside. Less,
/// if that caller's timeout is short.
const CLOSE_GRACE: Duration = Duration::from_millis(50);

/// Held by the pool's owners and by each key pool, so that the status is correct as long as any connection lives.
pub(crate) struct Shared<C> {
    pub(super) config: Arc<PoolConfig>,
    pub(super) agent: Arc<AgentState>,
    pub(super) table: Table<C>,
    pub(super) memory: Memory,
    pub(super) maker: OnceLock<Weak<dyn Prewarm>>,
    arrivals: AtomicU64,
    total: Option<Mutex<TotalLimits<C>>>,
    sweeper: Sweeper,
    pub(super) overdue: Overdue,
    /// The keys that have to be checked for overdue work.
    watched: Mutex<Vec<Weak<KeyPool<C>>>>,
    began: Instant,
    orphaned: AtomicBool,
    me: Weak<Self>,
}

impl<C: Poolable> Shared<C> {
    pub(super) fn new(config: PoolConfig, agent: Arc<AgentState>) -> Arc<Self> {
        let shared = Arc::new_cyclic(|me| Self {
            total: config
                .are_total()
                .then(|| Mutex::new(TotalLimits::new(&config))),
            overdue: Overdue::new(config.hand_over_timeout),
            watched: Mutex::new(Vec::new()),
            began: Instant::now(),
            config: Arc::new(config),
            table: Table::new(),
            memory: Memory::new(),
            maker: OnceLock::new(),
            arrivals: AtomicU64::new(0),
            sweeper: Sweeper::new(),
            orphaned: AtomicBool::new(false),
            agent: agent.clone(),
            me: me.clone(),
        });
        let pool: Weak<dyn PoolControl> = Arc::downgrade(&(shared.clone() as Arc<dyn PoolControl>));
        agent.add(pool);
        shared
    }

    #[inline]
    pub(super) fn checkout(
        &self,
        key: &KeyRef<'_>,
        request: CheckoutRequest,
        rejected: Option<Rejected<C>>,
        now: Moment,
    ) -> Decision<C> {
        let key_pool = match &rejected {
            None => match self.key_pool(key).pop_idle(&request, now) {
                Ok(pooled) => return Decision::Take(pooled),
                Err(key_pool) => Some(key_pool),
            },
            Some(_) => None,
        };
        self.decide(key, key_pool, request, rejected, now)
    }

    /// `key_pool`: the key pool that was found for this key.
    #[inline(never)]
    fn decide(
        &self,
        key: &KeyRef<'_>,
        key_pool: Option<Arc<KeyPool<C>>>,
        request: CheckoutRequest,
        mut rejected: Option<Rejected<C>>,
        now: Moment,
    ) -> Decision<C> {
        let mut key_pool = key_pool.or_else(|| rejected.as_mut()?.pooled.take_key_pool());
        loop {
            let key_pool = key_pool.take().unwrap_or_else(|| self.key_pool(key));
            match key_pool.checkout(request, rejected.take(), now) {
                Ok(decision) => return decision,
                Err(retired) => self.table.remove(&retired),
            }
        }
    }

    pub(super) fn prewarm(
        &self,
        key: &KeyRef<'_>,
        count: usize,
    ) -> Result<Vec<ConnPermit<C>>, Denied> {
        loop {
            match self.key_pool(key).prewarm(count) {
                Ok(permits) => return permits,
                Err(retired) => self.table.remove(&retired),
            }
        }
    }

    pub(super) fn spare(&self, key: &KeyRef<'_>, keeps_idle: bool) -> Result<Spare<C>, Denied> {
        loop {
            let key_pool = match keeps_idle {
                true => self.key_pool(key),
                false => self.table.find(key).ok_or(Denied::ShutDown)?,
            };
            match key_pool.spare() {
                Ok(spare) => return spare,
                Err(retired) => self.table.remove(&retired),
            }
        }
    }

    /// The load of a key that has no connections is not spread.
    pub(super) fn permit_to_spread(
        &self,
        key: &KeyRef<'_>,
    ) -> Result<Option<ConnPermit<C>>, Denied> {
        let key_pool = self.table.find(key).ok_or(Denied::ShutDown)?;
        key_pool.permit_to_spread().unwrap_or(Ok(None))
    }

    pub(super) fn has_key(&self, key: &KeyRef<'_>) -> bool {
        self.mode() == Mode::Open && self.table.find(key).is_some()
    }

    #[inline]
    fn key_pool(&self, key: &KeyRef<'_>) -> Arc<KeyPool<C>> {
        self.table.find_or_insert(key, |key| {
            KeyPool::new(key, self.me.upgrade().expect("a method of it runs"))
        })
    }

    /// The number of a caller in the order of arrival among all callers of the pool.
    pub(super) fn arrival(&self) -> u64 {
        self.arrivals.fetch_add(1, Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn mode(&self) -> Mode {
        match self.agent.mode() {
            Mode::Open if self.is_orphaned() => Mode::Draining,
            mode => mode,
        }
    }

    #[inline]
    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::SeqCst)
    }

    /// The last owner is gone, so nobody will ask for a connection again.
    pub(super) fn orphan(&self) {
        self.orphaned.store(true, Ordering::SeqCst);
        self.table.each(KeyPool::abandon_all);
        self.sweeper.stop();
    }

    /// An idle connection expires at `at`.
    pub(super) fn arm_sweeper(&self, at: Moment) {
        self.sweeper.arm(at, &self.me);
    }

    /// Checks for overdue work in the current runtime while a caller is blocked there.
    pub(super) fn join_checks(&self) -> Option<Id> {
        self.overdue.join(&self.me)
    }

    /// Something was delivered that a caller has to collect. Costs one comparison if this is known already.
    #[inline]
    pub(super) fn alert(&self) {
        self.overdue.alert(&self.me);
    }

    pub(super) fn leave_checks(&self, runtime: Id) {
        self.overdue.leave(runtime);
    }

    pub(super) fn watched(&self) -> MutexGuard<'_, Vec<Weak<KeyPool<C>>>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The parameters of a check at `now`.
    pub(super) fn check_at(&self, now: Instant) -> Check {
        let since = now.saturating_duration_since(self.began).as_millis();
        let close_grace = CLOSE_GRACE.min(self.config.shortest_checkout_timeout() / 4);
        Check {
            now,
            millis: u32::try_from(since).map_or(u32::MAX, |it| it.saturating_add(1)),
            close_grace,
        }
    }

    /// Closes idle connections that have expired. Returns the next deadline, and how many connections were checked.
    pub(super) fn sweep(&self) -> (Option<Moment>, usize) {
        let now = self.config.clock.now();
        let mut earliest: Option<Moment> = None;
        let mut looked_at = 0;
        self.table.each(|key_pool| {
            let (next, idle) = key_pool.sweep(now);
            looked_at += idle + 1;
            if let Some(next) = next
                && earliest.is_none_or(|earliest| next.mono < earliest.mono)
            {
                earliest = Some(next);
            }
        });
        (earliest, looked_at)
    }

    pub(super) fn as_ejecting(&self) -> Weak<dyn EjectingPool> {
        self.me.clone()
    }

    pub(super) fn as_followed(&self) -> Weak<dyn FollowedPool> {
        self.me.clone()
    }

    #[inline]
    pub(super) fn has_total(&self) -> bool {
        self.total.is_some()
    }

    #[inline]
    pub(super) fn lock_total(&self) -> Option<MutexGuard<'_, TotalLimits<C>>> {
        let total = self.total.as_ref()?;
        Some(total.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Acts on the limits over all keys until nothing is left to do. Holds one lock at a time.
    #[inline]
    pub(super) fn balance(&self) {
        if self.has_total() {
            self.balance_total();
        }
    }

    fn balance_total(&self) {
        loop {
            let step = self.lock_total().and_then(|mut total| total.next_step());
            let Some(step) = step else { return };
            let (undo_permit, undo_room) = match step {
                BalanceStep::Grant(key_pool) => (!key_pool.grant_from_total(), false),
                BalanceStep::Evict {
                    key_pool,
                    open,
                    for_room,
                } => (false, !key_pool.evict(open, for_room) && for_room),
                BalanceStep::LetDrain(key_pool) => {
                    key_pool.let_drain();
                    (false, false)
                }
            };
            if let Some(mut total) = self.lock_total() {
                if undo_permit {
                    total.release(false);
                }
                if undo_room {
                    total.made_no_room();
                }
            }
        }
    }
}

impl<C: Poolable> FollowedPool for Shared<C> {
    fn leave_address(&self, key: &Key, address: SocketAddr, count: usize) {
        if let Some(key_pool) = self.table.find(&key.as_ref()) {
            key_pool.leave_address(address, count);
        }
    }

    fn addresses_updated(&self, key: &Key) {
        if let Some(key_pool) = self.table.find(&key.as_ref()) {
            key_pool.count_left_out();
        }
    }

    fn lookup_failed(&self, key: &Key, answer_age: Option<Duration>) {
        let failed = || EventKind::LookupFailed { answer_age };
        self.agent.emit(key, None, failed);
    }
}

impl<C: Poolable> EjectingPool for Shared<C> {
    fn address_changed(&self, key: &Key, address: SocketAddr, change: Change) {
        match self.table.find(&key.as_ref()) {
            Some(key_pool) => key_pool.address_changed(address, change),
            // The key's last connection is gone already. Its addresses are remembered, and no connection is left to end.
            None => {
                Gauges::new(key, &self.agent).event(None, || change.event(address));
                self.agent.emit(key, None, || change.event(address));
            }
        }
    }

    fn addresses_listed(&self, key: &Key) {
        if let Some(key_pool) = self.table.find(&key.as_ref()) {
            key_pool.settle_shortcut();
        }
    }
}

impl<C: Poolable> PoolControl for Shared<C> {
    fn key_counts(&self, count: &mut dyn FnMut(&Key, KeyCounts)) {
        self.table
            .each(|key_pool| count(key_pool.key(), key_pool.key_counts()));
    }

    fn addresses(&self, visit: &mut dyn FnMut(&Key, SocketAddr, AddressStatus)) {
        self.table.each(|key_pool| {
            for (address, counts) in key_pool.by_address() {
                visit(key_pool.key(), address, counts);
            }
        });
    }

    fn learned(&self, visit: &mut dyn FnMut(&Key, LearnedIdleLimit)) {
        self.table.each(|key_pool| {
            if let Some((limit, closes)) = key_pool.learned() {
                visit(key_pool.key(), LearnedIdleLimit { limit, closes });
            }
        });
    }

    fn lookups(&self, visit: &mut dyn FnMut(&Key, LookupStatus)) {
        self.table.each(|key_pool| {
            if let Some(status) = key_pool.lookup_status() {
                visit(key_pool.key(), status);
            }
        });
    }

    fn host_settings(&self, visit: &mut dyn FnMut(&Key, &HostSettings)) {
        self.table.each(|key_pool| {
            let own = &key_pool.config().own;
            if *own != HostSettings::default() {
                visit(key_pool.key(), own);
            }
        });
    }

    fn connections(&self, key: &Key, list: &mut Vec<ConnectionStatus>) {
        if let Some(key_pool) = self.table.find(&key.as_ref()) {
            key_pool.connections(list);
        }
    }

    fn close_idle(&self) {
        self.table.each(KeyPool::close_idle);
    }

    fn destroy(&self) {
        self.table.each(KeyPool::destroy);
    }

    fn is_quiet(&self) -> bool {
        self.table.is_empty()
    }

    fn check_overdue(&self) {
        self.check_all_keys();
    }
}

impl<C> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
