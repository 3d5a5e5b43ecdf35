//! Requests through a proxy, where the environment says so: `HTTP_PROXY` and `NO_PROXY` are read by hyper-util's matcher,
//! and the proxy is a part of what connections are pooled by.
//!
//! `cargo run --example through_proxy`

use std::error::Error;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::routing::get;
use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper_util::client::proxy::matcher::Matcher;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::{Proxy, ProxyLayer, TcpConnector, TlsLayer};
use tower_keep_alive::{KeepAlive, KeepAliveLayer, extensions::Route};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let origin = serve(Router::new().route("/", get(|| async { "hello" }))).await?;
    let other = serve(Router::new().route("/", get(|| async { "hello" }))).await?;
    let proxy = serve(forwarding()).await?;

    // `Matcher::from_env()` reads the same out of HTTP_PROXY, HTTPS_PROXY and NO_PROXY.
    let matcher = Matcher::builder()
        .http(format!("http://me:secret@{proxy}"))
        .no("localhost")
        .build();
    let matcher = Arc::new(matcher);

    let layer = KeepAliveLayer::new();
    let agent = layer.handle();
    let client = ServiceBuilder::new()
        .map_request(move |mut request: http::Request<Empty<Bytes>>| {
            if let Some(intercept) = matcher.intercept(request.uri()) {
                let route = Route::new().with_proxy(Proxy::from(intercept));
                request.extensions_mut().insert(route);
            }
            request
        })
        .layer(layer)
        // For `https`: it goes through a tunnel, and ends at the origin.
        .layer(TlsLayer::new())
        .layer(ProxyLayer::new())
        .service(TcpConnector::new());

    let other = other.replace("127.0.0.1", "localhost");
    for address in [&origin, &origin, &other] {
        let request = http::Request::get(format!("http://{address}/")).body(Empty::new())?;
        let response = client.clone().oneshot(request).await?;
        let connection = response.body().connection().clone();
        let key = connection.key().expect("it is pooled").to_string();
        let text = response.into_body().collect().await?.to_bytes();
        println!("{text:?} by connection {} of {key}", connection.id());
    }
    println!("{}", agent.status());
    Ok(())
}

/// A proxy of HTTP: it is sent whole URIs, and sends on what it is sent.
fn forwarding() -> Router {
    let client: KeepAlive<TcpConnector, Body> = ServiceBuilder::new()
        .layer(KeepAliveLayer::new())
        .service(TcpConnector::new());
    let forward = |State(client): State<KeepAlive<TcpConnector, Body>>, mut request: Request| async move {
        request.headers_mut().remove("proxy-authorization");
        let response = client.request(request).await;
        response.map_err(|error| (StatusCode::BAD_GATEWAY, error.to_string()))
    };
    Router::new().fallback(forward).with_state(client)
}

/// A server on a free port.
async fn serve(app: Router) -> Result<String, Box<dyn Error>> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(address)
}
