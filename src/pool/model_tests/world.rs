//! The pool under test with all actors, and the effect of each step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use http::Uri;

use super::actors::{Caller, Conn, Driver, Line, Trace, line, nth};
use super::names::Name;
use super::steps::{End, HOSTS, Setup, Step, Who, millis};
use crate::agent::{AgentHandle, ConnectionState};
use crate::clock::{Clock, Moment};
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::{ErasedLease, Poolable};
use crate::pool::shared::Shared;
use crate::pool::{
    CheckoutRequest, ConnPermit, Decision, KeyPool, Pool, PoolConfig, PooledConn, Rejected, Stop,
    WaitOutcome,
};
use crate::target::key::Key;
use crate::target::{Reuse, Target};

pub(super) struct World<const S: bool> {
    /// `None` once the last owner is gone.
    pub(super) pool: Option<Pool<Conn<S>>>,
    pub(super) shared: Arc<Shared<Conn<S>>>,
    pub(super) agent: AgentHandle,
    pub(super) limits: PoolConfig,
    pub(super) time: Arc<AtomicU64>,
    pub(super) lines: Vec<Arc<Line>>,
    /// In the order of arrival.
    pub(super) callers: Vec<Caller<S>>,
    pub(super) background: Vec<Background<S>>,
    #[expect(clippy::vec_box, reason = "a connection is boxed once and for all")]
    pub(super) used: Vec<Box<PooledConn<Conn<S>>>>,
    pub(super) drivers: Vec<Driver>,
    /// The addresses of each host's name, and which of them have failed.
    pub(super) names: [Name; HOSTS.len()],
    /// New callers are refused.
    pub(super) closed: bool,
    pub(super) destroyed: bool,
    pub(super) steps: usize,
    arrived: usize,
    pub(super) trace: Trace,
}

/// A connect that goes on for no particular caller.
pub(super) struct Background<const S: bool> {
    pub(super) host: usize,
    pub(super) permit: ConnPermit<Conn<S>>,
    /// Whether it is to be cancelled. `None` for one that prewarms the pool.
    pub(super) stopped: Option<Arc<Stopped>>,
}

#[derive(Default)]
pub(super) struct Stopped(AtomicBool);

impl Stop for Stopped {
    fn stop(&self, _: CloseReason) {
        self.0.store(true, SeqCst);
    }
}

impl<const S: bool> Background<S> {
    pub(super) fn permit(&self) -> &ConnPermit<Conn<S>> {
        &self.permit
    }
}

impl<const S: bool> World<S> {
    pub(super) fn new(setup: &Setup) -> Self {
        let time = Arc::new(AtomicU64::new(0));
        let limits = setup.config().clock({
            let (start, time) = (Moment::now(), time.clone());
            Clock::new(move || start.checked_add(millis(time.load(SeqCst))).unwrap())
        });
        let pool = Pool::new(limits.clone());
        Self {
            shared: pool.0.0.clone(),
            agent: pool.handle(),
            pool: Some(pool),
            trace: Trace::begin(setup),
            limits,
            time,
            lines: Vec::new(),
            callers: Vec::new(),
            background: Vec::new(),
            used: Vec::new(),
            drivers: Vec::new(),
            names: Default::default(),
            closed: false,
            destroyed: false,
            steps: 0,
            arrived: 0,
        }
    }

    pub(super) fn now(&self) -> u64 {
        self.time.load(SeqCst)
    }

    pub(super) fn step(&mut self, step: Step) {
        self.steps += 1;
        self.act(step);
        self.cancel_background();
        self.note_who_is_idle();
    }

    fn act(&mut self, step: Step) {
        match step {
            Step::CheckoutRequest {
                host,
                reuse,
                is_retry,
                finds_stale,
            } => self.checkout(host, reuse, is_retry, None, finds_stale),
            Step::Begin(who) => self.begin(who),
            Step::Connect(who, made) => self.connect(who, &made),
            Step::Collect { who, finds_stale } => {
                if let Some(index) = nth(who, self.callers.len()) {
                    self.collect(index, finds_stale);
                }
            }
            Step::CollectAll => self.collect_all(),
            Step::ComeBack(who) => self.come_back(who),
            Step::Leave(who) => {
                if let Some(index) = nth(who, self.callers.len()) {
                    self.leave(index);
                }
            }
            Step::EndUse(who, how) => {
                if let Some(index) = nth(who, self.used.len()) {
                    self.end_use(index, how);
                }
            }
            Step::LoseTransport(who) => {
                if let Some(index) = nth(who, self.drivers.len()) {
                    let driver = self.drivers.remove(index);
                    self.note(|| format!("#{} loses its transport", driver._guard.shared().id()));
                }
            }
            Step::ServerCloses(who) => {
                if let Some(index) = nth(who, self.lines.len()) {
                    let line = self.lines[index].clone();
                    self.note(|| format!("the server closes #{}", line.shared.id()));
                    line.open.store(false, SeqCst);
                }
            }
            Step::Deliver(who, made) => self.deliver(who, &made),
            Step::TakeBack => self.take_back(),
            Step::InBackground(who, made) => self.finish_in_background(who, &made),
            Step::Prewarm { host, count } => self.prewarm(host, count),
            Step::Poison(who) => {
                if let Some(index) = nth(who, self.lines.len()) {
                    let line = self.lines[index].clone();
                    self.note(|| format!("#{} is poisoned", line.shared.id()));
                    line.shared.poison();
                }
            }
            Step::Capacity(who, to) => {
                if let Some(line) = self.nth_shared(who) {
                    self.note(|| format!("#{} carries {to}", line.shared.id()));
                    line.capacity.store(to, SeqCst);
                    line.tell();
                }
            }
            Step::GoAway(who) => {
                if let Some(line) = self.nth_shared(who) {
                    self.note(|| format!("#{} goes away", line.shared.id()));
                    line.open.store(false, SeqCst);
                    line.tell();
                }
            }
            Step::Dns { host, has } => self.change_dns(host, has),
            Step::Answer { host, times } => {
                for _ in 0..times {
                    self.answer(host);
                }
            }
            Step::Visit => {
                self.note(|| "somebody asks for another host".into());
                self.visit();
            }
            Step::Advance(by) => {
                self.note(|| format!("{by} ms pass"));
                self.time.fetch_add(by, SeqCst);
            }
            Step::Sweep => self.sweep(),
            Step::CloseIdle => {
                self.note(|| "close idle".into());
                self.agent.close_idle();
            }
            Step::Drain => {
                self.note(|| "drain".into());
                drop(self.agent.drain());
                self.closed = true;
            }
            Step::Destroy => {
                self.note(|| "destroy".into());
                self.agent.destroy();
                self.closed = true;
                self.destroyed = true;
            }
            // Waiting callers own the pool.
            Step::DropPool => {
                if self.callers.is_empty() {
                    self.note(|| "the last owner goes".into());
                    self.pool = None;
                }
            }
        }
    }

    fn checkout(
        &mut self,
        host: usize,
        reuse: Reuse,
        is_retry: bool,
        rejected: Option<Rejected<Conn<S>>>,
        finds_stale: bool,
    ) {
        let Some(pool) = &self.pool else { return };
        let request = CheckoutRequest {
            reuse,
            runtime: None,
            is_retry,
        };
        self.arrived += 1;
        let ended_before = self.ended(host);
        let expected = self.expect_of_checkout(host, reuse, is_retry, rejected.is_some());
        let decision = pool.checkout(
            &Uri::from_static(HOSTS[host]).key(),
            request,
            rejected,
            self.limits.clock.now(),
        );
        let outcome = match &decision {
            Decision::Take(pooled) => format!("takes #{}", line(pooled).shared.id()),
            Decision::Make(..) => "may make".into(),
            Decision::Wait(_) => "waits".into(),
            Decision::QueueFull(_) => "finds the queue full".into(),
            Decision::ShutDown => "is refused".into(),
        };
        let number = self.arrived;
        self.note(|| {
            format!(
                "caller {number} for {} ({request:?}) {outcome}",
                HOSTS[host]
            )
        });
        expected.check(&decision, self);
        // A caller that met dead or expired connections is urgent, too.
        let urgent = is_retry || reuse == Reuse::Fresh || self.ended(host) > ended_before;
        let mut caller = Caller {
            number,
            host,
            reuse,
            urgent,
            waiter: None,
            permit: None,
            begun: false,
            rejected: None,
            flag: Arc::default(),
            pending: false,
            made: false,
            missed: false,
        };
        match decision {
            Decision::Take(pooled) => return self.served(caller, pooled, finds_stale),
            Decision::Make(permit, waiter) => {
                caller.permit = Some(permit);
                caller.waiter = Some(waiter);
            }
            Decision::Wait(waiter) => caller.waiter = Some(waiter),
            Decision::QueueFull(_) | Decision::ShutDown => return,
        }
        self.callers.push(caller);
    }

    /// A caller that does not wait any more has a connection of another caller.
    fn served(
        &mut self,
        mut caller: Caller<S>,
        mut pooled: Box<PooledConn<Conn<S>>>,
        finds_stale: bool,
    ) {
        let line = line(&pooled).clone();
        let over = pooled.close_reason(self.limits.clock.now());
        // A shared connection has counted this use already, so only its age is a limit.
        let fit = match line.is_split {
            true => line.may_go_on(self.now()),
            false => line.may_be_used(self.now()),
        };
        assert_eq!(over.is_none(), fit, "#{}: {over:?}", line.shared.id());
        if let Some(reason) = over.or(finds_stale.then_some(CloseReason::Stale)) {
            let (number, id) = (caller.number, line.shared.id());
            self.note(|| format!("caller {number} has no use for #{id}: {reason}"));
            caller.rejected = Some(Rejected::new(pooled, reason));
            return self.callers.push(caller);
        }
        caller.waiter = None;
        {
            let mut facts = line.facts.lock().unwrap();
            facts.uses += 1;
            assert!(facts.uses <= line.limits.max_uses, "used too often");
        }
        pooled.check_out(self.limits.clock.now(), None);
        self.used.push(pooled);
        if let Some(permit) = caller.permit.take().filter(|_| caller.begun) {
            self.leave_behind(caller.host, permit);
        }
    }

    fn leave_behind(&mut self, host: usize, permit: ConnPermit<Conn<S>>) {
        let stopped = Arc::<Stopped>::default();
        let stop: Weak<dyn Stop> = Arc::downgrade(&(stopped.clone() as Arc<dyn Stop>));
        permit
            .key_pool()
            .set_connecting(permit.index(), stop.clone(), None);
        if permit.key_pool().leave_connecting(permit.index(), &stop) {
            self.background.push(Background {
                host,
                permit,
                stopped: Some(stopped),
            });
        }
    }

    fn come_back(&mut self, who: Who) {
        let Some(index) = self.nth_caller(who, |it| it.rejected.is_some()) else {
            return;
        };
        let mut caller = self.callers.remove(index);
        self.note(|| format!("caller {} comes back", caller.number));
        let rejected = caller.rejected.take().unwrap();
        line(&rejected.pooled).found_dead.store(true, SeqCst);
        if let Some(waiter) = &caller.waiter {
            waiter.requeue(rejected);
            caller.urgent = true;
            caller.pending = false;
            self.callers.push(caller);
        } else {
            self.checkout(caller.host, caller.reuse, true, Some(rejected), false);
        }
    }

    /// Enough time has passed: callers lose the deliveries that they have not collected.
    fn take_back(&mut self) {
        self.note(|| "what nobody came for is taken back".into());
        self.shared.table.each(KeyPool::take_back_all);
        for caller in &mut self.callers {
            caller.missed |= caller.waiter.as_ref().is_some_and(|it| it.missed());
        }
    }

    /// Nothing of it may remain, neither in the table nor in the agent's counters.
    fn visit(&self) {
        let Some(pool) = &self.pool else { return };
        let request = CheckoutRequest {
            reuse: Reuse::Any,
            runtime: None,
            is_retry: false,
        };
        let host = Uri::try_from(format!("http://visited{}/", self.steps)).unwrap();
        // The limits over all keys may refuse it; a caller that would wait leaves at once.
        match pool.checkout(&host.key(), request, None, self.limits.clock.now()) {
            Decision::Make(mut permit, waiter) => {
                permit.begin();
                drop(waiter);
                permit.fail(CloseReason::Connect);
            }
            Decision::Wait(waiter) => drop(waiter),
            Decision::Take(_) => panic!("nobody has been there"),
            Decision::QueueFull(_) => assert_eq!(self.limits.max_pending_per_host, 0),
            Decision::ShutDown => assert!(self.closed),
        }
        let key = Key::from(host.key());
        assert!(self.agent.connections(&key).is_empty());
        assert!(!self.agent.status().pending.contains_key(&key));
        assert!(
            self.shared.table.find(&key.as_ref()).is_none(),
            "{key} stays"
        );
    }

    fn cancel_background(&mut self) {
        let gone = |it: &mut Background<S>| {
            let stopped = it.stopped.as_ref();
            stopped.is_some_and(|it| it.0.load(SeqCst))
        };
        // Not while the list is borrowed: what is dropped here may serve others.
        let cancelled: Vec<_> = self.background.extract_if(.., gone).collect();
        drop(cancelled);
    }

    fn end_use(&mut self, index: usize, how: End) {
        let pooled = self.used.remove(index);
        let line = line(&pooled).clone();
        self.note(|| format!("the use of #{} ends: {how:?}", line.shared.id()));
        match how {
            End::Bad => pooled.close(CloseReason::Error),
            End::Dropped => drop(pooled),
            End::Detached => {
                line.detached.store(line.alive.load(SeqCst), SeqCst);
                line.shared.detach();
                self.used.push(pooled);
            }
            // On a shared connection, a use ends by itself.
            End::Early if line.is_split => pooled.close(CloseReason::Abandoned),
            End::Early => {
                line.uploading.store(true, SeqCst);
                self.give_back(pooled, ErasedLease::release);
            }
            End::Good => self.give_back(pooled, ErasedLease::release),
        }
    }

    /// In whatever state the caller is.
    fn leave(&mut self, index: usize) {
        let mut caller = self.callers.remove(index);
        self.note(|| format!("caller {} leaves", caller.number));
        if let Some(rejected) = &caller.rejected {
            // A connection that is dropped counts as used.
            line(&rejected.pooled).facts.lock().unwrap().uses += 1;
        }
        caller.waiter = None;
        if let Some(permit) = caller.permit.take()
            && caller.begun
            && caller.reuse != Reuse::Never
            && permit.key_pool().has_takers()
        {
            self.leave_behind(caller.host, permit);
        }
    }

    fn sweep(&mut self) {
        self.note(|| "sweep".into());
        self.shared.sweep();
        let now = self.now();
        for host in 0..HOSTS.len() {
            for line in self.idle(host) {
                let facts = *line.facts.lock().unwrap();
                let in_time = now - facts.born < line.limits.max_age
                    && now - facts.free_since < line.limits.max_idle;
                assert!(in_time, "#{} outlives its time", line.shared.id());
            }
        }
    }

    /// What the caller collected, if there was anything.
    fn collect(&mut self, index: usize, finds_stale: bool) -> Option<&'static str> {
        let caller = &mut self.callers[index];
        if caller.rejected.is_some() {
            return None;
        }
        let waker = Waker::from(caller.flag.clone());
        let waiter = caller.waiter.as_ref()?;
        let woken = caller.flag.0.swap(false, SeqCst);
        let Poll::Ready(turn) = waiter.poll_outcome(&Context::from_waker(&waker)) else {
            caller.pending = true;
            return None;
        };
        let number = caller.number;
        // A caller that has missed its turn was woken for that.
        assert!(
            woken || !caller.pending || caller.missed,
            "caller {number} was not woken"
        );
        caller.pending = false;
        match turn {
            WaitOutcome::Connection(pooled) => {
                assert_eq!(caller.reuse, Reuse::Any);
                let mut caller = self.callers.remove(index);
                self.note(|| format!("caller {number} is handed #{}", line(&pooled).shared.id()));
                if caller.permit.is_none() && !caller.made {
                    caller.waiter = None;
                }
                self.served(caller, pooled, finds_stale);
                Some("connection")
            }
            WaitOutcome::Made(mut pooled) => {
                let caller = self.callers.remove(index);
                assert!(caller.made && caller.permit.is_none());
                let line = line(&pooled).clone();
                self.note(|| format!("caller {number} comes for #{}", line.shared.id()));
                drop(caller.waiter);
                line.facts.lock().unwrap().uses += 1;
                Poolable::lifespan_mut(pooled.connection()).check_out(None);
                self.used.push(pooled);
                Some("its own")
            }
            WaitOutcome::Lost => {
                let caller = self.callers.remove(index);
                assert!(caller.made && caller.permit.is_none());
                self.note(|| format!("caller {number} has lost its own"));
                drop(caller.waiter);
                self.checkout(caller.host, caller.reuse, true, None, false);
                Some("nothing")
            }
            WaitOutcome::Stuck(_) => panic!("every transport is dropped when it is told to go"),
            WaitOutcome::Make(permit) => {
                assert!(caller.permit.is_none());
                caller.permit = Some(permit);
                self.note(|| format!("caller {number} may make"));
                Some("permit")
            }
            WaitOutcome::Refused => {
                assert!(self.destroyed);
                drop(self.callers.remove(index));
                Some("refusal")
            }
        }
    }

    /// All callers collect their deliveries, the oldest first: no waiting caller was overtaken.
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
                let given = self.collect(index, false);
                // The total limit may serve a caller at once that returns to the queue.
                let woken = |it: &Caller<S>| it.pending && it.flag.0.load(SeqCst);
                any |= given.is_some() || self.callers.get(index).is_some_and(woken);
                let older = self.callers[..index]
                    .iter()
                    .filter(|it| it.host == host && it.is_in_order());
                match given {
                    Some("connection") if in_order => assert_eq!(older.count(), 0, "overtaken"),
                    // A caller that was given a permit since the last round collects it in the next one.
                    Some("permit") if in_order => {
                        let has_delivery =
                            |it: &Caller<S>| it.waiter.as_ref().is_some_and(|it| it.has_delivery());
                        let passed = older.filter(|it| it.permit.is_none() && !has_delivery(it));
                        assert_eq!(passed.count(), 0, "overtaken");
                    }
                    _ => {}
                }
                // It left its place, possibly for the end.
                let moved =
                    self.callers.len() < count || matches!(given, Some("connection" | "nothing"));
                index += usize::from(!moved);
            }
            // A caller that comes late may make another connect necessary.
            any |= self
                .callers
                .iter()
                .any(|it| it.pending && it.flag.0.load(SeqCst));
            if !any {
                return self.nobody_is_forgotten();
            }
        }
    }

    /// The connections that the pool reports as idle, as the model knows them.
    pub(super) fn idle(&self, host: usize) -> Vec<Arc<Line>> {
        let key = Key::from(Uri::from_static(HOSTS[host]).key());
        let idle = self.agent.connections(&key).into_iter();
        let idle = idle.filter(|it| it.state == ConnectionState::Idle);
        let ids: Vec<_> = idle.filter_map(|it| it.id).collect();
        let lines = self.lines.iter();
        lines
            .filter(|it| ids.contains(&it.shared.id()))
            .cloned()
            .collect()
    }

    fn note_who_is_idle(&self) {
        let idle: BTreeMap<_, _> = (0..HOSTS.len())
            .flat_map(|host| self.idle(host))
            .map(|line| (line.shared.id(), ()))
            .collect();
        for line in &self.lines {
            let mut facts = line.facts.lock().unwrap();
            facts.idle_from_step = idle
                .contains_key(&line.shared.id())
                .then(|| facts.idle_from_step.unwrap_or(self.steps));
        }
    }

    fn nth_shared(&self, who: Who) -> Option<Arc<Line>> {
        let shared = || self.lines.iter().filter(|it| it.is_split);
        shared().nth(nth(who, shared().count())?).cloned()
    }

    pub(super) fn nth_caller(&self, who: Who, can: impl Fn(&Caller<S>) -> bool) -> Option<usize> {
        let found: Vec<_> = (0..self.callers.len())
            .filter(|&index| can(&self.callers[index]))
            .collect();
        nth(who, found.len()).map(|index| found[index])
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        self.trace.note(what());
    }
}
