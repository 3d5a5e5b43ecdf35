//! What HTTP/1 clients make of servers that close, or speak, while a connection is idle.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin race [REQUESTS [RUNS]]`
//!
//! hyper-util's legacy client, reqwest, and this crate's agent (`KeepAliveLayer` under tower's `RetryLayer` with
//! `ReusedReset`), each against the same servers, all in this program:
//!
//! 1. **The race.** A server closes a connection when it has been idle for 5 ms, and 50 callers think for 3 to 9 ms
//!    before each of REQUESTS GETs (50,000). So some are sent just when their connection is closed. *failures* are
//!    requests without an answer: the caller has an error, or nothing at all for 10 s (*forgotten*: rare, and not in
//!    every run). *retries* are second tries of the policy.
//! 2. **POSTs.** The same callers send POSTs through the agent, to a server that also executes what arrives while it
//!    closes, unheard. What fails must say whether it can have been executed, and nothing may be executed twice.
//! 3. **The hole.** A connection is idle, every thread of the runtime is busy for 1.5 ms, and meanwhile the server
//!    writes an answer that nobody asked for, or closes. Then a request is sent, RUNS (300) times with a new client each.
//!    A cell is `poisoned + failed`: how many requests got the stray answer for theirs, and how many got none.
//!
//! It fails (exit code 1) if the agent fails a GET, executes a POST twice or takes a stray answer; and if its peers do
//! not in a full run, in which case this shows nothing. In shorter runs that is a warning.

mod crowd;
mod hole;
mod peer;
mod server;

use std::process::ExitCode;
use std::time::Instant;

use http::Method;
use tokio::runtime::Builder;
use tokio::time::error::Elapsed;
use tower_keep_alive::Error;

use crate::crowd::CALLERS;
use crate::hole::{Outcome, RUNTIMES, SURPRISES};
use crate::peer::{Agent, Legacy, Peer, Reqwest};
use crate::server::{Late, Server};

const REQUESTS: usize = 50_000;
const RUNS: usize = 300;

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|it| it.parse());
    let mut number = |default| numbers.next().unwrap_or(Ok(default));
    let (Ok(requests), Ok(runs), None) = (number(REQUESTS), number(RUNS), numbers.next()) else {
        eprintln!("usage: race [REQUESTS [RUNS]]");
        return ExitCode::from(2);
    };

    let mut verdict = Verdict::default();
    race_all(requests, &mut verdict);
    post(requests, &mut verdict);
    look_into_the_hole(runs, &mut verdict);

    for fault in &verdict.agent {
        println!("FAILED: {fault}");
    }
    let is_full = requests >= REQUESTS && runs >= RUNS;
    for part in &verdict.shows_nothing {
        let word = if is_full { "FAILED" } else { "warning" };
        println!("{word}: {part}: nothing happened to the peers, so this shows nothing");
    }
    match verdict.agent.is_empty() && (verdict.shows_nothing.is_empty() || !is_full) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

#[derive(Default)]
struct Verdict {
    /// What the agent did wrong.
    agent: Vec<String>,
    /// Parts in which the peers did nothing wrong.
    shows_nothing: Vec<&'static str>,
}

fn race_all(total: usize, verdict: &mut Verdict) {
    println!("The race: {total} GETs by {CALLERS} callers");
    println!();
    println!("                       failures forgotten   retries   sockets   seconds");
    let legacy = race::<Legacy>(total);
    let reqwest = race::<Reqwest>(total);
    let agent = race::<Agent>(total);
    println!();
    if agent > 0 {
        verdict.agent.push(format!("{agent} GETs failed"));
    }
    if legacy == 0 || reqwest == 0 {
        verdict.shows_nothing.push("the race");
    }
}

/// Prints a line; the number of failures.
fn race<P: Peer>(total: usize) -> usize {
    let server = Server::start(total, Late::Lost);
    let peer = P::new();
    let begun = Instant::now();
    let failures = callers_runtime().block_on(crowd::send(&peer, &server, Method::GET, total));
    let forgotten = failures.iter().filter(|(_, it)| it.is::<Elapsed>());
    println!(
        "{:<20} {:>10} {:>9} {:>9} {:>9} {:>9.1}",
        P::NAME,
        failures.len(),
        forgotten.count(),
        peer.retries(total).map_or("-".into(), |it| it.to_string()),
        server.accepted(),
        begun.elapsed().as_secs_f64(),
    );
    failures.len()
}

type Kind = fn(&Error) -> bool;

fn post(total: usize, verdict: &mut Verdict) {
    let server = Server::start(total, Late::Executed);
    let peer = Agent::new();
    let failures = callers_runtime().block_on(crowd::send(&peer, &server, Method::POST, total));
    // The last connections are still being closed; what arrived on them is long answered.
    let twice = (0..total).filter(|&id| server.executed(id) > 1).count();
    println!("POSTs: {total} by {CALLERS} callers of the agent, {twice} executed twice");
    println!();
    println!("                         failed   of them executed");
    let kinds: [(&str, Kind); 3] = [
        ("reset, reused", |it| {
            it.is_reset() && it.is_reused() && !it.is_unsent()
        }),
        ("unsent", Error::is_unsent),
        ("anything else", |_| true),
    ];
    let mut rest: Vec<_> = failures.iter().collect();
    for (name, is_kind) in kinds {
        let (these, others): (Vec<_>, _) = rest
            .into_iter()
            .partition(|(_, it)| it.downcast_ref().map_or(name == kinds[2].0, is_kind));
        rest = others;
        let executed = these.iter().filter(|(id, _)| server.executed(*id) > 0);
        let executed = executed.count();
        println!("{name:<20} {:>10} {executed:>18}", these.len());
        match name {
            "unsent" if executed > 0 => {
                let fault = format!("{executed} POSTs that were executed are said to be unsent");
                verdict.agent.push(fault);
            }
            "anything else" => verdict.agent.extend(
                these
                    .iter()
                    .map(|(id, error)| format!("POST {id}: {error:?}")),
            ),
            _ => {}
        }
    }
    println!();
    if twice > 0 {
        verdict
            .agent
            .push(format!("{twice} POSTs were executed twice"));
    }
    if failures.is_empty() {
        verdict.shows_nothing.push("POSTs");
    }
}

/// The callers' own, so that none shares threads with the server.
fn callers_runtime() -> tokio::runtime::Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}

fn look_into_the_hole(runs: usize, verdict: &mut Verdict) {
    println!("The hole: poisoned + failed, of {runs}");
    for (runtime, workers) in RUNTIMES {
        println!();
        println!(
            "{runtime:<20} {:>18} {:>18} {:>18}",
            Legacy::NAME,
            Reqwest::NAME,
            Agent::NAME
        );
        for (name, surprise) in SURPRISES {
            for method in [Method::GET, Method::POST] {
                let legacy = hole::measure::<Legacy>(&method, surprise, workers, runs);
                let reqwest = hole::measure::<Reqwest>(&method, surprise, workers, runs);
                let agent = hole::measure::<Agent>(&method, surprise, workers, runs);
                let cell = |it: Outcome| format!("{} + {}", it.poisoned, it.failed);
                let name = format!("{name}, {method}");
                println!(
                    "{name:<20} {:>18} {:>18} {:>18}",
                    cell(legacy),
                    cell(reqwest),
                    cell(agent)
                );
                let none = Outcome::default();
                if agent != none {
                    verdict.agent.push(format!("{name}, {runtime}: {agent:?}"));
                }
                if workers == 0 && (legacy == none || reqwest == none) {
                    verdict.shows_nothing.push("the hole");
                }
            }
        }
    }
    verdict.shows_nothing.dedup();
    println!();
}
