//! Ten servers behind one name: how many requests each of them has.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin spread [-- --requests N]`
//!
//! One name has ten addresses of this machine, 127.0.0.1 to 127.0.0.10. hyper-util's legacy client, reqwest, and this crate's
//! agent as it is and with two ways to spread the load, send 20,000 requests to it by 100 callers. The servers take 2 ms over
//! an answer. None of the other two has a setting for this.
//!
//! It fails (exit code 1) if an address is more than a tenth off its share with `Spread::FewestOpenFirst`.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use bytes::Bytes;
use clap::Parser;
use http::Request;
use http_body_util::Full;
use hyper_util::client::legacy::connect::dns::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tower::Service;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{BoxError, KeepAliveLayer, Spread};
use tower_keep_alive_benches::peers::{Agent, AgentOf, Legacy, Peer, Reqwest};
use tower_keep_alive_benches::report::{Report, thousands};

const ADDRESSES: u8 = 10;
const CALLERS: usize = 100;
const NAME: &str = "ten.test";

/// Requests to one name with ten addresses, by address
#[derive(Parser)]
struct Arguments {
    /// Requests of each client
    #[arg(long, default_value_t = 20_000)]
    requests: usize,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode, BoxError> {
    let arguments = Arguments::parse();
    let report = Report::new("spread", arguments.json);
    let requests = arguments.requests;
    println!(
        "{} requests by {CALLERS} callers to one name with {ADDRESSES} addresses: the share of each, in percent",
        thousands(requests as f64)
    );
    println!();
    let tell = |name: &str, shares: &[f64]| {
        let words: Vec<_> = shares.iter().map(|share| format!("{share:>5.1}")).collect();
        println!("{name:<36} {}", words.join(" "));
        for (share, last) in shares.iter().zip(1..) {
            report.figure("one name", name, &format!("% to 127.0.0.{last}"), *share);
        }
    };
    let servers = Servers::start().await?;
    let legacy = Legacy::with_resolver(servers.resolver());
    tell(
        "hyper-util legacy",
        &servers.shares(legacy, requests).await?,
    );
    let reqwest = Reqwest::resolving(NAME, &servers.addresses());
    tell("reqwest", &servers.shares(reqwest, requests).await?);
    let mut is_even = true;
    for spread in [Spread::AsResolved, Spread::InTurn, Spread::FewestOpenFirst] {
        let connector = TcpConnector::with_resolver(servers.resolver());
        let agent = AgentOf::new(&KeepAliveLayer::new().spread(spread), connector);
        let shares = servers.shares(agent, requests).await?;
        let name = <Agent<Full<Bytes>> as Peer<Full<Bytes>>>::NAME;
        tell(&format!("{name}, {spread:?}"), &shares);
        if spread == Spread::FewestOpenFirst {
            let share = 100.0 / f64::from(ADDRESSES);
            is_even = shares.iter().all(|it| (it - share).abs() <= share / 10.0);
        }
    }
    if !is_even {
        println!("FAILED: an address is more than a tenth off its share");
    }
    Ok(match is_even {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// The addresses, all with the same port, and how often each was asked.
struct Servers(Vec<(SocketAddr, Arc<AtomicUsize>)>);

impl Servers {
    async fn start() -> io::Result<Self> {
        let mut servers = Vec::new();
        let mut port = 0;
        for last in 1..=ADDRESSES {
            let listener = TcpListener::bind((Ipv4Addr::new(127, 0, 0, last), port)).await?;
            let address = listener.local_addr()?;
            port = address.port();
            let asked = Arc::new(AtomicUsize::new(0));
            tokio::spawn(accept(listener, asked.clone()));
            servers.push((address, asked));
        }
        Ok(Self(servers))
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|(address, _)| *address).collect()
    }

    fn resolver(&self) -> Resolver {
        Resolver(self.addresses())
    }

    /// The share of each address in the requests of this client, in percent.
    async fn shares<P>(&self, client: P, requests: usize) -> Result<Vec<f64>, BoxError>
    where
        P: Peer<Full<Bytes>> + Clone + Send + 'static,
    {
        let before: Vec<_> = self.asked().collect();
        let uri = format!("http://{NAME}:{}/", self.0[0].0.port());
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (mut client, uri) = (client.clone(), uri.clone());
            callers.spawn(async move {
                for _ in 0..requests / CALLERS {
                    let request = Request::get(&uri).body(Full::default())?;
                    client.send(request).await?;
                }
                Ok::<_, BoxError>(())
            });
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
        let counts = self.asked().zip(before).map(|(now, before)| now - before);
        let all = (requests / CALLERS * CALLERS) as f64;
        Ok(counts.map(|count| 100.0 * count as f64 / all).collect())
    }

    fn asked(&self) -> impl Iterator<Item = usize> {
        self.0
            .iter()
            .map(|(_, asked)| asked.load(Ordering::Relaxed))
    }
}

async fn accept(listener: TcpListener, asked: Arc<AtomicUsize>) {
    while let Ok((stream, _)) = listener.accept().await {
        let asked = asked.clone();
        // An end in the middle is the client's right.
        tokio::spawn(async move { serve(stream, &asked).await.ok() });
    }
}

async fn serve(mut stream: TcpStream, asked: &AtomicUsize) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::with_capacity(1024);
    while stream.read_buf(&mut head).await? > 0 {
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        head.clear();
        asked.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_millis(2)).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            .await?;
    }
    Ok(())
}

/// Finds all addresses, for any name.
#[derive(Clone)]
struct Resolver(Vec<SocketAddr>);

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        ready(Ok(self.0.clone().into_iter()))
    }
}
