//! The agent's metrics, as Prometheus reads them.
//!
//! `cargo run -p tower-keep-alive-integrations --example prometheus`. It serves `/metrics` beside a service that the agent
//! calls, and then asks for them itself, as Prometheus would.

use std::error::Error;
use std::time::Duration;

use axum::routing::get;
use axum::{Router, serve};
use bytes::Bytes;
use futures_util::future::try_join_all;
use http::Request;
use http_body_util::{BodyExt, Empty};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder};
use tokio::net::TcpListener;
use tower::ServiceBuilder;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAlive, KeepAliveLayer};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Before the first agent: what it counts goes to the recorder that there is at that time. In seconds; without
    // buckets, histograms would be summaries.
    let recorder = PrometheusBuilder::new()
        .set_buckets_for_metric(
            Matcher::Prefix("http_client".into()),
            &[0.001, 0.01, 0.1, 1.0, 10.0],
        )?
        .build_recorder();
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder)?;

    // Between two scrapes histograms keep every value; upkeep sorts them into their buckets.
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(Duration::from_secs(5));
        loop {
            ticks.tick().await;
            upkeep.run_upkeep();
        }
    });

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = Router::new()
        .route("/", get("hello"))
        .route("/metrics", get(async move || metrics.render()));
    tokio::spawn(async move { serve(listener, router).await });

    let client = ServiceBuilder::new()
        .layer(KeepAliveLayer::new().max_connections_per_host(2))
        .service(TcpConnector::new());
    try_join_all((0..10).map(|_| fetch(&client, &url, "/"))).await?;

    let scrape = fetch(&client, &url, "/metrics").await?;
    print!("{scrape}");
    for line in [
        // The one that asks, and the one that has nothing to do.
        "http_client_open_connections{",
        "http_connection_state=\"active\"",
        "http_connection_state=\"idle\"",
        "http_client_request_time_in_queue_bucket{",
        "tower_keep_alive_connections_created{",
        "tower_keep_alive_connections_reused{",
    ] {
        assert!(scrape.contains(line), "{line} is missing");
    }
    Ok(())
}

async fn fetch(
    client: &KeepAlive<TcpConnector, Empty<Bytes>>,
    url: &str,
    path: &str,
) -> Result<String, Box<dyn Error>> {
    let request = Request::get(format!("{url}{path}")).body(Empty::new())?;
    let response = client.request(request).await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.into())?)
}
