//! How long callers wait when more come than the server can serve.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin tail [-- --short] [-- --only agent,go]`
//!
//! A server takes 10 ms over an answer, and answers 50 requests at a time; others wait in its line. What it can is measured first, by callers
//! that leave it no pause. Then 200 callers send GETs through one client, at 0.5, 0.9, 1.1 and 2 times that rate, over 50
//! connections. The clients:
//!
//! - **agent**: this crate's, as it is; *max_pending 50*: at most 50 callers in line; *checkout_timeout 10 ms*: nobody in line
//!   for longer; *load_shed*: tower's `load_shed` over its `concurrency_limit` of 75 in all;
//! - **reqwest**: it has no limit, and so opens a connection for each request that is under way; *semaphore*: with one of 50
//!   permits before it, as its users do;
//! - **go**, **agentkeepalive**, **undici**: with their own limits of 50 connections (`peers/tail.go`, `peers/tail.cjs`).
//!
//! The loop is open: callers do not wait for answers. Each has a schedule of its own, drawn before it begins, of independent
//! arrivals (a Poisson process); a request is sent when its time has come, whatever became of those before. A latency is
//! measured *from the time in the schedule*, and not from when the client came to send: a client that is late, or that is held up,
//! has that counted, and no caller is left out because it waited for the one before (coordinated omission). All clients get the
//! same schedules. Each client is a process of its own and measures in itself, so that nothing is between it and the server.
//! The first second makes the connections, lets node compile, and is not counted.
//!
//! How to read it: percentiles are of the requests that were answered, in milliseconds, the median of the rounds with the
//! least and the most; *failed* are those that were not, in per cent: at 2 times, half cannot be answered in time by anybody. Beyond
//! what the server can, a client without a limit for its line has a latency that grows for as long as the load lasts: it says how
//! long the bench ran and nothing else. *good* is how many were answered within 50 ms, as a part of what the server can. node's timers
//! have ticks of a millisecond, which its latencies contain. The bench fails where the 99.9th percentile of ours with
//! `max_pending`, at 1.1 times, is more than twice that at 0.9.

mod client;
mod schedule;

use std::fs;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, Subcommand, ValueEnum};
use tower_keep_alive_benches::child::{Child, install};
use tower_keep_alive_benches::load::Load;
use tower_keep_alive_benches::report::{Report, Spread, thousands};
use tower_keep_alive_benches::server;

use crate::schedule::Schedule;

/// Latency at the tail, beyond what a server can
#[derive(Parser)]
struct Arguments {
    /// One round of half a second each
    #[arg(long)]
    short: bool,

    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// How long the load lasts, in seconds
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,

    /// The clients to measure [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    only: Vec<Peer>,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,

    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be a client
    #[command(hide = true)]
    Client {
        peer: Peer,
        schedule: PathBuf,
        server: SocketAddr,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    Agent,
    AgentMaxPending,
    AgentCheckoutTimeout,
    AgentLoadShed,
    Reqwest,
    ReqwestSemaphore,
    Go,
    Agentkeepalive,
    Undici,
}

const CALLERS: usize = 200;
const CONNECTIONS: usize = 50;

/// What the server takes over an answer, in milliseconds.
const DELAY: u64 = 10;

/// What is soon enough to be of use.
const GOOD: f64 = 50.0;

/// Of what the server can.
const LOADS: [f64; 4] = [0.5, 0.9, 1.1, 2.0];

/// How much the tail may grow from 0.9 to 1.1 where callers are turned away.
const GROWTH: f64 = 2.0;

fn main() -> ExitCode {
    server::be_one_if_told();
    let mut arguments = Arguments::parse();
    if let Some(Role::Client {
        peer,
        schedule,
        server,
    }) = arguments.role
    {
        let schedule = Schedule::read(&schedule).expect("the bench has written it");
        client::run(peer, schedule, server);
        return ExitCode::SUCCESS;
    }
    if arguments.short {
        (arguments.rounds, arguments.seconds) = (1, 0.5);
    }
    match compare(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(reason) => {
            println!("FAILED: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the tail is as short as it has to be.
fn compare(arguments: &Arguments) -> io::Result<bool> {
    let report = Report::new("tail", arguments.json.clone());
    let can = what_the_server_can()?;
    println!("the server can answer {} requests a second", thousands(can));
    let mut peers = match &*arguments.only {
        [] => Peer::value_variants().to_vec(),
        only => only.to_vec(),
    };
    let mut tails = [f64::NAN; LOADS.len()];
    for (load, tail) in LOADS.into_iter().zip(&mut tails) {
        let mut found = vec![Vec::new(); Peer::value_variants().len()];
        for round in 0..arguments.rounds {
            let file = std::env::current_exe()?.with_file_name("tail.schedule");
            let schedule = Schedule::draw(round as u64, can * load, arguments.seconds);
            schedule.write(&file)?;
            peers.retain(|&peer| match peer.measure(&file, &schedule, can) {
                Ok(seen) => {
                    found[peer as usize].push(seen);
                    true
                }
                Err(reason) => {
                    println!("{} skipped: {reason}", peer.name());
                    false
                }
            });
            fs::remove_file(file)?;
        }
        println!();
        println!(
            "{load} × what the server can: {} requests a second",
            thousands(can * load)
        );
        println!(
            "{:<28} {:>20} {:>20} {:>24} {:>18} {:>15}",
            "", "p50 ms", "p99 ms", "p99.9 ms", "failed %", "good"
        );
        for &peer in &peers {
            let p999 = peer.print(load, &found[peer as usize], &report);
            if peer == Peer::AgentMaxPending {
                *tail = p999;
            }
        }
    }
    // Not a number where it was not measured.
    let growth = tails[2] / tails[1];
    println!();
    println!("p99.9 of ours with max_pending, 1.1 to 0.9: {growth:.2} ×");
    let is_good = growth.is_nan() || growth <= GROWTH;
    if !is_good {
        println!("FAILED: more than {GROWTH} ×");
    }
    Ok(is_good)
}

/// Requests a second: twice as many callers as it serves at a time, without a pause.
fn what_the_server_can() -> io::Result<f64> {
    let server = Child::server_of(DELAY, CONNECTIONS);
    let load = Load {
        addr: server.addr,
        callers: 2 * CONNECTIONS,
        requests: 5_000,
    };
    Ok(load.run()?.rate())
}

/// What one client did in one round.
#[derive(Clone)]
struct Seen {
    /// In milliseconds, in order, of those that were answered.
    latencies: Vec<f64>,
    /// In per cent.
    failed: f64,
    /// Answers in time, of what the server can.
    good: f64,
}

impl Seen {
    fn percentile(&self, part: f64) -> f64 {
        let place = (self.latencies.len() as f64 * part) as usize;
        let latency = self.latencies.get(place).or(self.latencies.last());
        latency.copied().unwrap_or(f64::NAN)
    }
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::AgentMaxPending => "agent, max_pending 50",
            Self::AgentCheckoutTimeout => "agent, checkout_timeout 10 ms",
            Self::AgentLoadShed => "agent, load_shed",
            Self::Reqwest => "reqwest",
            Self::ReqwestSemaphore => "reqwest, semaphore",
            Self::Go => "go",
            Self::Agentkeepalive => "agentkeepalive",
            Self::Undici => "undici",
        }
    }

    fn command(self, schedule: &Path, server: SocketAddr) -> io::Result<Command> {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let mut command = match self {
            Self::Go => {
                install("go")?;
                Command::new(peers.join("gotail"))
            }
            Self::Agentkeepalive | Self::Undici => {
                install("node")?;
                let mut command = Command::new("node");
                command.arg(peers.join("tail.cjs")).arg(self.name());
                command
            }
            _ => {
                let value = self.to_possible_value().expect("none is hidden");
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["client", value.get_name()]).arg(schedule);
                command.arg(server.to_string());
                return Ok(command);
            }
        };
        command.arg(schedule).arg(format!("http://{server}/256"));
        command.arg(CONNECTIONS.to_string());
        Ok(command)
    }

    /// With a new server, and a new process.
    fn measure(self, file: &Path, schedule: &Schedule, can: f64) -> io::Result<Seen> {
        let server = Child::server_of(DELAY, CONNECTIONS);
        let mut command = self.command(file, server.addr)?;
        let mut client = command.stdout(Stdio::piped()).spawn()?;
        let said = BufReader::new(client.stdout.take().expect("it is piped"));
        let said: Vec<_> = said.lines().collect::<io::Result<_>>()?;
        let status = client.wait()?;
        if !status.success() || said.len() != schedule.arrivals.len() {
            let (few, many) = (said.len(), schedule.arrivals.len());
            return Err(io::Error::other(format!("{status}, {few} of {many} told")));
        }
        let counted = schedule.counted(&said);
        let latencies = counted.iter().filter_map(|it| it.parse::<f64>().ok());
        let mut latencies: Vec<_> = latencies.map(|micros| micros / 1_000.0).collect();
        latencies.sort_by(f64::total_cmp);
        let answered = latencies.len() as f64;
        let in_time = latencies.partition_point(|&it| it <= GOOD) as f64;
        Ok(Seen {
            latencies,
            failed: 100.0 * (1.0 - answered / counted.len() as f64),
            good: in_time / (can * schedule.seconds),
        })
    }

    /// Returns the median of the 99.9th percentiles.
    fn print(self, load: f64, rounds: &[Seen], report: &Report) -> f64 {
        let spread =
            |of: &dyn Fn(&Seen) -> f64| Spread::of(&rounds.iter().map(of).collect::<Vec<_>>());
        let case = format!("{load} × capacity");
        let figure = |unit: &str, value: Spread, digits: usize| {
            report.figure(&case, self.name(), unit, value);
            let Spread {
                least,
                median,
                most,
            } = value;
            format!("{median:.digits$} {least:.digits$}-{most:.digits$}")
        };
        let p999 = spread(&|it| it.percentile(0.999));
        println!(
            "{:<28} {:>20} {:>20} {:>24} {:>18} {:>15}",
            self.name(),
            figure("p50 ms", spread(&|it| it.percentile(0.5)), 1),
            figure("p99 ms", spread(&|it| it.percentile(0.99)), 1),
            figure("p99.9 ms", p999, 1),
            figure("failed %", spread(&|it| it.failed), 1),
            figure("good", spread(&|it| it.good), 2),
        );
        p999.median
    }
}
