//! What is sent again, what is not, and where: never a POST twice, never after a response, never more than once more.

#[path = "../support/mod.rs"]
mod support;

mod forms;
mod policy;
mod second_try;
mod truth_table;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Conn, Server};
use tower::Layer;
use tower::retry::{Retry, RetryLayer};
use tower_keep_alive::retry::ReusedReset;

/// What of the request is written before the connection fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// hyper finds the connection dead before it writes, and hands the request back.
    Unsent,
    /// The first write fails, and no byte was taken.
    Nothing,
    Some,
    All,
}

/// What comes of a response before that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Head {
    No,
    Partial,
    Full,
}

/// Answers `/warm`; every other request is read, counted, and reset.
async fn resetting(executed: &Arc<AtomicUsize>) -> Server {
    let executed = executed.clone();
    Server::start(move |mut conn| {
        let executed = executed.clone();
        async move {
            while let Some(head) = conn.request().await {
                if head.target != "/warm" {
                    executed.fetch_add(1, Ordering::SeqCst);
                    return conn.rst();
                }
                conn.respond("warm").await;
            }
        }
    })
    .await
}

/// Answers, but that each connection resets at its second request.
async fn once_each(mut conn: Conn) {
    if conn.request().await.is_some() {
        conn.respond("ok").await;
        if conn.request().await.is_some() {
            conn.rst();
        }
    }
}

fn retrying<S>(service: S) -> Retry<ReusedReset, S> {
    RetryLayer::new(ReusedReset::new()).layer(service)
}
