//! GETs and POSTs in turns over HTTP/2, agreed on by ALPN, against servers that say GOAWAY by count, or close what is idle.
//!
//! Promised, without a policy for second tries: no request fails, and none is carried out twice.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tower::Layer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{KeepAliveLayer, Protocol};

use crate::mixed::{Log, requests, rounds};
use crate::running::Running;
use crate::servers::{self, Speaks};
use crate::support::agent::{agent_over, at_rest, get, post, send};
use crate::support::tls::CA;
use crate::support::{eventually, only_over_tcp};

/// Why it does not run over anything else.
const WHY: &str = "these servers listen on TCP";

const CALLERS: usize = 64;
const CONNECTIONS: usize = 4;

/// Sends all of it, keeps to what is promised, and prints a row of the table. The server's log is in `folder`.
async fn run(name: &str, server: &Running, folder: &Path) {
    let (requests, begun) = (requests(), Instant::now());
    let rounds = rounds(requests);
    let layer = KeepAliveLayer::new()
        .protocol(Protocol::Http2)
        .max_connections_per_host(CONNECTIONS);
    let tls = CA.trusted().protocol(Protocol::Http2);
    let (client, handle) = agent_over(layer, tls.layer(TcpConnector::new()));
    let url = server.https();
    for round in 0..rounds {
        let numbers = requests * round / rounds..requests * (round + 1) / rounds;
        let callers = (0..CALLERS).map(|caller| {
            let mine = numbers.clone().skip(caller).step_by(CALLERS);
            let (client, url) = (&client, &url);
            async move {
                for id in mine {
                    let url = format!("{url}?id={id}");
                    // By its place in the list and by its round, so that each caller has both.
                    let request = match (id / CALLERS + id) % 2 {
                        1 => post(url, vec![b'x'; id % 3_000]),
                        _ => get(url),
                    };
                    let method = request.method().clone();
                    let answer = send(client, request).await;
                    let answer =
                        answer.unwrap_or_else(|it| panic!("{name}: {method} {id}: {it:?}"));
                    assert_eq!(answer.status, StatusCode::OK, "{name}: {answer:?}");
                    assert_eq!(answer.body.trim(), id.to_string(), "{name}");
                    assert_eq!(answer.info.version(), http::Version::HTTP_2);
                }
            }
        });
        join_all(callers).await;
        if round + 1 < rounds {
            sleep(Duration::from_micros(fastrand::u64(985_000..1_010_000))).await;
        }
    }
    let took = begun.elapsed();
    at_rest(&handle).await;
    // Servers write when they have answered.
    eventually("the server's log is complete", || {
        Log::lines(folder) >= requests
    })
    .await;
    let log = Log::read(folder);
    assert_eq!(log.gets.len() + log.posts.len(), requests, "{name}");
    let twice = log.posts.iter().filter(|(_, times)| **times > 1).count();
    assert_eq!(twice, 0, "{name}: POSTs carried out twice");
    let again = log.gets.values().sum::<usize>() - log.gets.len();
    let status = handle.status();
    assert_eq!(status.create_errors, 0, "{name}: {status:?}");
    println!(
        "| {name}, HTTP/2 | {requests} | 0 | {again} | 0 | 0 | {} | {} | {} | {:.1} s |",
        status.created,
        log.most,
        status.stale,
        took.as_secs_f64(),
    );
}

#[tokio::test]
async fn nginx_that_says_goaway_by_count_and_time() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::nginx(Speaks::Http2) else {
        return;
    };
    run("nginx", &server, &server.folder).await;
}

#[tokio::test]
async fn haproxy_before_nginx() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some((front, back)) = servers::haproxy_before_nginx(Speaks::Http2) else {
        return;
    };
    run("HAProxy before an nginx", &front, &back.folder).await;
}

#[tokio::test]
async fn caddy_before_nginx() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some((front, back)) = servers::caddy_before_nginx() else {
        return;
    };
    run("Caddy before an nginx", &front, &back.folder).await;
}

#[tokio::test]
async fn apache_that_says_goaway_by_time() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::apache(Speaks::Http2) else {
        return;
    };
    run("Apache httpd", &server, &server.folder).await;
}

#[tokio::test]
async fn node_that_says_goaway_by_count() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::node(Speaks::Http2) else {
        return;
    };
    run("node", &server, &server.folder).await;
}

#[tokio::test]
async fn go_that_says_goaway_by_count_and_time() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::go(Speaks::Http2) else {
        return;
    };
    run("Go's net/http", &server, &server.folder).await;
}
