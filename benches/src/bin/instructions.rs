//! What one warm GET costs each client, counted: instructions, allocations, system calls and tasks.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin instructions [-- --check | --write]`
//!
//! Each client is a program that sends the same request over one connection, one after the other, on a `current_thread`
//! runtime; the server is another program. It is run for 500 requests and for 3,000, and the difference is divided by
//! 2,500, so that neither start nor connect counts. valgrind counts instructions (callgrind, user space only) and
//! allocations (dhat), strace the system calls, tokio the tasks. Nothing is timed, so that other work on the machine does
//! no harm, and a run differs from the next by a per mille.
//!
//! How to read it: *share* is what a client adds to hyper, which gets the same request, its absolute URI parsed each
//! time, and a `Host`; over HTTP/2, to the `h2` crate. `ours / theirs` is by the whole of a request.
//!
//! `--check` compares our share with `benches/baseline.json`, and fails when its instructions have grown by more than 5 %,
//! or its allocations at all; and when a setting for many addresses, or `ForwardLayer`, adds more to the warm GET than `most_added`
//! there, or allocates. Counts are comparable for one compiler: built by another, `--check` says so and fails for nothing. `--write`
//! renews the shares in the file. The same baseline holds with `--features metrics`, which has no recorder here.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use bytes::Bytes;
use clap::{Parser, Subcommand, ValueEnum};
use http::Method;
use http_body_util::{Empty, Full};
use hyper_util::client::legacy::connect::dns::Name;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tower::service_fn;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{Ejection, KeepAliveLayer, Protocol, Spread};
use tower_keep_alive_benches::ask::Ask;
use tower_keep_alive_benches::child::{Child, is_there};
use tower_keep_alive_benches::peers::{
    Agent, AgentOf, Forwarding, H2Alone, HyperAlone, HyperHttp2, LegacyTcp, Peer, Reqwest, cache,
};
use tower_keep_alive_benches::report::{Report, thousands};
use tower_keep_alive_benches::server;

/// Instructions, allocations and system calls of a warm request
#[derive(Parser)]
struct Arguments {
    /// Fail when our share has grown by more than 5 % over benches/baseline.json
    #[arg(long)]
    check: bool,

    /// Renew benches/baseline.json
    #[arg(long, conflicts_with = "check")]
    write: bool,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,

    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be the client that is counted
    #[command(hide = true)]
    Client {
        mode: Mode,
        addr: SocketAddr,
        requests: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
enum Mode {
    Hyper,
    Agent,
    AgentNoInfo,
    AgentLimited,
    AgentEjects,
    AgentSpreads,
    AgentSpreadsAndEjects,
    AgentOverTen,
    AgentForwards,
    Cache,
    Legacy,
    Reqwest,
    Http2,
    Http2Agent,
    Http2Hyper,
    Http2Legacy,
    Http2Reqwest,
}

/// What is compared with each other: the first is what the others are built on, the second ours.
const HTTP1: &[Mode] = &[
    Mode::Hyper,
    Mode::Agent,
    Mode::AgentNoInfo,
    Mode::AgentLimited,
    Mode::AgentEjects,
    Mode::AgentSpreads,
    Mode::AgentSpreadsAndEjects,
    Mode::AgentOverTen,
    Mode::AgentForwards,
    Mode::Cache,
    Mode::Legacy,
    Mode::Reqwest,
];
const HTTP2: &[Mode] = &[
    Mode::Http2,
    Mode::Http2Agent,
    Mode::Http2Hyper,
    Mode::Http2Legacy,
    Mode::Http2Reqwest,
];

const FEW: u64 = 500;
const MANY: u64 = 3_000;

/// How much our share may grow.
const TOLERANCE: f64 = 1.05;

/// Those whose share is kept.
const KEPT: &[Mode] = &[Mode::Agent, Mode::AgentNoInfo, Mode::Http2Agent];

/// What may add only so much to ours: the settings for many addresses, and `ForwardLayer`. Over ten addresses that is more: the
/// tasks of ten connections take turns, and each is woken anew.
const ADDING: &[Mode] = &[
    Mode::AgentEjects,
    Mode::AgentSpreads,
    Mode::AgentSpreadsAndEjects,
    Mode::AgentForwards,
];

/// The addresses of the name that has several, from 127.0.0.1 on.
const ADDRESSES: u8 = 10;

/// The share of each mode, and what built it.
#[derive(Debug, Deserialize, Serialize)]
struct Baseline {
    rustc: String,
    target: String,
    share: BTreeMap<String, Share>,
    /// How many instructions each of these settings may add to our warm GET.
    most_added: BTreeMap<String, f64>,
}

/// What we add to what is below.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Share {
    instructions: f64,
    allocations: f64,
}

/// For one warm request. `None`: it could not be counted.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    instructions: Option<f64>,
    allocations: Option<f64>,
    bytes: Option<f64>,
    syscalls: Option<f64>,
    tasks: Option<f64>,
}

fn main() -> ExitCode {
    server::be_one_if_told();
    let arguments = Arguments::parse();
    if let Some(Role::Client {
        mode,
        addr,
        requests,
    }) = arguments.role
    {
        client(mode, addr, requests);
        return ExitCode::SUCCESS;
    }
    if !is_there("valgrind", "--version") {
        println!("skipped: there is no valgrind (Debian: apt-get install valgrind)");
        return ExitCode::SUCCESS;
    }
    if !is_there("strace", "--version") {
        println!("system calls are not counted: there is no strace");
    }
    let report = Report::new("instructions", arguments.json);
    let mut shares = BTreeMap::new();
    let mut added = Vec::new();
    for (case, modes) in [("warm GET", HTTP1), ("warm GET, HTTP/2", HTTP2)] {
        let is_wanted = |it: &&Mode| {
            !arguments.check || **it == modes[0] || KEPT.contains(it) || ADDING.contains(it)
        };
        let modes = modes.iter().filter(is_wanted);
        let counts: Vec<_> = modes.map(|&it| (it, Count::of(it))).collect();
        print(case, &counts);
        tell(case, &counts, &report);
        shares.extend(kept(&counts));
        added.extend(adding(&counts));
    }
    let then = Baseline::read();
    let Some(now) = Baseline::of(shares, &then.most_added) else {
        println!("FAILED: valgrind did not count");
        return ExitCode::FAILURE;
    };
    if arguments.write {
        now.write();
    }
    match !arguments.check || now.is_kept(&then, &added) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn print(case: &str, counts: &[(Mode, Count)]) {
    let below = counts[0].1;
    println!("One {case}, 12 bytes of body, over loopback, current_thread:");
    println!();
    println!(
        "{:<36} {:>12} {:>8} {:>13} {:>11} {:>8} {:>8} {:>6}",
        "", "instructions", "share", "ours / theirs", "allocations", "bytes", "syscalls", "tasks"
    );
    let ours = counts[1].1.instructions;
    for (mode, count) in counts {
        let cell = |value: Option<f64>, digits| {
            value.map_or("-".into(), |it| match digits {
                0 => thousands(it),
                _ => format!("{it:.digits$}"),
            })
        };
        let share = count.minus(&below);
        let ratio = ours.zip(count.instructions).map(|(ours, it)| ours / it);
        println!(
            "{:<36} {:>12} {:>8} {:>13} {:>11} {:>8} {:>8} {:>6}",
            mode.name(),
            cell(count.instructions, 0),
            cell(share, 0),
            cell(ratio, 2),
            cell(count.allocations, 2),
            cell(count.bytes, 0),
            cell(count.syscalls, 2),
            cell(count.tasks, 2),
        );
    }
    println!();
}

fn tell(case: &str, counts: &[(Mode, Count)], report: &Report) {
    for (mode, count) in counts {
        let parts = [
            ("instructions", count.instructions),
            ("share, instructions", count.minus(&counts[0].1)),
            ("allocations", count.allocations),
            ("bytes allocated", count.bytes),
            ("system calls", count.syscalls),
            ("tasks", count.tasks),
        ];
        for (unit, value) in parts {
            if let Some(value) = value {
                report.figure(case, mode.name(), unit, value);
            }
        }
    }
}

/// The shares of those that are kept.
fn kept(counts: &[(Mode, Count)]) -> impl Iterator<Item = (Mode, Option<Share>)> {
    let below = counts[0].1;
    let kept = counts.iter().filter(|(mode, _)| KEPT.contains(mode));
    kept.map(move |(mode, count)| {
        let share = || {
            Some(Share {
                instructions: count.minus(&below)?.round(),
                allocations: (count.allocations? - below.allocations?).round(),
            })
        };
        (*mode, share())
    })
}

/// What is added to ours.
fn adding(counts: &[(Mode, Count)]) -> impl Iterator<Item = (Mode, Option<Share>)> {
    let ours = counts[1].1;
    let adding = counts.iter().filter(|(mode, _)| ADDING.contains(mode));
    adding.map(move |(mode, count)| {
        let added = || {
            Some(Share {
                instructions: count.minus(&ours)?.round(),
                allocations: (count.allocations? - ours.allocations?).round(),
            })
        };
        (*mode, added())
    })
}

impl Mode {
    fn name(self) -> &'static str {
        match self {
            Self::Hyper => "hyper alone",
            Self::Agent => "tower-keep-alive",
            Self::AgentNoInfo => "tower-keep-alive, no info",
            Self::AgentLimited => "tower-keep-alive, max_connections",
            Self::AgentEjects => "tower-keep-alive, eject",
            Self::AgentSpreads => "tower-keep-alive, spread",
            Self::AgentSpreadsAndEjects => "tower-keep-alive, both",
            Self::AgentOverTen => "tower-keep-alive, both, 10 addresses",
            Self::AgentForwards => "tower-keep-alive, forward",
            Self::Cache => "hyper-util pool::cache",
            Self::Legacy => "hyper-util legacy",
            Self::Reqwest => "reqwest",
            Self::Http2 => "h2 alone",
            Self::Http2Agent => "tower-keep-alive, HTTP/2",
            Self::Http2Hyper => "hyper alone, HTTP/2",
            Self::Http2Legacy => "hyper-util legacy, HTTP/2",
            Self::Http2Reqwest => "reqwest, HTTP/2",
        }
    }
}

impl Count {
    fn of(mode: Mode) -> Self {
        let (few, many) = (Self::of_all(mode, FEW), Self::of_all(mode, MANY));
        let per_request = |part: fn(&Self) -> Option<f64>| {
            Some((part(&many)? - part(&few)?) / (MANY - FEW) as f64)
        };
        Self {
            instructions: per_request(|it| it.instructions),
            allocations: per_request(|it| it.allocations),
            bytes: per_request(|it| it.bytes),
            syscalls: per_request(|it| it.syscalls),
            tasks: per_request(|it| it.tasks),
        }
    }

    /// Of a whole run.
    fn of_all(mode: Mode, requests: u64) -> Self {
        let callgrind = [
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
        ];
        let dhat = ["valgrind", "--tool=dhat", "--dhat-out-file=/dev/null"];
        let said = run(&callgrind, mode, requests);
        let heap = run(&dhat, mode, requests);
        // ==1== Total:     1,234 bytes in 56 blocks
        Self {
            instructions: word(&said, "Collected :", 3),
            allocations: word(&heap, "Total:", 5),
            bytes: word(&heap, "Total:", 2),
            // % time, seconds, usecs/call, calls; the last line has the sums.
            syscalls: word(&run(&["strace", "-c", "-f"], mode, requests), " total", 3),
            tasks: word(&said, "tasks ", 1),
        }
    }

    /// Its share of the instructions.
    fn minus(&self, below: &Self) -> Option<f64> {
        Some(self.instructions? - below.instructions?)
    }
}

/// The number at a place in the line that has `mark`.
fn word(said: &Option<String>, mark: &str, place: usize) -> Option<f64> {
    let line = said.as_ref()?.lines().rfind(|line| line.contains(mark))?;
    let word = line.split_whitespace().nth(place)?;
    word.replace(',', "").parse().ok()
}

/// Runs the client under `tool`: all that both have said.
fn run(tool: &[&str], mode: Mode, requests: u64) -> Option<String> {
    let server = match mode {
        Mode::AgentOverTen => Child::server_at(ADDRESSES),
        _ if HTTP2.contains(&mode) => Child::http2_server(),
        _ => Child::server(0),
    };
    let this = std::env::current_exe().expect("it runs");
    let mode = mode.to_possible_value()?;
    let (program, flags) = tool.split_first()?;
    let mut command = Command::new(program);
    command
        .args(flags)
        .arg(this)
        .args(["client", mode.get_name()]);
    command.args([server.addr.to_string(), requests.to_string()]);
    let output = command.output().ok()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if !output.status.success() {
        println!("{command:?} failed:\n{said}");
        return None;
    }
    Some(said)
}

fn client(mode: Mode, addr: SocketAddr, requests: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let layer = KeepAliveLayer::<Empty<Bytes>>::new();
    let agent = |layer| Agent::new(&layer, TcpConnector::new());
    let empty = Empty::new();
    runtime.block_on(async {
        match mode {
            Mode::Hyper => {
                let alone = HyperAlone::connect(addr).await;
                drive(alone.expect("the server listens"), addr, empty, requests).await;
            }
            Mode::Agent => drive(agent(layer), addr, empty, requests).await,
            Mode::AgentNoInfo => {
                let layer = layer.info_in_extensions(false);
                drive(agent(layer), addr, empty, requests).await;
            }
            Mode::AgentLimited => {
                let layer = layer.max_connections(50);
                drive(agent(layer), addr, empty, requests).await;
            }
            Mode::AgentEjects => {
                let layer = layer.eject(Ejection::new());
                drive(agent(layer), addr, empty, requests).await;
            }
            Mode::AgentSpreads => {
                let layer = layer.spread(Spread::FewestOpenFirst);
                drive(agent(layer), addr, empty, requests).await;
            }
            Mode::AgentSpreadsAndEjects => {
                let layer = layer.spread(Spread::FewestOpenFirst);
                let layer = layer.eject(Ejection::new());
                drive(agent(layer), addr, empty, requests).await;
            }
            Mode::AgentOverTen => over_ten(addr, requests).await,
            Mode::AgentForwards => {
                let forwarding = Forwarding::new(&layer, &format!("http://{addr}"));
                drive(forwarding.expect("a URL"), addr, empty, requests).await;
            }
            Mode::Cache => {
                let uri = format!("http://{addr}").parse().expect("a valid URL");
                drive(cache(TcpConnector::new(), uri), addr, empty, requests).await;
            }
            Mode::Legacy => drive(LegacyTcp::over_sockets(), addr, empty, requests).await,
            Mode::Reqwest => drive(Reqwest::new(), addr, Full::default(), requests).await,
            Mode::Http2 => {
                let alone = H2Alone::connect(addr).await;
                drive(alone.expect("the server listens"), addr, empty, requests).await;
            }
            Mode::Http2Agent => {
                let layer = layer.protocol(Protocol::Http2);
                drive(agent(layer), addr, empty, requests).await;
            }
            Mode::Http2Hyper => {
                let alone = HyperHttp2::connect(addr).await;
                drive(alone.expect("the server listens"), addr, empty, requests).await;
            }
            Mode::Http2Legacy => drive(LegacyTcp::over_http2(), addr, empty, requests).await,
            Mode::Http2Reqwest => {
                drive(Reqwest::over_http2(), addr, Full::default(), requests).await;
            }
        }
        // tokio's own count of them needs `--cfg tokio_unstable`; it numbers them one by one.
        println!("tasks {}", tokio::spawn(async {}).id());
    });
}

/// Spreads over the addresses of one name, with a connection to each, and ejects those that fail.
async fn over_ten(addr: SocketAddr, requests: u64) {
    let addresses = (1..=ADDRESSES).map(|last| SocketAddr::from(([127, 0, 0, last], addr.port())));
    let addresses: Vec<_> = addresses.collect();
    let resolve = move |_: Name| ready(Ok::<_, Infallible>(addresses.clone().into_iter()));
    let connector = TcpConnector::with_resolver(service_fn(resolve));
    let layer = KeepAliveLayer::new().spread(Spread::FewestOpenFirst);
    let agent = AgentOf::new(&layer.eject(Ejection::new()), connector);
    let name = format!("ten.test:{}", addr.port());
    let ask = Ask::new(Method::GET, &name, 12, Empty::<Bytes>::new());
    let mut at_once = JoinSet::new();
    for _ in 0..ADDRESSES {
        let (mut agent, request) = (agent.clone(), ask.request());
        at_once.spawn(async move { agent.send(request).await });
    }
    for sent in at_once.join_all().await {
        assert_eq!(sent.expect("nothing is wrong"), 12);
    }
    ask_again(agent, ask, requests).await;
}

async fn drive<P, B>(peer: P, addr: SocketAddr, body: B, requests: u64)
where
    P: Peer<B>,
    B: Clone,
{
    let mut ask = Ask::new(Method::GET, &addr.to_string(), 12, body);
    if P::WANTS_HOST {
        ask = ask.with_host();
    }
    ask_again(peer, ask, requests).await;
}

async fn ask_again<P, B>(mut peer: P, ask: Ask<B>, requests: u64)
where
    P: Peer<B>,
    B: Clone,
{
    for _ in 0..requests {
        let length = peer.send(ask.request()).await.expect("nothing is wrong");
        assert_eq!(length, 12);
    }
}

impl Baseline {
    fn path() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("baseline.json")
    }

    fn read() -> Self {
        let text = std::fs::read_to_string(Self::path()).expect("the baseline is committed");
        serde_json::from_str(&text).expect("it is what `--write` has written")
    }

    /// None if something could not be counted.
    fn of(
        shares: BTreeMap<Mode, Option<Share>>,
        most_added: &BTreeMap<String, f64>,
    ) -> Option<Self> {
        let shares = shares.into_iter();
        let shares = shares.map(|(mode, share)| Some((mode.name().to_owned(), share?)));
        Some(Self {
            rustc: env!("BUILT_WITH").to_owned(),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            share: shares.collect::<Option<_>>()?,
            most_added: most_added.clone(),
        })
    }

    fn write(&self) {
        let text = serde_json::to_string_pretty(self).expect("plain values");
        std::fs::write(Self::path(), text + "\n").expect("the baseline can be written");
        println!("written: {}", Self::path().display());
    }

    /// Whether our share is what it was, or less, and the settings for many addresses add no more than they may.
    fn is_kept(&self, then: &Self, added: &[(Mode, Option<Share>)]) -> bool {
        let is_same = then.rustc == self.rustc && then.target == self.target;
        if !is_same {
            println!(
                "NOTE: the baseline is of {} on {},",
                then.rustc, then.target
            );
            println!(
                "      this of {} on {}: not comparable,",
                self.rustc, self.target
            );
            println!("      so nothing fails here. `--write` renews it.");
        }
        let mut is_kept = true;
        for (mode, before) in &then.share {
            let now = self.share[mode];
            let ratio = now.instructions / before.instructions;
            let is_worse = ratio > TOLERANCE || now.allocations > before.allocations;
            let verdict = match is_worse {
                true if !is_same => "more",
                true => "FAILED: it has grown",
                false if ratio < 2.0 - TOLERANCE => "less: `--write` keeps it so",
                false => "ok",
            };
            is_kept &= !is_worse;
            println!(
                "{mode}: {verdict}: {} instructions ({} in the baseline, {ratio:.3}), {} allocations ({})",
                thousands(now.instructions),
                thousands(before.instructions),
                now.allocations,
                before.allocations,
            );
        }
        for (mode, added) in added {
            let name = mode.name();
            let Some(added) = added else {
                println!("{name}: FAILED: valgrind did not count");
                is_kept = false;
                continue;
            };
            let most = then.most_added[name];
            let is_more = added.instructions > most || added.allocations > 0.0;
            let verdict = match is_more {
                true if !is_same => "more",
                true => "FAILED: it adds more than it may",
                false => "ok",
            };
            is_kept &= !is_more;
            println!(
                "{name}: {verdict}: adds {} instructions (at most {}), and {} allocations (at most 0)",
                thousands(added.instructions),
                thousands(most),
                added.allocations,
            );
        }
        is_kept || !is_same
    }
}
