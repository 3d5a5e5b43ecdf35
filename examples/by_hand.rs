//! The stack of `KeepAliveLayer`, layer by layer, with a layer of one's own among them.
//!
//! `cargo run --example by_hand`

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::get;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{
    connect::Destination,
    layers::{
        CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, IdleEvictionLayer,
        MaxUsesLayer, PoolConfig, TtlLayer,
    },
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = start_server().await?;

    let checkout = CheckoutLayer::new(PoolConfig::new().max_connections_per_host(2));
    let agent = checkout.handle();
    let client = ServiceBuilder::new()
        // Request -> Response: one connection for each request, held until the body has ended.
        .layer(ExchangeLayer::new())
        // Destination -> connection: given back when its use is over, and kept, made or waited for.
        .layer(CheckinLayer::new())
        .layer(checkout)
        // Only new connections pass here. Each of these three states a limit, and the pool keeps to it.
        .layer(IdleEvictionLayer::new(Duration::from_secs(4)))
        .layer(TtlLayer::new(Duration::from_secs(60)).jitter(0.1))
        .layer(MaxUsesLayer::new(3))
        // Ours: it leaves the connection as it is, and so may stand anywhere below Checkout.
        .layer(LogConnectsLayer)
        // Destination -> transport, with HTTP/1 on it.
        .layer(HandshakeLayer::new())
        .service(TcpConnector::new());

    for n in 1..=7 {
        let request = Request::get(&url).body(Empty::<Bytes>::new())?;
        let response = client.clone().oneshot(request).await?;
        let connection = response.body().connection().clone();
        response.into_body().collect().await?;
        println!(
            "request {n}: connection {}, use {}",
            connection.id(),
            connection.uses(),
        );
    }

    println!("{}", agent.status());
    Ok(())
}

/// Says when a connection was made, and how long that took.
#[derive(Clone)]
struct LogConnectsLayer;

#[derive(Clone)]
struct LogConnects<M> {
    inner: M,
}

impl<M> Layer<M> for LogConnectsLayer {
    type Service = LogConnects<M>;

    fn layer(&self, inner: M) -> LogConnects<M> {
        LogConnects { inner }
    }
}

impl<M> Service<Destination> for LogConnects<M>
where
    M: Service<Destination>,
    M::Future: Send + 'static,
{
    type Response = M::Response;
    type Error = M::Error;
    type Future = Pin<Box<dyn Future<Output = Result<M::Response, M::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, destination: Destination) -> Self::Future {
        let scheme = destination.scheme().clone();
        let authority = destination.authority().clone();
        let started = Instant::now();
        let connecting = self.inner.call(destination);
        Box::pin(async move {
            let connection = connecting.await?;
            let took = started.elapsed();
            println!("connected to {scheme}://{authority} in {took:.1?}");
            Ok(connection)
        })
    }
}

/// A server on a free port.
async fn start_server() -> Result<String, Box<dyn Error>> {
    let app = Router::new().route("/", get(|| async { "hello" }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    tokio::spawn(async { axum::serve(listener, app).await });
    Ok(url)
}
