//! The agent among servers of every temper, for as long as one likes:
//! `cargo run --release -p tower-keep-alive-soak -- --for 60s`.
//!
//! Two runtimes, one of a single thread and one of two, run rounds of some seconds each, side by side. A round is one agent
//! with limits drawn at random, and 24 callers who send it requests for four hosts, over TCP and under TLS: of all methods,
//! with uploads fast and slow, given up at any moment, left half read, detached, upgraded. Each request says what the
//! server is to do with it: FIN, RST and silence before the answer, in it and after it; answers before the upload;
//! answers that nobody asked for, behind another one or while the connection is idle; Keep-Alive hints; upgrades. At the
//! end of each round the accounts have to be right, and as many connections as the limits allow have to be had at once.
//!
//! In some rounds the names among the hosts have several addresses, which come and go while lookups fail in between; the agent
//! follows them, and no request may go to an address that is gone. In some, addresses that fail are ejected, never more than half of
//! them; in some, connections are made ahead. Some other rounds are of HTTP/2, with a server of raw frames that sends its clients
//! away, refuses streams and limits them, and no request may fail; in half of them the server has several addresses too.
//!
//! Each answer has the number of its request, and the checksum of each body, both ways, is known to both ends. A request
//! fails only by what was done to it itself, but a POST whose idle connection ended just then: what happens on an idle
//! connection may fail no other request.
//!
//! Prints a table, and fails (exit code 1) if anything is wrong that may never be. With the same seed the same limits and
//! requests come again, not the same moments.

mod asked;
mod caller;
#[path = "../../tests/support/frames/mod.rs"]
mod frames;
mod house;
mod http2;
mod ledger;
mod limits;
mod names;
mod process;
mod round;
mod server;
mod table;
mod temper;
mod upload;
mod wire;

use std::io;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use fastrand::Rng;
use rcgen::{CertifiedKey, generate_simple_self_signed};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_rustls::TlsAcceptor;
use tower_keep_alive::connect::rustls::crypto::ring;
use tower_keep_alive::connect::rustls::pki_types::PrivatePkcs8KeyDer;
use tower_keep_alive::connect::rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::house::House;
use crate::ledger::{Ledger, Wrong};
use crate::round::{Place, becomes, round};
use crate::server::accept;
use crate::table::{Held, table};

/// The agent among servers of every temper.
#[derive(Parser)]
struct Args {
    /// How long, such as `20s` or `2h`.
    #[arg(long = "for", default_value = "60s")]
    time: humantime::Duration,

    /// How long one agent lives.
    #[arg(long, default_value = "3s")]
    round: humantime::Duration,

    /// Of all that is drawn at random.
    #[arg(long, default_value_t = fastrand::u64(..1_000_000))]
    seed: u64,
}

fn main() -> io::Result<ExitCode> {
    let args = Args::parse();
    println!("seed {}", args.seed);
    let ledger = Arc::new(Ledger::default());
    let servers = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let place = servers.block_on(open(ledger.clone()))?;
    let runtimes = [
        Builder::new_current_thread().enable_all().build()?,
        Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?,
    ];
    let held = || Held {
        descriptors: process::descriptors(),
        tasks: runtimes.iter().chain([&servers]).map(tasks).sum(),
        resident: process::resident(),
    };
    let before = held();
    let begun = Instant::now();
    let rounds = thread::scope(|scope| {
        let threads: Vec<_> = (runtimes.iter().zip(0..))
            .map(|(runtime, nth)| {
                let rng = Rng::with_seed(args.seed + nth);
                let (place, args) = (place.clone(), &args);
                scope.spawn(move || rounds(runtime, place, rng, args))
            })
            .collect();
        let rounds = threads
            .into_iter()
            .map(|it| it.join().expect("rounds do not panic"));
        rounds.sum::<u64>()
    });
    // The servers see the last connections go.
    runtimes[1].block_on(becomes(|| {
        let now = held();
        (now.descriptors, now.tasks) == (before.descriptors, before.tasks)
    }));
    let after = held();
    if (after.descriptors, after.tasks) != (before.descriptors, before.tasks) {
        ledger.wrong(Wrong::Leak, "descriptors or tasks are left".to_owned());
    }
    println!(
        "{}",
        table(&ledger, begun.elapsed(), rounds, &before, &after)
    );
    Ok(match ledger.is_clean() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn tasks(runtime: &Runtime) -> usize {
    runtime.metrics().num_alive_tasks()
}

/// Rounds until the time is over; how many.
fn rounds(runtime: &Runtime, place: Place, mut rng: Rng, args: &Args) -> u64 {
    let end = Instant::now() + *args.time;
    let mut rounds = 0;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left < Duration::from_millis(100) {
            return rounds;
        }
        let time = left.min(*args.round);
        let seed = rng.u64(1..u64::MAX);
        match rounds % 5 {
            4 => {
                let ledger = &place.house.ledger;
                runtime.block_on(http2::round(&place.servers, ledger, seed, time));
            }
            _ => runtime.block_on(round(place.clone(), seed, time)),
        }
        rounds += 1;
    }
}

/// Starts the servers.
async fn open(ledger: Arc<Ledger>) -> io::Result<Place> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(names).map_err(io::Error::other)?;
    let provider = Arc::new(ring::default_provider());
    let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key.into())
        .map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).map_err(io::Error::other)?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let house = Arc::new(House::new(ledger));
    // At each address of loopback.
    let plain = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let secure = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let ports = (plain.local_addr()?.port(), secure.local_addr()?.port());
    tokio::spawn(accept(plain, None, house.clone()));
    let tls = TlsAcceptor::from(Arc::new(server));
    tokio::spawn(accept(secure, Some(tls), house.clone()));
    Ok(Place {
        servers: Handle::current(),
        house,
        hosts: vec![
            format!("http://127.0.0.1:{}", ports.0),
            format!("http://localhost:{}", ports.0),
            format!("https://127.0.0.1:{}", ports.1),
            format!("https://localhost:{}", ports.1),
        ],
        config: Arc::new(client),
    })
}
