//! agentkeepalive's own benchmark, for this crate and its peers: 60 callers, 50 sockets, a server that takes 5 ms.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin headline [-- --requests N --rounds N --only agent,agentkeepalive]`
//!
//! A server takes 5 ms over each answer of 256 bytes. Before it stands a reverse proxy, which may have 50 connections to
//! it; and to that, 60 callers send 20,000 GETs a round, each the next one when it has read the answer to the last. The proxy is
//! one of
//!
//! - **agent**: `examples/proxy` of this crate, in axum;
//! - **agentkeepalive**, **undici**: a small one on node, with the one or the other (`peers/*.cjs`);
//! - **go**: a small one of `net/http/httputil`, with a `Transport` of 50 connections for each host (`peers/proxy.go`).
//!
//! Each is a program of its own, as are the server and the callers, which are the same for all. Beside them runs the base,
//! *plain sockets*: a proxy of the same kind that passes bytes on and does nothing else, over as many connections, which it
//! keeps or does not keep as the others do. All of it is done with connections that are kept, and again with one for each
//! request. Proxies take turns, a round each, with new processes; a time is the median of its rounds, and the report has
//! the least and the most as well. What a peer needs is installed by `peers/install.sh` into its own folder; a peer that
//! cannot be had is left out, and the reason printed.
//!
//! How to read it: *of base* is the median of the ratios to the base within rounds. No proxy can be faster than the base. The
//! base runs at the beginning and at the end of each round, and the largest difference between the two is the noise; where a
//! proxy exceeds the base by more, something is wrong with the measurement, and the bench fails. A proxy that did not open the
//! connections that it was told to has no ratio: agentkeepalive (and Node) without keep-alive hand a connection over to a
//! waiting request. *CPU* is that of the proxy alone, user and system, in seconds for 10,000 requests. *sockets* were counted
//! by the server; `requests/socket` is the fewest, the mean and the most on one. Latencies are what the callers saw, in
//! milliseconds, with their wait in the proxy's line. node and the base run on one core; the others may use all. Linux only.

mod bare;
mod load;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};
use tower_keep_alive_benches::child::{Child, Cost};
use tower_keep_alive_benches::report::{Report, Spread, thousands};
use tower_keep_alive_benches::server::{self, Stats};

use crate::load::{Load, Seen};

/// The benchmark of agentkeepalive's README
#[derive(Parser)]
struct Arguments {
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
        default_value = "agent,agentkeepalive,undici,go"
    )]
    only: Vec<Proxy>,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, ValueEnum)]
enum Proxy {
    /// Always measured.
    #[value(skip)]
    Base,
    Agent,
    Agentkeepalive,
    Undici,
    Go,
}

const CALLERS: usize = 60;
const SOCKETS: usize = 50;

/// What the server takes over an answer, in milliseconds.
const DELAY: u64 = 5;

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
    let arguments = Arguments::parse();
    let report = Report::new("headline", arguments.json.clone());
    println!(
        "{} rounds of {} requests by {CALLERS} callers over {SOCKETS} sockets, {DELAY} ms delay",
        arguments.rounds,
        thousands(arguments.requests as f64)
    );
    let mut is_good = true;
    for keeps in [true, false] {
        is_good &= compare(keeps, &arguments, &report);
    }
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// Whether what must hold has held.
fn compare(keeps: bool, arguments: &Arguments, report: &Report) -> bool {
    let run = |proxy| measure(proxy, keeps, arguments.requests);
    let proxies = [Proxy::Base].into_iter().chain(arguments.only.clone());
    let mut lines: Vec<_> = proxies.map(Line::new).collect();
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
                is_good &= line.proxy > Proxy::Agent;
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
        "{:<16} {:>10} {:>17} {:>9} {:>7} {:>7} {:>8} {:>20} {:>14} {:>9}",
        if keeps { "kept" } else { "one a request" },
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
        line.print(keeps, report);
        is_good &= line.is_possible(keeps, noise);
    }
    println!(
        "noise: {:.3}, the most that the base differs from itself within a round",
        noise
    );
    is_good
}

fn measure(proxy: Proxy, keeps: bool, requests: usize) -> io::Result<Measured> {
    let server = Child::server(DELAY);
    let proxy = Child::start(proxy.command(&server.addr.to_string(), keeps)?)?;
    let before = proxy.cost()?;
    let load = Load {
        addr: proxy.addr,
        callers: CALLERS,
        requests,
    };
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

impl Proxy {
    fn name(self) -> &'static str {
        match self {
            Self::Base => "plain sockets",
            Self::Agent => "agent",
            Self::Agentkeepalive => "agentkeepalive",
            Self::Undici => "undici",
            Self::Go => "go",
        }
    }

    /// The proxy itself, installed or built where it is not there.
    fn command(self, server: &str, keeps: bool) -> io::Result<Command> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let peers = here.join("peers");
        let sockets = SOCKETS.to_string();
        let keep = if keeps { "keep" } else { "close" };
        let upstream = &format!("http://{server}");
        let mut command = match self {
            Self::Base => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args([bare::NAME, server, &sockets, keep]);
                return Ok(command);
            }
            Self::Agent => {
                run(Command::new(env!("CARGO"))
                    .args([
                        "build",
                        "--quiet",
                        "--locked",
                        "--release",
                        "--example",
                        "proxy",
                    ])
                    .current_dir(here.join("..")))?;
                // Beside this program.
                let folder = std::env::current_exe()?;
                let folder = folder.parent().expect("a program is in a folder");
                let mut command = Command::new(folder.join("examples/proxy"));
                command.args(["--listen", "127.0.0.1:0", "--upstream", upstream]);
                command.args(["--max-connections-per-host", &sockets]);
                command.args((!keeps).then_some("--no-keep-alive"));
                return Ok(command);
            }
            Self::Agentkeepalive | Self::Undici => {
                run(Command::new(peers.join("install.sh")).arg("node"))?;
                let mut command = Command::new("node");
                command.arg(peers.join(self.name()).with_extension("cjs"));
                command
            }
            Self::Go => {
                run(Command::new(peers.join("install.sh")).arg("go"))?;
                Command::new(peers.join("goproxy"))
            }
        };
        command.args([upstream, &sockets, keep]);
        Ok(command)
    }
}

/// Runs a command that prepares something; what it said last is why it could not.
fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stderr, output.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    Err(io::Error::other(
        said.lines().last().unwrap_or("it failed").to_owned(),
    ))
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

    fn print(&self, keeps: bool, report: &Report) {
        let name = self.proxy.name();
        let rate = self.spread(|it| it.seen.rate());
        let (p50, p99) = (
            self.spread(|it| it.seen.millis(0.5)),
            self.spread(|it| it.seen.millis(0.99)),
        );
        let cpu = |it: &Measured| it.cost.cpu_seconds * 10_000.0 / it.stats.requests as f64;
        let (cpu, peak) = (
            self.spread(cpu),
            self.spread(|it| it.cost.peak_kib as f64 / 1024.0),
        );
        let sockets = self.spread(|it| it.stats.sockets as f64);
        let sum = |of: fn(&Stats) -> u64| self.rounds.iter().map(|it| of(&it.stats)).sum::<u64>();
        let mean = sum(|it| it.requests) as f64 / sum(|it| it.sockets) as f64;
        let fewest = self.spread(|it| it.stats.fewest as f64).least;
        let most = self.spread(|it| it.stats.most as f64).most;
        let ratio = self
            .is_the_same_work(keeps)
            .then(|| Spread::of(&self.ratios));
        println!(
            "{name:<16} {:>10} {:>17} {:>9} {:>7.2} {:>7.2} {:>8} {:>20} {:>14.2} {:>9.2}",
            thousands(rate.median),
            format!("{}-{}", thousands(rate.least), thousands(rate.most)),
            ratio.map_or("-".to_owned(), |it| format!("{:.3}", it.median)),
            p50.median,
            p99.median,
            thousands(sockets.median),
            format!("{fewest} / {mean:.0} / {most}"),
            cpu.median,
            peak.median,
        );
        let case = if keeps { "kept" } else { "one a request" };
        let figure = |unit, value: Spread| report.figure(case, name, unit, value);
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

    /// Whether it opened the connections that it was told to.
    fn is_the_same_work(&self, keeps: bool) -> bool {
        self.rounds.iter().all(|round| {
            let Stats {
                sockets, requests, ..
            } = round.stats;
            sockets == if keeps { SOCKETS as u64 } else { requests }
        })
    }

    /// What holds however fast the machine is.
    fn is_possible(&self, keeps: bool, noise: f64) -> bool {
        let name = self.proxy.name();
        if !self.is_the_same_work(keeps) {
            // What peers do with their connections is not ours to promise.
            let is_ours = self.proxy <= Proxy::Agent;
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
