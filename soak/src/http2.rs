//! Some seconds of one agent that speaks HTTP/2 with a server that sends it away, refuses, and changes its limits, and whose name
//! may have several addresses.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fastrand::Rng;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tower::Layer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{Error, KeepAlive, KeepAliveLayer, Protocol, Spread};

use crate::frames::{Behaviour, Conn, GoAway, Io, Log};
use crate::ledger::{Ledger, Wrong, count};
use crate::names::{Names, half_serve};
use crate::round::becomes;

const CALLERS: usize = 24;

/// An answer takes milliseconds; what has none by then has been forgotten.
const PATIENCE: Duration = Duration::from_secs(15);

/// Runs an agent for so long, on the runtime that this is polled on, with a server on the other.
pub(crate) async fn round(servers: &Handle, ledger: &Arc<Ledger>, seed: u64, time: Duration) {
    let mut rng = Rng::with_seed(seed);
    let (behaviour, log) = (behaviour(&mut rng), Log::default());
    let words = format!("HTTP/2, seed {seed}, {behaviour:?}");
    let wrong = |what, why: String| ledger.wrong(what, format!("{why}; {words}"));
    let serving = serve(behaviour, log.clone());
    let (server, port) = match servers.spawn(serving).await {
        Ok(Ok(started)) => started,
        _ => return wrong(Wrong::Failed, "no server".to_owned()),
    };
    let layer = layer(&mut rng);
    let handle = layer.handle();
    let names = Names::new();
    let client = layer.layer(names.connector());
    // An address is not looked up.
    let uri = match rng.bool() {
        true => format!("http://localhost:{port}"),
        false => format!("http://127.0.0.1:{port}"),
    };
    let words = format!("{words}, {uri}");
    let end = Instant::now() + time;
    let number = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    callers.spawn(names.clone().change(rng.fork(), end, ledger.clone()));
    for _ in 0..CALLERS {
        let mut caller = Caller {
            client: client.clone(),
            names: names.clone(),
            uri: uri.clone(),
            rng: rng.fork(),
        };
        let (ledger, number, words) = (ledger.clone(), number.clone(), words.clone());
        callers.spawn(async move {
            while Instant::now() < end {
                count(&ledger.http2);
                let id = number.fetch_add(1, Ordering::Relaxed);
                if let Err((what, why)) = caller.one(id).await {
                    ledger.wrong(what, format!("{why}; {words}"));
                }
            }
        });
    }
    callers.join_all().await;
    let is_at_rest = || {
        let status = handle.status();
        status.pending.is_empty()
            && status.active.is_empty()
            && half_serve(&status)
            && status.created == status.closed + status.open() as u64
    };
    if !becomes(is_at_rest).await {
        wrong(Wrong::Leak, format!("no rest: {}", handle.status()));
    }
    handle.destroy();
    drop(client);
    let tasks = Handle::current().metrics();
    if !becomes(|| handle.status().open() == 0 && tasks.num_alive_tasks() == 0).await {
        wrong(Wrong::Leak, format!("not closed: {}", handle.status()));
    }
    let twice = log.executed_twice("POST");
    if twice > 0 {
        wrong(Wrong::Twice, format!("{twice} POSTs"));
    }
    let beyond = log.seen(|seen| seen.beyond_limit);
    if beyond > 0 {
        wrong(Wrong::TooMany, format!("{beyond} streams beyond the limit"));
    }
    server.abort();
}

/// Nothing of it may fail a request.
fn behaviour(rng: &mut Rng) -> Behaviour {
    let mut one_in = |n: u8| rng.u8(..n) == 0;
    let [is_limited, is_late, sends_away, refuses] = [one_in(2), one_in(4), one_in(2), one_in(2)];
    let go_away = match rng.u8(..3) {
        0 => GoAway::Named,
        1 => GoAway::Back(rng.u32(1..20)),
        _ => GoAway::Announced(Duration::from_millis(1)),
    };
    Behaviour {
        delay: Duration::from_micros(rng.u64(..2_000)),
        limit: is_limited.then(|| rng.u32(1..20)),
        settings_after: Duration::from_millis(if is_late { rng.u64(..20) } else { 0 }),
        go_away: sends_away.then(|| (rng.usize(50..200), go_away)),
        refuse_every: refuses.then(|| rng.usize(5..20)),
        ..Behaviour::default()
    }
}

fn layer(rng: &mut Rng) -> KeepAliveLayer<Full<Bytes>> {
    let spread = [Spread::AsResolved, Spread::InTurn, Spread::FewestOpenFirst][rng.usize(..3)];
    let mut layer = KeepAliveLayer::new()
        .protocol(Protocol::Http2)
        .spread(spread)
        .follow_dns(Names::follow());
    if rng.bool() {
        layer = layer.eject(Names::ejection());
    }
    if rng.u8(..3) == 0 {
        layer = layer.min_idle_per_host(rng.usize(1..4));
    }
    if rng.bool() {
        layer = layer.max_connections_per_host(rng.usize(1..4));
    }
    if rng.u8(..3) == 0 {
        layer = layer.ttl(Duration::from_millis(rng.u64(20..300)));
    }
    if rng.u8(..3) == 0 {
        layer = layer.max_uses(rng.u64(1..100));
    }
    layer
}

struct Caller {
    client: KeepAlive<TcpConnector<Names>, Full<Bytes>>,
    names: Names,
    uri: String,
    rng: Rng,
}

impl Caller {
    /// One request; its answer is its path.
    async fn one(&mut self, id: u64) -> Result<(), (Wrong, String)> {
        let path = format!("/{id}");
        let request = match self.rng.u8(..3) {
            0 => Request::post(format!("{}{path}", self.uri)),
            _ => Request::get(format!("{}{path}", self.uri)),
        };
        let body = match request.method_ref() {
            Some(method) if method == http::Method::POST => vec![b'x'; self.rng.usize(..3_000)],
            _ => Vec::new(),
        };
        let request = request
            .body(Full::new(Bytes::from(body)))
            .expect("the parts are right");
        let words = format!("{} {path}", request.method());
        let gone = self.names.gone();
        let is_name = request.uri().host() == Some("localhost");
        let exchange = async {
            let response = self.client.request(request).await?;
            let address = response.body().connection().remote_addr();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, Error>((body, address.map(|it| it.ip())))
        };
        let leaves_at = (self.rng.u8(..8) == 0).then(|| self.rng.u64(..4_000));
        let leaves_at = leaves_at.map(Duration::from_micros);
        match timeout(leaves_at.unwrap_or(PATIENCE), exchange).await {
            Ok(Ok((body, _))) if body != path => {
                Err((Wrong::Mismatch, format!("{body:?} to {words}")))
            }
            Ok(Ok((_, address))) => {
                // An address may have come back since.
                let still_gone = self.names.gone();
                let is_gone = |gone: &[SocketAddr]| gone.iter().any(|it| Some(it.ip()) == address);
                match is_name && is_gone(&gone) && is_gone(&still_gone) {
                    true => Err((Wrong::Misused, format!("{address:?} is gone, {words}"))),
                    false => Ok(()),
                }
            }
            // No answer was had before lookups began to fail.
            Ok(Err(error)) if error.is_dns() => Ok(()),
            Ok(Err(error)) => Err((Wrong::Failed, format!("{words}: {error:?}"))),
            Err(_) if leaves_at.is_some() => Ok(()),
            Err(_) => Err((Wrong::Hang, words)),
        }
    }
}

/// Accepts until it is aborted.
async fn serve(behaviour: Behaviour, log: Log) -> io::Result<(tokio::task::AbortHandle, u16)> {
    // At each address of loopback.
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    let port = listener.local_addr()?.port();
    let behaviour = Arc::new(behaviour);
    let accepting = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).ok();
            let (behaviour, conn) = (behaviour.clone(), Conn::new(Socket(stream), &log));
            tokio::spawn(async move { behaviour.serve(conn).await });
        }
    });
    Ok((accepting.abort_handle(), port))
}

struct Socket(TcpStream);

impl Io for Socket {
    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        self.0.read_buf(buffer).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }
}
