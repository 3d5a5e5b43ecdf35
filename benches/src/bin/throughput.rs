//! How many requests per second each client gets through, over 50 connections, from a server that does not wait.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin throughput [-- --requests N --rounds N]`
//!
//! 50 callers send GETs, each the next one when it has read the 12 bytes of the last. The server is another program, and
//! answers at once. Clients take turns, a round each, so that what else the machine does hits all of them; a figure is the
//! median of its rounds, and a ratio the median of the ratios within rounds.
//!
//! How to read it: *of hyper* is the part that is left of what hyper does with a `Vec` of connections under a lock, which
//! has no limits, no clocks, and no look at the socket before it is used again. The clients' runtime has one thread, and
//! after that two; server and client share the machine.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use clap::Parser;
use http::Method;
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive::KeepAliveLayer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive_benches::ask::Ask;
use tower_keep_alive_benches::child::Child;
use tower_keep_alive_benches::peers::{Agent, HandPool, LegacyTcp, Peer, Reqwest, cache};
use tower_keep_alive_benches::report::{Report, Spread, thousands};
use tower_keep_alive_benches::server;

/// Requests per second over 50 connections
#[derive(Parser)]
struct Arguments {
    /// GETs of each client in each round
    #[arg(long, default_value_t = 20_000)]
    requests: usize,

    #[arg(long, default_value_t = 11)]
    rounds: usize,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,
}

const CALLERS: usize = 50;

fn main() {
    server::be_one_if_told();
    let arguments = Arguments::parse();
    let report = Report::new("throughput", arguments.json.clone());
    let one = Builder::new_current_thread().enable_all().build();
    let two = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    for (name, runtime) in [("current_thread", one), ("multi_thread(2)", two)] {
        compare(name, &runtime.expect("a runtime"), &arguments, &report);
    }
}

/// Requests per second.
type Round<'a> = Box<dyn FnMut() -> f64 + 'a>;

fn compare(name: &str, runtime: &Runtime, arguments: &Arguments, report: &Report) {
    let server = Child::server(0);
    let addr = server.addr;
    let requests = arguments.requests;
    let layer = KeepAliveLayer::new().max_connections_per_host(CALLERS);
    let agent = Agent::new(&layer, TcpConnector::new());
    let uri = format!("http://{addr}").parse().expect("a valid URL");
    let mut peers = [
        rounds(runtime, HandPool::new(addr), addr, requests),
        rounds(runtime, agent, addr, requests),
        rounds(runtime, LegacyTcp::over_sockets(), addr, requests),
        rounds(runtime, cache(TcpConnector::new(), uri), addr, requests),
        rounds(runtime, Reqwest::new(), addr, requests),
    ];
    // The first round makes the connections.
    for (_, peer) in &mut peers {
        peer();
    }
    let mut rates = vec![Vec::new(); peers.len()];
    for _ in 0..arguments.rounds {
        for (rates, (_, peer)) in rates.iter_mut().zip(&mut peers) {
            rates.push(peer());
        }
    }
    println!(
        "{CALLERS} callers, {name}: requests per second, median of {} rounds",
        arguments.rounds
    );
    println!();
    println!(
        "{:<24} {:>10} {:>17} {:>10} {:>10}",
        "", "requests/s", "least-most", "of hyper", "of legacy"
    );
    let ratio = |these: &[f64], those: &[f64]| {
        let ratios: Vec<_> = these.iter().zip(those).map(|(a, b)| a / b).collect();
        Spread::of(&ratios)
    };
    for (place, (peer, _)) in peers.iter().enumerate() {
        let of_hyper = ratio(&rates[place], &rates[0]);
        let of_legacy = ratio(&rates[place], &rates[2]);
        let rate = Spread::of(&rates[place]);
        println!(
            "{peer:<24} {:>10} {:>17} {:>10.3} {:>10.3}",
            thousands(rate.median),
            format!("{}-{}", thousands(rate.least), thousands(rate.most)),
            of_hyper.median,
            of_legacy.median,
        );
        report.figure(name, peer, "requests/s", rate);
        report.figure(name, peer, "of hyper", of_hyper);
        report.figure(name, peer, "of legacy", of_legacy);
    }
    println!();
}

fn rounds<'a, P>(
    runtime: &'a Runtime,
    peer: P,
    addr: SocketAddr,
    requests: usize,
) -> (&'static str, Round<'a>)
where
    P: Peer<Full<Bytes>> + Clone + Send + 'static,
{
    let mut ask = Ask::new(Method::GET, &addr.to_string(), 12, Full::default());
    if P::WANTS_HOST {
        ask = ask.with_host();
    }
    let round = move || {
        runtime.block_on(async {
            let begun = Instant::now();
            let callers: Vec<_> = (0..CALLERS)
                .map(|_| {
                    let (mut peer, ask) = (peer.clone(), ask.clone());
                    tokio::spawn(async move {
                        for _ in 0..requests / CALLERS {
                            let length = peer.send(ask.request()).await.expect("nothing is wrong");
                            assert_eq!(length, 12);
                        }
                    })
                })
                .collect();
            for caller in callers {
                caller.await.expect("callers do not panic");
            }
            (requests / CALLERS * CALLERS) as f64 / begun.elapsed().as_secs_f64()
        })
    };
    (P::NAME, Box::new(round))
}
