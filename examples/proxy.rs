//! A reverse proxy in axum, whose connections to its upstream are the agent's.
//!
//! `cargo run --example proxy -- --listen 127.0.0.1:8080 --upstream http://127.0.0.1:3000 --max-connections-per-host 50`
//!
//! `GET /agent/status` answers with the status of the agent as JSON; everything else is for the upstream. Bodies are
//! streamed in both directions, except small request bodies: those are kept, so that an idempotent request can be sent
//! again if the upstream closes a reused connection before it answers. `ForwardLayer` rewrites requests and responses as a
//! proxy has to, and passes upgrades on; `Via` and `X-Forwarded-For` are settings of that layer, which this example leaves
//! off.

use std::convert::Infallible;
use std::error::Error as _;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Json};
use bytes::Bytes;
use clap::Parser;
use http::{Method, Request, Response, StatusCode};
use http_body::Body as _;
use http_body_util::{BodyExt, Full};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::sync::Barrier;
use tower::make::Shared;
use tower::retry::{Retry, RetryLayer};
use tower::util::{MapRequest, MapRequestLayer};
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_keep_alive::connect::{TcpConnector, Tls, TlsLayer};
use tower_keep_alive::forward::{Forward, ForwardLayer, Upstream};
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{AgentHandle, Error, KeepAlive, KeepAliveLayer};

/// The longest body of a request that is kept for a second try.
const SMALL: u64 = 64 * 1024;

/// A reverse proxy that keeps its connections to the upstream.
#[derive(Parser)]
#[command(name = "proxy")]
struct Arguments {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,

    /// Where requests go, by http or https; a path in it is put before theirs
    #[arg(long, value_name = "URL", value_parser = |url: &str| Upstream::try_from(url))]
    upstream: Upstream,

    /// Certificates to trust, as PEM, for an upstream of https [default: those that the platform trusts]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,

    /// The most connections to the upstream [default: no limit]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_connections_per_host: Option<usize>,

    /// The most connections in all [default: no limit]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    max_connections: Option<usize>,

    /// The most idle connections to the upstream [default: 256]
    #[arg(long, value_name = "N")]
    max_idle_per_host: Option<usize>,

    /// The longest time that a connection is idle, such as 500ms [default: 4s]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    idle_timeout: Option<Duration>,

    /// The longest silence of a connection in use, or being made [default: twice the idle timeout, at least 8s]
    #[arg(long, value_name = "DUR", value_parser = longer_than_nothing)]
    active_timeout: Option<Duration>,

    /// The oldest that a connection gets, such as 10m [default: no limit]
    #[arg(long, value_name = "DUR", value_parser = humantime::parse_duration)]
    ttl: Option<Duration>,

    /// Use a new connection for every request
    #[arg(long)]
    no_keep_alive: bool,

    /// Send no request again
    #[arg(long)]
    no_retry: bool,

    /// So many runtimes of one thread each, instead of one with a thread for each core. A request takes less of the
    /// processor, because no task changes its thread. The limits are for all runtimes together, but each uses its own
    /// connections alone: where callers wait for one at the limit, connections are closed and made anew
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    runtimes: Option<usize>,
}

type Client = KeepAlive<Tls<TcpConnector>, Body>;

/// For bodies that can be sent again; on the connections of the other.
type RetryingClient =
    Retry<ReusedReset, MapRequest<Client, fn(Request<Full<Bytes>>) -> Request<Body>>>;

/// What every request needs.
struct Proxy {
    client: Forward<Client>,
    retrying: Option<Forward<RetryingClient>>,
    agent: AgentHandle,
}

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("proxy: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> Result<(), String> {
    let cannot_listen = |error| format!("cannot listen on {}: {error}", arguments.listen);
    let listeners = arguments.listeners().map_err(cannot_listen)?;
    let address = listeners[0].local_addr().map_err(cannot_listen)?;
    let is_single_threaded = arguments.runtimes.is_some();
    let proxy = Arc::new(arguments.proxy()?);
    println!("listening on {address}");

    let cannot_serve = |error| format!("cannot serve: {error}");
    let served = Arc::new(Barrier::new(listeners.len()));
    let mut threads = Vec::new();
    for listener in listeners {
        let mut runtime = match is_single_threaded {
            true => Builder::new_current_thread(),
            false => Builder::new_multi_thread(),
        };
        let runtime = runtime.enable_all().build().map_err(cannot_serve)?;
        let server = serve_all(listener, proxy.clone(), served.clone());
        threads.push(thread::spawn(move || runtime.block_on(server)));
    }
    for thread in threads {
        let served = thread.join().expect("a server does not panic");
        served.map_err(cannot_serve)?;
    }
    Ok(())
}

/// Serves callers until ctrl-c, and then ends the agent's connections.
async fn serve_all(
    listener: StdListener,
    proxy: Arc<Proxy>,
    served: Arc<Barrier>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let agent = proxy.agent.clone();
    let service = service_fn(move |request| {
        let proxy = proxy.clone();
        async move { Ok::<_, Infallible>(serve(&proxy, request).await) }
    });
    // No `Router`: it gives an answer to HEAD a Content-Length of its own where the upstream's has none.
    axum::serve(listener, Shared::new(service))
        .with_graceful_shutdown(interrupted())
        .await?;
    // A drained agent refuses requests: first every runtime answers those that it has. Each is driven until all
    // connections are closed, its own among them.
    served.wait().await;
    agent.drain().await;
    Ok(())
}

/// Resolves at the first ctrl-c, after which what is in flight is finished. At the second nothing is waited for.
async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        return std::future::pending().await;
    }
    tokio::spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    });
}

impl Arguments {
    /// One for each runtime; the system spreads the callers over them.
    fn listeners(&self) -> io::Result<Vec<StdListener>> {
        let count = self.runtimes.unwrap_or(1);
        let mut listeners: Vec<StdListener> = Vec::new();
        for _ in 0..count {
            // With port 0, the first one gets a port for all.
            let address = listeners.first().map(StdListener::local_addr);
            let address = address.unwrap_or(Ok(self.listen))?;
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            #[cfg(unix)]
            {
                socket.set_reuse_address(true)?;
                socket.set_reuse_port(count > 1)?;
            }
            socket.set_nonblocking(true)?;
            socket.bind(&address.into())?;
            socket.listen(1024)?;
            listeners.push(socket.into());
        }
        Ok(listeners)
    }

    fn proxy(self) -> Result<Proxy, String> {
        let layer = self.layer();
        let agent = layer.handle();
        let client = ServiceBuilder::new()
            .layer(layer)
            .layer(self.tls()?)
            .service(TcpConnector::new());
        // An `Upstream` was looked at when it was parsed.
        let Ok(forward) = ForwardLayer::to(self.upstream);
        let retrying = ServiceBuilder::new()
            .layer(&forward)
            .layer(RetryLayer::new(ReusedReset::new()))
            .layer(MapRequestLayer::new(streamed as _))
            .service(client.clone());
        Ok(Proxy {
            client: forward.layer(client),
            retrying: (!self.no_retry).then_some(retrying),
            agent,
        })
    }

    fn layer(&self) -> KeepAliveLayer<Body> {
        let mut layer = KeepAliveLayer::new()
            .keep_alive(!self.no_keep_alive)
            // Nobody here asks which connection an answer came over.
            .info_in_extensions(false);
        if let Some(max) = self.max_connections_per_host {
            layer = layer.max_connections_per_host(max);
        }
        if let Some(max) = self.max_connections {
            layer = layer.max_connections(max);
        }
        if let Some(max) = self.max_idle_per_host {
            layer = layer.max_idle_per_host(max);
        }
        if let Some(max) = self.idle_timeout {
            layer = layer.idle_timeout(max);
        }
        if let Some(max) = self.active_timeout {
            layer = layer.active_timeout(max);
        }
        if let Some(max) = self.ttl {
            layer = layer.ttl(max);
        }
        layer
    }

    fn tls(&self) -> Result<TlsLayer, String> {
        let Some(file) = &self.ca else {
            return Ok(TlsLayer::new());
        };
        let tls = TlsLayer::new().roots_pem_file(file);
        tls.map_err(|error| format!("{}: {error}", file.display()))
    }
}

async fn serve(proxy: &Proxy, request: Request<Body>) -> Response<Body> {
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/agent/status") => Json(proxy.agent.status()).into_response(),
        (&Method::CONNECT, _) => refusal(StatusCode::NOT_IMPLEMENTED, "this proxy has no tunnels"),
        _ => forward(proxy, request).await,
    }
}

async fn forward(proxy: &Proxy, request: Request<Body>) -> Response<Body> {
    let answer = match (&proxy.retrying, request.body().size_hint().exact()) {
        (Some(client), Some(..=SMALL)) => {
            let (head, body) = request.into_parts();
            let Ok(body) = body.collect().await else {
                return refusal(StatusCode::BAD_REQUEST, "the body has no end");
            };
            let request = Request::from_parts(head, Full::new(body.to_bytes()));
            client.clone().oneshot(request).await
        }
        _ => proxy.client.clone().oneshot(request).await,
    };
    match answer {
        Ok(response) => response.map(Body::new),
        Err(error) if error.is_timeout() => refusal(StatusCode::GATEWAY_TIMEOUT, &reason(&error)),
        Err(error) => refusal(StatusCode::BAD_GATEWAY, &reason(&error)),
    }
}

fn streamed(request: Request<Full<Bytes>>) -> Request<Body> {
    request.map(Body::new)
}

/// An answer of the proxy itself: one line of text.
fn refusal(status: StatusCode, reason: &str) -> Response<Body> {
    (status, format!("{reason}\n")).into_response()
}

/// What went wrong, and what that came from, in one line.
fn reason(error: &Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        line.push_str(&format!(": {error}"));
        source = error.source();
    }
    line.replace(['\r', '\n'], " ")
}

fn longer_than_nothing(time: &str) -> Result<Duration, String> {
    match humantime::parse_duration(time) {
        Ok(Duration::ZERO) => Err("it must be longer than nothing".into()),
        Ok(time) => Ok(time),
        Err(error) => Err(error.to_string()),
    }
}

fn at_least_one(number: &str) -> Result<usize, String> {
    match number.parse() {
        Ok(0) => Err("it must be at least 1".into()),
        Ok(number) => Ok(number),
        Err(error) => Err(error.to_string()),
    }
}
