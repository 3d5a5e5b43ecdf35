//! Random schedules against a model that counts for itself: whatever callers, connections and agents do in whatever
//! order, limits hold, nobody is forgotten, and nothing is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Uri;
use tokio::sync::oneshot;

use super::*;
use crate::cause::Cause;
use crate::clock::Clock;
use crate::key::Key;
use crate::lifespan::Lifespan;
use crate::target::{Reuse, Target};

mod actors_tests;

use actors_tests::{Caller, Conn, Dice, Driver, Line, Trace, Wire};

const RUNS: u64 = 1_000;
const STEPS: usize = 200;

const HOSTS: [&str; 3] = ["http://a/", "http://b/", "http://c/"];

struct Model {
    dice: Dice,
    hosts: usize,
    /// One in so many asks is not of the usual kind.
    odd: usize,
    /// One in so many connections is found dead, or ends badly.
    luck: usize,
    /// Nothing once the last owner is gone.
    pool: Option<Pool<Conn>>,
    shared: Arc<Shared<Conn>>,
    agent: AgentHandle,
    limits: Limits,
    time: Arc<AtomicU64>,
    lines: Vec<Arc<Line>>,
    /// In the order of arrival.
    callers: Vec<Caller>,
    background: Vec<(usize, Slot<Conn>, oneshot::Receiver<()>)>,
    #[expect(clippy::vec_box, reason = "a berth is boxed once and for all")]
    used: Vec<Box<Berth<Conn>>>,
    drivers: Vec<Driver>,
    /// New callers are refused.
    closed: bool,
    destroyed: bool,
    trace: Trace,
}

impl Model {
    fn new(seed: u64) -> Self {
        // The first numbers of small seeds are small.
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        let time = Arc::new(AtomicU64::new(0));
        let mut limits = Limits::new().clock({
            let (start, time) = (Moment::now(), time.clone());
            Clock::new(move || {
                let since = Duration::from_millis(time.load(SeqCst));
                start.checked_add(since).unwrap()
            })
        });
        if dice.one_in(2) {
            limits = limits.max_connections_per_host(dice.roll(1..4));
        }
        if dice.one_in(2) {
            limits = limits.max_connections(dice.roll(1..5));
        }
        if dice.one_in(3) {
            limits = limits.max_idle(dice.roll(0..3));
        }
        if dice.one_in(3) {
            limits = limits.max_idle_per_host(dice.roll(0..2));
        }
        if dice.one_in(4) {
            limits = limits.max_pending_per_host(dice.roll(0..3));
        }
        if dice.one_in(2) {
            limits = limits.scheduling(Scheduling::Fifo);
        }
        let pool = Pool::new(limits.clone());
        Self {
            hosts: dice.roll(1..HOSTS.len() + 1),
            odd: [4, 8, 32][dice.roll(0..3)],
            luck: [2, 6, 32][dice.roll(0..3)],
            dice,
            shared: pool.0.0.clone(),
            agent: pool.handle(),
            pool: Some(pool),
            time,
            lines: Vec::new(),
            callers: Vec::new(),
            background: Vec::new(),
            used: Vec::new(),
            drivers: Vec::new(),
            closed: false,
            destroyed: false,
            trace: Trace(vec![format!("seed {seed}: {limits:?}")]),
            limits,
        }
    }

    fn step(&mut self) {
        match self.dice.roll(0..32) {
            0..7 => self.ask(),
            7..12 => self.connect_on(),
            12..17 => self.end_use(),
            17..20 => self.leave(),
            20..23 => self.lose_transport(),
            23..26 => self.collect_one(),
            26..28 => self.come_back(),
            28 => self.finish_in_background(),
            29 => self.shut_unnoticed(),
            30 => self.let_time_pass(),
            _ => self.command(),
        }
        self.cancel_background();
        self.limits_hold();
        if self.dice.one_in(4) {
            self.collect_all();
            self.nobody_is_forgotten();
        }
    }

    fn ask(&mut self) {
        let host = self.dice.roll(0..self.hosts);
        let reuse = match self.dice.roll(0..self.odd) {
            0 | 1 => Reuse::Fresh,
            2 => Reuse::Never,
            _ => Reuse::Any,
        };
        let returning = self.dice.one_in(self.odd);
        self.trace.note(("ask", host, reuse, returning));
        self.checkout(host, reuse, returning, None);
    }

    fn checkout(
        &mut self,
        host: usize,
        reuse: Reuse,
        returning: bool,
        stale: Option<Box<Berth<Conn>>>,
    ) {
        let Some(pool) = &self.pool else { return };
        let ask = Ask {
            reuse,
            runtime: None,
            returning,
        };
        let now = self.limits.clock.now();
        let ended_before = self.ended(host);
        let verdict = pool.checkout(Uri::from_static(HOSTS[host]).key(), ask, stale, now);
        // Who came upon dead or expired ones is urgent, too.
        let urgent = returning || reuse == Reuse::Fresh || self.ended(host) > ended_before;
        let mut caller = Caller {
            host,
            reuse,
            urgent,
            waiter: None,
            slot: None,
            begun: false,
            stale: None,
            flag: Arc::default(),
            pending: false,
        };
        match verdict {
            Verdict::Take(berth) => {
                assert_eq!(reuse, Reuse::Any);
                return self.served(caller, berth);
            }
            Verdict::Make(slot, waiter) => {
                caller.slot = Some(slot);
                caller.waiter = Some(waiter);
            }
            Verdict::Wait(waiter) => {
                assert_ne!(reuse, Reuse::Never);
                caller.waiter = Some(waiter);
            }
            Verdict::QueueFull(max) => {
                assert!(!returning && reuse == Reuse::Any);
                assert!(max == self.limits.max_pending_per_host && max < usize::MAX);
                return;
            }
            Verdict::ShutDown => {
                return assert!(self.closed);
            }
        }
        self.callers.push(caller);
    }

    /// A caller who is not in line any more has a connection of somebody else.
    fn served(&mut self, mut caller: Caller, mut berth: Box<Berth<Conn>>) {
        assert!(caller.waiter.is_none());
        let dead = !berth.connection().is_open() || self.dice.one_in(self.luck);
        if dead {
            self.trace.note("which is stale");
            caller.stale = Some(berth);
            return self.callers.push(caller);
        }
        let now = self.limits.clock.now();
        berth.check_out(now, None);
        self.used.push(berth);
        if let Some(slot) = caller.slot.take().filter(|_| caller.begun) {
            self.leave_behind(caller.host, slot);
        }
    }

    fn leave_behind(&mut self, host: usize, slot: Slot<Conn>) {
        let (cancel, cancelled) = oneshot::channel();
        if slot.home().clone().to_background(slot.place(), cancel) {
            self.background.push((host, slot, cancelled));
        }
    }

    fn come_back(&mut self) {
        let found: Vec<_> = (0..self.callers.len())
            .filter(|&index| self.callers[index].stale.is_some())
            .collect();
        if found.is_empty() {
            return;
        }
        let index = found[self.dice.roll(0..found.len())];
        self.trace.note(("come back", index));
        let mut caller = self.callers.remove(index);
        let stale = caller.stale.take().unwrap();
        if let Some(slot) = &caller.slot {
            caller.waiter = Some(slot.home().wait_making(stale));
            caller.urgent = true;
            caller.pending = false;
            self.callers.push(caller);
        } else {
            self.checkout(caller.host, caller.reuse, true, Some(stale));
        }
    }

    /// One step further with somebody's connect.
    fn connect_on(&mut self) {
        let found: Vec<_> = (0..self.callers.len())
            .filter(|&index| self.callers[index].slot.is_some())
            .collect();
        if found.is_empty() {
            return;
        }
        let index = found[self.dice.roll(0..found.len())];
        self.trace.note(("connect", index));
        let caller = &mut self.callers[index];
        if !caller.begun {
            caller.begun = true;
            return caller.slot.as_mut().unwrap().begin();
        }
        if caller.stale.is_some() {
            return;
        }
        let mut caller = self.callers.remove(index);
        let slot = caller.slot.take().unwrap();
        if self.dice.one_in(4) {
            return slot.fail(Cause::Connect);
        }
        let mut berth = self.connected(caller.host, caller.reuse == Reuse::Never, slot);
        drop(caller.waiter);
        berth.connection().lifespan_mut().check_out(None);
        self.used.push(berth);
    }

    fn connected(&mut self, host: usize, one_shot: bool, slot: Slot<Conn>) -> Box<Berth<Conn>> {
        let line = Arc::new(Line {
            host,
            one_shot,
            open: AtomicBool::new(true),
            alive: AtomicBool::new(true),
            detached: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        self.lines.push(line.clone());
        let mut lifespan = Lifespan::new();
        if self.dice.one_in(2) {
            lifespan.limit_idle(Duration::from_millis(20));
        }
        if self.dice.one_in(4) {
            lifespan.limit_uses(2);
        }
        let mut wire = Some(Wire(line.clone()));
        if self.dice.one_in(2) {
            self.drivers.push(Driver {
                _wire: wire.take().unwrap(),
                _guard: lifespan.transport_guard().unwrap(),
            });
        }
        slot.fill(Conn {
            line,
            _wire: wire,
            lifespan,
        })
    }

    fn finish_in_background(&mut self) {
        if self.background.is_empty() {
            return;
        }
        let index = self.dice.roll(0..self.background.len());
        let (host, slot, _cancelled) = self.background.remove(index);
        let fails = self.dice.one_in(4);
        self.trace.note(("in the background", index, fails));
        if fails {
            slot.fail(Cause::Connect);
        } else {
            self.connected(host, false, slot).give_back();
        }
    }

    fn cancel_background(&mut self) {
        let (kept, cancelled): (Vec<_>, Vec<_>) = std::mem::take(&mut self.background)
            .into_iter()
            .map(|(host, slot, mut signal)| {
                let gone = signal.try_recv() == Err(oneshot::error::TryRecvError::Closed);
                ((host, slot, signal), gone)
            })
            .partition(|(_, gone)| !gone);
        self.background = kept.into_iter().map(|(it, _)| it).collect();
        drop(cancelled);
    }

    fn end_use(&mut self) {
        if self.used.is_empty() {
            return;
        }
        let index = self.dice.roll(0..self.used.len());
        let mut berth = self.used.swap_remove(index);
        let how = self.dice.roll(0..self.luck + 2);
        self.trace.note(("end of use", index, how));
        match how {
            0 => berth.close(Cause::Error),
            1 => drop(berth),
            2 => {
                let conn = berth.connection();
                conn.line
                    .detached
                    .store(conn.line.alive.load(SeqCst), SeqCst);
                conn.lifespan().bond().detach();
                self.used.push(berth);
            }
            _ => berth.give_back(),
        }
    }

    /// In whatever state the caller is.
    fn leave(&mut self) {
        if self.callers.is_empty() {
            return;
        }
        let index = self.dice.roll(0..self.callers.len());
        self.trace.note(("leave", index));
        let mut caller = self.callers.remove(index);
        caller.waiter = None;
        if let Some(slot) = caller.slot.take()
            && caller.begun
            && caller.reuse != Reuse::Never
            && slot.home().has_takers()
        {
            self.leave_behind(caller.host, slot);
        }
    }

    fn lose_transport(&mut self) {
        if self.drivers.is_empty() {
            return;
        }
        let index = self.dice.roll(0..self.drivers.len());
        self.trace.note(("lose transport", index));
        drop(self.drivers.swap_remove(index));
    }

    /// The other end has closed, and the transport is still there.
    fn shut_unnoticed(&mut self) {
        if self.lines.is_empty() {
            return;
        }
        let index = self.dice.roll(0..self.lines.len());
        self.trace.note(("shut unnoticed", index));
        self.lines[index].open.store(false, SeqCst);
    }

    fn let_time_pass(&mut self) {
        let by = self.dice.roll(1..15) as u64;
        self.trace.note(("time passes", by));
        self.time.fetch_add(by, SeqCst);
        if self.dice.one_in(2) {
            self.shared.sweep();
        }
    }

    fn command(&mut self) {
        let which = self.dice.roll(0..60);
        self.trace.note(("command", which));
        match which {
            0 => {
                drop(self.agent.drain());
                self.closed = true;
            }
            1 => {
                self.agent.destroy();
                self.closed = true;
                self.destroyed = true;
            }
            // Callers in line hold the pool.
            2 if self.callers.is_empty() => self.pool = None,
            3..20 => self.agent.close_idle(),
            _ => {}
        }
    }

    fn collect_one(&mut self) {
        if self.callers.is_empty() {
            return;
        }
        let index = self.dice.roll(0..self.callers.len());
        self.collect(index);
    }

    /// Whether there was something.
    fn collect(&mut self, index: usize) -> Option<&'static str> {
        let caller = &mut self.callers[index];
        let waker = Waker::from(caller.flag.clone());
        let waiter = caller.waiter.as_ref()?;
        let Poll::Ready(turn) = waiter.poll_turn(&Context::from_waker(&waker)) else {
            caller.pending = true;
            return None;
        };
        let woken = caller.flag.0.swap(false, SeqCst);
        assert!(woken || !caller.pending, "nobody was told");
        caller.pending = false;
        match turn {
            Turn::Connection(berth) => {
                self.trace.note(("handed over", index));
                assert_eq!(caller.reuse, Reuse::Any);
                let mut caller = self.callers.remove(index);
                caller.waiter = None;
                self.served(caller, berth);
                Some("connection")
            }
            Turn::Make(slot) => {
                self.trace.note(("may make", index));
                assert!(caller.slot.is_none());
                caller.slot = Some(slot);
                Some("slot")
            }
            Turn::Refused => {
                assert!(self.destroyed);
                drop(self.callers.remove(index));
                Some("refusal")
            }
        }
    }

    /// Everybody comes for what there is, the oldest first: nobody who waits has been overtaken.
    fn collect_all(&mut self) {
        loop {
            let mut any = false;
            let mut index = 0;
            while index < self.callers.len() {
                let (host, in_order) = {
                    let caller = &self.callers[index];
                    (caller.host, caller.is_in_order())
                };
                let count = self.callers.len();
                let given = self.collect(index);
                any |= given.is_some();
                let older = self.callers[..index]
                    .iter()
                    .filter(|it| it.host == host && it.is_in_order());
                match given {
                    Some("connection") if in_order => assert_eq!(older.count(), 0, "overtaken"),
                    Some("slot") if in_order => {
                        assert_eq!(older.filter(|it| it.slot.is_none()).count(), 0, "overtaken");
                    }
                    _ => {}
                }
                // Gone from its place, be it to the end.
                let moved = self.callers.len() < count || given == Some("connection");
                index += usize::from(!moved);
            }
            if !any {
                return;
            }
        }
    }

    fn slots(&self, host: usize) -> impl Iterator<Item = &Slot<Conn>> {
        let making = self
            .callers
            .iter()
            .filter(move |it| it.host == host && it.reuse != Reuse::Never);
        let left = self.background.iter().filter(move |it| it.0 == host);
        making
            .filter_map(|it| it.slot.as_ref())
            .chain(left.map(|it| &it.1))
    }

    /// Transports and connects that a limit counts.
    fn counted(&self, host: usize) -> usize {
        let lines = self.lines.iter();
        let alive = lines.filter(|it| it.host == host && it.counts() && !it.one_shot);
        alive.count() + self.slots(host).count()
    }

    /// Transports that a limit still counts and no connection has.
    fn closing(&self, host: usize) -> usize {
        let lines = self.lines.iter();
        let closing = lines.filter(|it| it.counts() && it.closing.load(SeqCst));
        closing.filter(|it| it.host == host && !it.one_shot).count()
    }

    /// Connections that were dropped of late.
    fn ended(&self, host: usize) -> usize {
        let lines = self.lines.iter();
        lines
            .filter(|it| it.host == host && it.closing.load(SeqCst))
            .count()
    }

    fn limits_hold(&mut self) {
        self.lines.retain(|line| line.alive.load(SeqCst));
        let mut total = 0;
        for host in 0..HOSTS.len() {
            let counted = self.counted(host);
            assert!(counted <= self.limits.max_connections_per_host);
            total += counted;
        }
        assert!(total <= self.limits.max_connections);
    }

    /// When everybody has come for what there was.
    fn nobody_is_forgotten(&self) {
        let status = self.agent.status();
        let kept = || status.idle.values();
        assert!(kept().all(|&idle| idle <= self.limits.max_idle_per_host));
        assert!(kept().sum::<usize>() <= self.limits.max_idle);
        if self.destroyed {
            assert!(self.callers.iter().all(|it| it.waiter.is_none()));
        }
        if self.closed || self.pool.is_none() {
            assert!(status.idle.is_empty());
        }
        let of = |map: &std::collections::BTreeMap<Key, usize>, host: usize| {
            let key = Key::from(Uri::from_static(HOSTS[host]).key());
            map.get(&key).copied().unwrap_or(0)
        };
        let total: usize = (0..HOSTS.len()).map(|host| self.counted(host)).sum();
        let (mut held_by_total, mut idle, mut closing) = (0, 0, 0);
        for host in 0..HOSTS.len() {
            let callers = || self.callers.iter().filter(|it| it.host == host);
            let blocked = callers().filter(|it| it.is_blocked()).count();
            assert_eq!(of(&status.pending, host), blocked);
            idle += of(&status.idle, host);
            closing += self.closing(host);
            if blocked == 0 {
                continue;
            }
            if self.counted(host) < self.limits.max_connections_per_host {
                assert!(total >= self.limits.max_connections, "a slot is free");
                held_by_total += 1;
            } else if of(&status.idle, host) > 0 {
                assert!(blocked <= self.closing(host), "an idle one could go");
            }
            if callers().any(|it| it.is_blocked() && it.reuse == Reuse::Any) {
                assert_eq!(of(&status.idle, host), 0, "one is idle");
            }
        }
        if idle > 0 {
            assert!(held_by_total <= closing, "an idle one could make room");
        }
        let callers = self.callers.iter();
        let not_begun = callers.filter(|it| it.slot.is_some() && !it.begun).count();
        let counted = status.closed + status.detached + status.open() as u64;
        assert_eq!(status.created + not_begun as u64, counted);
        let alive = self.lines.iter().filter(|it| it.counts()).count();
        let making = self.callers.iter().filter(|it| it.slot.is_some()).count();
        assert_eq!(status.open(), alive + making + self.background.len());
    }

    fn end(mut self) {
        self.trace.note("the end");
        while !self.callers.is_empty() {
            self.leave();
        }
        while !self.used.is_empty() {
            self.end_use();
        }
        drop(std::mem::take(&mut self.background));
        while !self.drivers.is_empty() {
            self.lose_transport();
        }
        self.agent.close_idle();
        self.lines.retain(|line| line.alive.load(SeqCst));
        assert!(self.lines.is_empty());
        let status = self.agent.status();
        assert_eq!(status.open(), 0);
        assert_eq!(status.created, status.closed + status.detached);
        assert!(status.pending.is_empty());
        assert!(self.shared.table.is_empty());
        if let Some(total) = self.shared.lock_total() {
            assert!(total.is_at_rest());
        }
        drop(self.pool.take());
        // No cycle keeps it.
        assert_eq!(Arc::strong_count(&self.shared), 1);
    }
}

#[test]
fn whatever_happens_limits_hold_and_nobody_is_forgotten() {
    for seed in 1..=RUNS {
        let mut model = Model::new(seed);
        for _ in 0..STEPS {
            model.step();
        }
        model.end();
    }
}
