//! A server closes a connection just when a request is sent on it: trust test 3.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tower::ServiceBuilder;
use tower::retry::RetryLayer;
use tower_keep_alive::Error;
use tower_keep_alive::retry::ReusedReset;

use crate::environment::{self, Dice, Layers, alone, closes_all, leaves_nothing, runs};
use crate::support::agent::{Client, agent, at_rest, get, post, send};
use crate::support::{Conn, Server};

const CALLERS: usize = 20;

/// Nobody waits for so long, not even for the active timeout.
const PATIENCE: Duration = Duration::from_secs(20);

/// After any answer but a connection's first it may close within 4 ms, or when the next request has come, or both ways
/// at once: by FIN or by RST. Every fourth connection waits for its second request, however long that takes, and closes then:
/// some race is lost on the slowest machine.
struct Fickle {
    server: Server,
    /// Requests that were read, and not answered.
    unanswered: Arc<AtomicUsize>,
}

impl Fickle {
    async fn start() -> Self {
        let seed = Arc::new(AtomicU64::new(0));
        let unanswered = Arc::new(AtomicUsize::new(0));
        let count = unanswered.clone();
        let server = Server::start(move |mut conn: Conn| {
            let mut dice = Dice::new(seed.fetch_add(1, Ordering::Relaxed));
            let unanswered = count.clone();
            async move {
                let Some(first) = conn.request().await else {
                    return;
                };
                conn.respond(&first.target).await;
                loop {
                    let waits = conn.index.is_multiple_of(4);
                    let patience = match waits {
                        true => PATIENCE,
                        false => Duration::from_micros(1000 + dice.roll(3000)),
                    };
                    let answered = match tokio::time::timeout(patience, conn.request()).await {
                        Ok(None) => return,
                        Ok(Some(head)) if !waits && dice.roll(8) > 0 => Some(head),
                        Ok(Some(_)) => {
                            unanswered.fetch_add(1, Ordering::Relaxed);
                            None
                        }
                        Err(_) => None,
                    };
                    match answered {
                        Some(head) => conn.respond(&head.target).await,
                        None if dice.roll(2) == 0 => return conn.fin().await,
                        None => return conn.rst(),
                    }
                }
            }
        })
        .await;
        Self { server, unanswered }
    }

    fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }
}

fn thinking(dice: &mut Dice) -> Duration {
    Duration::from_micros(500 + dice.roll(4000))
}

#[test]
fn trust_03_gets_never_fail_with_a_retry() {
    alone(|| {
        leaves_nothing(&environment::multi_thread(2), async {
            let each = runs(2000, 20_000) / CALLERS;
            let fickle = Fickle::start().await;
            let server = &fickle.server;
            let (client, handle) = agent(Layers::new());
            let retrying = ServiceBuilder::new()
                .layer(RetryLayer::new(ReusedReset::new()))
                .service(client.clone());
            let callers = (0..CALLERS).map(|caller| {
                let (retrying, handle) = (retrying.clone(), &handle);
                async move {
                    let mut dice = Dice::new(1000 + caller as u64);
                    for run in 0..each {
                        let target = format!("/{caller}/{run}");
                        let answer = send(&retrying, get(server.url(&target)));
                        let answer = tokio::time::timeout(PATIENCE, answer).await;
                        let answer = answer
                            .unwrap_or_else(|_| panic!("{target} hangs: {:?}", handle.status()));
                        let answer = answer.unwrap_or_else(|error| panic!("{target}: {error:?}"));
                        assert_eq!(answer.body, target);
                        tokio::time::sleep(thinking(&mut dice)).await;
                    }
                }
            });
            join_all(callers).await;
            drop(retrying);

            let gets = CALLERS * each;
            let retried = server.requests() - gets;
            let status = handle.status();
            let unanswered = fickle.unanswered();
            assert!(unanswered > 0, "the race was run: {status}");
            assert_eq!(retried, unanswered, "each of them was sent again, once");
            assert!(status.reused >= unanswered as u64, "{status}");
            println!(
                "trust 3: 0 of {gets} GETs failed ({retried} sent twice, {} stale, {} connections)",
                status.stale, status.created
            );
            at_rest(&handle).await;
            closes_all(client, &handle).await;
        });
    });
}

/// What the callers saw of one POST.
type Seen = (String, Result<String, Error>);

async fn posts(client: &Client, server: &Server, caller: usize, each: usize) -> Vec<Seen> {
    let retrying = ServiceBuilder::new()
        .layer(RetryLayer::new(ReusedReset::new()))
        .service(client.clone());
    let mut dice = Dice::new(2000 + caller as u64);
    let mut seen = Vec::new();
    for run in 0..each {
        let target = format!("/{caller}/{run}");
        let answer = send(&retrying, post(server.url(&target), "once")).await;
        seen.push((target, answer.map(|answer| answer.body)));
        tokio::time::sleep(thinking(&mut dice)).await;
    }
    seen
}

#[test]
fn trust_03_posts_are_never_executed_twice_and_fail_typed() {
    alone(|| {
        leaves_nothing(&environment::multi_thread(2), async {
            let each = runs(2000, 20_000) / CALLERS;
            let fickle = Fickle::start().await;
            let server = &fickle.server;
            let (client, handle) = agent(Layers::new());
            let callers = (0..CALLERS).map(|caller| posts(&client, server, caller, each));
            let seen: Vec<Seen> = join_all(callers).await.into_iter().flatten().collect();

            let mut executed: HashMap<String, usize> = HashMap::new();
            for head in server.heads() {
                *executed.entry(head.target).or_default() += 1;
            }
            let (mut failed, mut never_came) = (0, 0);
            for (target, outcome) in &seen {
                let times = executed.get(target).copied().unwrap_or(0);
                assert!(times <= 1, "{target} came {times} times");
                match outcome {
                    Ok(body) => assert_eq!((body, times), (target, 1)),
                    Err(error) => {
                        assert!(error.is_reset() && error.is_reused(), "{error:?}");
                        assert!(!error.is_unsent(), "the agent sends those again");
                        assert!(error.connection().is_some());
                        failed += 1;
                        never_came += 1 - times;
                    }
                }
            }
            assert!(fickle.unanswered() > 0, "the race was run");
            assert!(failed >= fickle.unanswered(), "none was sent again");
            assert_eq!(executed.len() + never_came, seen.len());
            println!(
                "trust 3: 0 of {} POSTs executed twice ({failed} failed, each typed; {never_came} of them never came)",
                seen.len()
            );
            at_rest(&handle).await;
            closes_all(client, &handle).await;
        });
    });
}
