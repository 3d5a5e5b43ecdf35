//! GETs and POSTs in turns against servers that close: by count, by time, or after each response.
//!
//! Between rounds every caller waits for about the second after which these servers close what is idle, so that requests
//! are sent just as that happens. Each server writes a line for each request that it has carried out: its method, its
//! number, and which one it was on its connection.
//!
//! Promised: no GET fails; no POST is carried out twice; a POST fails only where a reused connection was closed on it,
//! which its caller is told; and there are no more connections than the server's limits and the pauses call for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use tokio::time::{Instant, sleep};
use tower::ServiceBuilder;
use tower::retry::RetryLayer;
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{KeepAliveLayer, status::Status};

use crate::running::Running;
use crate::servers::{self, Speaks};
use crate::support::agent::{Req, agent_over, at_rest, get, post, send};
use crate::support::{eventually, only_over_tcp};

/// Why it does not run over anything else.
const WHY: &str = "these servers listen on TCP";

const CALLERS: usize = 16;
const CONNECTIONS: u64 = 8;

/// How many requests each server gets.
pub(crate) fn requests() -> usize {
    let asked = std::env::var("REAL_SERVERS_REQUESTS").ok();
    asked.map_or(600, |it| it.parse().expect("a number of requests"))
}

/// A round for each thousand, and three at the least.
pub(crate) fn rounds(requests: usize) -> usize {
    (requests / 1_000).max(3)
}

/// What a server has carried out.
#[derive(Default)]
pub(crate) struct Log {
    /// How often, by number.
    pub(crate) gets: BTreeMap<usize, usize>,
    pub(crate) posts: BTreeMap<usize, usize>,
    /// Connections that had a request, and the most that one had.
    sockets: usize,
    pub(crate) most: usize,
}

impl Log {
    pub(crate) fn read(folder: &Path) -> Self {
        let text = std::fs::read_to_string(folder.join("requests.log")).expect("it keeps a log");
        let mut log = Self::default();
        for line in text.lines() {
            let mut words = line.split(' ');
            let mut word = || words.next().expect("three words a line");
            let method = word();
            let id = word().trim_start_matches("?id=");
            let id = id.parse().expect("its number");
            let use_of_connection: usize = word().parse().expect("a count");
            let list = match method {
                "GET" => &mut log.gets,
                "POST" => &mut log.posts,
                other => panic!("nobody sent a {other}"),
            };
            *list.entry(id).or_default() += 1;
            log.sockets += usize::from(use_of_connection == 1);
            log.most = log.most.max(use_of_connection);
        }
        log
    }

    pub(crate) fn lines(folder: &Path) -> usize {
        let text = std::fs::read_to_string(folder.join("requests.log"));
        text.map_or(0, |text| text.lines().count())
    }
}

/// What a run came to.
struct Run {
    status: Status,
    log: Log,
    rounds: u64,
}

impl Run {
    fn executed(&self) -> u64 {
        let all = self.log.gets.values().chain(self.log.posts.values());
        all.sum::<usize>() as u64
    }

    /// The most connections that the server's limit, the pauses, and what was sent again can call for.
    fn most_sockets(&self, max_uses: Option<u64>) -> u64 {
        let by_count = max_uses.map_or(0, |uses| self.status.completed / uses);
        by_count + CONNECTIONS * (self.rounds + 1)
    }

    /// The promise about sockets, of a server that ends each after so many requests, and when it is idle for a second.
    fn has_expected_sockets(&self, max_uses: Option<u64>) {
        let (status, most) = (&self.status, self.most_sockets(max_uses));
        assert!(status.created <= most, "at most {most} sockets; {status:?}");
        if let Some(uses) = max_uses {
            assert!(self.log.most as u64 <= uses, "{} on one", self.log.most);
            assert!(status.created >= self.executed() / uses, "{status:?}");
        }
        assert!(self.log.sockets as u64 <= status.created, "{status:?}");
    }
}

/// Sends all of it to `server`, keeps to what is promised of every server, and prints a row of the table.
async fn run(name: &str, server: &Running, folder: &Path) -> Run {
    let (requests, begun) = (requests(), Instant::now());
    let rounds = rounds(requests);
    // The hint of a server is no promise that it keeps its side open for so long: without a margin, requests meet closes.
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(CONNECTIONS as usize)
        .server_hint_margin(Duration::ZERO);
    let (client, handle) = agent_over(layer, TcpConnector::new());
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = {
        let tries = tries.clone();
        move |request: Req| {
            tries.fetch_add(1, Ordering::Relaxed);
            request
        }
    };
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(ReusedReset::new()))
        .map_request(counted)
        .service(client);
    let url = format!("http://{}/", server.addr);

    let mut lost = Vec::new();
    for round in 0..rounds {
        let end = requests * (round + 1) / rounds;
        let numbers: Vec<_> = (requests * round / rounds..end).collect();
        let callers = (0..CALLERS).map(|caller| {
            let mine = numbers.iter().copied().skip(caller).step_by(CALLERS);
            let (client, url) = (&client, &url);
            async move {
                let mut lost = Vec::new();
                for id in mine {
                    let url = format!("{url}?id={id}");
                    // By its place in the list and by its round, so that each caller has both.
                    let is_post = (id / CALLERS + id) % 2 == 1;
                    let request = if is_post {
                        post(url, vec![b'x'; id % 3_000])
                    } else {
                        get(url)
                    };
                    match send(client, request).await {
                        Ok(answer) => {
                            assert_eq!(answer.status, StatusCode::OK, "{name}: {answer:?}");
                            assert_eq!(answer.body.trim(), id.to_string(), "{name}");
                        }
                        Err(error) => {
                            assert!(is_post, "{name}: GET {id}: {error:?}");
                            assert!(error.is_reset() && error.is_reused(), "{name}: {error:?}");
                            lost.push(id);
                        }
                    }
                }
                lost
            }
        });
        let each = join_all(callers).await;
        lost.extend(each.into_iter().flatten());
        if round + 1 < rounds {
            sleep(Duration::from_micros(fastrand::u64(985_000..1_010_000))).await;
        }
    }
    let took = begun.elapsed();
    at_rest(&handle).await;
    // Servers write when they have answered.
    eventually("the server's log is complete", || {
        Log::lines(folder) >= requests - lost.len()
    })
    .await;

    let log = Log::read(folder);
    let twice: BTreeSet<_> = log.posts.iter().filter(|(_, times)| **times > 1).collect();
    assert!(
        twice.is_empty(),
        "{name}: POSTs carried out twice: {twice:?}"
    );
    let carried_out = log.gets.len() + log.posts.len();
    assert!(
        carried_out >= requests - lost.len(),
        "{name}: {carried_out}"
    );
    let status = handle.status();
    assert_eq!(status.create_errors, 0, "{name}: {status:?}");
    let again = tries.load(Ordering::Relaxed) - requests;
    println!(
        "| {name} | {requests} | 0 | {again} | {} | 0 | {} | {} | {} | {:.1} s |",
        lost.len(),
        status.created,
        log.most,
        status.stale,
        took.as_secs_f64(),
    );
    Run {
        status,
        log,
        rounds: rounds as u64,
    }
}

#[tokio::test]
async fn nginx_that_closes_by_count_and_time() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::nginx(Speaks::Http1) else {
        return;
    };
    let run = run("nginx", &server, &server.folder).await;
    run.has_expected_sockets(Some(7));
}

#[tokio::test]
async fn haproxy_before_nginx() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some((front, back)) = servers::haproxy_before_nginx(Speaks::Http1) else {
        return;
    };
    let run = run("HAProxy before that nginx", &front, &back.folder).await;
    run.has_expected_sockets(None);
}

#[tokio::test]
async fn apache_that_closes_by_count_and_time() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::apache(Speaks::Http1) else {
        return;
    };
    let run = run("Apache httpd", &server, &server.folder).await;
    run.has_expected_sockets(Some(100));
}

#[tokio::test]
async fn node_that_closes_by_count_and_time() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::node(Speaks::Http1) else {
        return;
    };
    let run = run("node", &server, &server.folder).await;
    run.has_expected_sockets(Some(5));
}

#[tokio::test]
async fn go_that_closes_by_time() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::go(Speaks::Http1) else {
        return;
    };
    let run = run("Go's net/http", &server, &server.folder).await;
    run.has_expected_sockets(None);
}

#[tokio::test]
async fn python_that_speaks_http_1_0() {
    if only_over_tcp(WHY) {
        return;
    }
    let Some(server) = servers::python() else {
        return;
    };
    let run = run("Python's http.server", &server, &server.folder).await;
    run.has_expected_sockets(Some(1));
    // `reused` says something else: it counts unused connections that passed to another caller than they were made for.
    assert_eq!(run.log.most, 1, "{:?}", run.status);
}
