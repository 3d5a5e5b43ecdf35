//! The clients in Rust. Each is a process that keeps to the schedule, and writes a line for each arrival: its latency in
//! microseconds, or `-` where it was not answered.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Semaphore;
use tower::limit::ConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{BoxError, KeepAliveLayer};
use tower_keep_alive_benches::ask::Ask;
use tower_keep_alive_benches::peers::{Agent, Peer as _, Reqwest};

use crate::schedule::Schedule;
use crate::{CONNECTIONS, Peer};

/// More than the longest line of the longest run takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Callers that may wait for a connection.
const MAX_PENDING: usize = 50;

/// How long they may.
const CHECKOUT_TIMEOUT: Duration = Duration::from_millis(10);

/// Requests under way or in line where tower counts them.
const IN_ALL: usize = 75;

type Body = Full<Bytes>;

pub(crate) fn run(peer: Peer, schedule: Schedule, server: SocketAddr) {
    let layer = KeepAliveLayer::new().max_connections_per_host(CONNECTIONS);
    let by_agent = |layer: KeepAliveLayer<Body>| {
        let agent = Agent::new(&layer, TcpConnector::new());
        follow(&schedule, server, move |request| {
            let mut agent = agent.clone();
            async move { agent.send(request).await }
        });
    };
    match peer {
        Peer::Agent => by_agent(layer),
        Peer::AgentMaxPending => by_agent(layer.max_pending_per_host(MAX_PENDING)),
        Peer::AgentCheckoutTimeout => by_agent(layer.checkout_timeout(CHECKOUT_TIMEOUT)),
        Peer::AgentLoadShed => {
            let agent = Agent::new(&layer, TcpConnector::new());
            let service = tower::service_fn(move |request: Request<Body>| {
                let mut agent = agent.clone();
                async move { agent.send(request).await }
            });
            let service = ServiceBuilder::new()
                .layer(LoadShedLayer::new())
                .layer(ConcurrencyLimitLayer::new(IN_ALL))
                .service(service);
            follow(&schedule, server, move |request| {
                service.clone().oneshot(request)
            });
        }
        Peer::Reqwest | Peer::ReqwestSemaphore => {
            let permits = match peer {
                Peer::Reqwest => Semaphore::MAX_PERMITS,
                _ => CONNECTIONS,
            };
            let (client, permits) = (Reqwest::new(), Arc::new(Semaphore::new(permits)));
            follow(&schedule, server, move |request| {
                let (mut client, permits) = (client.clone(), permits.clone());
                async move {
                    let _permit = permits.acquire().await?;
                    client.send(request).await
                }
            });
        }
        Peer::Go | Peer::Agentkeepalive | Peer::Undici => unreachable!("programs of their own"),
    }
}

/// Sends each request when its time has come, and tells what became of it.
fn follow<F>(schedule: &Schedule, server: SocketAddr, mut send: impl FnMut(Request<Body>) -> F)
where
    F: Future<Output = Result<usize, BoxError>> + Send + 'static,
{
    let runtime = runtime();
    let ask = Ask::new(Method::GET, &server.to_string(), 256, Body::default());
    let (tell, told) = mpsc::channel();
    let _inside = runtime.enter();
    let begun = Instant::now();
    // On this thread, which is none of the runtime's: a busy runtime does not hold up the callers.
    for (place, &arrival) in schedule.arrivals.iter().enumerate() {
        thread::sleep((begun + arrival).saturating_duration_since(Instant::now()));
        let (answer, tell) = (send(ask.request()), tell.clone());
        tokio::spawn(async move {
            let is_answered = matches!(tokio::time::timeout(PATIENCE, answer).await, Ok(Ok(256)));
            let latency = begun.elapsed() - arrival;
            let _ = tell.send((place, is_answered.then_some(latency)));
        });
    }
    drop(tell);
    let mut latencies = vec![None; schedule.arrivals.len()];
    for (place, latency) in told {
        latencies[place] = latency;
    }
    let mut text = String::new();
    for latency in latencies {
        let _ = match latency {
            Some(latency) => writeln!(text, "{}", latency.as_micros()),
            None => writeln!(text, "-"),
        };
    }
    print!("{text}");
}

fn runtime() -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime")
}
