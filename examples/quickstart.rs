//! Requests through a keep-alive agent, one after the other and then six at once over two connections.
//!
//! `cargo run --example quickstart`

use std::error::Error;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use futures_util::future::try_join_all;
use tower_keep_alive::KeepAlive;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = start_server().await?;

    let agent: KeepAlive = KeepAlive::builder().max_connections_per_host(2).build();

    println!("One after the other:");
    for name in ["a", "b", "c"] {
        fetch(&agent, &url, name).await?;
    }

    println!("Six at once:");
    let burst = ["d", "e", "f", "g", "h", "i"].map(|name| fetch(&agent, &url, name));
    let look = async { println!("  meanwhile: {}", agent.handle().status()) };
    let (answers, ()) = tokio::join!(biased; try_join_all(burst), look);
    answers?;

    println!("At the end: {}", agent.handle().status());
    Ok(())
}

/// Sends one request, reads its response to the end, and says which connection it came on.
async fn fetch(agent: &KeepAlive, url: &str, name: &str) -> Result<(), Box<dyn Error>> {
    let response = agent.get(format!("{url}/{name}")).await?;
    let connection = response.body().connection().clone();
    let text = response.into_body().text(1024).await?;
    println!(
        "  {text} on connection {}, {}",
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
