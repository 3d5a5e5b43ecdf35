//! The lock of one key, simulated.
//!
//! Each thread, on a core of its own, goes round: work of its own, the lock for the checkout, work of its own, the lock for the
//! checkin. The lock is std's: who finds it taken spins for a while, and then sleeps; who gives it back wakes one that
//! sleeps, which takes it if nobody came before. Who gets it after another thread has had it pays for the cache lines that come over
//! from the other core, under the lock, so that those behind wait for that as well. This takes in what is shared beside the lock:
//! the reference count of the key's pool, the lock of the table and the counters pass from core to core just so.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use fastrand::Rng;

/// Nanoseconds for one checkout and its checkin. Both visits of the lock are in one figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// Without the lock.
    pub(crate) own: f64,
    /// Under it.
    pub(crate) held: f64,
    /// Under it, in addition, if another thread had it last.
    pub(crate) transfer: f64,
    pub(crate) wake: Wake,
}

/// Nanoseconds of waking a thread that sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wake {
    /// For who wakes it.
    pub(crate) call: f64,
    /// Until it runs.
    pub(crate) until: f64,
}

/// How long std's lock spins before its thread sleeps, in nanoseconds: a hundred turns.
const SPINS: u64 = 1_000;

const VISITS: f64 = 2.0;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// It wants the lock, or does again.
    Want,
    /// It has spun for long enough, if it is still the same visit.
    Spun(u64),
    Release,
}

struct Model {
    costs: Costs,
    rng: Rng,
    now: u64,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    is_held: bool,
    last: usize,
    /// With the number of their visit.
    spinning: VecDeque<(usize, u64)>,
    sleeping: VecDeque<usize>,
    visits: u64,
    /// For how long the lock was held.
    held: u64,
}

/// What threads come to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outcome {
    /// Nanoseconds from one round of a thread to its next.
    pub(crate) round: f64,
    /// The part of the time in which the lock was held.
    pub(crate) held: f64,
}

/// Of so many threads.
pub(crate) fn run(costs: Costs, threads: usize) -> Outcome {
    let mut model = Model {
        costs,
        rng: Rng::with_seed(1),
        now: 0,
        events: BinaryHeap::new(),
        is_held: false,
        last: usize::MAX,
        spinning: VecDeque::new(),
        sleeping: VecDeque::new(),
        visits: 0,
        held: 0,
    };
    for thread in 0..threads {
        model.work(thread, 0.0);
    }
    let enough = 1_000 * threads.max(4) as u64;
    while model.visits < enough {
        model.step();
    }
    Outcome {
        round: model.now as f64 * threads as f64 * VISITS / enough as f64,
        held: model.held as f64 / model.now as f64,
    }
}

impl Model {
    fn step(&mut self) {
        let Reverse((at, thread, event)) = self.events.pop().expect("a thread works or waits");
        self.now = at;
        match event {
            Event::Want if !self.is_held => self.take(thread),
            Event::Want => {
                let visit = self.visits;
                self.spinning.push_back((thread, visit));
                self.later(SPINS, thread, Event::Spun(visit));
            }
            Event::Spun(visit) => {
                let place = self.spinning.iter().position(|&it| it == (thread, visit));
                if place.and_then(|it| self.spinning.remove(it)).is_some() {
                    self.sleeping.push_back(thread);
                }
            }
            Event::Release => self.release(thread),
        }
    }

    fn take(&mut self, thread: usize) {
        let mut held = self.costs.held / VISITS;
        if self.last != thread {
            held += self.costs.transfer / VISITS;
        }
        (self.is_held, self.last) = (true, thread);
        self.held += held as u64;
        self.later(held as u64, thread, Event::Release);
    }

    fn release(&mut self, thread: usize) {
        self.is_held = false;
        self.visits += 1;
        let mut call = 0.0;
        if let Some(sleeper) = self.sleeping.pop_front() {
            call = self.costs.wake.call;
            self.later(self.costs.wake.until as u64, sleeper, Event::Want);
        }
        if let Some((next, _)) = self.spinning.pop_front() {
            self.take(next);
        }
        self.work(thread, call);
    }

    /// Until it wants the lock again.
    fn work(&mut self, thread: usize, more: f64) {
        // Even work is not quite even, or two threads would never meet.
        let own = self.costs.own / VISITS * (0.5 + self.rng.f64());
        self.later((own + more) as u64, thread, Event::Want);
    }

    fn later(&mut self, nanos: u64, thread: usize, event: Event) {
        self.events.push(Reverse((self.now + nanos, thread, event)));
    }
}

/// What was seen on two cores: nanoseconds of own work in addition, and of a round.
pub(crate) type Seen = [(f64, f64)];

/// The costs that explain best what one thread (`alone`) and two threads have shown; and how far off they are, as the mean of
/// the relative errors.
pub(crate) fn calibrate(alone: f64, wake: Wake, seen: &Seen) -> (Costs, f64) {
    let costs = |held, transfer| Costs {
        own: alone - held,
        held,
        transfer,
        wake,
    };
    let parts = |most: u32| (1..most).map(|it| alone * f64::from(it) / 20.0);
    let all = parts(20).flat_map(|held| parts(60).map(move |transfer| costs(held, transfer)));
    let best = all.map(|it| (it, error(it, seen)));
    best.min_by(|a, b| a.1.total_cmp(&b.1))
        .expect("there are some")
}

fn error(costs: Costs, seen: &Seen) -> f64 {
    let errors = seen.iter().map(|&(more, nanos)| {
        let own = costs.own + more;
        (run(Costs { own, ..costs }, 2).round / nanos - 1.0).abs()
    });
    errors.sum::<f64>() / seen.len() as f64
}
