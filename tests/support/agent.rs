//! The agent under test: one place that says what it runs over.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::runtime::{Handle, Id};
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};
use tower_keep_alive::{
    AgentHandle, Body, BoxError, ConnectionInfo, Error, KeepAlive, KeepAliveLayer, Key, Protocol,
    connect::{self, Destination},
    custom::{Clock, Moment, Target},
};

#[cfg(unix)]
use super::over::unix_path;
use super::over::{Over, over};
use super::{Tiny, Wire, alive_tasks, client_transports, eventually, server_tasks, tls};

/// What a request of the tests is.
pub type Req = Request<Full<Bytes>>;

/// The agent over real sockets.
pub type Client = KeepAlive<Connector, Full<Bytes>>;

/// The crate's own connector of what the run is over; its transports are looked at by [`probe`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Connector;

#[cfg(unix)]
pub type Transport = Tiny<Wire<connect::Tcp, connect::Unix>>;
#[cfg(not(unix))]
pub type Transport = Tiny<Wire<connect::Tcp, connect::Tcp>>;

impl<T> Service<T> for Connector
where
    T: TryInto<Destination, Error: Into<BoxError>>,
{
    type Response = Transport;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Transport, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, target: T) -> Self::Future {
        let destination = target.try_into().map_err(Into::into);
        Box::pin(async move {
            let destination = destination?;
            #[cfg(unix)]
            if over() == Over::Unix {
                let port = Key::from(destination.key()).port();
                let mut connector = connect::UnixConnector::at(unix_path(port));
                return connector
                    .call(destination)
                    .await
                    .map(Wire::Unix)
                    .map(Tiny::new);
            }
            let mut tcp = connect::TcpConnector::new();
            if over() == Over::Tls {
                let mut below = Destination::try_from(tls::https(&destination.clone().into()))?;
                if let Some(route) = destination.route() {
                    below = below.with_route(route.clone());
                }
                return tls::client(tcp)
                    .call(below)
                    .await
                    .map(Wire::Tls)
                    .map(Tiny::new);
            }
            tcp.call(destination).await.map(Wire::Tcp).map(Tiny::new)
        })
    }
}

/// Looks at a [`Connector`]'s transports before they are used again.
pub fn probe(transport: &Transport) -> connect::Probe {
    match transport.get_ref() {
        Wire::Tcp(tcp) => tcp.probe(),
        Wire::Unix(unix) => unix.probe(),
        Wire::Tls(tls) => tls.probe(),
    }
}

/// What agents speak that are not made here.
pub fn protocol() -> Protocol {
    match over() {
        Over::Http2 => Protocol::Http2,
        _ => Protocol::default(),
    }
}

/// What a caller saw: a response read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub body: String,
    pub info: ConnectionInfo,
}

/// An agent over real sockets, and its handle.
pub fn agent(layer: KeepAliveLayer<Full<Bytes>>) -> (Client, AgentHandle) {
    agent_over(layer.probe_with(probe), Connector)
}

/// An agent over a connector of the test's own, and its handle.
pub fn agent_over<M>(
    layer: KeepAliveLayer<Full<Bytes>>,
    connector: M,
) -> (KeepAlive<M, Full<Bytes>>, AgentHandle)
where
    KeepAliveLayer<Full<Bytes>>: Layer<M, Service = KeepAlive<M, Full<Bytes>>>,
{
    let layer = match over() {
        Over::Http2 => layer.protocol(protocol()),
        _ => layer,
    };
    let handle = layer.handle();
    belongs_here(&handle);
    (layer.layer(connector), handle)
}

/// A GET without fields of its own.
pub fn get(url: impl AsRef<str>) -> Req {
    Request::get(url.as_ref())
        .body(Full::default())
        .expect("a valid request")
}

/// A POST with a body.
pub fn post(url: impl AsRef<str>, body: impl Into<Bytes>) -> Req {
    Request::post(url.as_ref())
        .body(Full::new(body.into()))
        .expect("a valid request")
}

/// No error in a chain of sources has the text of the one above it.
pub fn says_nothing_twice(error: &Error) {
    let mut above: &dyn std::error::Error = error;
    while let Some(source) = above.source() {
        assert_ne!(above.to_string(), source.to_string(), "{error:?}");
        above = source;
    }
}

/// Reads a response to its end.
pub async fn read(response: Response<Body>) -> Result<Answer, Error> {
    let status = response.status();
    let info = response.body().connection().clone();
    let body = response.into_body().collect().await;
    let body = body.inspect_err(says_nothing_twice)?.to_bytes();
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
        info,
    })
}

/// Sends a request and reads its response to the end.
pub async fn send<S>(client: &S, request: Req) -> Result<Answer, Error>
where
    S: Service<Req, Response = Response<Body>, Error = Error> + Clone,
{
    let response = client.clone().oneshot(request).await;
    read(response.inspect_err(says_nothing_twice)?).await
}

/// GETs, and reads to the end.
pub async fn fetch<S>(client: &S, url: impl AsRef<str>) -> Result<Answer, Error>
where
    S: Service<Req, Response = Response<Body>, Error = Error> + Clone,
{
    send(client, get(url)).await
}

/// The agents that the tests of each runtime have made here.
static AGENTS: LazyLock<Mutex<HashMap<Id, Vec<AgentHandle>>>> = LazyLock::new(Mutex::default);

/// An agent of this test that was not made here: what it has open is no leak, when [`at_rest`] is asked of another.
pub fn belongs_here(handle: &AgentHandle) {
    if let Ok(runtime) = Handle::try_current() {
        let mut agents = AGENTS.lock().unwrap_or_else(PoisonError::into_inner);
        agents.entry(runtime.id()).or_default().push(handle.clone());
    }
}

/// The last line of every test: nothing waits, nothing is in use, every connection is accounted for, and nothing is
/// left of those that are closed, neither a transport nor a task.
pub async fn at_rest(handle: &AgentHandle) {
    eventually("everything comes to rest", || {
        let status = handle.status();
        status.pending.is_empty()
            && status.active.is_empty()
            && status.created == status.closed + status.detached + status.open() as u64
    })
    .await;
    let agents = {
        let agents = AGENTS.lock().unwrap_or_else(PoisonError::into_inner);
        agents.get(&Handle::current().id()).cloned()
    };
    let agents = agents.unwrap_or_else(|| vec![handle.clone()]);
    // Detached ones have their transports for as long as their new owners like.
    let open = || {
        let statuses = agents.iter().map(AgentHandle::status);
        let open = statuses.map(|status| status.open() + status.detached as usize);
        open.sum::<usize>()
    };
    let (begun, really_begun) = (Instant::now(), std::time::Instant::now());
    eventually("no transport is left of what is closed", || {
        client_transports() <= open()
    })
    .await;
    // A driver for each connection, and a sweeper for each agent.
    eventually("no task is left of what is closed", || {
        alive_tasks() <= server_tasks() + open() + agents.len()
    })
    .await;
    // A connection may take a second to close; with paused time, other limits must not have made good what was left. Of the
    // time that passes by itself a loaded machine may need more, and `eventually` has a limit for it.
    let skipped = begun.elapsed().saturating_sub(really_begun.elapsed());
    assert!(
        skipped < Duration::from_secs(3),
        "at rest only after {skipped:?} of paused time"
    );
}

/// An agent in paused time, and its handle: both its clocks are the runtime's. Under [`agent_over`] the wall clock goes
/// on while a loaded machine holds the test up, and a limit of milliseconds may be over before its time.
pub fn agent_paused<M>(
    layer: KeepAliveLayer<Full<Bytes>>,
    connector: M,
) -> (KeepAlive<M, Full<Bytes>>, AgentHandle)
where
    KeepAliveLayer<Full<Bytes>>: Layer<M, Service = KeepAlive<M, Full<Bytes>>>,
{
    agent_over(layer.clock(paused_clock()), connector)
}

/// The runtime's clock, and a wall clock that goes with it.
pub fn paused_clock() -> Clock {
    let start = Moment::now();
    Clock::new(move || {
        let mono = Instant::now();
        let wall = start.wall + mono.duration_since(start.mono);
        Moment::new(mono, wall)
    })
}
