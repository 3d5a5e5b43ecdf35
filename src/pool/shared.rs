//! What all parts of a pool share.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Id;
use tokio::time::Instant;

use crate::agent::{Books, Census, ConnectionStatus, Control, Mode};
use crate::clock::Moment;
use crate::connection::poolable::Poolable;
use crate::error::Denied;
use crate::pool::config::Limits;
use crate::pool::key_pool::{HostPool, Verdict};
use crate::pool::key_state::Look;
use crate::pool::overdue::Overdue;
use crate::pool::permit::Slot;
use crate::pool::pooled_conn::{Berth, Spoiled};
use crate::pool::sweeper::Sweeper;
use crate::pool::table::Table;
use crate::pool::total_limits::{Admission, Step};
use crate::pool::wait_queue::Ask;
use crate::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use crate::sync::{Mutex, MutexGuard};
use crate::target::key::Key;
use crate::target::key::KeyRef;

/// How long a connection may take to close while somebody waits for its slot; it is closed from there then. Less, where that
/// caller's time is short.
const GOODBYE: Duration = Duration::from_millis(50);

/// Held by the pool's owners, and by each host pool: so that status stays true for as long as a connection lives.
pub(crate) struct Shared<C> {
    pub(super) limits: Limits,
    pub(super) books: Arc<Books>,
    pub(super) table: Table<C>,
    pub(super) tickets: AtomicU64,
    total: Option<Mutex<Admission<C>>>,
    sweeper: Sweeper,
    pub(super) overdue: Overdue,
    began: Instant,
    orphaned: AtomicBool,
    me: Weak<Self>,
}

impl<C: Poolable> Shared<C> {
    pub(super) fn new(limits: Limits, books: Arc<Books>) -> Arc<Self> {
        let shared = Arc::new_cyclic(|me| Self {
            total: limits
                .are_total()
                .then(|| Mutex::new(Admission::new(&limits))),
            overdue: Overdue::new(limits.hand_over_timeout),
            began: Instant::now(),
            limits,
            table: Table::new(),
            tickets: AtomicU64::new(0),
            sweeper: Sweeper::new(),
            orphaned: AtomicBool::new(false),
            books: books.clone(),
            me: me.clone(),
        });
        let pool: Weak<dyn Control> = Arc::downgrade(&(shared.clone() as Arc<dyn Control>));
        books.add(pool);
        shared
    }

    /// An idle connection that will do as it is.
    #[inline]
    pub(super) fn pick(&self, key: &KeyRef<'_>, ask: &Ask, now: Moment) -> Option<Box<Berth<C>>> {
        self.table.find(key)?.pick(ask, now).ok()
    }

    #[inline]
    pub(super) fn checkout(
        &self,
        key: &KeyRef<'_>,
        ask: Ask,
        spoiled: Option<Spoiled<C>>,
        now: Moment,
    ) -> Verdict<C> {
        let home = match &spoiled {
            None => match self.host(key).pick(&ask, now) {
                Ok(berth) => return Verdict::Take(berth),
                Err(home) => Some(home),
            },
            Some(_) => None,
        };
        self.decide(key, home, ask, spoiled, now)
    }

    /// `home`: where this key was found.
    #[inline(never)]
    fn decide(
        &self,
        key: &KeyRef<'_>,
        home: Option<Arc<HostPool<C>>>,
        ask: Ask,
        mut spoiled: Option<Spoiled<C>>,
        now: Moment,
    ) -> Verdict<C> {
        let mut home = home.or_else(|| spoiled.as_mut()?.berth.take_home());
        loop {
            let host = home.take().unwrap_or_else(|| self.host(key));
            match host.checkout(ask, spoiled.take(), now) {
                Ok(verdict) => return verdict,
                Err(retired) => self.table.remove(&retired),
            }
        }
    }

    pub(super) fn warm(&self, key: &KeyRef<'_>, count: usize) -> Result<Vec<Slot<C>>, Denied> {
        loop {
            match self.host(key).warm(count) {
                Ok(slots) => return slots,
                Err(retired) => self.table.remove(&retired),
            }
        }
    }

    #[inline]
    fn host(&self, key: &KeyRef<'_>) -> Arc<HostPool<C>> {
        self.table.find_or_insert(key, |key| {
            HostPool::new(key, self.me.upgrade().expect("a method of it runs"))
        })
    }

    #[inline]
    pub(super) fn mode(&self) -> Mode {
        match self.books.mode() {
            Mode::Open if self.is_orphaned() => Mode::Draining,
            mode => mode,
        }
    }

    #[inline]
    pub(super) fn is_orphaned(&self) -> bool {
        self.orphaned.load(Ordering::SeqCst)
    }

    /// The last owner is gone: nobody will ask for a connection again.
    pub(super) fn orphan(&self) {
        self.orphaned.store(true, Ordering::SeqCst);
        self.table.each(HostPool::abandon_all);
        self.sweeper.stop();
    }

    /// An idle connection's time is up then.
    pub(super) fn watch(&self, at: Moment) {
        self.sweeper.watch(at, &self.me);
    }

    /// The runtime that we are in looks for what is overdue, as long as a caller is blocked in it.
    pub(super) fn look_from_here(&self) -> Option<Id> {
        self.overdue.join(&self.me)
    }

    /// Something was left for somebody to come for. One comparison, if that is known already.
    #[inline]
    pub(super) fn alert(&self) {
        self.overdue.alert(&self.me);
    }

    pub(super) fn look_no_more(&self, runtime: Id) {
        self.overdue.leave(runtime);
    }

    /// What a look that is taken now goes by.
    pub(super) fn at(&self, now: Instant) -> Look {
        let since = now.saturating_duration_since(self.began).as_millis();
        let goodbye = GOODBYE.min(self.limits.checkout_timeout / 4);
        Look {
            now,
            millis: u32::try_from(since).map_or(u32::MAX, |it| it.saturating_add(1)),
            goodbye,
        }
    }

    /// Closes what has been idle for too long; says when the next one's time is up, and how many were looked at.
    pub(super) fn sweep(&self) -> (Option<Moment>, usize) {
        let now = self.limits.clock.now();
        let mut earliest: Option<Moment> = None;
        let mut looked_at = 0;
        self.table.each(|host| {
            let (next, idle) = host.sweep(now);
            looked_at += idle + 1;
            if let Some(next) = next
                && earliest.is_none_or(|earliest| next.mono < earliest.mono)
            {
                earliest = Some(next);
            }
        });
        (earliest, looked_at)
    }

    #[inline]
    pub(super) fn has_total(&self) -> bool {
        self.total.is_some()
    }

    #[inline]
    pub(super) fn lock_total(&self) -> Option<MutexGuard<'_, Admission<C>>> {
        let total = self.total.as_ref()?;
        Some(total.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does what the limits over all keys ask for, until there is nothing left to do. Holds one lock at a time.
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
            let (undo_slot, undo_room) = match step {
                Step::Grant(host) => (!host.grant_from_total(), false),
                Step::Evict {
                    host,
                    open,
                    for_room,
                } => (false, !host.evict(open, for_room) && for_room),
            };
            if let Some(mut total) = self.lock_total() {
                if undo_slot {
                    total.release(false);
                }
                if undo_room {
                    total.made_no_room();
                }
            }
        }
    }
}

impl<C: Poolable> Control for Shared<C> {
    fn census(&self, count: &mut dyn FnMut(&Key, Census)) {
        self.table.each(|host| count(host.key(), host.census()));
    }

    fn connections(&self, key: &Key, list: &mut Vec<ConnectionStatus>) {
        if let Some(host) = self.table.find(&key.as_ref()) {
            host.connections(list);
        }
    }

    fn close_idle(&self) {
        self.table.each(HostPool::close_idle);
    }

    fn destroy(&self) {
        self.table.each(HostPool::destroy);
    }

    fn is_quiet(&self) -> bool {
        self.table.is_empty()
    }

    fn look(&self) {
        Self::look(self, true);
    }
}

impl<C> fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}
