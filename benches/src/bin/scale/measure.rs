//! What two cores show, and what a million of something takes.

use std::hint::spin_loop;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tower_keep_alive::layers::PoolConfig;
use tower_keep_alive_benches::pools::{Agent, Line, Pools, agent, fill, names};
use tower_keep_alive_benches::report::Spread;

use crate::model::Wake;

/// Enough connections for all.
const PLENTY: usize = 64;

const ROUNDS: usize = 5;

/// What threads do, each on a core of its own.
#[derive(Clone, Copy)]
pub(crate) struct Threads {
    pub(crate) count: usize,
    /// All ask one host, or each one of its own.
    pub(crate) one_host: bool,
    /// Whether the pool has a limit over all hosts, which nobody comes near.
    pub(crate) total: bool,
}

/// Nanoseconds of a checkout and its checkin, and of `more` work, for each thread.
pub(crate) fn threads(runtime: &Runtime, threads: Threads, more: Work) -> Spread {
    let (same, hosts) = (threads.one_host, names(threads.count));
    let config = PoolConfig::new().max_connections_per_host(PLENTY);
    let pool = Agent::new(match threads.total {
        true => config.max_connections(PLENTY * threads.count),
        false => config,
    });
    let turns = 200_000;
    let measure = || {
        let start = Barrier::new(threads.count + 1);
        let begun = thread::scope(|scope| {
            for host in &hosts {
                let (host, start, pool) = (if same { &hosts[0] } else { host }, &start, &pool);
                let work = async move {
                    start.wait();
                    for _ in 0..turns {
                        drop(pool.checkout(host).await);
                        more.run();
                    }
                };
                scope.spawn(|| runtime.block_on(work));
            }
            start.wait();
            Instant::now()
        });
        begun.elapsed().as_nanos() as f64 / f64::from(turns)
    };
    Spread::of(&(0..ROUNDS).map(|_| measure()).collect::<Vec<_>>())
}

/// Work that touches no memory.
#[derive(Clone, Copy)]
pub(crate) struct Work(u32);

impl Work {
    /// Of so many nanoseconds, about; and how many they are in fact.
    pub(crate) fn of(nanos: f64) -> (Self, f64) {
        let million = Self(1_000_000);
        let one = million.nanos() / 1e6;
        let work = Self((nanos / one).round() as u32);
        (work, f64::from(work.0) * one)
    }

    fn nanos(self) -> f64 {
        let rounds = (0..ROUNDS).map(|_| {
            let begun = Instant::now();
            self.run();
            begun.elapsed().as_nanos() as f64
        });
        Spread::of(&rounds.collect::<Vec<_>>()).least
    }

    fn run(self) {
        for _ in 0..self.0 {
            spin_loop();
        }
    }
}

/// Of a thread that sleeps: half of there and back is the time until it runs.
pub(crate) fn wake() -> Wake {
    let turns: u32 = 20_000;
    let main = thread::current();
    let other = thread::spawn(move || {
        for _ in 0..turns {
            thread::park();
            main.unpark();
        }
    });
    let mut calls = Duration::ZERO;
    let begun = Instant::now();
    for _ in 0..turns {
        let call = Instant::now();
        other.thread().unpark();
        calls += call.elapsed();
        thread::park();
    }
    let whole = begun.elapsed();
    // One is left over where the two came at the same time.
    other.thread().unpark();
    let _ = other.join();
    let each = |time: Duration| time.as_nanos() as f64 / f64::from(turns);
    Wake {
        call: each(calls),
        until: each(whole) / 2.0,
    }
}

/// Of so many hosts with one idle connection each: nanoseconds of a checkout and its checkin, and bytes for each.
pub(crate) fn hosts(runtime: &Runtime, count: usize, time: Duration) -> (Spread, f64) {
    let hosts = names(count);
    let pool = agent(runtime, &hosts, PLENTY);
    let before = in_use();
    fill(runtime, &pool, &hosts);
    let bytes = (in_use() - before) / count as f64;
    let mut at = 0;
    let nanos = turns(time, |turns| {
        runtime.block_on(async {
            for _ in 0..turns {
                at = (at + 1) % count;
                drop(pool.checkout(&hosts[at]).await);
            }
        });
    });
    (nanos, bytes)
}

/// Of so many callers in line for one connection: nanoseconds from one to the next, and bytes for each, its future included.
pub(crate) fn callers(runtime: &Runtime, count: usize, time: Duration) -> (Spread, f64) {
    let pool: Agent = agent(runtime, &[], 1);
    let _inside = runtime.enter();
    let before = in_use();
    let mut line = Line::new(runtime, &pool, count);
    let bytes = (in_use() - before) / count as f64;
    let nanos = turns(time, |turns| line.turn(turns));
    (nanos, bytes)
}

/// Nanoseconds for one turn.
fn turns(time: Duration, mut work: impl FnMut(usize)) -> Spread {
    let mut measure = || {
        let begun = Instant::now();
        let mut turns = 0;
        while begun.elapsed() < time {
            work(100);
            turns += 100;
        }
        begun.elapsed().as_nanos() as f64 / turns as f64
    };
    measure();
    Spread::of(&(0..ROUNDS).map(|_| measure()).collect::<Vec<_>>())
}

/// Bytes that are in use.
fn in_use() -> f64 {
    let stats = crate::ALLOCATOR.stats();
    (stats.bytes_allocated - stats.bytes_deallocated) as f64
}
