//! What must be true: of the result of a checkout, of a connection that is returned, after every step, when every
//! caller has collected its delivery, and at the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use http::Uri;

use super::actors::{Caller, Conn, Line, line};
use super::steps::HOSTS;
use super::world::World;
use crate::agent::Spread;
use crate::pool::{ConnPermit, Decision, PooledConn, Scheduling};
use crate::target::key::Key;
use crate::target::{Reuse, Target};

/// What the model expects of a checkout before the pool decides.
pub(super) struct Expected {
    reuse: Reuse,
    is_retry: bool,
    /// The connection to take: the first in the order of scheduling that may be used. Several if they became idle in
    /// the same step.
    picks: Vec<u64>,
    /// If connections are shared: those that may be used, which are the busy ones with room if there are any.
    fit: Vec<u64>,
    /// Those that precede it and may not be used: they are closed.
    passed: Vec<Arc<Line>>,
    /// Connections that count in the limits of this host, and of all hosts.
    counted: usize,
    total: usize,
    /// Callers that collect their deliveries, and all callers.
    blocked: usize,
    pending: usize,
    admits: bool,
}

impl Expected {
    pub(super) fn check<const S: bool>(&self, decision: &Decision<Conn<S>>, world: &World<S>) {
        let limits = &world.limits;
        match decision {
            Decision::Take(pooled) => {
                assert_eq!(self.reuse, Reuse::Any, "it wanted none that was used");
                let id = line(pooled).shared.id();
                if S {
                    assert!(self.fit.contains(&id), "#{id} is none of {:?}", self.fit);
                    return assert!(self.admits, "it should have been refused");
                }
                assert!(
                    self.picks.contains(&id),
                    "#{id} is not one of {:?}",
                    self.picks
                );
                for line in &self.passed {
                    assert!(line.closing.load(SeqCst), "#{} is kept", line.shared.id());
                }
            }
            Decision::Make(..) if self.reuse == Reuse::Never => {}
            Decision::Make(..) => {
                assert!(self.picks.is_empty(), "{:?} may be used", self.picks);
                assert!(self.counted < limits.max_connections_per_host);
                assert!(self.total < limits.max_connections);
                let urgent = self.is_retry || self.reuse == Reuse::Fresh;
                let urgent = urgent || !self.passed.is_empty();
                assert!(urgent || self.blocked == 0, "somebody is overtaken");
            }
            Decision::Wait(_) => {
                assert_ne!(self.reuse, Reuse::Never);
                assert!(self.picks.is_empty(), "{:?} may be used", self.picks);
            }
            Decision::QueueFull(max) => {
                assert!(!self.is_retry && self.reuse == Reuse::Any);
                assert!(self.picks.is_empty(), "{:?} may be used", self.picks);
                assert!(*max == limits.max_pending_per_host && *max < usize::MAX);
                assert!(self.pending >= *max, "there is room in the line");
            }
            Decision::ShutDown => assert!(!self.admits),
        }
        if !matches!(decision, Decision::ShutDown) {
            assert!(self.admits, "it should have been refused");
        }
    }
}

impl<const S: bool> World<S> {
    /// `rejected`: the caller returns a connection that it was given before.
    pub(super) fn expect_of_checkout(
        &self,
        host: usize,
        reuse: Reuse,
        is_retry: bool,
        rejected: bool,
    ) -> Expected {
        let now = self.now();
        let mut idle = self.idle(host);
        let from_step = |line: &Arc<Line>| line.facts.lock().unwrap().idle_from_step;
        idle.sort_by_key(from_step);
        if self.limits.scheduling == Scheduling::Lifo {
            idle.reverse();
        }
        let usable = |line: &&Arc<Line>| line.may_be_used(now);
        let step = idle.iter().find(usable).and_then(from_step);
        let first = |line: &&Arc<Line>| step.is_some() && from_step(line) == step;
        // Dead connections that became idle in the same step as the picked one may be before or after it.
        let passed = idle.iter().take_while(|line| !first(line));
        let spread = self.limits.spread != Spread::AsResolved;
        if S {
            return self.expect_of_shared(host, reuse, is_retry, rejected, &idle);
        }
        Expected {
            fit: Vec::new(),
            reuse,
            is_retry,
            picks: if reuse == Reuse::Any && spread {
                self.picks_by_address(host, &idle)
            } else if reuse == Reuse::Any {
                let picks = idle.iter().filter(first).filter(usable);
                picks.map(|line| line.shared.id()).collect()
            } else {
                Vec::new()
            },
            passed: match spread {
                true => Vec::new(),
                false => passed.cloned().collect(),
            },
            counted: self.counted(host),
            total: (0..HOSTS.len()).map(|host| self.counted(host)).sum(),
            blocked: self.blocked(host),
            pending: self.pending(host),
            // A caller that had its turn is admitted while the agent drains.
            admits: !self.closed || (!self.destroyed && (is_retry || rejected)),
        }
    }

    /// Those that may be taken: for each address the first that may be used, in the order of scheduling; and if the
    /// fewest requests in flight decide, only of the addresses with the fewest. A connection that is found dead counts
    /// as in flight until its transport is gone.
    fn picks_by_address(&self, host: usize, idle: &[Arc<Line>]) -> Vec<u64> {
        let now = self.now();
        let mut addresses = BTreeMap::<_, Vec<&Arc<Line>>>::new();
        for line in idle {
            let of_address = addresses.entry(line.shared.remote_addr()).or_default();
            of_address.push(line);
        }
        let key = Key::from(Uri::from_static(HOSTS[host]).key());
        let status = self.agent.status().addresses.remove(&key);
        let in_flight = |address: &Option<SocketAddr>| match self.limits.spread {
            Spread::FewestOpenFirst => status.as_ref().unwrap()[&address.unwrap()].active,
            _ => 0,
        };
        let may_be_used = |line: &&&Arc<Line>| line.may_be_used(now);
        let fewest = addresses.iter().filter_map(|(address, lines)| {
            let usable = lines.iter().filter(may_be_used).count();
            (usable > 0).then(|| in_flight(address) + lines.len() - usable)
        });
        let fewest = fewest.min().unwrap_or(0);
        let from_step = |line: &Arc<Line>| line.facts.lock().unwrap().idle_from_step;
        let mut picks = Vec::new();
        for (address, lines) in &addresses {
            let usable = || lines.iter().filter(may_be_used);
            if let Some(first) = usable().next()
                && in_flight(address) <= fewest
            {
                let step = from_step(first);
                let as_long = usable().filter(|line| from_step(line) == step);
                picks.extend(as_long.map(|line| line.shared.id()));
            }
        }
        picks
    }

    fn expect_of_shared(
        &self,
        host: usize,
        reuse: Reuse,
        is_retry: bool,
        rejected: bool,
        idle: &[Arc<Line>],
    ) -> Expected {
        let now = self.now();
        let usable = |line: &&Arc<Line>| line.may_be_used(now);
        let busy = self.roomy(host);
        let id = |line: &Arc<Line>| line.shared.id();
        let mut fit: Vec<_> = busy.iter().map(id).collect();
        // An idle connection of another address may come first.
        if fit.is_empty() || self.limits.spread != Spread::AsResolved {
            let idle = idle.iter().filter(usable);
            fit.extend(idle.filter(|it| it.carries() > 0).map(id));
        }
        let passed = idle.iter().filter(|line| !usable(line));
        Expected {
            reuse,
            is_retry,
            picks: match reuse {
                Reuse::Any => fit.clone(),
                _ => Vec::new(),
            },
            fit,
            passed: passed.cloned().collect(),
            // A connection that drains from this step on does not count in it.
            counted: 0,
            total: 0,
            blocked: self.blocked(host),
            pending: self.pending(host),
            admits: !self.closed || (!self.destroyed && (is_retry || rejected)),
        }
    }

    /// The pool's shared connections: by number, how many uses they have, and whether they drain.
    fn shared_now(&self, host: usize) -> BTreeMap<u64, (usize, bool)> {
        let key = Uri::from_static(HOSTS[host]);
        let host = self.shared.table.find(&key.key());
        host.map(|it| it.lock().shared_now()).unwrap_or_default()
    }

    /// Those in use that have room for more.
    fn roomy(&self, host: usize) -> Vec<Arc<Line>> {
        let now = self.shared_now(host);
        let has_room = |line: &&Arc<Line>| {
            let uses = now.get(&line.shared.id());
            uses.is_some_and(|&(uses, drains)| {
                let has_room = uses > 0 && uses < line.carries() && !drains;
                has_room && self.begun(line, uses) < line.limits.max_uses
            }) && line.may_be_used(self.now())
        };
        self.lines.iter().filter(has_room).cloned().collect()
    }

    /// How many uses were given out, of which it has `uses` now. Not all of them were collected.
    fn begun(&self, line: &Line, uses: usize) -> u64 {
        let id = line.shared.id();
        let of = super::actors::line;
        let used = self
            .used
            .iter()
            .filter(|it| of(it).shared.id() == id)
            .count();
        line.facts.lock().unwrap().uses + (uses - used) as u64
    }

    /// No use exceeds the capacity of a connection, none is lost, and nothing drains without a reason.
    fn uses_hold(&self, host: usize) {
        for (id, (uses, drains)) in self.shared_now(host) {
            let line = self.lines.iter().find(|it| it.shared.id() == id);
            let line = line.expect("it is one of these");
            let before = line.uses_before.swap(uses, SeqCst);
            assert!(
                uses <= line.carries().max(before),
                "#{id} has {uses} uses and carries {}",
                line.carries()
            );
            let wants_its_slot = |it: &Caller<S>| it.host == host && it.reuse != Reuse::Any;
            // Uses may have been given out and taken back within one step, and it drains from the last one on.
            let begun = self.begun(line, uses.max(before));
            let reason = !line.may_be_used(self.now())
                || begun >= line.limits.max_uses
                || line.left.load(SeqCst)
                || self.callers.iter().any(wants_its_slot)
                || self.closed
                || self.pool.is_none();
            // One that drains from the step on that made it, since its last use went to somebody else, may get that use back.
            if drains && !line.drained.swap(true, SeqCst) && before > 0 {
                assert!(reason, "#{id} drains");
            }
        }
    }

    /// When every caller has collected its delivery.
    fn no_use_is_lost(&self, host: usize) {
        for (id, (uses, _)) in self.shared_now(host) {
            let is_it = |pooled: &PooledConn<Conn<S>>| line(pooled).shared.id() == id;
            let used = self.used.iter().filter(|it| is_it(it)).count();
            let rejected = self.callers.iter().filter_map(|it| it.rejected.as_ref());
            let rejected = rejected.filter(|it| is_it(&it.pooled)).count();
            let made = self.callers.iter().filter(|it| it.made).count();
            let known = used + rejected;
            assert!(
                known <= uses && uses <= known + made,
                "#{id}: {uses} uses, {known} are known"
            );
        }
    }

    /// The end of a good use, or of a connect that nobody waited for.
    pub(super) fn give_back(
        &self,
        pooled: Box<PooledConn<Conn<S>>>,
        give_back: impl FnOnce(Box<PooledConn<Conn<S>>>),
    ) {
        let line = line(&pooled).clone();
        line.facts.lock().unwrap().free_since = self.now();
        let usable = line.may_be_used(self.now()) && !line.one_shot;
        let wanted = self.callers.iter().any(|it| it.waiter.is_some());
        let host = self.idle(line.host).len();
        let all: usize = (0..HOSTS.len()).map(|host| self.idle(host).len()).sum();
        let kept = self.limits.keep_alive
            && host < self.limits.max_idle_per_host
            && all < self.limits.max_idle;
        give_back(pooled);
        let closed = line.closing.load(SeqCst);
        let id = line.shared.id();
        let uses = self.shared_now(line.host).get(&id).map_or(0, |it| it.0);
        if uses > 0 {
            // It goes on with its other uses.
            return;
        }
        let usable = usable && !line.drained.load(SeqCst);
        if !usable || !self.limits.keep_alive || self.destroyed {
            assert!(closed, "#{id} may not be used again, and is kept");
        } else if kept && !wanted && !self.closed && self.pool.is_some() {
            assert!(!closed, "#{id} may be used again, and is closed");
        }
    }

    fn permits(&self, host: usize) -> impl Iterator<Item = &ConnPermit<Conn<S>>> {
        let making = self
            .callers
            .iter()
            .filter(move |it| it.host == host && it.reuse != Reuse::Never);
        let left = self.background.iter().filter(move |it| it.host == host);
        making
            .filter_map(|it| it.permit.as_ref())
            .chain(left.map(|it| it.permit()))
    }

    /// Transports and connects that count in a limit.
    fn counted(&self, host: usize) -> usize {
        let lines = self.lines.iter();
        let alive = lines.filter(|it| it.host == host && it.counts() && !it.one_shot);
        let key = Uri::from_static(HOSTS[host]);
        let found = self.shared.table.find(&key.key());
        let draining = found.map_or(0, |it| it.lock().draining());
        alive.count() + self.permits(host).count() - draining
    }

    fn blocked(&self, host: usize) -> usize {
        let key = Uri::from_static(HOSTS[host]);
        let host = self.shared.table.find(&key.key());
        host.map_or(0, |it| it.lock().queue().blocked())
    }

    fn pending(&self, host: usize) -> usize {
        of(&self.agent.status().pending, host)
    }

    /// Transports that still count in a limit, and belong to no connection.
    fn closing(&self, host: usize) -> usize {
        let lines = self.lines.iter();
        let closing = lines.filter(|it| it.counts() && it.closing.load(SeqCst));
        closing.filter(|it| it.host == host && !it.one_shot).count()
    }

    /// Connections that were dropped recently.
    pub(super) fn ended(&self, host: usize) -> usize {
        let lines = self.lines.iter();
        lines
            .filter(|it| it.host == host && it.closing.load(SeqCst))
            .count()
    }

    /// After every step.
    pub(super) fn limits_hold(&self) {
        let mut total = 0;
        for (host, name) in HOSTS.iter().enumerate() {
            let counted = self.counted(host);
            let max = self.limits.max_connections_per_host;
            assert!(counted <= max, "{counted} for {name}");
            self.uses_hold(host);
            let key = Uri::from_static(name);
            if let Some(key_pool) = self.shared.table.find(&key.key()) {
                assert!(key_pool.lock().places_hold(), "by address of {name}");
                self.accounts_hold(host, &key_pool);
            }
            total += counted;
        }
        assert!(total <= self.limits.max_connections, "{total} for all");
        for host in 0..HOSTS.len() {
            for line in self.idle(host) {
                assert!(!line.closing.load(SeqCst), "a closed one is idle");
                assert!(line.counts() && !line.one_shot, "it is not the pool's");
            }
        }
    }

    /// When every caller has collected its delivery.
    pub(super) fn nobody_is_forgotten(&self) {
        let status = self.agent.status();
        let kept = || status.idle.values();
        assert!(kept().all(|&idle| idle <= self.limits.max_idle_per_host));
        assert!(kept().sum::<usize>() <= self.limits.max_idle);
        if self.destroyed {
            let in_line = |it: &Caller<S>| it.waiter.is_some() && it.rejected.is_none();
            assert!(!self.callers.iter().any(in_line));
        }
        if self.closed || self.pool.is_none() {
            assert!(status.idle.is_empty());
        }
        let total: usize = (0..HOSTS.len()).map(|host| self.counted(host)).sum();
        let (mut held_by_total, mut idle, mut closing) = (0, 0, 0);
        for host in 0..HOSTS.len() {
            let callers = || self.callers.iter().filter(|it| it.host == host);
            let blocked = callers().filter(|it| it.is_blocked()).count();
            assert_eq!(of(&status.pending, host), blocked);
            // A connection without capacity for now is waited for.
            let is_empty = |it: &Arc<Line>| it.carries() == 0;
            let empty = self.idle(host).iter().filter(|&it| is_empty(it)).count();
            let idle_here = of(&status.idle, host) - empty;
            idle += idle_here;
            closing += self.closing(host);
            self.no_use_is_lost(host);
            if blocked == 0 {
                continue;
            }
            if callers().any(|it| it.is_blocked() && it.reuse == Reuse::Any) {
                assert_eq!(self.roomy(host).len(), 0, "one has room");
            }
            let on_its_way = self
                .lines
                .iter()
                .any(|it| it.host == host && it.is_on_its_way());
            if S && (on_its_way || self.permits(host).count() > 0) {
                continue;
            }
            if self.counted(host) < self.limits.max_connections_per_host {
                assert!(total >= self.limits.max_connections, "a permit is free");
                held_by_total += 1;
            } else if idle_here > 0 {
                assert!(blocked <= self.closing(host), "an idle one could go");
            }
            if callers().any(|it| it.is_blocked() && it.reuse == Reuse::Any) {
                assert_eq!(idle_here, 0, "one is idle");
            }
        }
        if idle > 0 {
            assert!(held_by_total <= closing, "an idle one could make room");
        }
        let callers = self.callers.iter();
        let not_begun = callers
            .filter(|it| it.permit.is_some() && !it.begun)
            .count();
        let counted = status.closed + status.detached + status.open() as u64;
        assert_eq!(status.created + not_begun as u64, counted);
        let alive = self.lines.iter().filter(|it| it.counts()).count();
        let making = self.callers.iter().filter(|it| it.permit.is_some()).count();
        assert_eq!(status.open(), alive + making + self.background.len());
    }

    /// All actors leave, and nothing is left over.
    pub(super) fn end(mut self) {
        self.note(|| "the end".into());
        self.callers.clear();
        self.used.clear();
        self.background.clear();
        self.drivers.clear();
        self.agent.close_idle();
        assert!(self.lines.iter().all(|it| !it.alive.load(SeqCst)));
        let status = self.agent.status();
        assert_eq!(status.open(), 0);
        assert_eq!(status.created, status.closed + status.detached);
        assert!(status.pending.is_empty());
        assert!(self.shared.table.is_empty());
        if let Some(total) = self.shared.lock_total() {
            assert!(total.is_at_rest());
        }
        drop(self.pool.take());
        // No reference cycle keeps it alive.
        assert_eq!(Arc::strong_count(&self.shared), 1);
    }
}

fn of(map: &BTreeMap<Key, usize>, host: usize) -> usize {
    let key = Key::from(Uri::from_static(HOSTS[host]).key());
    map.get(&key).copied().unwrap_or(0)
}
