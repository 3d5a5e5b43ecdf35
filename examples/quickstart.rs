//! Requests through a keep-alive agent, one after the other and then six at once over two connections.
//!
//! `cargo run --example quickstart`

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tower::ServiceBuilder;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAlive, KeepAliveLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = start_server().await?;

    let layer = KeepAliveLayer::new().max_connections_per_host(2);
    let agent = layer.handle();
    let client = ServiceBuilder::new()
        .layer(layer)
        .service(TcpConnector::new());

    println!("One after the other:");
    for name in ["a", "b", "c"] {
        fetch(&client, &url, name).await?;
    }

    println!("Six at once:");
    let burst = ["d", "e", "f", "g", "h", "i"].map(|name| fetch(&client, &url, name));
    let look = async { println!("  meanwhile: {}", agent.status()) };
    let (answers, ()) = tokio::join!(biased; try_join_all(burst), look);
    answers?;

    println!("At the end: {}", agent.status());
    Ok(())
}

/// Sends one request, reads its response to the end, and says which connection it came on.
async fn fetch(
    client: &KeepAlive<TcpConnector, Empty<Bytes>>,
    url: &str,
    name: &str,
) -> Result<(), Box<dyn Error>> {
    let request = Request::get(format!("{url}/{name}")).body(Empty::new())?;
    let response = client.request(request).await?;
    let connection = response.body().connection().clone();
    let text = response.into_body().collect().await?.to_bytes();
    println!(
        "  {} on connection {}, {}",
        String::from_utf8_lossy(&text),
        connection.id(),
        match connection.is_reused() {
            true => "reused",
            false => "new",
        },
    );
    Ok(())
}

/// A server on a free port, which takes ten milliseconds for an answer.
async fn start_server() -> Result<String, Box<dyn Error>> {
    let hello = |axum::extract::Path(name): axum::extract::Path<String>| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        format!("hello {name}")
    };
    let app = Router::new().route("/{name}", get(hello));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}
