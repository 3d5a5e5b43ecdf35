//! agentkeepalive's own benchmark, for this crate and its peers: 60 callers, 50 sockets, a server that takes 5 ms.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin headline [-- --requests N --only agent,agentkeepalive]`
//!
//! A server takes 5 ms over each answer of 256 bytes. Before it stands a reverse proxy, which may have 50 connections to
//! it; and to that, 60 callers send 60,000 GETs, each the next one when it has read the answer to the last. The proxy is
//! one of
//!
//! - **agent**: `examples/proxy` of this crate, in axum;
//! - **agentkeepalive**, **undici**: a small one on node, with the one or the other (`peers/*.cjs`);
//! - **go**: a small one of `net/http/httputil`, with a `Transport` of 50 connections for each host (`peers/proxy.go`).
//!
//! Each is a program of its own, as are the server and the callers, which are the same for all. *direct* is the same load
//! without a proxy: the 60 callers have the 50 connections among themselves. All of it is done with connections that are
//! kept, and again with one for each request. What a peer needs is installed by `peers/install.sh` into its own folder;
//! a peer that cannot be had is left out, and the reason printed.
//!
//! How to read it: no proxy can be faster than *direct*, and *of direct* says how close it comes. *CPU* is that of the
//! proxy alone, user and system, in seconds for 10,000 requests. *sockets* were counted by the server; `requests/socket`
//! is the fewest, the mean and the most on one. Latencies are what the callers saw, in milliseconds, with their wait in the
//! proxy's line. node runs on one core; the others may use all. Linux only.

mod load;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, ValueEnum};
use tower_keep_alive_benches::child::{Child, Cost};
use tower_keep_alive_benches::report::{Report, thousands};
use tower_keep_alive_benches::server::{self, Stats};

use crate::load::{Load, Seen};

/// The benchmark of agentkeepalive's README
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 60_000)]
    requests: usize,

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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Proxy {
    Agent,
    Agentkeepalive,
    Undici,
    Go,
}

const CALLERS: usize = 60;
const SOCKETS: usize = 50;

/// What the server takes over an answer, in milliseconds.
const DELAY: u64 = 5;

/// One line of the table.
struct Measured {
    seen: Seen,
    stats: Stats,
    /// None for the load without a proxy.
    cost: Option<Cost>,
}

fn main() -> ExitCode {
    server::be_one_if_told();
    let arguments = Arguments::parse();
    let report = Report::new("headline", arguments.json.clone());
    println!(
        "{} requests by {CALLERS} callers over {SOCKETS} sockets, {DELAY} ms delay",
        thousands(arguments.requests as f64)
    );
    let mut is_good = true;
    for keeps in [true, false] {
        let title = if keeps { "kept" } else { "one a request" };
        println!();
        println!(
            "{title:<16} {:>10} {:>9} {:>7} {:>7} {:>8} {:>20} {:>14} {:>9}",
            "requests/s",
            "of direct",
            "p50 ms",
            "p99 ms",
            "sockets",
            "requests/socket",
            "CPU s/10,000",
            "peak MiB"
        );
        let direct = measure(None, keeps, arguments.requests).expect("the load by itself");
        direct.print("direct", keeps, &direct, &report);
        for &proxy in &arguments.only {
            let name = proxy.name();
            match measure(Some(proxy), keeps, arguments.requests) {
                Ok(it) => {
                    it.print(name, keeps, &direct, &report);
                    is_good &= proxy != Proxy::Agent || it.is_as_promised(keeps);
                }
                Err(reason) => {
                    println!("{name:<16} skipped: {reason}");
                    is_good &= proxy != Proxy::Agent;
                }
            }
        }
    }
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

fn measure(proxy: Option<Proxy>, keeps: bool, requests: usize) -> io::Result<Measured> {
    let server = Child::server(DELAY);
    let load = Load {
        addr: server.addr,
        callers: CALLERS,
        sockets: CALLERS,
        requests,
        keeps: true,
    };
    let Some(proxy) = proxy else {
        let load = Load {
            sockets: SOCKETS,
            keeps,
            ..load
        };
        return Ok(Measured {
            seen: load.run()?,
            stats: stats(&server)?,
            cost: None,
        });
    };
    let proxy = Child::start(proxy.command(&format!("http://{}", server.addr), keeps)?)?;
    let before = proxy.cost()?;
    let seen = Load {
        addr: proxy.addr,
        ..load
    }
    .run()?;
    let after = proxy.cost()?;
    Ok(Measured {
        seen,
        stats: stats(&server)?,
        cost: Some(Cost {
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            ..after
        }),
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
            Self::Agent => "agent",
            Self::Agentkeepalive => "agentkeepalive",
            Self::Undici => "undici",
            Self::Go => "go",
        }
    }

    /// The proxy itself, installed or built where it is not there.
    fn command(self, upstream: &str, keeps: bool) -> io::Result<Command> {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        let peers = here.join("peers");
        let sockets = SOCKETS.to_string();
        let mut command = match self {
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
        command.args([upstream, &sockets, if keeps { "keep" } else { "close" }]);
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

impl Measured {
    fn print(&self, name: &str, keeps: bool, direct: &Self, report: &Report) {
        let Stats {
            sockets,
            requests,
            fewest,
            most,
        } = self.stats;
        let of_direct = self.seen.rate() / direct.seen.rate();
        let mean = requests as f64 / sockets as f64;
        let cpu = self
            .cost
            .map(|it| it.cpu_seconds * 10_000.0 / requests as f64);
        let peak = self.cost.map(|it| it.peak_kib as f64 / 1024.0);
        let cell = |value: Option<f64>| value.map_or("-".into(), |it| format!("{it:.2}"));
        println!(
            "{name:<16} {:>10} {of_direct:>9.3} {:>7.2} {:>7.2} {:>8} {:>20} {:>14} {:>9}",
            thousands(self.seen.rate()),
            self.seen.millis(0.5),
            self.seen.millis(0.99),
            thousands(sockets as f64),
            format!("{fewest} / {mean:.0} / {most}"),
            cell(cpu),
            cell(peak),
        );
        let case = if keeps { "kept" } else { "one a request" };
        let figures = [
            ("requests/s", Some(self.seen.rate())),
            ("of direct", Some(of_direct)),
            ("p50 ms", Some(self.seen.millis(0.5))),
            ("p99 ms", Some(self.seen.millis(0.99))),
            ("sockets", Some(sockets as f64)),
            ("requests/socket, fewest", Some(fewest as f64)),
            ("requests/socket, mean", Some(mean)),
            ("requests/socket, most", Some(most as f64)),
            ("CPU s/10,000", cpu),
            ("peak MiB", peak),
        ];
        for (unit, value) in figures {
            if let Some(value) = value {
                report.figure(case, name, unit, value);
            }
        }
    }

    /// What holds however fast the machine is.
    fn is_as_promised(&self, keeps: bool) -> bool {
        let sockets = self.stats.sockets;
        let expected = if keeps {
            SOCKETS as u64
        } else {
            self.stats.requests
        };
        if sockets != expected {
            println!("FAILED: {sockets} sockets, not {expected}");
        }
        sockets == expected
    }
}
