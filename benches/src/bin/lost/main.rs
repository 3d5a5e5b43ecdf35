//! What HTTP/2 clients make of servers that send them away, refuse, change their limits, or fall silent.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin lost [-- --requests N --only PART]`
//!
//! hyper-util's legacy client, reqwest, and this crate's agent with its defaults, each against the same servers of raw
//! frames, which take 2 ms over an answer. 100 callers send 50,000 requests: GETs, then POSTs whose bodies can be read once.
//!
//! - *lost*: requests without an answer: the caller has an error, or nothing for 10 s (in the black hole 500 ms).
//! - *beyond limit*: streams that were begun when the server's limit was reached, by its count. Its first limit counts from
//!   the start of a connection, another one when the client has acknowledged it.
//! - *twice*: requests that were carried out more than once, by the server's log. It has carried out whatever came whole,
//!   unless it has said that it has not.
//! - *connections*, and the median time of an answer.
//!
//! The servers: GOAWAY after every 100 streams (which names the last; which names a stream 20 back; which announces itself,
//! and names the last 1 ms later); a limit of 10 streams; the same and GOAWAY; the same, told 50 ms late, and what is
//! beyond refused; a limit lowered from 100 to 1 when nine tenths were sent; each tenth stream refused; a first connection
//! that falls silent after 200 streams (1,000 requests by 50 callers); and a server that does nothing of the kind, while
//! the agent's connections end by their age of 100 ms.
//!
//! It fails (exit code 1) if the agent loses more than it must: nothing, or in the black hole what was under way; if it goes
//! beyond a limit, takes an answer for another, or has a POST carried out twice.

mod peer;
mod server;
mod trial;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use http::Method;
use tower_keep_alive_benches::report::{Report, thousands};

use crate::peer::{Agent, Legacy, Peer, Reqwest};
use crate::trial::{Outcome, Trial, trials};

/// Requests that are lost over HTTP/2
#[derive(Parser)]
struct Arguments {
    /// Requests of each client in each trial, of either method
    #[arg(long, default_value_t = 50_000)]
    requests: usize,

    /// Only the trials whose names have this in them
    #[arg(long, value_name = "PART", default_value = "")]
    only: String,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = Report::new("lost", arguments.json);
    let mut faults = Vec::new();
    let is_wanted = |trial: &Trial| trial.name.contains(&arguments.only);
    for trial in trials(arguments.requests).into_iter().filter(is_wanted) {
        println!(
            "{}: {} requests by {} callers",
            trial.name,
            thousands(trial.requests as f64),
            trial.callers
        );
        println!();
        println!(
            "{:<24} {:>8} {:>13} {:>6} {:>12} {:>8} {:>8}",
            "", "lost", "beyond limit", "twice", "connections", "p50 ms", "seconds"
        );
        for method in [Method::GET, Method::POST] {
            let tell = |name, outcome| tell(&report, &trial, &method, name, outcome);
            let agent = match trial.ttl {
                None => {
                    tell(Legacy::NAME, trial.run(Legacy::new(), &method));
                    tell(Reqwest::NAME, trial.run(Reqwest::new(), &method));
                    Agent::new()
                }
                // They have no such limit.
                Some(ttl) => Agent::with_ttl(ttl),
            };
            let ours = trial.run(agent, &method);
            tell(Agent::NAME, ours);
            let found = trial.faults(ours).into_iter();
            faults.extend(found.map(|it| format!("{}, {method}: {it}", trial.name)));
        }
        println!();
    }
    for fault in &faults {
        println!("FAILED: {fault}");
    }
    match faults.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn tell(report: &Report, trial: &Trial, method: &Method, name: &str, outcome: Outcome) {
    let milliseconds = |it: Duration| it.as_secs_f64() * 1e3;
    println!(
        "{:<24} {:>8} {:>13} {:>6} {:>12} {:>8.1} {:>8.1}",
        format!("{name}, {method}"),
        outcome.lost,
        outcome.beyond_limit,
        outcome.executed_twice,
        outcome.connections,
        milliseconds(outcome.p50),
        outcome.took.as_secs_f64(),
    );
    let figures = [
        ("lost", outcome.lost as f64),
        ("beyond limit", outcome.beyond_limit as f64),
        ("twice", outcome.executed_twice as f64),
        ("connections", outcome.connections as f64),
        ("p50 ms", milliseconds(outcome.p50)),
    ];
    for (unit, value) in figures {
        report.figure(trial.name, name, &format!("{unit}, {method}"), value);
    }
}
