//! The pool of one key: a [`KeyState`] behind its lock, and the actions that follow once the lock is released.

mod addresses;
mod effects;
mod share;
mod spare;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::{AgentState, ConnectionStatus, EventKind, KeyCounts, Mode, Spread};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::addresses::{AddressBook, Admission, Ejector, Follow, LookupTask};
use crate::pool::config::PoolConfig;
use crate::pool::deferred::{Deferred, Stop};
use crate::pool::gauges::{Gauges, Kept};
use crate::pool::key_state::{CheckResult, KeyDecision, KeyState, StepCx};
use crate::pool::memory::Remembered;
use crate::pool::permit::ConnPermit;
use crate::pool::pooled_conn::{PooledConn, Rejected, current_runtime};
use crate::pool::shared::Shared;
use crate::pool::spares::Spares;
use crate::pool::total_limits::KeyTotal;
use crate::pool::wait_queue::{CheckoutRequest, Delivery, WaiterId};
use crate::pool::waiter::Waiter;
use crate::sync::{Mutex, MutexGuard};
use crate::target::Reuse;
use crate::target::key::Key;
pub(crate) use spare::Spare;

pub(crate) struct KeyPool<C> {
    key: Key,
    pool: Arc<Shared<C>>,
    /// The pool's configuration, or one with the settings of this key.
    config: Arc<PoolConfig>,
    state: Mutex<KeyState<C>>,
    /// Chooses among the addresses of the name, if the load is spread.
    addresses: Option<Arc<AddressBook>>,
    /// An idle connection is taken and returned without a further look. Not modelled: a look too many does no harm.
    has_shortcut: AtomicBool,
    /// Where connections are kept ready ahead.
    spares: Option<Arc<Spares>>,
    gauges: Gauges,
}

/// The result of a checkout.
pub(crate) enum Decision<C: Poolable> {
    /// A connection that can be used now.
    Take(Box<PooledConn<C>>),
    /// A permit to connect, and a place in the queue: the caller takes whatever comes first.
    Make(ConnPermit<C>, Waiter<C>),
    Wait(Waiter<C>),
    /// The queue is full; this is its limit.
    QueueFull(usize),
    ShutDown,
}

impl<C: Poolable> KeyPool<C> {
    pub(super) fn new(key: Key, pool: Arc<Shared<C>>) -> Arc<Self> {
        let config = match pool.config.of_key(&key) {
            Some(own) => Arc::new(own),
            None => pool.config.clone(),
        };
        let spread = config.spread;
        let follow = config.follow_dns.clone();
        let follow = follow.map(|it| Follow::new(it, key.clone(), pool.as_followed()));
        let ejector = config.ejection.clone();
        let ejector = ejector.map(|it| Ejector::new(it, key.clone(), pool.as_ejecting()));
        let has_book = spread != Spread::AsResolved || follow.is_some() || ejector.is_some();
        let book = || Arc::new(AddressBook::new(spread, follow, ejector));
        let remembered = pool.memory.take(&key, pool.config.clock.now().mono);
        let (addresses, spares) = (remembered.addresses, remembered.spares);
        let mut state = KeyState::new(&config);
        state.set_learned(remembered.learned);
        state.expect(remembered.uses);
        let key_pool = Arc::new(Self {
            has_shortcut: AtomicBool::new(config.has_shortcut()),
            gauges: Gauges::new(&key, &pool.agent),
            spares: spares.or_else(|| {
                let keeps_idle = config.min_idle_per_host > 0;
                let spreads = C::SHARED && spread != Spread::AsResolved;
                let wanted = config.keep_alive && (keeps_idle || spreads);
                wanted.then(|| Arc::new(Spares::new(keeps_idle)))
            }),
            addresses: addresses.or_else(|| has_book.then(book)),
            config,
            key,
            pool,
            state: Mutex::new(state),
        });
        key_pool.settle_shortcut();
        key_pool
    }

    /// Stores what the next key pool of this key has to know, before anybody can make that. Returns the task that ends now.
    #[cold]
    fn remember(&self, state: &mut KeyState<C>, now: Moment) -> Option<LookupTask> {
        let task = self.addresses.as_ref().and_then(|it| it.take_task());
        let remembered = Remembered {
            learned: state.take_learned(now),
            // Without TLS nothing is negotiated, and there is nothing to wait for.
            uses: state.expected().filter(|_| self.key.scheme() == "https"),
            addresses: self.addresses.clone(),
            spares: self.spares.clone(),
        };
        self.pool.memory.put(&self.key, remembered, now.mono);
        task
    }

    /// The configuration for this key.
    pub(crate) fn config(&self) -> &PoolConfig {
        &self.config
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn agent(&self) -> &AgentState {
        &self.pool.agent
    }

    /// Takes the next idle connection, if it is usable as it is. This affects no other caller, and serves most callers.
    /// `Err`: [`checkout`](Self::checkout) has to decide.
    #[inline]
    pub(super) fn pop_idle(
        self: Arc<Self>,
        request: &CheckoutRequest,
        now: Moment,
    ) -> Result<Box<PooledConn<C>>, Arc<Self>> {
        let pool = &*self.pool;
        if request.reuse != Reuse::Any || !self.has_shortcut() {
            return Err(self);
        }
        if C::SHARED && pool.mode() != Mode::Open {
            return Err(self);
        }
        // If connections are not shared, a pool that is draining has no idle connections, so the mode need not be
        // checked.
        let scheduling = pool.config.scheduling;
        let picked = self.lock().pop_idle(request.runtime, now, scheduling);
        let Some((mut pooled, was_idle)) = picked else {
            return Err(self);
        };
        if was_idle {
            self.gauges.taken(&pooled);
        }
        pooled.set_key_pool(self);
        Ok(pooled)
    }

    #[inline]
    fn has_shortcut(&self) -> bool {
        self.has_shortcut.load(Ordering::Relaxed)
    }

    /// Decides what a caller gets. `rejected` is a connection that the caller was given before and cannot use: it is
    /// closed, and the caller is the first in the queue for its permit. `Err`: this key pool was retired; look it up
    /// again.
    pub(super) fn checkout(
        self: Arc<Self>,
        request: CheckoutRequest,
        rejected: Option<Rejected<C>>,
        now: Moment,
    ) -> Result<Decision<C>, Arc<Self>> {
        if let Some(spares) = &self.spares {
            spares.is_used();
        }
        let taken = self.with_at(now, |state, cx| {
            if let Some(rejected) = rejected {
                state.discard(rejected, cx);
            }
            if state.retired {
                return None;
            }
            Some(match cx.mode {
                // A caller that comes back was admitted before the drain.
                Mode::Draining if !request.is_retry => Err(()),
                Mode::Destroyed => Err(()),
                Mode::Open | Mode::Draining => Ok(state.take(request, self.pool.arrival(), cx)),
            })
        });
        let Some(taken) = taken else {
            return Err(self);
        };
        Ok(match taken {
            Ok(KeyDecision::Connection(mut pooled)) => {
                pooled.set_key_pool(self);
                Decision::Take(pooled)
            }
            Ok(KeyDecision::Make { index, waiter }) => Decision::Make(
                ConnPermit::new(self.clone(), index),
                Waiter::new(self, waiter),
            ),
            Ok(KeyDecision::Wait(waiter)) => Decision::Wait(Waiter::new(self, waiter)),
            Ok(KeyDecision::QueueFull(limit)) => Decision::QueueFull(limit),
            Err(()) => Decision::ShutDown,
        })
    }

    /// Returns a caller to the queue that cannot use what it was given, while its own connect goes on.
    pub(super) fn requeue(self: &Arc<Self>, waiter: usize, rejected: Rejected<C>) {
        self.with(|state, cx| {
            state.discard(rejected, cx);
            state.requeue(waiter, self.pool.arrival(), cx);
        });
    }

    /// Makes a waiter whose delivery is the connection that the caller has already and cannot use yet.
    pub(super) fn leave_for_new(
        self: &Arc<Self>,
        pooled: Box<PooledConn<C>>,
        request: CheckoutRequest,
        now: Moment,
    ) -> usize {
        self.with_at(now, |state, cx| {
            state.leave_for_new(pooled, request, self.pool.arrival(), cx)
        })
    }

    /// The same for an existing waiter. `is_connecting`: its own connect is under way.
    pub(super) fn leave_for(
        self: &Arc<Self>,
        waiter: usize,
        pooled: Box<PooledConn<C>>,
        is_connecting: bool,
    ) {
        self.with(|state, cx| state.leave_for(waiter, pooled, is_connecting, cx));
    }

    pub(super) fn waiter_id(&self, waiter: usize) -> WaiterId {
        self.lock().queue().waiter_id(waiter)
    }

    /// Delivers a connection to the caller that it was made for or, if that caller is gone, to others.
    pub(crate) fn deliver(self: &Arc<Self>, waiter_id: WaiterId, mut pooled: Box<PooledConn<C>>) {
        drop(pooled.take_key_pool());
        // Not in use until a caller takes it. Until then the active timeout must not run.
        pooled.connection().lifespan().shared().activity().end_use();
        self.with(|state, cx| state.deliver(waiter_id, pooled, cx));
    }

    /// Checks this key for work that is overdue.
    pub(super) fn check_overdue(self: &Arc<Self>, all: bool) -> CheckResult {
        let now = Instant::now();
        if let Some(seen_by) = now.checked_sub(self.pool.config.hand_over_timeout) {
            self.take_back(seen_by);
        }
        let check = all.then(|| self.pool.check_at(now));
        self.with(|state, cx| {
            state.note_uncollected(now);
            let mut result =
                check.map_or_else(CheckResult::default, |it| state.check_overdue(&it, cx));
            result.is_left |= state.has_unclaimed_delivery() && self.takes_back();
            if let Some(stuck_for) = result.stuck_for {
                state.fail_stuck(stuck_for, false, now, cx);
            }
            result.check_again = state.continue_watch();
            result
        })
    }

    /// Whether deliveries are ever taken back.
    pub(super) fn takes_back(&self) -> bool {
        self.pool.config.hand_over_timeout != Duration::MAX
    }

    /// The check without the actions that follow.
    #[cfg(test)]
    pub(super) fn check_only(
        self: &Arc<Self>,
        check: &crate::pool::key_state::Check,
        deferred: &mut Deferred<C>,
    ) -> CheckResult {
        let mut cx = StepCx {
            config: &self.pool.config,
            mode: self.pool.mode(),
            now: self.pool.config.clock.now(),
            total: None,
            trials: None,
            deferred,
        };
        self.lock().check_overdue(check, &mut cx)
    }

    /// Fails callers that wait for the total limit, because a connection of some key could not be closed for this time.
    pub(super) fn fail_stuck_in_total(self: &Arc<Self>, stuck_for: Duration) {
        self.with(|state, cx| state.fail_stuck(stuck_for, true, Instant::now(), cx));
    }

    /// Sets how long the waiter's own connect may take.
    pub(super) fn set_connect_timeout(&self, waiter: usize, limit: Duration) {
        self.lock().set_connect_timeout(waiter, limit);
    }

    /// Takes back deliveries that were seen uncollected at `seen_by` and still are.
    fn take_back(self: &Arc<Self>, seen_by: Instant) {
        self.with(|state, cx| state.take_back(seen_by, cx));
    }

    /// Takes back all uncollected deliveries.
    #[cfg(test)]
    pub(super) fn take_back_all(self: &Arc<Self>) {
        let now = Instant::now();
        self.lock().note_uncollected(now);
        self.take_back(now);
    }

    #[cold]
    pub(super) fn alert(&self) {
        self.pool.alert();
    }

    pub(super) fn pool(&self) -> &Shared<C> {
        &self.pool
    }

    /// Returns a connection whose use is over, or that was not used.
    #[inline]
    pub(super) fn put(self: &Arc<Self>, pooled: Box<PooledConn<C>>) {
        let now = self.pool.config.clock.now();
        let kept = Kept::new(&pooled);
        let mut state = self.lock();
        match self.keep(&mut state, pooled, now) {
            Ok((sweep_at, is_idle)) => {
                drop(state);
                if is_idle {
                    self.gauges.kept(kept);
                }
                if let Some(at) = sweep_at {
                    self.pool.arm_sweeper(at);
                }
            }
            Err(pooled) => self.with_locked(state, now, |state, cx| state.put(pooled, cx)),
        }
    }

    #[inline]
    fn keep(
        &self,
        state: &mut KeyState<C>,
        pooled: Box<PooledConn<C>>,
        now: Moment,
    ) -> Result<(Option<Moment>, bool), Box<PooledConn<C>>> {
        if !self.has_shortcut() || self.pool.mode() != Mode::Open {
            return Err(pooled);
        }
        state.keep(pooled, now, &self.config)
    }

    /// A connect begins now.
    pub(super) fn created(&self) -> Moment {
        self.pool.agent.created();
        self.emit(None, || EventKind::Created);
        self.pool.config.clock.now()
    }

    /// Returns what the connection may be used for.
    pub(super) fn connected(
        self: &Arc<Self>,
        index: usize,
        begun: Instant,
        lifespan: &Lifespan,
    ) -> Admission {
        let now = self.pool.config.clock.now();
        lifespan.begin(now);
        let shared = lifespan.shared();
        shared.set_key(self.key.clone());
        let (admission, destroyed) = self.with_at(now, |state, cx| {
            state.connected(index, shared);
            // In the same step: an ejection comes before this, or finds the connection afterwards.
            (self.admit(shared), cx.mode == Mode::Destroyed)
        });
        let took = now.mono.saturating_duration_since(begun);
        self.gauges.count_streams(shared);
        self.count_left_out();
        self.emit(Some(shared), || EventKind::Connected { took });
        if destroyed {
            shared.kill(CloseReason::Shutdown);
        }
        admission
    }

    /// The connect runs in a task of its own. The pool cancels it at `due`, whether or not the task is polled.
    pub(crate) fn set_connecting(
        self: &Arc<Self>,
        index: usize,
        connect: Weak<dyn Stop>,
        due: Option<Instant>,
    ) {
        self.with(|state, _| state.set_connecting(index, connect, due));
    }

    /// The connect goes on without its caller. `false`: nobody will need its connection, so it may end.
    pub(crate) fn leave_connecting(
        self: &Arc<Self>,
        index: usize,
        connect: &Weak<dyn Stop>,
    ) -> bool {
        self.with(|state, cx| {
            let wanted = !self.pool.is_orphaned() && cx.mode != Mode::Destroyed;
            if wanted {
                state.leave_connecting(index, connect);
            }
            wanted
        })
    }

    /// Whether a caller is waiting that a connection made for nobody would serve.
    pub(crate) fn has_takers(self: &Arc<Self>) -> bool {
        self.with(|state, _| state.queue().has_takers())
    }

    /// `Err`: there is no delivery yet; true if the caller has no permit to connect.
    pub(super) fn collect(
        self: &Arc<Self>,
        waiter: usize,
        waker: &Waker,
    ) -> Result<Delivery<C>, bool> {
        let runtime = current_runtime();
        self.with(|state, cx| state.collect(waiter, runtime, waker, cx))
    }

    pub(super) fn abandon(self: &Arc<Self>, waiter: usize) -> Delivery<C> {
        self.with(|state, cx| state.abandon(waiter, cx))
    }

    /// `Some`: a connection or its connect ended, for this reason. `None`: no connect was begun.
    pub(super) fn release(self: &Arc<Self>, index: usize, ended: Option<CloseReason>) {
        let now = self.pool.config.clock.now();
        let (shared, learned) = self.with_at(now, |state, cx| {
            let shared = state.shared(index);
            if let Some(reason) = ended {
                self.pool.agent.closed(reason);
                if reason == CloseReason::Detached
                    && let Some(shared) = &shared
                {
                    self.pool.agent.add_detached(Arc::downgrade(shared));
                }
            }
            (shared, state.release(index, ended, cx))
        });
        if let Some(shared) = &shared {
            self.dismiss(shared);
        }
        self.count_left_out();
        if let Some(limit) = learned {
            self.emit(None, || EventKind::IdleLimitLearned { limit });
        }
        let Some(reason) = ended else { return };
        let born = shared.as_ref().and_then(|shared| shared.born());
        let age = || born.map_or(Duration::ZERO, |born| now.since(born));
        self.emit(shared.as_deref(), || match reason {
            CloseReason::Detached => EventKind::Detached,
            reason => EventKind::Closed { reason, age: age() },
        });
    }

    /// Never called under a lock.
    #[inline]
    pub(super) fn emit(&self, connection: Option<&ConnShared>, kind: impl Fn() -> EventKind) {
        self.gauges.event(connection, &kind);
        self.pool.agent.emit(&self.key, connection, kind);
    }

    /// The same for a connection that is reused, which every warm request does: what the event says is computed only for
    /// listeners.
    #[inline]
    pub(super) fn emit_reused(&self, connection: &ConnShared, kind: impl Fn() -> EventKind) {
        self.gauges.reused();
        self.pool.agent.emit(&self.key, Some(connection), kind);
    }

    /// Records that a caller got its connection after this time in the queue.
    #[inline]
    pub(super) fn waited(&self, time: Duration, pooled: &PooledConn<C>) {
        self.gauges.waited(time, pooled);
    }

    /// Whether the permit that was reserved went to a caller.
    pub(super) fn grant_from_total(self: &Arc<Self>) -> bool {
        self.with(|state, cx| state.grant_from_total(cx))
    }

    /// Connections that drain were counted until now, because too many drained.
    pub(super) fn let_drain(self: &Arc<Self>) {
        self.with(|state, cx| state.let_drain(cx));
    }

    pub(super) fn evict(self: &Arc<Self>, index: usize, for_room: bool) -> bool {
        self.with(|state, cx| state.evict(index, for_room, cx))
    }

    pub(super) fn sweep(self: &Arc<Self>, now: Moment) -> (Option<Moment>, usize) {
        self.with_at(now, |state, cx| (state.sweep(cx), state.idle_len()))
    }

    pub(super) fn close_idle(self: &Arc<Self>) {
        self.with(|state, cx| state.close_idle(cx));
    }

    pub(super) fn abandon_all(self: &Arc<Self>) {
        self.with(|state, cx| {
            state.close_idle(cx);
            state.stop_connects(false, cx);
        });
        if let Some(spares) = &self.spares {
            spares.are_short();
        }
    }

    pub(super) fn destroy(self: &Arc<Self>) {
        self.with(|state, cx| state.destroy(cx));
    }

    pub(super) fn key_counts(&self) -> KeyCounts {
        let state = self.lock();
        KeyCounts {
            idle: state.idle_len(),
            active: state.open_len() - state.idle_len(),
            answering: state.answering(),
            pending: state.queue().pending(),
            protocols: state.protocols(),
        }
    }

    /// After how long the server closes idle connections, and from how many closes that was learned.
    pub(super) fn learned(&self) -> Option<(Duration, u64)> {
        let now = self.pool.config.clock.now();
        self.lock().learned(now)
    }

    pub(super) fn connections(&self, list: &mut Vec<ConnectionStatus>) {
        let now = self.pool.config.clock.now();
        let state = self.lock();
        list.extend(state.connections(now));
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, KeyState<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many neighbours of leaving waiters were visited.
    #[cfg(test)]
    pub(super) fn touched(&self) -> usize {
        self.lock().queue().touched()
    }

    /// Runs one step under the key's lock, and the actions that follow after it is released.
    #[inline]
    fn with<R>(
        self: &Arc<Self>,
        step: impl FnOnce(&mut KeyState<C>, &mut StepCx<'_, C>) -> R,
    ) -> R {
        self.with_at(self.pool.config.clock.now(), step)
    }

    #[inline]
    fn with_at<R>(
        self: &Arc<Self>,
        now: Moment,
        step: impl FnOnce(&mut KeyState<C>, &mut StepCx<'_, C>) -> R,
    ) -> R {
        self.with_locked(self.lock(), now, step)
    }

    #[inline]
    fn with_locked<R>(
        self: &Arc<Self>,
        mut state: MutexGuard<'_, KeyState<C>>,
        now: Moment,
        step: impl FnOnce(&mut KeyState<C>, &mut StepCx<'_, C>) -> R,
    ) -> R {
        let pool = &*self.pool;
        let mut deferred = Deferred::new();
        let task;
        let (result, retires, is_watched, begin_watch, before, counts, lacks) = {
            let mut total = pool.lock_total();
            let mut cx = StepCx {
                config: &self.config,
                mode: pool.mode(),
                now,
                total: total.as_deref_mut().map(|total| KeyTotal::new(self, total)),
                trials: self.addresses.as_deref(),
                deferred: &mut deferred,
            };
            let before = state.counts();
            let (idle, open, was_quiet) = (state.idle_len(), state.open_len(), state.is_quiet());
            let result = step(&mut state, &mut cx);
            let retires = state.is_quiet() && !state.retired;
            state.retired |= retires;
            // Dropped after the lock is released.
            task = retires.then(|| self.remember(&mut state, now)).flatten();
            let is_watched = state.is_watched;
            let begin_watch = state.begin_watch();
            let counts = state.counts();
            let lacks = state.idle_len() < self.config.min_idle_per_host
                && (state.idle_len() < idle || state.open_len() < open)
                // A look for spare connections that are not allowed leaves the key as quiet as it was: that is no news to who looks.
                || retires && !was_quiet
                || deferred.is_crowded;
            drop(total);
            drop(state);
            (
                result,
                retires,
                is_watched,
                begin_watch,
                before,
                counts,
                lacks,
            )
        };
        drop(task);
        if retires {
            pool.table.remove(self);
            if is_watched {
                pool.unwatch_key(self);
            }
            pool.agent.quiet.notify_waiters();
        }
        if begin_watch {
            pool.watch_key(self);
        }
        if lacks && let Some(spares) = &self.spares {
            spares.are_short();
        }
        self.gauges.change(before, counts);
        self.run_deferred(deferred);
        pool.balance();
        result
    }
}

impl<C> fmt::Debug for KeyPool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPool")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
