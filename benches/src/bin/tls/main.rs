//! What TLS 1.3 costs each client: handshakes, and bytes.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin tls [-- --short] [-- --only agent,go]`
//!
//! Each client is a process that asks one server, which is the same for all (rustls, one thread, a certificate of P-256):
//! callers that send the next request when they have read the answer to the last. The client has two threads.
//!
//! - **handshakes, full**: 4 callers, a connection for each GET of 12 bytes, and no session is kept. **handshakes, resumed**: a connection
//!   for each, with the sessions of those before. The server counts which of the two each handshake was; where they were not
//!   what they had to be, the bench fails for ours and leaves the peer out;
//! - **12 B**, **64 KiB**, **1 MiB**: GETs of 16 callers over 16 connections that are kept, all of which are made before it begins.
//!
//! **agent** and **reqwest** have one and the same configuration of rustls, with ring; **go** is net/http with crypto/tls
//! (`peers/tls.go`). Clients take turns, a round each, with new processes.
//!
//! How to read it: server and client share the machine, so that requests a second say what both cost; *CPU* is the client's
//! alone, in microseconds for a request, user and system. *of reqwest* is the median of the ratios within rounds. Linux only.

mod client;

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand, ValueEnum};
use tower_keep_alive_benches::child::install;
use tower_keep_alive_benches::report::{Report, Spread, thousands};
use tower_keep_alive_benches::server_tls;
use tower_keep_alive_benches::talk::Talk;

/// Handshakes and throughput over TLS
#[derive(Parser)]
struct Arguments {
    /// A tenth of the requests, and three rounds
    #[arg(long)]
    short: bool,

    #[arg(long, default_value_t = 5)]
    rounds: usize,

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
        #[command(flatten)]
        work: Work,
    },
}

/// What a client is to do.
#[derive(clap::Args)]
struct Work {
    server: SocketAddr,
    /// The certificate of the server's authority.
    root: PathBuf,
    mode: Mode,
    callers: usize,
    length: usize,
    requests: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Peer {
    Agent,
    Reqwest,
    Go,
}

/// What becomes of connections, and of their sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Full,
    Resumed,
    Kept,
}

/// With connections that are kept.
const CALLERS: usize = 16;

/// Without: rustls keeps eight sessions of a server, and each can be used once.
const CALLERS_OF_NEW: usize = 4;

struct Case {
    name: &'static str,
    mode: Mode,
    length: usize,
    requests: usize,
}

const fn case(name: &'static str, mode: Mode, length: usize, requests: usize) -> Case {
    Case {
        name,
        mode,
        length,
        requests,
    }
}

const CASES: [Case; 5] = [
    case("handshakes, full", Mode::Full, 12, 2_000),
    case("handshakes, resumed", Mode::Resumed, 12, 3_000),
    case("12 B", Mode::Kept, 12, 50_000),
    case("64 KiB", Mode::Kept, 64 * 1024, 10_000),
    case("1 MiB", Mode::Kept, 1024 * 1024, 1_000),
];

/// One round of one client.
#[derive(Clone, Copy)]
struct Measured {
    /// Requests a second.
    rate: f64,
    /// Microseconds for each.
    cpu: f64,
}

fn main() -> ExitCode {
    server_tls::be_one_if_told();
    let mut arguments = Arguments::parse();
    if let Some(Role::Client { peer, work }) = &arguments.role {
        client::run(*peer, work);
        return ExitCode::SUCCESS;
    }
    if arguments.short {
        arguments.rounds = 3;
    }
    let report = Report::new("tls", arguments.json.clone());
    let mut is_good = true;
    for case in CASES {
        is_good &= case.compare(&arguments, &report);
    }
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

impl Case {
    /// Whether ours did what it was told to.
    fn compare(&self, arguments: &Arguments, report: &Report) -> bool {
        let requests = self.requests / if arguments.short { 10 } else { 1 };
        let mut peers = match &*arguments.only {
            [] => Peer::value_variants().to_vec(),
            only => only.to_vec(),
        };
        let mut found: [Vec<Measured>; 3] = Default::default();
        let mut is_good = true;
        for _ in 0..arguments.rounds {
            peers.retain(|&peer| match self.measure(peer, requests) {
                Ok(measured) => {
                    found[peer as usize].push(measured);
                    true
                }
                Err(reason) => {
                    println!("{} skipped: {reason}", peer.name());
                    is_good &= peer != Peer::Agent;
                    false
                }
            });
        }
        println!();
        println!(
            "{:<20} {:>10} {:>17} {:>20} {:>26}",
            self.name, "requests/s", "least-most", "of reqwest", "CPU µs"
        );
        let reqwest = &found[Peer::Reqwest as usize];
        for peer in peers {
            self.print(peer, &found[peer as usize], reqwest, report);
        }
        is_good
    }

    fn print(&self, peer: Peer, rounds: &[Measured], reqwest: &[Measured], report: &Report) {
        let spread =
            |of: fn(&Measured) -> f64| Spread::of(&rounds.iter().map(of).collect::<Vec<_>>());
        let (rate, cpu) = (spread(|it| it.rate), spread(|it| it.cpu));
        let ratios = rounds.iter().zip(reqwest).map(|(a, b)| a.rate / b.rate);
        let ratio = Spread::of(&ratios.collect::<Vec<_>>());
        println!(
            "{:<20} {:>10} {:>17} {:>20} {:>26}",
            peer.name(),
            thousands(rate.median),
            format!("{}-{}", thousands(rate.least), thousands(rate.most)),
            format!("{:.2} {:.2}-{:.2}", ratio.median, ratio.least, ratio.most),
            format!("{:.1} {:.1}-{:.1}", cpu.median, cpu.least, cpu.most),
        );
        let figure = |unit, value| report.figure(self.name, peer.name(), unit, value);
        figure("requests/s", rate);
        if !ratio.median.is_nan() {
            figure("of reqwest", ratio);
        }
        figure("CPU µs", cpu);
    }

    /// With a new server, and a new process.
    fn measure(&self, peer: Peer, requests: usize) -> io::Result<Measured> {
        let program = std::env::current_exe()?;
        let root = program.with_file_name("tls.pem");
        let mut command = Command::new(&program);
        command.arg("serve-tls").arg(&root);
        let mut server = Talk::start(command)?;
        let said = server.hear()?;
        let addr = said.strip_prefix("listening on ").unwrap_or(&said);
        let mut command = peer.command()?;
        let mode = self.mode.to_possible_value().expect("none is hidden");
        let callers = match self.mode {
            Mode::Kept => CALLERS,
            Mode::Full | Mode::Resumed => CALLERS_OF_NEW,
        };
        command.arg(addr).arg(&root).arg(mode.get_name());
        command.arg(callers.to_string());
        command.args([self.length.to_string(), requests.to_string()]);
        let mut client = Talk::start(command)?;
        let ready = client.hear()?;
        if ready != "ready" {
            return Err(io::Error::other(ready));
        }
        let (before, earlier) = (client.cost()?, Handshakes::of(&mut server)?);
        let said = client.ask("go")?;
        let (after, later) = (client.cost()?, Handshakes::of(&mut server)?);
        let seconds: f64 = said.parse().map_err(|_| io::Error::other(said))?;
        self.check(
            later.full - earlier.full,
            later.resumed - earlier.resumed,
            requests,
        )?;
        Ok(Measured {
            rate: requests as f64 / seconds,
            cpu: (after.cpu_seconds - before.cpu_seconds) * 1e6 / requests as f64,
        })
    }

    fn check(&self, full: usize, resumed: usize, requests: usize) -> io::Result<()> {
        let is_right = match self.mode {
            Mode::Full => (full, resumed) == (requests, 0),
            // A caller that comes while all sessions are in use makes another.
            Mode::Resumed => full + resumed == requests && full <= requests / 20,
            Mode::Kept => full + resumed <= CALLERS,
        };
        if is_right {
            return Ok(());
        }
        let text =
            format!("{full} full handshakes, and {resumed} resumed, for {requests} requests");
        Err(io::Error::other(text))
    }
}

/// What the server has counted.
struct Handshakes {
    full: usize,
    resumed: usize,
}

impl Handshakes {
    fn of(server: &mut Talk) -> io::Result<Self> {
        let said = server.ask("how many?")?;
        let numbers = said.split_once(' ');
        let numbers = numbers.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
        let (full, resumed) = numbers.ok_or_else(|| io::Error::other(said))?;
        Ok(Self { full, resumed })
    }
}

impl Peer {
    fn name(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Reqwest => "reqwest",
            Self::Go => "go",
        }
    }

    fn command(self) -> io::Result<Command> {
        if self == Self::Go {
            install("go")?;
            let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
            let mut command = Command::new(peers.join("gotls"));
            command.env("GOMAXPROCS", "2");
            return Ok(command);
        }
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["client", self.name()]);
        Ok(command)
    }
}
