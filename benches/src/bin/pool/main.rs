//! What it costs to take a connection and to give it back, without any connection behind it.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin pool [-- --most 100000 --millis 200]`
//!
//! Checkout and Checkin over connections that do nothing, beside the pools of deadpool and bb8 and hyper-util's
//! `pool::cache`. These three know one host: for more, each has a `HashMap` of pools before it, as its user would. The
//! agent's pool looks at each connection's limits, and at the socket, which here says at once that it is open.
//!
//! All figures are nanoseconds for a checkout and the checkin after it, the median of five measurements:
//!
//! 1. **Alone**: one thread, one host, nobody else. **Two threads**, both on one host, and both on 1,000 hosts: what
//!    they cost each other.
//! 2. **Callers in line.** The pool may have one connection, and so many callers wait for it. It goes from one to the
//!    next, and who has had it joins the line at its end. In this way every caller's future comes out of main memory where
//!    there are many of them; *instructions*, counted by callgrind, shows what the pool itself does.
//! 3. **Hosts.** Each of so many has an idle connection, and they are asked in a random order; and, of as many, one alone is
//!    asked.
//!
//! How to read it: a cost is flat when it stays within 1.2 × from the first column to the last. What grows in nanoseconds
//! and not in instructions are misses of the processor's caches, the test's own among them.

mod peers;

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand, ValueEnum};
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive_benches::child::is_there;
use tower_keep_alive_benches::pools::{Line, Pools, agent, fill, names};
use tower_keep_alive_benches::report::{Report, Spread, thousands};

use crate::peers::{bb8, cache, deadpool};

/// Checkout and checkin alone
#[derive(Parser)]
struct Arguments {
    /// The longest line, and the most hosts
    #[arg(long, default_value_t = 100_000)]
    most: usize,

    /// How long each measurement takes; there are five for each figure
    #[arg(long, default_value_t = 100)]
    millis: u64,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,

    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be the program whose instructions are counted
    #[command(hide = true)]
    Counted {
        work: Work,
        size: usize,
        turns: usize,
    },
}

#[derive(Clone, Copy, ValueEnum)]
enum Work {
    Line,
    Hosts,
}

/// Connections for each host, where there is enough for all.
const PLENTY: usize = 64;

/// From the first to the last of a row.
const FLAT: f64 = 1.2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    if let Some(Role::Counted { work, size, turns }) = arguments.role {
        counted(&runtime, work, size, turns);
        return ExitCode::SUCCESS;
    }
    let bench = Bench {
        time: Duration::from_millis(arguments.millis),
        runtime,
        report: Report::new("pool", arguments.json),
    };
    let lines: Vec<_> = up_to(&[1, 100, 10_000, 100_000], arguments.most);
    let hosts: Vec<_> = up_to(&[1, 1_000, 100_000], arguments.most);

    let names = ["alone", "2 threads, 1 host", "2 threads, 1,000 hosts"];
    bench.title(
        "Nanoseconds for a checkout and its checkin",
        &names.map(String::from),
    );
    bench.threads(agent);
    bench.threads(deadpool);
    bench.threads(bb8);
    bench.threads(cache);

    let heads = |sizes: &[usize], of: &str| -> Vec<String> {
        let text = |size: &usize| format!("{} {of}", thousands(*size as f64));
        sizes.iter().map(text).collect()
    };
    bench.title("Callers in line", &heads(&lines, "in line"));
    bench.line(agent, &lines);
    bench.line(deadpool, &lines);
    bench.line(bb8, &lines);
    bench.line(cache, &lines);
    let flat_line = bench.instructions(Work::Line, &lines);

    let mut columns = heads(&hosts, "hosts");
    columns.push("one of as many".into());
    bench.title("Hosts", &columns);
    bench.hosts(agent, &hosts);
    bench.hosts(deadpool, &hosts);
    bench.hosts(bb8, &hosts);
    bench.hosts(cache, &hosts);
    let flat_hosts = bench.instructions(Work::Hosts, &hosts);
    match flat_line && flat_hosts {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn up_to(sizes: &[usize], most: usize) -> Vec<usize> {
    sizes.iter().copied().filter(|&size| size <= most).collect()
}

struct Bench {
    time: Duration,
    runtime: Runtime,
    report: Report,
}

impl Bench {
    fn title(&self, title: &str, columns: &[String]) {
        println!();
        println!("{title}");
        println!();
        print!("{:<24}", "");
        for column in columns {
            print!(" {column:>24}");
        }
        println!();
    }

    fn row(&self, peer: &str, cells: &[(String, Spread)], unit: &str) {
        print!("{peer:<24}");
        for (case, value) in cells {
            print!(" {:>24}", thousands(value.median));
            self.report.figure(case, peer, unit, *value);
        }
        println!();
    }

    fn threads<P: Pools>(&self, make: impl Fn(&Runtime, &[Arc<str>], usize) -> P) {
        let one = make(&self.runtime, &names(1), PLENTY);
        let many = make(&self.runtime, &names(1_000), PLENTY);
        let cells = [
            ("alone", self.threaded(&one, 1, 1)),
            ("2 threads, 1 host", self.threaded(&one, 2, 1)),
            ("2 threads, 1,000 hosts", self.threaded(&many, 2, 1_000)),
        ];
        self.row(
            P::NAME,
            &cells.map(|(case, it)| (case.to_owned(), it)),
            "ns",
        );
    }

    fn line<P: Pools>(&self, make: impl Fn(&Runtime, &[Arc<str>], usize) -> P, sizes: &[usize]) {
        let cell = |&size: &usize| {
            let pools = make(&self.runtime, &names(1), 1);
            let _inside = self.runtime.enter();
            let mut line = Line::new(&self.runtime, &pools, size);
            let nanos = self.time(|turns| line.turn(turns));
            (format!("{size} in line"), nanos)
        };
        let cells: Vec<_> = sizes.iter().map(cell).collect();
        self.row(P::NAME, &cells, "ns");
    }

    fn hosts<P: Pools>(&self, make: impl Fn(&Runtime, &[Arc<str>], usize) -> P, sizes: &[usize]) {
        let mut cells = Vec::new();
        for &size in sizes {
            let hosts = names(size);
            let pools = make(&self.runtime, &hosts, PLENTY);
            fill(&self.runtime, &pools, &hosts);
            cells.push((format!("{size} hosts"), self.in_turn(&pools, &hosts)));
            if Some(&size) == sizes.last() {
                let one = self.in_turn(&pools, &hosts[..1]);
                cells.push((format!("one of {size} hosts"), one));
            }
        }
        self.row(P::NAME, &cells, "ns");
    }

    /// A line of what the agent's pool does, in instructions; whether it is flat.
    fn instructions(&self, work: Work, sizes: &[usize]) -> bool {
        if !is_there("valgrind", "--version") {
            println!("instructions: skipped: there is no valgrind");
            return true;
        }
        let name = work.to_possible_value().expect("none is hidden");
        let cell = |&size: &usize| {
            let count = count_instructions(name.get_name(), size).expect("valgrind counts");
            let of = if let Work::Line = work {
                "in line"
            } else {
                "hosts"
            };
            (format!("{size} {of}"), count.into())
        };
        let cells: Vec<(_, Spread)> = sizes.iter().map(cell).collect();
        self.row("ours, instructions", &cells, "instructions");
        let (first, last) = (cells[0].1.median, cells[cells.len() - 1].1.median);
        let is_flat = last <= first * FLAT;
        let verdict = if is_flat { "flat" } else { "FAILED: not flat" };
        println!(
            "instructions from first to last: {:.2} ×: {verdict}",
            last / first
        );
        is_flat
    }

    /// Of one thread.
    fn threaded<P: Pools>(&self, pools: &P, threads: usize, hosts: usize) -> Spread {
        let hosts = names(hosts);
        let turns = 200_000;
        let nanos: Vec<_> = (0..5)
            .map(|_| {
                let start = Barrier::new(threads + 1);
                let begun = std::thread::scope(|scope| {
                    for thread in 0..threads {
                        let (hosts, start) = (&hosts, &start);
                        let shift = thread * hosts.len() / threads;
                        let work = async move {
                            start.wait();
                            for turn in 0..turns {
                                let host = &hosts[(turn + shift) % hosts.len()];
                                drop(pools.checkout(host).await);
                            }
                        };
                        scope.spawn(|| self.runtime.block_on(work));
                    }
                    start.wait();
                    Instant::now()
                });
                begun.elapsed().as_nanos() as f64 / turns as f64
            })
            .collect();
        Spread::of(&nanos)
    }

    fn in_turn<P: Pools>(&self, pools: &P, hosts: &[Arc<str>]) -> Spread {
        let mut at = 0;
        self.time(|turns| {
            self.runtime.block_on(async {
                for _ in 0..turns {
                    at = (at + 1) % hosts.len();
                    drop(pools.checkout(&hosts[at]).await);
                }
            });
        })
    }

    /// Nanoseconds for one turn.
    fn time(&self, mut work: impl FnMut(usize)) -> Spread {
        // Fewer than 100 at a time, and the look at the clock would count.
        let mut measure = || {
            let begun = Instant::now();
            let mut turns = 0;
            while begun.elapsed() < self.time {
                work(100);
                turns += 100;
            }
            begun.elapsed().as_nanos() as f64 / turns as f64
        };
        measure();
        let nanos: Vec<_> = (0..5).map(|_| measure()).collect();
        Spread::of(&nanos)
    }
}

fn counted(runtime: &Runtime, work: Work, size: usize, turns: usize) {
    match work {
        Work::Line => {
            let pools = agent(runtime, &names(1), 1);
            let _inside = runtime.enter();
            let mut line = Line::new(runtime, &pools, size);
            only_this_is_counted(|| line.turn(turns));
        }
        Work::Hosts => {
            let hosts = names(size);
            let pools = agent(runtime, &hosts, PLENTY);
            fill(runtime, &pools, &hosts);
            let work = async {
                for turn in 0..turns {
                    drop(pools.checkout(&hosts[turn % hosts.len()]).await);
                }
            };
            only_this_is_counted(|| runtime.block_on(work));
        }
    }
}

/// callgrind knows it by its name. What comes before it is thousands of times more, and not the same from run to run.
#[inline(never)]
fn only_this_is_counted(work: impl FnOnce()) {
    work();
}

/// For one turn of the agent's pool.
fn count_instructions(work: &str, size: usize) -> Option<f64> {
    let turns = 10_000;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.args(["--toggle-collect=*only_this_is_counted*"]);
    command.arg(std::env::current_exe().ok()?);
    command.args(["counted", work, &size.to_string(), &turns.to_string()]);
    let output = command.output().ok()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let line = said.lines().find(|line| line.contains("Collected :"))?;
    let count: f64 = line.split_whitespace().next_back()?.parse().ok()?;
    // Without a symbol of that name nothing would be counted.
    (count > 0.0).then_some(count / f64::from(turns))
}
