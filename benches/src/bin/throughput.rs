//! How many requests per second each client gets through, from a server that does not wait.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin throughput [-- --requests N --rounds N]`
//!
//! 50 callers send GETs over 50 connections, each the next one when it has read the 12 bytes of the last. Over HTTP/2, 50
//! and 500 callers share one connection, and 500 four. The server is another program, and
//! answers at once. Clients take turns, a round each, so that what else the machine does hits all of them; a figure is the
//! median of its rounds, and a ratio the median of the ratios within rounds.
//!
//! How to read it: *of hyper* is the part that is left of what hyper does with a `Vec` of connections under a lock, which
//! has no limits, no clocks, and no look at the socket before it is used again. The clients' runtime has one thread, and
//! after that two; server and client share the machine. Over HTTP/2 hyper has its connections without anything around
//! them, and so has the `h2` crate.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use clap::Parser;
use http::Method;
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{Http2, KeepAliveLayer, Protocol};
use tower_keep_alive_benches::ask::Ask;
use tower_keep_alive_benches::child::Child;
use tower_keep_alive_benches::peers::{
    Agent, H2Alone, HandPool, HyperHttp2, LegacyTcp, Peer, Reqwest, cache,
};
use tower_keep_alive_benches::report::{Report, Spread, thousands};
use tower_keep_alive_benches::server;

/// Requests per second
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
    let bench = Bench {
        report: Report::new("throughput", arguments.json.clone()),
        arguments,
    };
    for (name, runtime) in [("current_thread", one()), ("multi_thread(2)", two())] {
        http1(&bench, name, &runtime);
    }
    http2(&bench, "HTTP/2, 50 callers", &one(), CALLERS, 1);
    http2(&bench, "HTTP/2, 500 callers", &one(), 10 * CALLERS, 1);
    http2(&bench, "HTTP/2, 4 connections", &two(), 10 * CALLERS, 4);
}

fn one() -> Runtime {
    let one = Builder::new_current_thread().enable_all().build();
    one.expect("a runtime")
}

fn two() -> Runtime {
    let two = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    two.expect("a runtime")
}

fn http1(bench: &Bench, name: &str, runtime: &Runtime) {
    let server = Child::server(0);
    let addr = server.addr;
    let load = bench.load(runtime, addr, CALLERS);
    let layer = KeepAliveLayer::new().max_connections_per_host(CALLERS);
    let uri = format!("http://{addr}").parse().expect("a valid URL");
    println!("{CALLERS} callers, {name}:");
    bench.compare(
        name,
        [
            load.by(vec![HandPool::new(addr)]),
            load.by(vec![Agent::new(&layer, TcpConnector::new())]),
            load.by(vec![LegacyTcp::over_sockets()]),
            load.by(vec![cache(TcpConnector::new(), uri)]),
            load.by(vec![Reqwest::new()]),
        ],
    );
}

/// Callers that share `connections`, by turns where a client has but one. hyper-util's legacy client, and so reqwest, has
/// one whatever is asked for.
fn http2(bench: &Bench, name: &str, runtime: &Runtime, callers: usize, connections: usize) {
    let server = Child::http2_server();
    let addr = server.addr;
    let load = bench.load(runtime, addr, callers);
    let (mut hyper, mut h2) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        let it = runtime.block_on(HyperHttp2::connect(addr));
        hyper.push(it.expect("the server listens"));
        let it = runtime.block_on(H2Alone::connect(addr));
        h2.push(it.expect("the server listens"));
    }
    println!("{name}: {callers} callers");
    bench.compare(
        name,
        [
            load.by(hyper),
            load.by(vec![agent(callers, connections)]),
            load.by(vec![LegacyTcp::over_http2()]),
            load.by(h2),
            load.by(vec![Reqwest::over_http2()]),
        ],
    );
}

fn agent(callers: usize, connections: usize) -> Agent<Full<Bytes>> {
    let streams = callers.div_ceil(connections);
    let layer = KeepAliveLayer::new()
        .protocol(Protocol::Http2)
        .http2(Http2::new().max_streams_per_connection(streams))
        .max_connections_per_host(connections);
    Agent::new(&layer, TcpConnector::new())
}

/// Requests per second.
type Round<'a> = Box<dyn FnMut() -> f64 + 'a>;

struct Bench {
    arguments: Arguments,
    report: Report,
}

impl Bench {
    fn load<'a>(&self, runtime: &'a Runtime, addr: SocketAddr, callers: usize) -> Load<'a> {
        Load {
            runtime,
            addr,
            callers,
            each: self.arguments.requests / callers,
        }
    }

    /// The first is what the others are built on, and the third is the legacy client.
    fn compare(&self, name: &str, mut peers: [(&'static str, Round<'_>); 5]) {
        // The first round makes the connections.
        for (_, peer) in &mut peers {
            peer();
        }
        let mut rates = vec![Vec::new(); peers.len()];
        for _ in 0..self.arguments.rounds {
            for (rates, (_, peer)) in rates.iter_mut().zip(&mut peers) {
                rates.push(peer());
            }
        }
        println!(
            "requests per second, median of {} rounds",
            self.arguments.rounds
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
            self.report.figure(name, peer, "requests/s", rate);
            self.report.figure(name, peer, "of hyper", of_hyper);
            self.report.figure(name, peer, "of legacy", of_legacy);
        }
        println!();
    }
}

/// What is asked of each client.
#[derive(Clone, Copy)]
struct Load<'a> {
    runtime: &'a Runtime,
    addr: SocketAddr,
    callers: usize,
    /// Requests of each caller.
    each: usize,
}

impl<'a> Load<'a> {
    /// Callers use the clients by turns.
    fn by<P>(self, clients: Vec<P>) -> (&'static str, Round<'a>)
    where
        P: Peer<Full<Bytes>> + Clone + Send + 'static,
    {
        let mut ask = Ask::new(Method::GET, &self.addr.to_string(), 12, Full::default());
        if P::WANTS_HOST {
            ask = ask.with_host();
        }
        let round = move || {
            self.runtime.block_on(async {
                let begun = Instant::now();
                let callers: Vec<_> = (0..self.callers)
                    .map(|caller| {
                        let (mut peer, ask) =
                            (clients[caller % clients.len()].clone(), ask.clone());
                        tokio::spawn(async move {
                            for _ in 0..self.each {
                                let length = peer.send(ask.request()).await;
                                assert_eq!(length.expect("nothing is wrong"), 12);
                            }
                        })
                    })
                    .collect();
                for caller in callers {
                    caller.await.expect("callers do not panic");
                }
                (self.each * self.callers) as f64 / begun.elapsed().as_secs_f64()
            })
        };
        (P::NAME, Box::new(round))
    }
}
