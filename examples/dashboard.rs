//! A live page of an agent's pools: connections, streams, time in queue, errors, timeouts, and why connections were closed.
//!
//! `cargo run --example dashboard`, then open the address that it prints. The example starts four servers, one fast, one
//! slow, one that fails now and then, and one that speaks HTTP/2, and calls them over one agent under a load that rises and falls. `--for 10s` ends
//! it after that time.
//!
//! The page is one file, `dashboard.html`. Twice a second the service sends it the agent's status, and what the agent's
//! events said since the last time, as server-sent events. To have the page in a service of your own, take over `App`,
//! `router` and the page; everything from `main` on is the demonstration.

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{Request, Response, StatusCode, Version};
use axum::response::sse::{Event as Message, KeepAlive as Comments, Sse};
use axum::response::{Html, IntoResponse, Json};
use axum::routing::{get, post};
use axum::serve::{ListenerExt, serve};
use clap::Parser;
use futures_util::stream::{Stream, StreamExt, iter, once, unfold};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tower::util::BoxCloneService;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{
    AgentHandle, CloseReason, Event, EventKind, KeepAliveLayer, Protocol, status::ConnectionStatus,
};

/// How often the page is told.
const BEAT: Duration = Duration::from_millis(500);

/// How many beats a page is told of when it is opened: those of one minute, the first and the last included.
const HISTORY: usize = 121;

#[derive(Parser)]
struct Args {
    /// Where the page is served.
    #[arg(long, default_value = "127.0.0.1:3001")]
    listen: SocketAddr,
    /// Ends by itself after so long.
    #[arg(long = "for", value_parser = humantime::parse_duration)]
    time: Option<Duration>,
}

/// What the page needs.
#[derive(Clone)]
struct App {
    agent: AgentHandle,
    history: Arc<Mutex<VecDeque<Value>>>,
    /// The latest beat.
    beat: watch::Receiver<Value>,
}

impl App {
    /// Reads the agent's status twice a second in a task of its own, which ends with the last page and the service.
    ///
    /// `limit`: the most connections of one pool, which the page draws as a line.
    fn watching(agent: AgentHandle, limit: Option<usize>) -> Self {
        let history = Arc::new(Mutex::new(VecDeque::new()));
        let (say, beat) = watch::channel(Value::Null);
        let app = Self {
            agent: agent.clone(),
            history: history.clone(),
            beat,
        };
        let recent = Recent::default();
        let heard = recent.clone();
        agent.on_event(move |_, event| heard.count(event));
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(BEAT);
            // A beat that comes late is followed by no other at once: a minute has no more than `HISTORY`.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while !say.is_closed() {
                ticks.tick().await;
                let beat = beat_of(&agent, limit, &recent);
                let mut history = lock(&history);
                history.push_back(beat.clone());
                if history.len() > HISTORY {
                    history.pop_front();
                }
                say.send_replace(beat);
            }
        });
        app
    }
}

/// What the page is told: the status as it is now, and what happened in each pool since the last beat.
fn beat_of(agent: &AgentHandle, limit: Option<usize>, recent: &Recent) -> Value {
    let at = SystemTime::now().duration_since(UNIX_EPOCH);
    let status = agent.status();
    let reasons = status.closes.keys().map(|&reason| {
        let about = json!({ "words": reason.to_string(), "kind": Kind::of(reason) });
        (json!(reason).as_str().unwrap_or_default().to_owned(), about)
    });
    json!({
        "at": at.unwrap_or_default().as_millis() as u64,
        "limit": limit,
        "reasons": reasons.collect::<BTreeMap<_, _>>(),
        "pools": recent.take(),
        "status": status,
    })
}

/// Whether a connection that was closed is a sign of trouble.
#[derive(PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Error,
    /// The other side took too long. A connection that was idle for too long or too old is no sign of that.
    Timeout,
    Ordinary,
}

impl Kind {
    fn of(reason: CloseReason) -> Self {
        match reason {
            CloseReason::Error | CloseReason::Connect => Self::Error,
            CloseReason::ConnectTimeout
            | CloseReason::Silence
            | CloseReason::RequestTimeout
            | CloseReason::ResponseTimeout => Self::Timeout,
            _ => Self::Ordinary,
        }
    }
}

/// What the agent's events said since the last beat, by the name that the pool has in the status.
#[derive(Clone, Default)]
struct Recent(Arc<Mutex<BTreeMap<String, Counts>>>);

#[derive(Default, serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Counts {
    errors: u64,
    timeouts: u64,
    /// Requests that waited in the queue and were handed a connection.
    queued: u64,
    /// How long they waited, together and at the most, in milliseconds.
    queue_time: f64,
    longest_queue_time: f64,
}

impl Recent {
    /// Called by the agent, so quick: it writes only where a request had waited or a connection failed.
    fn count(&self, event: &Event<'_>) {
        match event.kind {
            EventKind::HandedOver { waited, .. } => {
                let millis = waited.as_secs_f64() * 1000.0;
                let mut pools = lock(&self.0);
                let counts = pools.entry(event.key.to_string()).or_default();
                counts.queued += 1;
                counts.queue_time += millis;
                counts.longest_queue_time = counts.longest_queue_time.max(millis);
            }
            EventKind::Closed { reason, .. } if Kind::of(reason) != Kind::Ordinary => {
                let mut pools = lock(&self.0);
                let counts = pools.entry(event.key.to_string()).or_default();
                match Kind::of(reason) {
                    Kind::Error => counts.errors += 1,
                    _ => counts.timeouts += 1,
                }
            }
            _ => {}
        }
    }

    fn take(&self) -> BTreeMap<String, Counts> {
        std::mem::take(&mut lock(&self.0))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(|| async { Html(include_str!("dashboard.html")) }))
        .route("/events", get(events))
        .route(
            "/status",
            get(async |State(app): State<App>| Json(app.agent.status())),
        )
        .route("/connections", get(connections))
        .route(
            "/close-idle",
            post(async |State(app): State<App>| app.agent.close_idle()),
        )
        .with_state(app)
}

/// The last minute in one event, and then one event a beat.
async fn events(State(app): State<App>) -> Sse<impl Stream<Item = Result<Message, Infallible>>> {
    let event = |name, data: &Value| Message::default().event(name).data(data.to_string());
    let past = {
        let history = lock(&app.history);
        json!(history.iter().collect::<Vec<_>>())
    };
    let past = event("history", &past);
    let mut beat = app.beat;
    beat.mark_unchanged();
    let beats = unfold(beat, move |mut beat| async move {
        beat.changed().await.ok()?;
        let data = event("beat", &beat.borrow_and_update());
        Some((data, beat))
    });
    let all = once(async { past }).chain(beats);
    Sse::new(all.map(Ok)).keep_alive(Comments::default())
}

#[derive(serde::Deserialize)]
struct Pool {
    /// As it is called in the status.
    key: String,
}

/// The open connections of one pool.
async fn connections(State(app): State<App>, Query(pool): Query<Pool>) -> impl IntoResponse {
    let status = app.agent.status();
    let mut keys = status.idle.keys().chain(status.active.keys());
    let list = keys
        .find(|key| key.to_string() == pool.key)
        .map_or_else(Vec::new, |key| app.agent.connections(key));
    let line = |it: &ConnectionStatus| {
        json!({
            "id": it.id, "state": it.state, "age": it.age.as_secs_f64(), "uses": it.uses,
            "streams": it.streams, "capacity": it.capacity,
        })
    };
    Json(list.iter().map(line).collect::<Vec<_>>())
}

/// The most connections to one server.
const LIMIT: usize = 8;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let layer = KeepAliveLayer::new()
        // HTTP/2 for the requests that ask for it.
        .protocol(Protocol::Auto)
        .max_connections_per_host(LIMIT)
        .idle_timeout(Duration::from_secs(2))
        .active_timeout(Duration::from_secs(1))
        .ttl(Duration::from_secs(20))
        .ttl_jitter(0.5);
    let agent = layer.handle();
    let app = App::watching(agent.clone(), Some(LIMIT));
    // The servers have names, for the page. All of them are here.
    let here =
        |_| async { Ok::<_, Infallible>([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))].into_iter()) };
    let client = ServiceBuilder::new()
        .layer(BoxCloneService::layer())
        .layer(layer)
        .service(TcpConnector::with_resolver(service_fn(here)));
    for (name, temper) in [
        ("fast", Temper::Fast),
        ("slow", Temper::Slow),
        ("flaky", Temper::Flaky),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{name}.test:{}/", listener.local_addr()?.port());
        // What is broken off ends in a reset.
        let listener = listener.tap_io(move |socket| {
            if temper == Temper::Flaky {
                socket.set_zero_linger().ok();
            }
        });
        tokio::spawn(async move { serve(listener, upstream(temper)).await });
        for caller in 0..CALLERS {
            tokio::spawn(call(client.clone(), url.clone(), Version::HTTP_11, caller));
        }
    }
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://shared.test:{}/", listener.local_addr()?.port());
    tokio::spawn(share(listener));
    for caller in 0..CALLERS {
        tokio::spawn(call(client.clone(), url.clone(), Version::HTTP_2, caller));
    }

    let listener = TcpListener::bind(args.listen).await?;
    println!("http://{}/", listener.local_addr()?);
    let end = async {
        match args.time {
            Some(time) => tokio::time::sleep(time).await,
            None => drop(tokio::signal::ctrl_c().await),
        }
    };
    let page = serve(listener, router(app));
    tokio::select! {
        served = async { page.await } => served?,
        () = end => {}
    }
    agent.destroy();
    println!("{}", agent.status());
    Ok(())
}

/// To each server.
const CALLERS: u32 = 12;

/// On one connection of HTTP/2.
const STREAMS: u32 = 4;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Temper {
    Fast,
    Slow,
    /// Closes a connection every few responses, breaks off some of them, and does not answer at all to a few requests.
    Flaky,
}

fn upstream(temper: Temper) -> Router {
    let answer = move || async move {
        let time = match temper {
            Temper::Fast => 5,
            Temper::Slow => 150,
            Temper::Flaky => 20,
        };
        tokio::time::sleep(Duration::from_millis(fastrand::u64(time..3 * time))).await;
        let (mut connection, mut body) = ("keep-alive", Body::from("hello\n"));
        if temper == Temper::Flaky {
            match fastrand::u32(..200) {
                0 => tokio::time::sleep(Duration::from_secs(60)).await,
                1 => {
                    let parts = [Ok("hel"), Err("nothing follows")];
                    body = Body::from_stream(iter(parts));
                }
                2..32 => connection = "close",
                _ => {}
            }
        }
        (StatusCode::OK, [("connection", connection)], body)
    };
    Router::new().fallback(answer)
}

/// A server of HTTP/2 that allows a few streams on each connection.
async fn share(listener: TcpListener) {
    while let Ok((socket, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(STREAMS);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(socket).await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_millis(fastrand::u64(50..150))).await;
                    // Fails if the caller is gone.
                    if let Ok(mut body) = respond.send_response(Response::new(()), false) {
                        body.send_data("hello\n".into(), true).ok();
                    }
                });
            }
        });
    }
}

type Client =
    BoxCloneService<Request<Body>, Response<tower_keep_alive::Body>, tower_keep_alive::Error>;

/// One of many callers: more of them are awake at one time than at another.
async fn call(client: Client, url: String, version: Version, caller: u32) {
    let start = tokio::time::Instant::now();
    loop {
        let wave = (start.elapsed().as_secs_f64() / 5.0).sin() * 6.0 + 6.0;
        if f64::from(caller) <= wave {
            let request = Request::get(&url).version(version).body(Body::empty());
            let request = request.expect("an address makes a request");
            match client.clone().oneshot(request).await {
                Ok(response) => drop(response.into_body().collect().await),
                Err(error) if error.is_shut_down() => return,
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..120))).await;
    }
}
