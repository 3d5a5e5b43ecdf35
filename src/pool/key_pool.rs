//! One key's pool: a [`Host`] behind its lock, and what is done once the lock is free.

use std::fmt;
use std::sync::{Arc, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::{Books, Census, ConnectionStatus, EventKind, Mode};
use crate::clock::Moment;
use crate::connection::close_reason::Cause;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;
use crate::error::Denied;
use crate::pool::deferred::{After, Stop};
use crate::pool::gauges::{Counts, Gauges};
use crate::pool::key_state::{Around, Host, Seen, Taken};
use crate::pool::permit::Slot;
use crate::pool::pooled_conn::{Berth, Spoiled};
use crate::pool::shared::Shared;
use crate::pool::wait_queue::{Ask, Gift, Whom};
use crate::pool::waiter::Waiter;
use crate::sync::{Mutex, MutexGuard};
use crate::target::Reuse;
use crate::target::key::Key;

pub(crate) struct HostPool<C> {
    key: Key,
    pool: Arc<Shared<C>>,
    host: Mutex<Host<C>>,
    gauges: Gauges,
}

/// What a caller gets.
pub(crate) enum Verdict<C: Poolable> {
    /// An idle connection.
    Take(Box<Berth<C>>),
    /// The right to make one, and a place in line beside: what comes first will do.
    Make(Slot<C>, Waiter<C>),
    Wait(Waiter<C>),
    /// So many are waiting already.
    QueueFull(usize),
    ShutDown,
}

impl<C: Poolable> HostPool<C> {
    pub(super) fn new(key: Key, pool: Arc<Shared<C>>) -> Arc<Self> {
        Arc::new(Self {
            gauges: Gauges::new(&key),
            key,
            pool,
            host: Mutex::new(Host::new()),
        })
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn books(&self) -> &Books {
        &self.pool.books
    }

    /// The idle connection whose turn it is, if it will do. Nothing follows from that for anybody else, and most callers
    /// get theirs so. `Err`: [`checkout`](Self::checkout) decides.
    #[inline]
    pub(super) fn pick(
        self: Arc<Self>,
        ask: &Ask,
        now: Moment,
    ) -> Result<Box<Berth<C>>, Arc<Self>> {
        let pool = &*self.pool;
        if ask.reuse != Reuse::Any || pool.has_total() {
            return Err(self);
        }
        // An agent that lets nobody in has nothing idle.
        let picked = self.lock().pick(ask.runtime, now, pool.limits.scheduling);
        let Some(mut berth) = picked else {
            return Err(self);
        };
        self.gauges.change(Counts::TAKEN);
        berth.set_home(self);
        Ok(berth)
    }

    /// With what the caller had been given before, if it had no use for that: it is closed, and the caller is first in
    /// line for its slot. `Err`: this host pool is out of the table, look again.
    pub(super) fn checkout(
        self: Arc<Self>,
        ask: Ask,
        spoiled: Option<Spoiled<C>>,
        now: Moment,
    ) -> Result<Verdict<C>, Arc<Self>> {
        let taken = self.with(|host, around| {
            if let Some(spoiled) = spoiled {
                host.discard(spoiled, around);
            }
            if host.retired {
                return None;
            }
            Some(match self.pool.mode() {
                Mode::Open => Ok(host.take(ask, now, around)),
                // It was let in before.
                Mode::Draining if ask.returning => Ok(host.take(ask, now, around)),
                _ => Err(()),
            })
        });
        let Some(taken) = taken else {
            return Err(self);
        };
        Ok(match taken {
            Ok(Taken::Connection(mut berth)) => {
                berth.set_home(self);
                Verdict::Take(berth)
            }
            Ok(Taken::Make { slot, waiter }) => {
                Verdict::Make(Slot::new(self.clone(), slot), Waiter::new(self, waiter))
            }
            Ok(Taken::Wait(waiter)) => Verdict::Wait(Waiter::new(self, waiter)),
            Ok(Taken::QueueFull(limit)) => Verdict::QueueFull(limit),
            Err(()) => Verdict::ShutDown,
        })
    }

    /// Slots for what nobody has asked for yet. `Err`: this host pool is out of the table, look again.
    pub(super) fn warm(
        self: Arc<Self>,
        count: usize,
    ) -> Result<Result<Vec<Slot<C>>, Denied>, Arc<Self>> {
        let slots = self.with(|host, around| {
            if host.retired {
                return None;
            }
            let open = self.pool.mode() == Mode::Open;
            Some(open.then(|| host.warm(count, around)))
        });
        let Some(slots) = slots else {
            return Err(self);
        };
        let slots = slots.ok_or(Denied::ShutDown);
        let slot = |place| Slot::new(self.clone(), place);
        Ok(slots.map(|places| places.into_iter().map(slot).collect()))
    }

    /// A caller whose own connect is under way has no use for what it was given, and stands in line again.
    pub(super) fn line_up_again(self: &Arc<Self>, waiter: usize, spoiled: Spoiled<C>) {
        self.with(|host, around| {
            host.discard(spoiled, around);
            host.line_up_again(waiter, self.pool.mode(), around);
        });
    }

    pub(super) fn whom(&self, waiter: usize) -> Whom {
        self.lock().line().whom(waiter)
    }

    /// What was made for a caller, who may be gone, and for others then.
    pub(crate) fn deliver(self: &Arc<Self>, whom: Whom, mut berth: Box<Berth<C>>) {
        let now = self.pool.limits.clock.now();
        drop(berth.take_home());
        let watch = self.with(|host, around| {
            let mode = self.pool.mode();
            host.deliver(whom, berth, mode, now, around)
        });
        if let Some(at) = watch {
            self.pool.watch(at);
        }
    }

    /// What of this host others may be in need of.
    pub(super) fn look(self: &Arc<Self>, all: bool) -> Seen {
        let now = Instant::now();
        if let Some(seen_by) = now.checked_sub(self.pool.limits.hand_over_timeout) {
            self.take_back(seen_by);
        }
        let look = all.then(|| self.pool.at(now));
        self.with(|host, around| {
            host.see(now);
            let mut seen = look.map_or_else(Seen::default, |it| host.look(&it, around));
            seen.is_left |= host.is_unclaimed();
            if let Some(stuck_for) = seen.stuck_for {
                host.fail_stuck(stuck_for, false, now, around);
            }
            seen
        })
    }

    /// A connection of some host has been stuck for so long: callers who wait for the total do not wait for ever.
    pub(super) fn fail_stuck_in_total(self: &Arc<Self>, stuck_for: Duration) {
        self.with(|host, around| host.fail_stuck(stuck_for, true, Instant::now(), around));
    }

    /// How long the own connect of a caller in line may take.
    pub(super) fn set_connect_timeout(&self, waiter: usize, limit: Duration) {
        self.lock().set_connect_timeout(waiter, limit);
    }

    /// What callers were given and have not come for, though it was seen by then.
    fn take_back(self: &Arc<Self>, seen_by: Instant) {
        let pool = &*self.pool;
        let now = pool.limits.clock.now();
        let take_back = |host: &mut Host<C>, around: &mut Around<'_, C>| {
            host.take_back(seen_by, pool.mode(), now, around)
        };
        if let Some(at) = self.with(take_back) {
            pool.watch(at);
        }
    }

    /// The same, as if time enough had passed.
    #[cfg(test)]
    pub(super) fn take_back_all(self: &Arc<Self>) {
        let now = Instant::now();
        self.lock().see(now);
        self.take_back(now);
    }

    #[cold]
    pub(super) fn alert(&self) {
        self.pool.alert();
    }

    pub(super) fn pool(&self) -> &Shared<C> {
        &self.pool
    }

    /// Its use is over, or it was not used.
    #[inline]
    pub(super) fn put(self: &Arc<Self>, berth: Box<Berth<C>>) {
        let now = self.pool.limits.clock.now();
        let mut host = self.lock();
        let watch = match self.keep(&mut host, berth, now) {
            Ok(watch) => {
                drop(host);
                self.gauges.change(Counts::KEPT);
                watch
            }
            Err(berth) => self.with_locked(host, |host, around| {
                let mode = self.pool.mode();
                host.put(berth, mode, now, around)
            }),
        };
        if let Some(at) = watch {
            self.pool.watch(at);
        }
    }

    #[inline]
    fn keep(
        &self,
        host: &mut Host<C>,
        berth: Box<Berth<C>>,
        now: Moment,
    ) -> Result<Option<Moment>, Box<Berth<C>>> {
        let pool = &*self.pool;
        if pool.has_total() || pool.mode() != Mode::Open {
            return Err(berth);
        }
        host.keep(berth, now, &pool.limits)
    }

    /// A connect begins, now.
    pub(super) fn created(&self) -> Moment {
        self.pool.books.created();
        self.tell(None, || EventKind::Created);
        self.pool.limits.clock.now()
    }

    pub(super) fn connected(self: &Arc<Self>, slot: usize, begun: Instant, lifespan: &Lifespan) {
        let now = self.pool.limits.clock.now();
        lifespan.begin(now);
        let bond = lifespan.bond();
        bond.set_key(self.key.clone());
        let destroyed = self.with(|host, _| {
            host.connected(slot, bond);
            self.pool.mode() == Mode::Destroyed
        });
        let took = now.mono.saturating_duration_since(begun);
        self.tell(Some(bond.id()), || EventKind::Connected { took });
        if destroyed {
            bond.kill(Cause::Shutdown);
        }
    }

    /// A connect is in a task of its own, and given up by the pool at `due`, whether or not that task is polled.
    pub(crate) fn set_connecting(
        self: &Arc<Self>,
        slot: usize,
        connect: Weak<dyn Stop>,
        due: Option<Instant>,
    ) {
        self.with(|host, _| host.set_connecting(slot, connect, due));
    }

    /// A connect is to go on without its caller. `false`: it need not, nobody will ask for its connection.
    pub(crate) fn leave_connecting(
        self: &Arc<Self>,
        slot: usize,
        connect: &Weak<dyn Stop>,
    ) -> bool {
        self.with(|host, _| {
            let wanted = !self.pool.is_orphaned() && self.pool.mode() != Mode::Destroyed;
            if wanted {
                host.leave_connecting(slot, connect);
            }
            wanted
        })
    }

    /// Whether somebody waits whom a connection made for nobody would serve.
    pub(crate) fn has_takers(self: &Arc<Self>) -> bool {
        self.with(|host, _| host.line().has_takers())
    }

    /// `Err`: nothing yet, and whether the caller may not begin a connect.
    pub(super) fn collect(self: &Arc<Self>, waiter: usize, waker: &Waker) -> Result<Gift<C>, bool> {
        self.with(|host, around| host.collect(waiter, waker, around))
    }

    pub(super) fn abandon(self: &Arc<Self>, waiter: usize) -> Gift<C> {
        self.with(|host, around| host.abandon(waiter, around))
    }

    /// `Some`: a connection, or its connect, ended for this cause. `None`: nothing was begun.
    pub(super) fn release(self: &Arc<Self>, slot: usize, ended: Option<Cause>) {
        let bond = self.with(|host, around| {
            let bond = host.bond(slot);
            if let Some(cause) = ended {
                self.pool.books.closed(cause);
                if cause == Cause::Detached
                    && let Some(bond) = &bond
                {
                    self.pool.books.add_detached(Arc::downgrade(bond));
                }
            }
            host.release(slot, around);
            bond
        });
        let Some(cause) = ended else { return };
        let born = bond.as_ref().and_then(|bond| bond.born());
        let age = || {
            born.map_or(Duration::ZERO, |born| {
                self.pool.limits.clock.now().since(born)
            })
        };
        self.tell(bond.map(|bond| bond.id()), || match cause {
            Cause::Detached => EventKind::Detached,
            cause => EventKind::Closed { cause, age: age() },
        });
    }

    /// Never under a lock.
    #[inline]
    pub(super) fn tell(&self, connection: Option<u64>, kind: impl FnOnce() -> EventKind) {
        self.pool.books.tell(&self.key, connection, kind);
    }

    /// Whether the slot that was set aside found its caller.
    pub(super) fn grant_from_total(self: &Arc<Self>) -> bool {
        self.with(|host, around| host.grant_from_total(around))
    }

    pub(super) fn evict(self: &Arc<Self>, slot: usize, for_room: bool) -> bool {
        self.with(|host, around| host.evict(slot, for_room, around))
    }

    pub(super) fn sweep(self: &Arc<Self>, now: Moment) -> (Option<Moment>, usize) {
        self.with(|host, around| (host.sweep(now, around), host.idle_len()))
    }

    pub(super) fn close_idle(self: &Arc<Self>) {
        self.with(|host, around| host.close_idle(around));
    }

    pub(super) fn abandon_all(self: &Arc<Self>) {
        self.with(|host, around| {
            host.close_idle(around);
            host.stop_connects(false, around);
        });
    }

    pub(super) fn destroy(self: &Arc<Self>) {
        self.with(|host, around| host.destroy(around));
    }

    pub(super) fn census(&self) -> Census {
        let host = self.lock();
        Census {
            idle: host.idle_len(),
            active: host.open_len() - host.idle_len(),
            pending: host.line().pending(),
        }
    }

    pub(super) fn connections(&self, list: &mut Vec<ConnectionStatus>) {
        let now = self.pool.limits.clock.now();
        let host = self.lock();
        list.extend(host.connections(now));
    }

    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, Host<C>> {
        self.host.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many neighbours those who left the line have touched.
    #[cfg(test)]
    pub(super) fn touched(&self) -> usize {
        self.lock().line().touched()
    }

    /// One step of the host under its lock, and then what follows from it without.
    #[inline]
    fn with<R>(self: &Arc<Self>, step: impl FnOnce(&mut Host<C>, &mut Around<'_, C>) -> R) -> R {
        self.with_locked(self.lock(), step)
    }

    #[inline]
    fn with_locked<R>(
        self: &Arc<Self>,
        mut host: MutexGuard<'_, Host<C>>,
        step: impl FnOnce(&mut Host<C>, &mut Around<'_, C>) -> R,
    ) -> R {
        let pool = &*self.pool;
        let mut after = After::new();
        let mut stale = 0;
        let (result, retires, change) = {
            let mut total = pool.lock_total();
            let mut around = Around {
                me: self,
                limits: &pool.limits,
                total: total.as_deref_mut(),
                tickets: &pool.tickets,
                stale: &mut stale,
                after: &mut after,
            };
            let before = Counts::of(&host);
            let result = step(&mut host, &mut around);
            let retires = host.is_quiet() && !host.retired;
            host.retired |= retires;
            let change = Counts::of(&host).since(before);
            drop(total);
            drop(host);
            (result, retires, change)
        };
        if retires {
            pool.table.remove(self);
            pool.books.quiet.notify_waiters();
        }
        self.gauges.change(change);
        if stale > 0 {
            pool.books.stale(stale);
        }
        after.act(self);
        pool.balance();
        result
    }
}

impl<C> fmt::Debug for HostPool<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostPool")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
