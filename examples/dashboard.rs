//! A page that shows the pools of an agent as they breathe.
//!
//! `cargo run --example dashboard`, then open the address that it prints. It starts three servers of different tempers
//! and a service in axum that calls them over one agent, under a load that comes and goes. `--for 10s` ends it by itself.
//!
//! The page is one file, `dashboard.html`; what it shows comes from `AgentHandle::status` twice a second, as server-sent
//! events. Take `App`, `router` and the page over into a service of your own: only the demonstration below them is not
//! for that.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{Request, StatusCode};
use axum::response::sse::{Event, KeepAlive as Comments, Sse};
use axum::response::{Html, IntoResponse, Json};
use axum::routing::{get, post};
use axum::{Router, serve};
use clap::Parser;
use futures_util::stream::{Stream, StreamExt, once, unfold};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower::ServiceBuilder;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{AgentHandle, ConnectionStatus, KeepAlive, KeepAliveLayer};

/// How often the page is told.
const BEAT: Duration = Duration::from_millis(500);

/// How many beats a page that is opened is told of at once: a minute.
const HISTORY: usize = 120;

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
    /// Takes the agent's pulse in a task of its own, which ends with the last page and the service.
    fn watching(agent: AgentHandle) -> Self {
        let history = Arc::new(Mutex::new(VecDeque::new()));
        let (say, beat) = watch::channel(Value::Null);
        let app = Self {
            agent: agent.clone(),
            history: history.clone(),
            beat,
        };
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(BEAT);
            while !say.is_closed() {
                ticks.tick().await;
                let at = SystemTime::now().duration_since(UNIX_EPOCH);
                let at = at.unwrap_or_default().as_millis() as u64;
                let beat = json!({ "at": at, "status": agent.status() });
                let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
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
async fn events(State(app): State<App>) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let event = |name, data: &Value| Event::default().event(name).data(data.to_string());
    let past = {
        let history = app.history.lock().unwrap_or_else(PoisonError::into_inner);
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
    let line = |it: &ConnectionStatus| json!({ "id": it.id, "state": it.state, "age": it.age.as_secs_f64(), "uses": it.uses });
    Json(list.iter().map(line).collect::<Vec<_>>())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(8)
        .idle_timeout(Duration::from_secs(2))
        .ttl(Duration::from_secs(20))
        .ttl_jitter(0.5);
    let agent = layer.handle();
    let client = ServiceBuilder::new()
        .layer(layer)
        .service(TcpConnector::new());
    for temper in [Temper::Quick, Temper::Slow, Temper::Moody] {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/", listener.local_addr()?);
        tokio::spawn(async move { serve(listener, upstream(temper)).await });
        for caller in 0..12 {
            tokio::spawn(call(client.clone(), url.clone(), caller));
        }
    }

    let listener = TcpListener::bind(args.listen).await?;
    println!("http://{}/", listener.local_addr()?);
    let end = async {
        match args.time {
            Some(time) => tokio::time::sleep(time).await,
            None => drop(tokio::signal::ctrl_c().await),
        }
    };
    let page = serve(listener, router(App::watching(agent.clone())));
    tokio::select! {
        served = async { page.await } => served?,
        () = end => {}
    }
    agent.destroy();
    println!("{}", agent.status());
    Ok(())
}

// What follows is the demonstration: servers, and callers who come and go.

#[derive(Clone, Copy)]
enum Temper {
    Quick,
    Slow,
    /// Closes a connection every few responses.
    Moody,
}

fn upstream(temper: Temper) -> Router {
    let answer = move || async move {
        let (time, close) = match temper {
            Temper::Quick => (5, false),
            Temper::Slow => (150, false),
            Temper::Moody => (20, fastrand::u8(..) < 40),
        };
        tokio::time::sleep(Duration::from_millis(fastrand::u64(time..3 * time))).await;
        let connection = if close { "close" } else { "keep-alive" };
        (StatusCode::OK, [("connection", connection)], "hello\n")
    };
    Router::new().fallback(answer)
}

/// One of many callers: more of them are awake at one time than at another.
async fn call(client: KeepAlive<TcpConnector, Body>, url: String, caller: u32) {
    let start = tokio::time::Instant::now();
    loop {
        let wave = (start.elapsed().as_secs_f64() / 5.0).sin() * 6.0 + 6.0;
        if f64::from(caller) <= wave {
            let request = Request::get(&url).body(Body::empty());
            let request = request.expect("an address makes a request");
            match client.request(request).await {
                Ok(response) => drop(response.into_body().collect().await),
                Err(error) if error.is_shut_down() => return,
                Err(_) => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(fastrand::u64(20..120))).await;
    }
}
