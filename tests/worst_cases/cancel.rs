//! A caller leaves at any moment: trust test 5.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use tokio::time::Instant;
use tower_keep_alive::{KeepAlive, extensions::OneShot};

use crate::environment::{Layers, closes_all, in_paused_time};
use crate::support::agent::{Req, agent_paused, at_rest, fetch, get, post, read, send};
use crate::support::{Conn, CountingConnector, InMemory, Server, settle};

/// Polls a future until it is pending for the `k`-th time, and drops it there: `None`. With `k` 0 it is dropped before
/// it is polled at all.
struct PollN<F> {
    inner: Option<Pin<Box<F>>>,
    k: usize,
}

impl<F: Future> PollN<F> {
    fn new(inner: F, k: usize) -> Self {
        let inner = Some(Box::pin(inner));
        Self { inner, k }
    }
}

impl<F: Future> Future for PollN<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.k == 0 {
            self.inner = None;
            return Poll::Ready(None);
        }
        let inner = self.inner.as_mut().expect("not polled after it is ready");
        match inner.as_mut().poll(cx) {
            Poll::Ready(output) => return Poll::Ready(Some(output)),
            Poll::Pending => self.k -= 1,
        }
        if self.k == 0 {
            // At once: nobody may wake it again.
            self.inner = None;
            return Poll::Ready(None);
        }
        Poll::Pending
    }
}

const MAX: usize = 3;
const TURN: Duration = Duration::from_millis(1);

/// Answers with the request's target, piece by piece.
async fn slow_echo(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        tokio::time::sleep(TURN).await;
        let body = head.target;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        conn.send(head).await;
        let (first, second) = body.split_at(body.len() / 2);
        for piece in [first, second] {
            tokio::time::sleep(TURN).await;
            conn.send(piece).await;
        }
    }
}

/// Where the victim stands, and among whom.
struct Scene {
    name: &'static str,
    layer: fn() -> Layers,
    victim: fn(String) -> Req,
    /// Idle connections to begin with.
    idle: usize,
    /// Callers that came before it, and those that come after it.
    before: usize,
    after: usize,
}

fn limited() -> Layers {
    Layers::new().max_connections_per_host(MAX)
}

fn limited_in_all() -> Layers {
    Layers::new().max_connections(MAX)
}

fn draining() -> Layers {
    limited().drain_unread(1 << 16, Duration::from_millis(50))
}

fn upload(url: String) -> Req {
    post(url, vec![7; 1 << 20])
}

fn one_shot(url: String) -> Req {
    Request::get(url)
        .extension(OneShot)
        .body(Default::default())
        .unwrap()
}

const SCENES: [Scene; 14] = {
    const ALONE: Scene = Scene {
        name: "connecting alone",
        layer: limited,
        victim: |url| get(url),
        idle: 0,
        before: 0,
        after: 0,
    };
    [
        ALONE,
        Scene {
            name: "connecting, others behind",
            after: 10,
            ..ALONE
        },
        Scene {
            name: "on an idle connection",
            idle: 1,
            ..ALONE
        },
        Scene {
            name: "on an idle connection, others behind",
            idle: 1,
            after: 10,
            ..ALONE
        },
        Scene {
            name: "last in line",
            before: 5,
            ..ALONE
        },
        Scene {
            name: "in the middle of the line",
            before: 5,
            after: 5,
            ..ALONE
        },
        Scene {
            name: "first in line for connections that were idle",
            idle: MAX,
            before: MAX,
            after: 5,
            ..ALONE
        },
        Scene {
            name: "under a total limit, alone",
            layer: limited_in_all,
            ..ALONE
        },
        Scene {
            name: "under a total limit, in line",
            layer: limited_in_all,
            before: 5,
            after: 5,
            ..ALONE
        },
        Scene {
            name: "with what is unread drained, alone",
            layer: draining,
            ..ALONE
        },
        Scene {
            name: "with what is unread drained, in line",
            layer: draining,
            before: 5,
            after: 5,
            ..ALONE
        },
        Scene {
            name: "uploading",
            victim: upload,
            after: 5,
            ..ALONE
        },
        Scene {
            name: "uploading on an idle connection",
            victim: upload,
            idle: 1,
            ..ALONE
        },
        Scene {
            name: "on a connection of its own",
            victim: one_shot,
            idle: 1,
            after: 5,
            ..ALONE
        },
    ]
};

type PausedClient = KeepAlive<CountingConnector<InMemory>, http_body_util::Full<bytes::Bytes>>;

async fn answered(client: &PausedClient, url: String) {
    let target = url.rsplit_once('/').unwrap().1;
    let answer = fetch(client, &url).await.unwrap();
    assert_eq!(answer.body, format!("/{target}"));
}

/// Whether the victim of this scene was done before it was pending for the `k`-th time.
async fn cancelled_at(scene: &Scene, k: usize) -> bool {
    let server = Server::in_memory(slow_echo);
    let connector = CountingConnector::new(server.connector()).delay(TURN);
    let (client, handle) = agent_paused((scene.layer)(), connector.clone());
    let url = |name: &str, number: usize| server.url(&format!("/{name}{number}"));
    join_all((0..scene.idle).map(|at| answered(&client, url("idle", at)))).await;
    let own = usize::from(scene.name == "on a connection of its own");

    let spawn = |name: &'static str, count| {
        let calls = (0..count).map(|at| {
            let (client, url) = (client.clone(), url(name, at));
            tokio::spawn(async move { answered(&client, url).await })
        });
        calls.collect::<Vec<_>>()
    };
    let mut others = spawn("before", scene.before);
    // In line before the victim.
    settle().await;
    let victim = {
        let (client, request) = (client.clone(), (scene.victim)(url("victim", 0)));
        let call = async move { read(client.request(request).await?).await };
        tokio::spawn(PollN::new(call, k))
    };
    others.extend(spawn("after", scene.after));
    let outcome = victim.await.unwrap();
    let is_done = outcome.is_some();
    if let Some(answer) = outcome {
        assert_eq!(answer.unwrap().body, "/victim0");
    }
    for other in others {
        other.await.unwrap();
    }

    at_rest(&handle).await;
    assert!(
        connector.max_alive() <= MAX + own,
        "{}",
        connector.max_alive()
    );
    assert!(connector.alive() <= MAX, "{}", connector.alive());
    // Nothing is lost: as many as may be are served at once, without anybody in line.
    let started = Instant::now();
    join_all((0..MAX).map(|at| answered(&client, url("last", at)))).await;
    assert!(started.elapsed() <= 5 * TURN, "{:?}", started.elapsed());
    assert!(connector.alive() <= MAX, "{}", connector.alive());
    at_rest(&handle).await;
    assert_eq!(handle.status().created, connector.made() as u64);
    closes_all(client, &handle).await;
    assert_eq!((connector.alive(), server.open()), (0, 0));
    is_done
}

#[test]
fn trust_05_cancel_at_every_await() {
    let mut cancelled = 0;
    for scene in &SCENES {
        let mut k = 0;
        while !in_paused_time(|| async { cancelled_at(scene, k).await }) {
            k += 1;
            assert!(k < 100, "{}: it is never done", scene.name);
        }
        assert!(k >= 3, "{}: it waits for the head and the body", scene.name);
        cancelled += k;
        println!("trust 5: {k} awaits {}, nothing lost at any", scene.name);
    }
    println!("trust 5: 0 slots lost by {cancelled} cancels");
}

/// The same over sockets, where nobody knows how often a future is pending.
#[test]
fn trust_05_cancel_at_every_await_over_sockets() {
    crate::environment::on_threads(|| async {
        let server = Server::start(slow_echo).await;
        let connector = CountingConnector::new(crate::support::Sockets);
        let (client, handle) = crate::support::agent::agent_over(limited(), connector.clone());
        let mut cancelled = 0;
        for k in 0..8 {
            let calls = (0..20).map(|at| {
                let (client, url) = (client.clone(), server.url(&format!("/{k}-{at}")));
                let call = async move { send(&client, get(url)).await };
                tokio::spawn(PollN::new(call, if at % 2 == 0 { k } else { usize::MAX }))
            });
            for (at, call) in join_all(calls).await.into_iter().enumerate() {
                match call.unwrap() {
                    Some(answer) => assert_eq!(answer.unwrap().body, format!("/{k}-{at}")),
                    None => cancelled += 1,
                }
            }
            at_rest(&handle).await;
        }
        assert!(cancelled > 40, "{cancelled}");
        assert!(connector.max_alive() <= MAX, "{}", connector.max_alive());
        let calls = (0..MAX).map(|at| fetch(&client, server.url(&format!("/{at}"))));
        for (at, answer) in join_all(calls).await.into_iter().enumerate() {
            assert_eq!(answer.unwrap().body, format!("/{at}"));
        }
        println!("trust 5: 0 slots lost by {cancelled} cancels over sockets");
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}
