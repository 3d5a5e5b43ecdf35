//! Ten servers behind one name, and the share of each: `cargo run --example many_addresses`
//!
//! A hundred callers send 20,000 requests to one name with ten addresses of this machine, 127.0.0.1 to 127.0.0.10. With
//! `Spread::FewestOpenFirst` each address has a tenth of them; without, the first has all. Fails where a share is off by more
//! than a tenth.
//!
//! Then three of the ten addresses are bad: one refuses connections, one never answers a connect, and one answers 503 to all.
//! With `Ejection` hardly a POST fails after the first second, and none is sent twice. Fails where more than one in a thousand
//! does.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::ready;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::any;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Layer;
use tower::util::BoxCloneSyncService;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{
    AgentHandle, BoxError, Ejection, KeepAlive, KeepAliveLayer, RequestBody, Spread,
};

type Resolver = BoxCloneSyncService<Name, std::vec::IntoIter<SocketAddr>, Infallible>;

const ADDRESSES: u8 = 10;
const CALLERS: usize = 100;
const REQUESTS: usize = 20_000;

/// Counts what it is asked, and takes a moment to answer.
async fn serve(
    listener: TcpListener,
    status: StatusCode,
    asked: Arc<AtomicUsize>,
) -> std::io::Result<()> {
    let answer = move || async move {
        asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(5)).await;
        (status, "here")
    };
    axum::serve(listener, Router::new().route("/", any(answer))).await
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
        tokio::spawn(serve(listener, StatusCode::OK, asked.clone()));
        servers.push((address, asked));
    }
    Ok(servers)
}

/// For it, every name has these addresses.
fn client(
    layer: KeepAliveLayer<RequestBody>,
    addresses: Vec<SocketAddr>,
) -> (KeepAlive<TcpConnector<Resolver>>, AgentHandle) {
    let resolver =
        tower::service_fn(move |_: Name| ready(Ok::<_, Infallible>(addresses.clone().into_iter())));
    let connector = TcpConnector::with_resolver(Resolver::new(resolver));
    let agent = layer.handle();
    (layer.layer(connector), agent)
}

/// The share of each address, in requests.
async fn shares(spread: Spread) -> Result<Vec<usize>, BoxError> {
    let servers = servers().await?;
    let addresses = servers.iter().map(|(address, _)| *address).collect();
    let (client, agent) = client(KeepAliveLayer::new().spread(spread), addresses);
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

/// An address that never answers a connect: its backlog is full, and Linux drops further attempts.
struct BlackHole {
    address: SocketAddr,
    _listener: TcpListener,
    _backlog: Vec<TcpStream>,
}

impl BlackHole {
    async fn new() -> std::io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((Ipv4Addr::new(127, 0, 0, 1), 0).into())?;
        let address = socket.local_addr()?;
        let listener = socket.listen(1)?;
        let mut backlog = Vec::new();
        while let Ok(accepted) =
            timeout(Duration::from_millis(300), TcpStream::connect(address)).await
        {
            backlog.push(accepted?);
        }
        Ok(Self {
            address,
            _listener: listener,
            _backlog: backlog,
        })
    }
}

/// POSTs and how many of them failed: no response, or one of 5xx.
#[derive(Debug, Default)]
struct Sent {
    all: AtomicUsize,
    failed: AtomicUsize,
    /// How long the slowest took, in milliseconds.
    slowest: AtomicUsize,
}

impl Sent {
    fn print(&self, when: &str) {
        let [all, failed, slowest] =
            [&self.all, &self.failed, &self.slowest].map(|it| it.load(Ordering::Relaxed));
        println!("  {when}: {failed} of {all} POSTs failed, the slowest took {slowest} ms");
    }

    /// Whether no more than one in a thousand failed, of at least that many.
    fn is_good(&self) -> bool {
        let [all, failed] = [&self.all, &self.failed].map(|it| it.load(Ordering::Relaxed));
        all >= 1000 && failed * 1000 <= all
    }
}

/// Of ten addresses, seven are good. Whether hardly a POST fails after the first second.
async fn three_are_bad() -> Result<bool, BoxError> {
    let mut servers = servers().await?;
    let mut addresses: Vec<_> = servers.drain(..7).map(|(address, _)| address).collect();
    let black_hole = BlackHole::new().await?;
    // Its port is free again when the listener is dropped, and nobody listens there.
    let refuses = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await?
        .local_addr()?;
    let unavailable = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let answers_503 = unavailable.local_addr()?;
    addresses.extend([black_hole.address, refuses, answers_503]);
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::spawn(serve(
        unavailable,
        StatusCode::SERVICE_UNAVAILABLE,
        asked.clone(),
    ));
    // Short, so that it is tried again while this runs.
    let ejection = Ejection::new()
        .server_errors(true)
        .base_time(Duration::from_secs(2));
    let layer = KeepAliveLayer::new()
        .spread(Spread::FewestOpenFirst)
        .response_timeout(Duration::from_secs(5))
        .eject(ejection);
    let (client, agent) = client(layer, addresses);
    let first = Arc::new(Sent::default());
    let later = Arc::new(Sent::default());
    let begun = Instant::now();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, first, later) = (client.clone(), first.clone(), later.clone());
        callers.spawn(async move {
            let is_over = || {
                begun.elapsed() > Duration::from_secs(6)
                    || later.all.load(Ordering::Relaxed) >= REQUESTS
            };
            while !is_over() {
                let sent = match begun.elapsed() < Duration::from_secs(1) {
                    true => &first,
                    false => &later,
                };
                let now = Instant::now();
                let is_answered = match client.post("http://ten.test/", "once").await {
                    Ok(response) => {
                        let is_good = response.status().is_success();
                        is_good & response.into_body().text(100).await.is_ok()
                    }
                    Err(_) => false,
                };
                sent.all.fetch_add(1, Ordering::Relaxed);
                sent.failed
                    .fetch_add(usize::from(!is_answered), Ordering::Relaxed);
                let took = usize::try_from(now.elapsed().as_millis()).unwrap_or(usize::MAX);
                sent.slowest.fetch_max(took, Ordering::Relaxed);
            }
        });
    }
    while let Some(caller) = callers.join_next().await {
        caller?;
    }
    println!("\nthree of ten are bad, with ejection");
    first.print("in the first second");
    later.print("after that");
    let asked = asked.load(Ordering::Relaxed);
    println!("  the one that answers 503 got {asked}");
    for (address, it) in agent.status().addresses.into_values().flatten() {
        if let Some(left_out) = it.left_out {
            println!("  {address} {left_out}");
        }
    }
    Ok(later.is_good())
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let begun = Instant::now();
    shares(Spread::AsResolved).await?;
    let counts = shares(Spread::FewestOpenFirst).await?;
    let share = REQUESTS / usize::from(ADDRESSES);
    let off = counts.iter().map(|count| count.abs_diff(share)).max();
    let is_even = off.is_some_and(|off| off * 10 <= share);
    println!(
        "  the farthest from its share of {share} is off by {}",
        off.unwrap_or(0)
    );
    let is_good = three_are_bad().await?;
    println!("\nin {:.1} s", begun.elapsed().as_secs_f64());
    Ok(match is_even && is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}
