//! agentkeepalive's own benchmark, for this crate and its peers: 60 callers, 50 sockets, a server that takes 5 ms.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin headline [-- --short] [-- --rounds N --only agent,nginx]`
//!
//! A server takes 5 ms over each answer of 256 bytes. Before it stands a reverse proxy, which may have 50 connections to
//! it; and to that, 60 callers send 20,000 GETs a round, each the next one when it has read the answer to the last. The proxy is
//! one of
//!
//! - **agent**: `examples/proxy` of this crate, in axum, on one runtime of two threads; **agent, --runtimes 2**: the same on two
//!   runtimes of one thread, which share the agent;
//! - **agentkeepalive**, **undici**: a small one on node, with the one or the other (`peers/*.cjs`);
//! - **go**: a small one of `net/http/httputil`, with a `Transport` of 50 connections for each host (`peers/proxy.go`);
//! - **nginx**: Debian's, with `keepalive`; **pingora**: a small one of version 0.9 (`pingora/`).
//!
//! Each is a program of its own, as are the server and the callers, which are the same for all. Each may use two threads, but
//! node, which has one. What a peer needs is installed by `peers/install.sh` into its own folder; a peer that cannot be had
//! is left out, and the reason printed.
//!
//! There are three cases: *kept* connections; *one a request*, a connection for each; and *no delay*: the server answers at
//! once, three times as many requests are sent, and each proxy may have as many connections as there are callers, so that nobody waits for one, and the processor is
//! the limit. nginx and pingora are in the last alone: neither lets a request wait until one of 50 connections is free. So is
//! the agent on two runtimes: a runtime uses its own connections alone, and one that comes free for a request of the other
//! runtime is closed.
//!
//! Beside the proxies runs the base, *plain sockets*: a proxy that passes bytes on and does nothing else, in two threads that
//! share nothing, over as many connections, which it keeps or does not keep as the others do. Proxies take turns, a round each,
//! with new processes; a time is the median of its rounds, and the report has the least and the most as well.
//!
//! How to read it: *of base* is the median of the ratios to the base within rounds, and no proxy can be faster than the base. The
//! base runs at the beginning and at the end of each round, and the largest difference between the two is the noise; where a
//! proxy exceeds the base by more, something is wrong with the measurement, and the bench fails. A proxy that did not open the
//! connections that it was told to has no ratio: agentkeepalive (and Node) without keep-alive hand a connection over to a
//! waiting request. *CPU* is that of the proxy alone, user and system, in seconds for 10,000 requests. *sockets* were counted
//! by the server; `requests/socket` is the fewest, the mean and the most on one. Latencies are what the callers saw, in
//! milliseconds, with their wait in the proxy's line. Linux only.

mod bare;
mod proxy;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use tower_keep_alive_benches::child::{Child, Cost};
use tower_keep_alive_benches::load::{Load, Seen};
use tower_keep_alive_benches::report::{Report, Spread, thousands};
use tower_keep_alive_benches::server::{self, Stats};

use crate::proxy::Proxy;

/// The benchmark of agentkeepalive's README
#[derive(Parser)]
struct Arguments {
    /// A tenth of the requests, and three rounds
    #[arg(long)]
    short: bool,

    /// GETs to each proxy in each round
    #[arg(long, default_value_t = 20_000)]
    requests: usize,

    #[arg(long, default_value_t = 5)]
    rounds: usize,

    /// The proxies to measure
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "agent,agent-runtimes,agentkeepalive,undici,go,nginx,pingora"
    )]
    only: Vec<Proxy>,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,
}

const CALLERS: usize = 60;

/// What is asked of every proxy.
struct Case {
    name: &'static str,
    /// How many connections it may have.
    sockets: usize,
    /// What the server takes over an answer, in milliseconds.
    delay: u64,
    keeps: bool,
    /// So many times the requests, where each takes less time.
    times: usize,
}

const CASES: [Case; 3] = [
    Case {
        name: "kept",
        sockets: 50,
        delay: 5,
        keeps: true,
        times: 1,
    },
    Case {
        name: "one a request",
        sockets: 50,
        delay: 5,
        keeps: false,
        times: 1,
    },
    Case {
        name: "no delay",
        sockets: CALLERS,
        delay: 0,
        keeps: true,
        times: 3,
    },
];

/// One round of one proxy.
struct Measured {
    seen: Seen,
    stats: Stats,
    cost: Cost,
}

/// All rounds of one proxy: one line of the table.
struct Line {
    proxy: Proxy,
    rounds: Vec<Measured>,
    /// To the base in the same round.
    ratios: Vec<f64>,
}

fn main() -> ExitCode {
    server::be_one_if_told();
    bare::be_it_if_told();
    let mut arguments = Arguments::parse();
    if arguments.short {
        arguments.requests /= 10;
        arguments.rounds = 3;
    }
    let report = Report::new("headline", arguments.json.clone());
    println!(
        "{} rounds of {} requests by {CALLERS} callers",
        arguments.rounds,
        thousands(arguments.requests as f64)
    );
    let mut is_good = true;
    for case in &CASES {
        is_good &= case.compare(&arguments, &report);
    }
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

impl Case {
    /// Whether what must hold has held.
    fn compare(&self, arguments: &Arguments, report: &Report) -> bool {
        let run = |proxy| self.measure(proxy, self.times * arguments.requests);
        let only = arguments.only.iter().copied();
        let only = only.filter(|proxy| self.sockets >= CALLERS || proxy.has_line());
        let mut lines: Vec<_> = [Proxy::Base]
            .into_iter()
            .chain(only)
            .map(Line::new)
            .collect();
        let mut is_good = true;
        let mut noise: f64 = 0.0;
        println!();
        for _ in 0..arguments.rounds {
            lines.retain_mut(|line| match run(line.proxy) {
                Ok(measured) => {
                    line.rounds.push(measured);
                    true
                }
                Err(reason) => {
                    println!("{} skipped: {reason}", line.proxy.name());
                    is_good &= line.proxy > Proxy::AgentRuntimes;
                    false
                }
            });
            let rate = |line: &Line| line.rounds.last().map_or(f64::NAN, |it| it.seen.rate());
            let first = rate(&lines[0]);
            let again = run(Proxy::Base).map_or(f64::NAN, |it| it.seen.rate());
            noise = noise.max((again / first).max(first / again) - 1.0);
            for line in &mut lines {
                let is_base = line.proxy == Proxy::Base;
                let base = if is_base {
                    first
                } else {
                    (first + again) / 2.0
                };
                line.ratios.push(rate(line) / base);
            }
        }
        println!(
            "{}: {} sockets, {} ms delay",
            self.name, self.sockets, self.delay
        );
        println!(
            "{:<16} {:>10} {:>17} {:>19} {:>17} {:>17} {:>8} {:>20} {:>17} {:>9}",
            "",
            "requests/s",
            "least-most",
            "of base",
            "p50 ms",
            "p99 ms",
            "sockets",
            "requests/socket",
            "CPU s/10,000",
            "peak MiB"
        );
        for line in &lines {
            line.print(self, report);
            is_good &= line.is_possible(self, noise);
        }
        println!("noise: {noise:.3}, the most that the base differs from itself within a round");
        report.figure(self.name, Proxy::Base.name(), "noise", noise);
        is_good
    }

    fn measure(&self, proxy: Proxy, requests: usize) -> io::Result<Measured> {
        let server = Child::server(self.delay);
        let proxy = proxy.start(server.addr, self.sockets, self.keeps)?;
        let load = Load {
            addr: proxy.addr,
            callers: CALLERS,
            requests,
        };
        let before = proxy.cost()?;
        let seen = load.run()?;
        let after = proxy.cost()?;
        Ok(Measured {
            seen,
            stats: stats(&server)?,
            cost: Cost {
                cpu_seconds: after.cpu_seconds - before.cpu_seconds,
                ..after
            },
        })
    }
}

/// What the server has counted.
fn stats(server: &Child) -> io::Result<Stats> {
    let mut stream = TcpStream::connect(server.addr)?;
    stream.write_all(b"GET /stats HTTP/1.1\r\nhost: server\r\n\r\n")?;
    let mut said = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        said.read_line(&mut line)?;
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    said.read_exact(&mut body)?;
    Ok(serde_json::from_slice(&body)?)
}

impl Line {
    fn new(proxy: Proxy) -> Self {
        Self {
            proxy,
            rounds: Vec::new(),
            ratios: Vec::new(),
        }
    }

    fn spread(&self, of: impl Fn(&Measured) -> f64) -> Spread {
        Spread::of(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }

    fn print(&self, case: &Case, report: &Report) {
        let name = self.proxy.name();
        let rate = self.spread(|it| it.seen.rate());
        let p50 = self.spread(|it| it.seen.millis(0.5));
        let p99 = self.spread(|it| it.seen.millis(0.99));
        let cpu = self.spread(|it| it.cost.cpu_seconds * 10_000.0 / it.stats.requests as f64);
        let peak = self.spread(|it| it.cost.peak_kib as f64 / 1024.0);
        let sockets = self.spread(|it| it.stats.sockets as f64);
        let sum = |of: fn(&Stats) -> u64| self.rounds.iter().map(|it| of(&it.stats)).sum::<u64>();
        let mean = sum(|it| it.requests) as f64 / sum(|it| it.sockets) as f64;
        let fewest = self.spread(|it| it.stats.fewest as f64).least;
        let most = self.spread(|it| it.stats.most as f64).most;
        let ratio = self
            .is_the_same_work(case)
            .then(|| Spread::of(&self.ratios));
        let around = |it: Spread| format!("{:.2} {:.2}-{:.2}", it.median, it.least, it.most);
        println!(
            "{name:<16} {:>10} {:>17} {:>19} {:>17} {:>17} {:>8} {:>20} {:>17} {:>9.2}",
            thousands(rate.median),
            format!("{}-{}", thousands(rate.least), thousands(rate.most)),
            ratio.map_or("-".to_owned(), |it| {
                format!("{:.3} {:.3}-{:.3}", it.median, it.least, it.most)
            }),
            around(p50),
            around(p99),
            thousands(sockets.median),
            format!("{fewest} / {mean:.0} / {most}"),
            around(cpu),
            peak.median,
        );
        let figure = |unit, value: Spread| report.figure(case.name, name, unit, value);
        figure("requests/s", rate);
        if let Some(ratio) = ratio {
            figure("of base", ratio);
        }
        figure("p50 ms", p50);
        figure("p99 ms", p99);
        figure("sockets", sockets);
        figure("requests/socket, fewest", fewest.into());
        figure("requests/socket, mean", mean.into());
        figure("requests/socket, most", most.into());
        figure("CPU s/10,000", cpu);
        figure("peak MiB", peak);
    }

    /// Whether it opened the connections that it was told to: where there are as many as callers, it may do with fewer.
    fn is_the_same_work(&self, case: &Case) -> bool {
        let allowed = case.sockets as u64;
        self.rounds.iter().all(|round| {
            let Stats {
                sockets, requests, ..
            } = round.stats;
            match case.keeps {
                false => sockets == requests,
                true if case.sockets < CALLERS => sockets == allowed,
                true => sockets <= allowed,
            }
        })
    }

    /// What holds however fast the machine is.
    fn is_possible(&self, case: &Case, noise: f64) -> bool {
        let name = self.proxy.name();
        if !self.is_the_same_work(case) {
            // What peers do with their connections is not ours to promise.
            let is_ours = self.proxy <= Proxy::AgentRuntimes;
            let verdict = if is_ours { "FAILED: " } else { "" };
            println!("{verdict}{name} did not open the connections that it was told to");
            return !is_ours;
        }
        let ratio = Spread::of(&self.ratios).median;
        let is_possible = ratio <= 1.0 + noise;
        if !is_possible {
            println!("FAILED: {name} is faster than the base, {ratio:.3}, by more than the noise");
        }
        is_possible
    }
}
