//! One caller, one request after the other, on a runtime of several threads: one connection.

use std::future::Future;

use crate::support::agent::{Client, Req, agent, at_rest, read};
use crate::support::{Conn, Server};
use http::{Method, Request};
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive::KeepAliveLayer;

/// As many as issue a wrong order of two threads now and then, if there is one.
const TIMES: usize = 5_000;

/// Answers by the target, after it has read all of the request.
async fn answers(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        match head.target.as_str() {
            "/length" => conn.respond("by its length").await,
            "/chunked" => {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                conn.send(format!("{head}5\r\nhello\r\n0\r\n\r\n")).await;
            }
            "/late-end" => {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                conn.send(format!("{head}5\r\nhello\r\n")).await;
                tokio::task::yield_now().await;
                conn.send("0\r\n\r\n").await;
            }
            "/trailers" => {
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x\r\n\r\n";
                conn.send(format!("{head}5\r\nhello\r\n0\r\nx: y\r\n\r\n"))
                    .await;
            }
            "/204" => conn.send("HTTP/1.1 204 No Content\r\n\r\n").await,
            "/304" => conn.send("HTTP/1.1 304 Not Modified\r\n\r\n").await,
            "/empty" => conn.respond("").await,
            // HEAD.
            _ => {
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
                    .await;
            }
        }
    }
}

fn request(server: &Server, method: &Method, target: &str) -> Req {
    let body = match *method {
        Method::POST => "a small upload",
        _ => "",
    };
    let request = Request::builder().method(method).uri(server.url(target));
    request.body(Full::new(body.into())).unwrap()
}

const KINDS: [(Method, &str); 9] = [
    (Method::GET, "/length"),
    (Method::GET, "/chunked"),
    (Method::GET, "/late-end"),
    (Method::GET, "/trailers"),
    (Method::GET, "/204"),
    (Method::GET, "/304"),
    (Method::GET, "/empty"),
    (Method::HEAD, "/head"),
    (Method::POST, "/length"),
];

fn several_threads(workers: usize) -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .unwrap()
}

/// So many requests for each kind, by whatever runs a future to its end.
fn one_by_one(client: &Client, server: &Server, times: usize, run: impl Fn(Call)) {
    for (method, target) in &KINDS {
        for _ in 0..times / KINDS.len() {
            let client = client.clone();
            let request = request(server, method, target);
            run(Box::pin(async move {
                read(client.request(request).await.unwrap()).await.unwrap();
            }));
        }
    }
}

type Call = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

#[test]
fn requests_one_after_the_other_use_one_connection() {
    for workers in [2, 4] {
        // The server has a runtime of its own: it takes no turns from the client.
        let elsewhere = several_threads(1);
        let server = elsewhere.block_on(Server::start(answers));
        let runtime = several_threads(workers);
        let (client, handle) = runtime.block_on(async { agent(KeepAliveLayer::new()) });

        one_by_one(&client, &server, TIMES, |call| runtime.block_on(call));
        assert_eq!(server.accepted(), 1, "{workers} workers, by block_on");
        one_by_one(&client, &server, TIMES, |call| {
            runtime.block_on(runtime.spawn(call)).unwrap();
        });
        let all = runtime.spawn({
            let client = client.clone();
            let requests: Vec<_> = KINDS
                .iter()
                .cycle()
                .take(TIMES)
                .map(|(method, target)| request(&server, method, target))
                .collect();
            async move {
                for request in requests {
                    read(client.request(request).await.unwrap()).await.unwrap();
                }
            }
        });
        runtime.block_on(all).unwrap();
        assert_eq!(server.accepted(), 1, "{workers} workers, by spawn");
        let status = handle.status();
        assert_eq!((status.created, status.closed), (1, 0));
        runtime.block_on(at_rest(&handle));
        drop(client);
        drop(runtime);
        elsewhere.block_on(async { drop(server) });
    }
}
