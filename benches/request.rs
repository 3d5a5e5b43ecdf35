//! How long one request takes, from the call to the last byte of its response.
//!
//! `cargo bench -p tower-keep-alive-benches --bench request [-- FILTER]`
//!
//! A GET with 12 bytes of response, one with 64 KiB, and a POST with 1 MiB of request; each over a loopback socket and over
//! a stream in memory; always on a warm connection, one request after the other, on a `current_thread` runtime. The server
//! is a thread of its own. reqwest takes no transport of the caller's, so it is missing in memory.
//!
//! How to read it: criterion tells each time, and whether it has changed since the last run. After that, for each case,
//! all clients take turns of some 20 ms, 25 times, and the table has the median of their times, and of their ratios to
//! hyper's in the same turn; hyper gets the same request, and has one connection and no pool. On a machine that does other
//! things as well, differences of a few per cent are noise: `instructions` has none. With a FILTER there is no table.
//!
//! `BENCH_JSON=FILE` adds the figures to a file, a line of JSON each.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use http::{Method, Uri};
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt;
use tower_keep_alive::KeepAliveLayer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive_benches::ask::Ask;
use tower_keep_alive_benches::memory_stream::InMemory;
use tower_keep_alive_benches::peers::{
    Agent, AgentOf, HyperAlone, LegacyInMemory, LegacyTcp, Peer, Reqwest, cache,
};
use tower_keep_alive_benches::report::{Report, Spread, thousands};
use tower_keep_alive_benches::server;

/// What is asked for.
struct Case {
    name: &'static str,
    method: Method,
    /// Of the response.
    length: usize,
    upload: usize,
}

const CASES: [Case; 3] = [
    Case {
        name: "get 12 B",
        method: Method::GET,
        length: 12,
        upload: 0,
    },
    Case {
        name: "get 64 KiB",
        method: Method::GET,
        length: 64 * 1024,
        upload: 0,
    },
    Case {
        name: "post 1 MiB",
        method: Method::POST,
        length: 12,
        upload: 1024 * 1024,
    },
];

type Load = Full<Bytes>;

/// How long a client sends before it is the next one's turn, and how often it is.
const TURN: Duration = Duration::from_millis(20);
const TURNS: usize = 25;

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(30)
        .configure_from_args();
    let compares = std::env::args().skip(1).all(|it| it == "--bench");
    let report = Report::new("request", std::env::var_os("BENCH_JSON").map(PathBuf::from));
    let (addr, streams) = server::in_thread();
    let in_memory = InMemory::to(streams);
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    for case in &CASES {
        let at = At {
            case,
            addr,
            runtime: &runtime,
        };
        for (transport, mut peers) in [
            ("loopback", at.loopback()),
            ("in memory", at.memory(&in_memory)),
        ] {
            let name = format!("{}, {transport}", case.name);
            measure(&mut criterion, &name, case, &mut peers);
            if compares {
                compare(&name, &mut peers, &report);
            }
        }
    }
    criterion.final_summary();
}

/// A client: how long it takes over so many requests.
type Client<'a> = (&'static str, Box<dyn FnMut(u64) -> Duration + 'a>);

struct At<'a> {
    case: &'a Case,
    addr: SocketAddr,
    runtime: &'a Runtime,
}

impl<'a> At<'a> {
    fn loopback(&self) -> Vec<Client<'a>> {
        let alone = self.runtime.block_on(HyperAlone::connect(self.addr));
        let agent = Agent::new(&KeepAliveLayer::new(), TcpConnector::new());
        vec![
            self.client(alone.expect("the server listens")),
            self.client(agent),
            self.client(LegacyTcp::over_sockets()),
            self.client(cache(TcpConnector::new(), self.uri())),
            self.client(Reqwest::new()),
        ]
    }

    fn memory(&self, connector: &InMemory) -> Vec<Client<'a>> {
        let stream = connector.clone().oneshot(self.uri());
        let stream = self.runtime.block_on(stream).expect("the server listens");
        let alone = self.runtime.block_on(HyperAlone::on(stream));
        let agent = AgentOf::new(&KeepAliveLayer::new(), connector.clone());
        vec![
            self.client(alone.expect("hyper is ready at once")),
            self.client(agent),
            self.client(LegacyInMemory::in_memory(connector.clone())),
            self.client(cache(connector.clone(), self.uri())),
        ]
    }

    fn uri(&self) -> Uri {
        format!("http://{}/", self.addr)
            .parse()
            .expect("a valid URL")
    }

    fn client<P: Peer<Load> + 'a>(&self, mut peer: P) -> Client<'a> {
        let Case {
            method,
            length,
            upload,
            ..
        } = self.case;
        let body = Full::new(Bytes::from(vec![b'.'; *upload]));
        let mut ask = Ask::new(method.clone(), &self.addr.to_string(), *length, body);
        if P::WANTS_HOST {
            ask = ask.with_host();
        }
        let runtime = self.runtime;
        let send = move |requests| {
            runtime.block_on(async {
                let begun = Instant::now();
                for _ in 0..requests {
                    let got = peer.send(ask.request()).await.expect("nothing is wrong");
                    assert_eq!(got, *length);
                }
                begun.elapsed()
            })
        };
        (P::NAME, Box::new(send))
    }
}

fn measure(criterion: &mut Criterion, name: &str, case: &Case, peers: &mut [Client<'_>]) {
    let mut group = criterion.benchmark_group(name);
    let bytes = case.length.max(case.upload);
    if bytes > 1024 {
        group.throughput(Throughput::Bytes(bytes as u64));
    }
    for (peer, send) in peers {
        group.bench_function(*peer, |bencher| bencher.iter_custom(&mut *send));
    }
    group.finish();
}

/// Prints how the clients compare when they take turns.
fn compare(name: &str, peers: &mut [Client<'_>], report: &Report) {
    let mut nanos = vec![Vec::new(); peers.len()];
    // The connections of most are too old by now, and a turn is as long for all.
    let warm = peers.iter_mut().map(|(_, send)| send(200));
    let longest = warm.max().expect("there are clients") / 200;
    let requests = (TURN.as_nanos() / longest.as_nanos().max(1)).max(4) as u64;
    for _ in 0..TURNS {
        for (nanos, (_, send)) in nanos.iter_mut().zip(&mut *peers) {
            nanos.push(send(requests).as_nanos() as f64 / requests as f64);
        }
    }
    println!();
    println!("{name:<30} {:>12} {:>10}", "median ns", "to hyper");
    for (place, (peer, _)) in peers.iter().enumerate() {
        let ratios: Vec<_> = nanos[place]
            .iter()
            .zip(&nanos[0])
            .map(|(a, b)| a / b)
            .collect();
        let ratio = Spread::of(&ratios);
        let nanos = Spread::of(&nanos[place]);
        println!(
            "{peer:<30} {:>12} {:>10.3}",
            thousands(nanos.median),
            ratio.median
        );
        report.figure(name, peer, "ns", nanos);
        report.figure(name, peer, "to hyper", ratio);
    }
    println!();
}
