//! What a warm request allocates. One test, because the allocator counts for the whole process.

use std::alloc::System;
use std::fmt::Debug;
use std::pin::pin;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, Uri};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tower::{Layer, Service};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAlive, KeepAliveLayer};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const WARM_UP: usize = 100;
const REQUESTS: usize = 1000;

const RESPONSE: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 2\r\n\r\nok";

/// The tests have the features `metrics` and `tracing`, and this one has neither a recorder nor a subscriber. The number is
/// that of `docs/benchmarks.md`, whose program has neither feature.
#[test]
fn a_warm_request_allocates_four_times_more_than_hypers_with_metrics_and_spans_that_nobody_reads() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.unwrap().block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        let uri: Uri = uri.parse().unwrap();
        tokio::spawn(serve(listener));
        let hyper = of_hyper(&uri).await;
        let agent = of_the_agent(&uri).await;
        // A timer of the pool is made now and then.
        let more = (agent - hyper + REQUESTS / 2) / REQUESTS;
        assert_eq!(more, 4, "{agent} and {hyper} for {REQUESTS} requests");
    });
}

/// Allocates nothing while it serves a connection.
async fn serve(listener: TcpListener) {
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let mut request = [0; 1 << 12];
            while socket
                .read(&mut request)
                .await
                .is_ok_and(|length| length > 0)
            {
                socket.write_all(RESPONSE).await.unwrap();
            }
        });
    }
}

async fn of_hyper(uri: &Uri) -> usize {
    let authority = uri.authority().unwrap().as_str();
    let io = TokioIo::new(TcpStream::connect(authority).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    let host = HeaderValue::from_str(authority).unwrap();
    counted(async || {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = uri.path_and_query().cloned().unwrap().into();
        request.headers_mut().insert(HOST, host.clone());
        sender.ready().await.unwrap();
        let response = sender.send_request(request).await.unwrap();
        read(response.into_body()).await;
    })
    .await
}

async fn of_the_agent(uri: &Uri) -> usize {
    let mut client: KeepAlive<_, Empty<Bytes>> = KeepAliveLayer::new().layer(TcpConnector::new());
    let handle = client.handle();
    let count = counted(async || {
        let mut request = Request::new(Empty::<Bytes>::new());
        *request.uri_mut() = uri.clone();
        read(client.call(request).await.unwrap().into_body()).await;
    })
    .await;
    let status = handle.status();
    let completed = u64::try_from(WARM_UP + REQUESTS).unwrap();
    assert_eq!((status.created, status.completed), (1, completed));
    count
}

async fn read<B>(body: B)
where
    B: http_body::Body<Data = Bytes>,
    B::Error: Debug,
{
    let mut body = pin!(body);
    while let Some(frame) = body.frame().await {
        assert_eq!(frame.unwrap().into_data().unwrap(), "ok");
    }
}

/// How many allocations `REQUESTS` requests need, after some to warm up.
async fn counted(mut exchange: impl AsyncFnMut()) -> usize {
    for _ in 0..WARM_UP {
        exchange().await;
    }
    let region = Region::new(ALLOCATOR);
    for _ in 0..REQUESTS {
        exchange().await;
    }
    region.change().allocations
}
