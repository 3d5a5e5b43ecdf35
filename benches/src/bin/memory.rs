//! How much memory an idle connection takes, and whether it comes back.
//!
//! `cargo run --release -p tower-keep-alive-benches --bin memory [-- --connections N --hosts N]`
//!
//! All in this program, over streams in memory that answer by themselves; the allocator counts the bytes that are in use.
//!
//! 1. **Idle connections.** 10,000 connections have carried one request each, and are idle: by hyper alone, whose senders
//!    are kept in a `Vec`; by the agent, all to one host; and by the agent, each to a host of its own. What is above hyper's
//!    is the agent's. Counted when the bytes in use have stayed the same for longer than an eighth of the active timeout:
//!    so long a use's timer for silence runs on after it, for the next use to find, and then it is gone.
//! 2. **A crowd of hosts.** 100,000 hosts are asked once each. When their connections have been idle for their time, no
//!    host may be left in the status, and the memory must be back: 16 bytes for each host may stay (tables keep some room).
//!
//! Fails when memory does not come back, or an idle connection takes more than `--at-most` bytes above hyper's.

use std::alloc::System;
use std::future::{Ready, ready};
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::ExitCode;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use clap::Parser;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::handshake;
use hyper_util::rt::TokioIo;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower::{Layer, Service};
use tower_keep_alive::{AgentHandle, KeepAlive, KeepAliveLayer};
use tower_keep_alive_benches::report::{Report, thousands};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Memory of idle connections, and of hosts that have gone quiet
#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value_t = 10_000)]
    connections: usize,

    #[arg(long, default_value_t = 100_000)]
    hosts: usize,

    /// The most bytes above hyper's for an idle connection to one host: 768, and the room that the pool's list of
    /// connections keeps when it has just doubled
    #[arg(long, value_name = "BYTES", default_value_t = 800.0)]
    at_most: f64,

    /// Where to add the figures, a line of JSON each
    #[arg(long, value_name = "FILE", env = "BENCH_JSON")]
    json: Option<PathBuf>,
}

/// The default one; without it, it would be twice the time that connections are idle for here.
const ACTIVE_TIMEOUT: Duration = Duration::from_secs(8);

/// For each host that was asked once, when it is quiet.
const LEFT_BYTES: f64 = 16.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let report = Report::new("memory", arguments.json);
    let idle = idle_connections(arguments.connections, arguments.at_most, &report).await;
    let crowd = crowd_of_hosts(arguments.hosts, &report).await;
    match idle && crowd {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

async fn idle_connections(count: usize, at_most: f64, report: &Report) -> bool {
    // What tokio makes once is made.
    hyper_alone(1).await;
    agent(1, |_| ONE.to_owned()).await;

    let hyper = hyper_alone(count).await;
    let one = agent(count, |_| ONE.to_owned()).await;
    let many = agent(count, host).await;
    println!(
        "{} idle connections: bytes in use for each",
        thousands(count as f64)
    );
    println!();
    println!("{:<40} {:>8} {:>12}", "", "bytes", "above hyper");
    for (case, bytes) in [
        ("hyper alone", hyper),
        ("the agent, one host", one),
        ("the agent, a host each", many),
    ] {
        println!(
            "{case:<40} {:>8} {:>12}",
            thousands(bytes),
            thousands(bytes - hyper)
        );
        report.figure("idle connection", case, "bytes", bytes);
    }
    println!();
    let is_small = one - hyper <= at_most;
    if !is_small {
        println!("FAILED: more than {at_most} bytes above hyper's");
    }
    is_small
}

async fn crowd_of_hosts(count: usize, report: &Report) -> bool {
    let layer = KeepAliveLayer::new().idle_timeout(Duration::from_millis(200));
    let handle = layer.handle();
    let client: KeepAlive<Answering, Empty<Bytes>> = layer.layer(Answering);
    // What the agent makes once, and what tokio does.
    one_request(&client, ONE).await;
    none_open(&handle).await;

    let before = in_use();
    let mut peak = 0.0_f64;
    for number in 0..count {
        one_request(&client, &host(number)).await;
        peak = peak.max(in_use() - before);
    }
    none_open(&handle).await;
    let left = in_use() - before;
    let status = handle.status();
    let is_empty = status.idle.is_empty() && status.active.is_empty();
    println!(
        "{} hosts, once each, idle for 200 ms",
        thousands(count as f64)
    );
    println!();
    println!("connections made {:>31}", thousands(status.created as f64));
    println!("bytes in use at the most {:>23}", thousands(peak));
    println!("bytes in use when all is quiet {:>17}", thousands(left));
    println!();
    report.figure("crowd of hosts", "peak", "bytes", peak);
    report.figure("crowd of hosts", "left", "bytes", left);
    let is_back = left <= LEFT_BYTES * count as f64;
    if !is_back {
        println!("FAILED: memory is not back");
    }
    if !is_empty {
        println!("FAILED: hosts are left: {status:?}");
    }
    is_back && is_empty
}

const ONE: &str = "http://one.example/";

fn host(number: usize) -> String {
    format!("http://host-{number:06}.example/")
}

type Client = KeepAlive<Answering, Empty<Bytes>>;

async fn one_request(client: &Client, url: &str) {
    let response = client.request(request(url)).await.expect("it is answered");
    response.into_body().collect().await.expect("it has an end");
}

async fn none_open(handle: &AgentHandle) {
    while handle.status().open() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The tasks of the last ones end.
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Bytes for each of `count` idle connections.
async fn hyper_alone(count: usize) -> f64 {
    let before = in_use();
    let mut idle = Vec::with_capacity(count);
    let mut bodies = Vec::with_capacity(count);
    for _ in 0..count {
        let stream = TokioIo::new(AnsweringStream::default());
        let (mut sender, connection) = handshake(stream).await.expect("hyper is ready at once");
        tokio::spawn(connection);
        let response = sender
            .send_request(request(ONE))
            .await
            .expect("it is answered");
        bodies.push(response.into_body());
        idle.push(sender);
    }
    for body in bodies {
        body.collect().await.expect("it has an end");
    }
    for sender in &mut idle {
        sender.ready().await.expect("it is open");
    }
    let bytes = in_use_at_rest().await - before;
    drop(idle);
    settle().await;
    bytes / count as f64
}

/// Bytes for each of `count` idle connections.
async fn agent(count: usize, url: impl Fn(usize) -> String) -> f64 {
    let before = in_use();
    let layer = KeepAliveLayer::new().max_idle_per_host(usize::MAX);
    let layer = layer.idle_timeout(Duration::from_secs(600));
    let layer = layer.active_timeout(ACTIVE_TIMEOUT);
    let handle = layer.handle();
    let client: KeepAlive<Answering, Empty<Bytes>> = layer.layer(Answering);
    // None is given back before all are made.
    let mut bodies = Vec::with_capacity(count);
    for number in 0..count {
        let asked = client.request(request(&url(number)));
        bodies.push(asked.await.expect("it is answered").into_body());
    }
    for body in bodies {
        body.collect().await.expect("it has an end");
    }
    let bytes = in_use_at_rest().await - before;
    assert_eq!(handle.status().idle.values().sum::<usize>(), count);
    drop(client);
    none_open(&handle).await;
    bytes / count as f64
}

/// Tasks that can end, end.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Bytes in use, once they stay the same.
async fn in_use_at_rest() -> f64 {
    loop {
        let before = in_use();
        tokio::time::sleep(ACTIVE_TIMEOUT / 7).await;
        if in_use() == before {
            return before;
        }
    }
}

fn in_use() -> f64 {
    let stats = ALLOCATOR.stats();
    // Of a block that has changed its size, the difference is counted by the allocator as of one of its own.
    stats.bytes_allocated as f64 - stats.bytes_deallocated as f64
}

fn request(url: &str) -> Request<Empty<Bytes>> {
    Request::get(url).body(Empty::new()).expect("a valid URL")
}

/// Connects to nobody.
#[derive(Clone, Debug)]
struct Answering;

impl<T> Service<T> for Answering {
    type Response = AnsweringStream;
    type Error = io::Error;
    type Future = Ready<io::Result<AnsweringStream>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: T) -> Self::Future {
        ready(Ok(AnsweringStream::default()))
    }
}

/// Has an answer for each write that ends a head.
#[derive(Debug, Default)]
struct AnsweringStream {
    answers: usize,
    reader: Option<Waker>,
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\nhello world!";

impl AsyncRead for AnsweringStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.answers == 0 {
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        self.answers -= 1;
        buf.put_slice(ANSWER);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for AnsweringStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if bytes.ends_with(b"\r\n\r\n") {
            self.answers += 1;
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
