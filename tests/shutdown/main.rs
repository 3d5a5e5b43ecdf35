//! An end is an end: connections close, tasks stop, descriptors come back, and whoever waits is told.
//!
//! The tests run one at a time: they count what the whole process has.

#[path = "../support/mod.rs"]
mod support;

mod ends;
mod runtimes;
mod streams;

use std::future::Future;
use std::sync::{Mutex, PoisonError};

use crate::support::{Conn, Gate, Server, alive_tasks, eventually};
use bytes::Bytes;
use http_body_util::Full;
use tokio::runtime::{Builder, Runtime};
use tower_keep_alive::{AgentHandle, CloseReason, KeepAliveLayer};

#[cfg(target_os = "linux")]
use crate::support::fd_count;

#[cfg(not(target_os = "linux"))]
fn fd_count() -> usize {
    0
}

type Layers = KeepAliveLayer<Full<Bytes>>;

/// Runs a test while no other one does.
fn alone(test: impl FnOnce()) {
    static HOUSE: Mutex<()> = Mutex::new(());
    let _house = HOUSE.lock().unwrap_or_else(PoisonError::into_inner);
    test();
}

/// Runs a test on a runtime that only it has, while no other one runs.
fn alone_on_runtime<F>(test: impl FnOnce() -> F)
where
    F: Future<Output = ()>,
{
    alone(|| runtime().block_on(test()));
}

fn runtime() -> Runtime {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

/// A runtime of which a thread of its own is always at work.
fn busy_runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Answers with half a body at once, and with the rest when told.
async fn halves(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                conn.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
                    .await;
                tokio::select! {
                    () = gate.pass() => conn.send("lf").await,
                    () = conn.gone() => return,
                }
            }
        }
    })
    .await
}

/// Answers when told.
async fn gated(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn: Conn| {
        let gate = gate.clone();
        async move {
            while conn.request().await.is_some() {
                tokio::select! {
                    () = gate.pass() => conn.respond("ok").await,
                    () = conn.gone() => return,
                }
            }
        }
    })
    .await
}

/// What the process and the runtime have, to come back to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Belongings {
    fds: usize,
    tasks: usize,
}

impl Belongings {
    fn now() -> Self {
        Self {
            fds: fd_count(),
            tasks: alive_tasks(),
        }
    }

    async fn are_back(self) {
        // Without the tasks of the server that wait for the client to close, and its sockets: they go with ours.
        eventually("all descriptors and tasks are back", || Self::now() == self).await;
    }
}

fn closes(handle: &AgentHandle, reason: CloseReason) -> u64 {
    handle.status().closes.get(&reason).copied().unwrap_or(0)
}
