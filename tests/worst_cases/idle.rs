//! What a server does to a connection that is idle: trust tests 1 and 2.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;

use crate::environment::{
    self, Layers, alone, closes_all, leaves_nothing, on_current_thread, on_threads, runs,
};
use crate::support::agent::{Client, agent, at_rest, fetch, post, send};
use crate::support::{Conn, Gate, Server, eventually};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Poison {
    Answer,
    RequestTimeout,
    Fin,
    Rst,
}

const POISONS: [Poison; 4] = [
    Poison::Answer,
    Poison::RequestTimeout,
    Poison::Fin,
    Poison::Rst,
];

/// Answers each POST; after the answer to a GET it waits, and then does to the idle connection what `poison` says.
async fn poisoner(poison: Poison, say: &Gate, said: &mpsc::Sender<()>) -> Server {
    let (say, said) = (say.clone(), said.clone());
    Server::start(move |mut conn: Conn| {
        let (say, said) = (say.clone(), said.clone());
        async move {
            while let Some(head) = conn.request().await {
                conn.respond(&head.target).await;
                if head.method != "GET" {
                    continue;
                }
                say.pass().await;
                match poison {
                    Poison::Answer => conn.respond("poison").await,
                    Poison::RequestTimeout => {
                        let head = "HTTP/1.1 408 Request Timeout\r\nconnection: close";
                        conn.respond_with(head, "poison").await;
                    }
                    Poison::Fin => {
                        conn.fin().await;
                        return said.send(()).unwrap();
                    }
                    Poison::Rst => {
                        conn.rst();
                        return said.send(()).unwrap();
                    }
                }
                said.send(()).unwrap();
                return conn.closed().await;
            }
        }
    })
    .await
}

/// What became of the POSTs that followed a poison.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    answered: usize,
    poisoned: usize,
    failed: usize,
}

/// A GET, then the poison while nothing of the client runs on this thread, then a POST.
async fn poisoned_runs(
    (client, url): (Client, String),
    (say, said): (Gate, mpsc::Receiver<()>),
    runs: usize,
) -> Outcome {
    let gaps = [0, 100, 1000].map(Duration::from_micros);
    let mut outcome = Outcome::default();
    for run in 0..runs {
        let first = fetch(&client, format!("{url}get/{run}")).await.unwrap();
        assert_eq!(first.body, format!("/get/{run}"));
        say.open(1);
        // Blocks the runtime's thread, as a computation would.
        said.recv().unwrap();
        let written = Instant::now();
        while written.elapsed() < gaps[run % gaps.len()] {
            std::hint::spin_loop();
        }
        match send(&client, post(format!("{url}post/{run}"), "once")).await {
            Ok(answer) if answer.body == format!("/post/{run}") => {
                assert!(!answer.info.is_reused());
                outcome.answered += 1;
            }
            Ok(_) => outcome.poisoned += 1,
            Err(_) => outcome.failed += 1,
        }
    }
    outcome
}

fn trust_01(name: &str, runtime: impl Fn() -> Runtime) {
    let runs = runs(90, 1000);
    for poison in POISONS {
        let server_home = environment::multi_thread(1);
        let home = runtime();
        let stale = leaves_nothing(&home, async {
            let (say, (tell, said)) = (Gate::new(), mpsc::channel());
            let server = server_home.block_on_here(poisoner(poison, &say, &tell));
            let (client, handle) = agent(Layers::new());
            let work = poisoned_runs((client.clone(), server.url("/")), (say, said), runs);
            // On a worker, where there are some.
            let outcome = tokio::spawn(work).await.unwrap();
            let expected = Outcome {
                answered: runs,
                ..Outcome::default()
            };
            assert_eq!(outcome, expected, "{poison:?} on {name}");
            let heads = server.heads();
            let posts = heads.iter().filter(|head| head.method == "POST");
            assert_eq!(posts.count(), runs, "each was executed once");
            assert_eq!(server.accepted(), runs + 1);
            at_rest(&handle).await;
            let status = handle.status();
            assert_eq!(status.created, runs as u64 + 1);
            assert_eq!(status.closed, runs as u64);
            closes_all(client, &handle).await;
            status.stale
        });
        println!(
            "trust 1: 0 of {runs} poisoned by {poison:?}, {name} ({stale} found by the look at the socket)"
        );
    }
}

trait BlockOnHere {
    fn block_on_here<F: std::future::Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send;
}

impl BlockOnHere for Runtime {
    /// On a thread of its own: this one is in another runtime.
    fn block_on_here<F: std::future::Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send,
    {
        std::thread::scope(|scope| scope.spawn(|| self.block_on(future)).join().unwrap())
    }
}

#[test]
fn trust_01_poisoned_idle_connection_on_one_thread() {
    alone(|| trust_01("one thread", environment::current_thread));
}

#[test]
fn trust_01_poisoned_idle_connection_on_several_threads() {
    alone(|| trust_01("two threads", || environment::multi_thread(2)));
}

/// What stands in the stream behind an answer is not the answer to whoever waits for the connection.
#[test]
fn trust_01_poison_behind_an_answer_is_not_handed_over() {
    on_current_thread(|| async {
        let runs = runs(200, 1000);
        let server = Server::start(|mut conn: Conn| async move {
            while let Some(head) = conn.request().await {
                let length = head.target.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison",
                    head.target
                );
                conn.send(answer).await;
            }
        })
        .await;
        let (client, handle) = agent(Layers::new().max_connections_per_host(2));
        let calls = (0..runs).map(|run| fetch(&client, server.url(&format!("/{run}"))));
        for (run, answer) in futures_util::future::join_all(calls)
            .await
            .into_iter()
            .enumerate()
        {
            assert_eq!(answer.unwrap().body, format!("/{run}"));
        }
        assert_eq!(server.requests(), runs);
        assert_eq!(server.accepted(), runs);
        println!("trust 1: 0 of {runs} poisoned on a hand-over");
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

/// A server that says goodbye with a 408, as many do.
async fn trust_02(name: &str) {
    let runs = runs(100, 1000);
    let server = Server::start(|mut conn: Conn| async move {
        let Some(head) = conn.request().await else {
            return;
        };
        conn.respond(&head.target).await;
        let goodbye = "HTTP/1.1 408 Request Timeout\r\nconnection: close";
        conn.respond_with(goodbye, "too late").await;
        conn.fin().await;
    })
    .await;
    let (client, handle) = agent(Layers::new());
    for run in 0..runs {
        let answer = send(&client, post(server.url(&format!("/{run}")), "")).await;
        let answer = answer.expect("no caller hears of it");
        assert_eq!(answer.body, format!("/{run}"));
        assert!(!answer.info.is_reused());
        eventually("it is gone", || handle.status().open() == 0).await;
    }
    assert_eq!(server.requests(), runs);
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!(status.created, runs as u64);
    assert_eq!((status.completed, status.reused), (runs as u64, 0));
    println!(
        "trust 2: 0 of {runs} callers hear of a 408 on an idle connection, {name} ({:?})",
        status.closes
    );
    closes_all(client, &handle).await;
}

#[test]
fn trust_02_a_408_while_idle_is_a_goodbye_on_one_thread() {
    on_current_thread(|| trust_02("one thread"));
}

#[test]
fn trust_02_a_408_while_idle_is_a_goodbye_on_several_threads() {
    on_threads(|| trust_02("two threads"));
}
