//! Ten servers behind one name, and the share of each: `cargo run --example many_addresses`
//!
//! A hundred callers send 20,000 requests to one name with ten addresses of this machine, 127.0.0.1 to 127.0.0.10. With
//! `Spread::FewestOpenFirst` each address has a tenth of them; without, the first has all. Fails where a share is off by more
//! than a tenth.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{BoxError, KeepAlive, KeepAliveLayer, RequestBody, Spread};

const ADDRESSES: u8 = 10;
const CALLERS: usize = 100;
const REQUESTS: usize = 20_000;

/// Counts what it is asked, and takes a moment to answer.
async fn serve(listener: TcpListener, asked: Arc<AtomicUsize>) -> std::io::Result<()> {
    let answer = move || async move {
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        "here"
    };
    axum::serve(listener, Router::new().route("/", get(answer))).await
}

/// One server on each address, all on the same port, and how often each was asked.
async fn servers() -> std::io::Result<Vec<(SocketAddr, Arc<AtomicUsize>)>> {
    let mut servers = Vec::new();
    let mut port = 0;
    for last in 1..=ADDRESSES {
        let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).await?;
        let address = listener.local_addr()?;
        port = address.port();
        let asked = Arc::new(AtomicUsize::new(0));
        tokio::spawn(serve(listener, asked.clone()));
        servers.push((address, asked));
    }
    Ok(servers)
}

/// The share of each address, in requests.
async fn shares(spread: Spread) -> Result<Vec<usize>, BoxError> {
    let servers = servers().await?;
    let addresses: Vec<_> = servers.iter().map(|(address, _)| *address).collect();
    let resolver =
        tower::service_fn(move |_: Name| ready(Ok::<_, Infallible>(addresses.clone().into_iter())));
    let layer = KeepAliveLayer::<RequestBody>::new().spread(spread);
    let agent = layer.handle();
    let client: KeepAlive<_> = tower::Layer::layer(&layer, TcpConnector::with_resolver(resolver));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let client = client.clone();
        callers.spawn(async move {
            for _ in 0..REQUESTS / CALLERS {
                client
                    .get("http://ten.test/")
                    .await?
                    .into_body()
                    .text(100)
                    .await?;
            }
            Ok::<_, BoxError>(())
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    println!("\n{spread:?}");
    let status = agent.status();
    let open: BTreeMap<_, _> = status.addresses.into_values().flatten().collect();
    let mut shares = Vec::new();
    for (address, asked) in servers {
        let connections = open.get(&address).map_or(0, |it| it.idle + it.active);
        let requests = asked.load(Ordering::Relaxed);
        println!("  {address:<18} {connections:>4} connections {requests:>6} requests");
        shares.push(requests);
    }
    Ok(shares)
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let begun = Instant::now();
    shares(Spread::AsResolved).await?;
    let counts = shares(Spread::FewestOpenFirst).await?;
    println!("\nin {:.1} s", begun.elapsed().as_secs_f64());
    let share = REQUESTS / usize::from(ADDRESSES);
    let off = counts.iter().map(|count| count.abs_diff(share)).max();
    let is_even = off.is_some_and(|off| off * 10 <= share);
    println!(
        "the farthest from its share of {share} is off by {}",
        off.unwrap_or(0)
    );
    Ok(match is_even {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
