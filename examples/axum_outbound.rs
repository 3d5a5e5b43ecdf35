//! An axum service that calls another service. The client is part of its `State`.
//!
//! `cargo run --example axum_outbound`
//!
//! The example starts both services on free ports, sends a few requests to the first, shows its status, and ends. Bodies
//! are streamed in both directions; nothing is copied or collected in between.

use std::error::Error;

use axum::body::Body;
use axum::error_handling::HandleErrorLayer;
use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, Response, StatusCode};
use axum::response::{IntoResponse, Json};
use axum::routing::{get, post};
use axum::{Router, serve};
use futures_util::future::try_join_all;
use http_body_util::BodyExt;
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_keep_alive::connect::DefaultConnector;
use tower_keep_alive::forward::{ConfigError, ForwardLayer};
use tower_keep_alive::{AgentHandle, KeepAlive, KeepAliveLayer, status::Status};

/// A client for axum's bodies. It is cheap to clone, and its clones share their connections.
type Client = KeepAlive<DefaultConnector, Body>;

/// What handlers need; axum clones it for each request.
#[derive(Clone)]
struct App {
    client: Client,
    agent: AgentHandle,
    upstream: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let upstream = start(upstream()).await?;
    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let app = App {
        agent: layer.handle(),
        client: ServiceBuilder::new()
            .layer(layer)
            .service(DefaultConnector::new()),
        upstream,
    };
    let agent = app.agent.clone();
    let url = start(service(app)?).await?;

    // Asks this service, and sends text or nothing.
    let caller = KeepAlive::new();
    let shout = async |word: &'static str| -> Result<String, Box<dyn Error>> {
        text(caller.post(format!("{url}/shout"), word).await?).await
    };
    println!("One: {}", shout("hello").await?);
    let six = ["a", "b", "c", "d", "e", "f"].map(shout);
    println!("Six at once: {}", try_join_all(six).await?.join(" "));

    let hello = caller.get(format!("{url}/hello/axum")).await?;
    println!("In a handler: {}", text(hello).await?);

    let status = caller.get(format!("{url}/status")).await?;
    println!("Status: {}", text(status).await?);

    agent.drain().await;
    println!("Drained: {}", agent.status());
    Ok(())
}

/// The service that calls the other one.
fn service(app: App) -> Result<Router, ConfigError> {
    // Any other route goes to the other service as it is, over the same connections.
    let other = ServiceBuilder::new()
        .layer(HandleErrorLayer::new(async |error| Failure::from(error)))
        .layer(ForwardLayer::to(&app.upstream)?)
        .service(app.client.clone());
    Ok(Router::new()
        .route("/hello/{name}", get(hello))
        .route("/status", get(status))
        .fallback_service(other)
        .with_state(app))
}

/// Asks the other service, and answers with what it said.
async fn hello(State(app): State<App>, Path(name): Path<String>) -> Result<String, Failure> {
    let request = Request::post(format!("{}/shout", app.upstream)).body(Body::from(name))?;
    let response = app.client.request(request).await?;
    // To its end: that returns the connection to the pool.
    let shouted = response.into_body().text(1024).await?;
    Ok(format!("Hello, {shouted}"))
}

/// agentkeepalive's `getCurrentStatus()`, as JSON.
async fn status(State(app): State<App>) -> Json<Status> {
    Json(app.agent.status())
}

/// Whatever went wrong with the other service.
struct Failure(Box<dyn Error + Send + Sync>);

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        let status = match tower_keep_alive::Error::find(&*self.0) {
            Some(error) if error.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            Some(error) if error.is_queue_full() => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_GATEWAY,
        };
        (status, format!("{}\n", self.0)).into_response()
    }
}

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

/// The other service: it answers in capitals, piece by piece as the request comes.
fn upstream() -> Router {
    let shout = |request: Request<Body>| async {
        let body = request
            .into_body()
            .map_frame(|frame| frame.map_data(|data| data.to_ascii_uppercase().into()));
        ([(CONTENT_TYPE, "text/plain")], Body::new(body))
    };
    Router::new().route("/shout", post(shout))
}

/// Serves on a free port.
async fn start(app: Router) -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { serve(listener, app).await });
    Ok(url)
}

async fn text(response: Response<tower_keep_alive::Body>) -> Result<String, Box<dyn Error>> {
    let status = response.status();
    let text = response.into_body().text(64 * 1024).await?;
    match status.is_success() {
        true => Ok(text),
        false => Err(format!("{status}: {text}").into()),
    }
}
