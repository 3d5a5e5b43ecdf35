//! How the pool grows with cores, hosts and callers, and what gives way first.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin scale [-- --short] [-- --write]`
//!
//! Hosts and callers are measured, up to a million of each. Cores are not, beyond two: a model of the lock of one key (`model.rs`)
//! is calibrated by what two cores show, with more and more work between checkouts, and says what 8, 32 and 64 would do. How far
//! the model is from what was measured is told beside it. `--write` leaves the page in `docs/scale.md`.

mod measure;
mod model;

use std::alloc::System;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive_benches::report::{Spread, thousands};

use crate::measure::{Threads, Work};
use crate::model::Costs;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Cores, hosts and callers
#[derive(Parser)]
struct Arguments {
    /// A hundred thousand hosts and callers, and less time
    #[arg(long)]
    short: bool,

    /// Write docs/scale.md
    #[arg(long)]
    write: bool,

    /// What a thread takes over a whole request, checkout included: by `throughput`, one thread, 117,800 in a second
    #[arg(long, default_value_t = 8_490.0)]
    request_nanos: f64,
}

/// Work between two checkouts, in nanoseconds, by which the model is calibrated.
const MORE: [f64; 6] = [0.0, 100.0, 200.0, 400.0, 800.0, 1_600.0];

const CORES: [usize; 5] = [1, 2, 8, 32, 64];

fn main() {
    let arguments = Arguments::parse();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let mut page = String::from(INTRODUCTION);
    let costs = cores(&runtime, &arguments, &mut page);
    let (most, millis) = if arguments.short {
        (100_000, 20)
    } else {
        (1_000_000, 100)
    };
    million(&runtime, most, Duration::from_millis(millis), &mut page);
    first(costs, arguments.request_nanos, &mut page);
    println!("{page}");
    if arguments.write {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/scale.md");
        std::fs::write(file, page).expect("docs can be written");
        println!("written: docs/scale.md");
    }
}

const INTRODUCTION: &str = "# Scale

Written by `cargo run --release -p tower-keep-alive-benches --bin scale -- --write`, on two cores. What is *measured* is the
median of five, with the least and the most in parentheses; what is *modelled* is what a simulation says, and nobody has seen
it. The connections behind the pool do nothing, so that all time is the pool's.
";

/// The lock of one key, by the number of cores; what it costs.
fn cores(runtime: &Runtime, arguments: &Arguments, page: &mut String) -> Costs {
    let threads = |count, one_host, total, more| {
        let threads = Threads {
            count,
            one_host,
            total,
        };
        measure::threads(runtime, threads, more)
    };
    let (nothing, _) = Work::of(0.0);
    let alone = threads(1, true, false, nothing);
    let mut seen = Vec::new();
    let mut spreads = Vec::new();
    for more in MORE {
        let (work, nanos) = Work::of(more);
        let spread = threads(2, true, false, work);
        seen.push((nanos, spread.median));
        spreads.push(spread);
    }
    let (costs, error) = model::calibrate(alone.median, measure::wake(), &seen);
    let apart = threads(2, false, false, nothing);
    let total = threads(2, false, true, nothing);
    let alone_total = threads(1, true, true, nothing);

    let _ = write!(
        page,
        "
## Cores

A key has one lock, which a request takes twice: for the checkout, and for the checkin. One thread alone takes {} ns for
both. Two threads on one key, with work of so many nanoseconds between a checkin and the next checkout:

| work between, ns | measured: a round, ns | model, ns |
|---:|---:|---:|
",
        around(alone)
    );
    for ((more, _), spread) in seen.iter().zip(&spreads) {
        let own = costs.own + more;
        let model = model::run(Costs { own, ..costs }, 2).round;
        let _ = writeln!(page, "| {more:.0} | {} | {model:.0} |", around(*spread));
    }
    let _ = write!(
        page,
        "
The model that explains these best, on average within {:.0} %: {:.0} ns of a thread's own, {:.0} ns under the lock, and {:.0} ns more
under the lock if another core had it last, for the cache lines that come over from there. To wake a thread that sleeps takes
the one that wakes it {} ns, and it runs after {} ns (measured); std's lock spins for about a microsecond before its thread sleeps.

Checkouts of one key, each thread doing nothing else; and whole requests, of {} ns each in a thread (by `throughput`, one
thread), as a part of what so many cores could do without the lock, and the part of the time in which the lock is held:

| cores | checkouts/s (modelled) | requests/s (modelled) | of what they could | lock held |
|---:|---:|---:|---:|---:|
",
        error * 100.0,
        costs.own,
        costs.held,
        costs.transfer,
        thousands(costs.wake.call),
        thousands(costs.wake.until),
        thousands(arguments.request_nanos),
    );
    let busy = Costs {
        own: arguments.request_nanos - costs.held,
        ..costs
    };
    for cores in CORES {
        let rate = |round: f64| thousands(cores as f64 * 1e9 / round);
        let requests = model::run(busy, cores);
        let _ = writeln!(
            page,
            "| {cores} | {} | {} | {:.2} | {:.2} |",
            rate(model::run(costs, cores).round),
            rate(requests.round),
            arguments.request_nanos / requests.round,
            requests.held,
        );
    }
    let _ = write!(
        page,
        "
**A partition for each runtime.** With `Partition` in its requests, each thread or runtime has a key of its own for the same host, and
with it a lock of its own. Two threads on a key each take {} ns for a checkout and its checkin, {:.2} × of one alone (measured);
what is left are the counters and the table of keys, which all share. It is worth it where one host gets more requests than one lock
passes, by the table above, and it costs connections: each partition has its own limit and its own idle ones, and no request of
one takes an idle connection of another.

**Limits over all hosts** (`max_connections`, `max_idle`) have one lock for all keys. With one, one thread takes {} ns, and two
threads on a key each {} ns (measured): there, many hosts and partitions relieve nothing.
",
        around(apart),
        apart.median / alone.median,
        around(alone_total),
        around(total),
    );
    costs
}

/// Hosts and callers, up to `most` of each.
fn million(runtime: &Runtime, most: usize, time: Duration, page: &mut String) {
    type Measure = fn(&Runtime, usize, Duration) -> (Spread, f64);
    let tables: [(&str, &str, Measure); 2] = [
        (
            "## Hosts\n\nEach has one idle connection, and they are asked in a random order (measured).",
            "hosts",
            measure::hosts,
        ),
        (
            "## Callers in line\n\nThey wait for one connection, which goes from one to the next (measured).",
            "callers",
            measure::callers,
        ),
    ];
    for (text, of, measure) in tables {
        let _ = write!(
            page,
            "\n{text}\n\n| {of} | ns | bytes for each |\n|---:|---:|---:|\n"
        );
        let mut count = 1_000;
        while count <= most {
            let (nanos, bytes) = measure(runtime, count, time);
            // Memory comes in pages, so that of few it says nothing.
            let bytes = match count {
                ..100_000 => String::new(),
                _ => thousands(bytes),
            };
            let _ = writeln!(
                page,
                "| {} | {} | {bytes} |",
                thousands(count as f64),
                around(nanos)
            );
            count *= 10;
        }
    }
    page.push_str(
        "\nThe number of instructions does not grow with either (`pool` counts them). What grows are misses of the processor's\n\
         caches: with a million of something, each is in main memory when its turn comes.\n",
    );
}

/// What gives way first.
fn first(costs: Costs, request: f64, page: &mut String) {
    let passes = 1e9 / (costs.held + costs.transfer);
    let cores = passes * request / 1e9;
    let _ = write!(
        page,
        "
## What gives way first

- **One host, many cores**: its lock, which passes {} requests a second at the most (modelled: the time under the lock, cache lines
  included). That is what about {cores:.0} cores ask for that do nothing but requests.
- **Many hosts**: sockets. An idle connection takes about 27,000 bytes, of which hyper's buffers are 25,700 (`memory`); a million
  of them are 27 GB and a million file descriptors, long before the pool itself is felt.
- **Many callers**: time. A line of a million callers before 50 connections of 10 ms each lasts 200 seconds. `max_pending_per_host`
  and `checkout_timeout` keep it short (`tail`).
",
        thousands(passes),
    );
}

/// `282 (280–290)`.
fn around(spread: Spread) -> String {
    let Spread {
        least,
        median,
        most,
    } = spread;
    format!(
        "{} ({}–{})",
        thousands(median),
        thousands(least),
        thousands(most)
    )
}
