//! Which requests are sent again, for each combination of method, reuse and failure.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{Head, Sent};
use crate::support::agent::{Req, agent_paused, at_rest, fetch, read};
use crate::support::{Conn, Fault, Server, TrapConnector, settle};
use http::{Method, Request};
use http_body_util::Full;
use tokio::time::sleep;
use tower::retry::RetryLayer;
use tower::{Layer, ServiceExt, service_fn};
use tower_keep_alive::KeepAliveLayer;
use tower_keep_alive::retry::ReusedReset;

#[derive(Clone, Debug)]
struct Row {
    reused: bool,
    sent: Sent,
    head: Head,
    /// How the connection ends: reset, or else in good order.
    reset: bool,
    method: Method,
    key: bool,
    body: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// The answer of another connection.
    SentAgain,
    /// The head of the first one, however its body ends.
    FirstAnswer,
    Failed {
        unsent: bool,
    },
}

impl Row {
    fn all() -> Vec<Self> {
        let mut rows = Vec::new();
        let fates = [
            (Sent::Unsent, Head::No),
            (Sent::Unsent, Head::Partial),
            (Sent::Unsent, Head::Full),
            (Sent::Nothing, Head::No),
            (Sent::Some, Head::No),
            (Sent::Some, Head::Partial),
            (Sent::Some, Head::Full),
            (Sent::All, Head::No),
            (Sent::All, Head::Partial),
            (Sent::All, Head::Full),
        ];
        let methods = [
            Method::GET,
            Method::HEAD,
            Method::PUT,
            Method::DELETE,
            Method::OPTIONS,
            Method::POST,
            Method::PATCH,
        ];
        for (sent, head) in fates {
            for method in &methods {
                for bits in 0..16 {
                    let [reused, reset, key, body] = [1, 2, 4, 8].map(|bit| bits & bit != 0);
                    rows.push(Self {
                        reused,
                        sent,
                        head,
                        reset,
                        method: method.clone(),
                        key,
                        body,
                    });
                }
            }
        }
        rows
    }

    /// The table.
    fn expected(&self) -> Outcome {
        let harmless = match self.method {
            Method::POST | Method::PATCH => self.key,
            _ => true,
        };
        match (self.sent, self.head) {
            // Whatever the method. What is unsent on a new connection is the caller's.
            (Sent::Unsent | Sent::Nothing, _) if self.reused => Outcome::SentAgain,
            (Sent::Unsent | Sent::Nothing, _) => Outcome::Failed { unsent: true },
            (_, Head::Full) => Outcome::FirstAnswer,
            _ if self.reused && harmless => Outcome::SentAgain,
            _ => Outcome::Failed { unsent: false },
        }
    }

    fn request(&self, url: &str) -> Req {
        let mut request = Request::builder().method(&self.method).uri(url);
        if self.key {
            request = request.header("idempotency-key", "\"8e03978e\"");
        }
        // More than what is sent of it.
        let body = if self.body {
            "b".repeat(4096)
        } else {
            String::new()
        };
        request.body(Full::from(body)).unwrap()
    }

    /// What the transport does about it; `None`: it is the server that ends the connection.
    fn fault(&self) -> Option<Fault> {
        let (accepts, write) = match self.sent {
            Sent::Unsent => (0, None),
            Sent::Nothing => (0, Some(self.failure(ErrorKind::BrokenPipe))),
            Sent::Some if self.body => (1000, None),
            Sent::Some => (10, None),
            Sent::All => return None,
        };
        let end = self.reset.then_some(ErrorKind::ConnectionReset);
        let read = (self.sent != Sent::Nothing).then_some((self.head_bytes(), end));
        Some(Fault {
            accepts,
            write,
            read,
        })
    }

    fn failure(&self, otherwise: ErrorKind) -> ErrorKind {
        if self.reset {
            ErrorKind::ConnectionReset
        } else {
            otherwise
        }
    }

    fn head_bytes(&self) -> &'static [u8] {
        match self.head {
            Head::No => b"",
            Head::Partial => b"HTTP/1.1 200 OK\r\ncontent-le",
            Head::Full => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nx-first: yes\r\n\r\nhalf",
        }
    }
}

/// Answers; but the first connection fails as the row says where the server is to do that.
async fn row_script(mut conn: Conn, row: Row, executed: Arc<AtomicUsize>) {
    while let Some(head) = conn.request().await {
        let warm = head.target == "/warm";
        if !warm {
            executed.fetch_add(1, Ordering::SeqCst);
        }
        if warm || conn.index > 0 || row.sent != Sent::All {
            conn.respond("again").await;
            continue;
        }
        conn.send(row.head_bytes()).await;
        // Time goes on when the client has read it.
        sleep(Duration::from_millis(1)).await;
        return if row.reset {
            conn.rst();
        } else {
            conn.fin().await;
        };
    }
}

/// One row of the table, with and without the limit of one connection.
async fn holds(row: Row, at_limit: bool) {
    let executed = Arc::new(AtomicUsize::new(0));
    let server = {
        let (row, executed) = (row.clone(), executed.clone());
        Server::in_memory(move |conn| row_script(conn, row.clone(), executed.clone()))
    };
    let trap = TrapConnector::new(server.connector());
    let mut layer = KeepAliveLayer::new();
    if at_limit {
        layer = layer.max_connections_per_host(1);
    }
    let (agent, handle) = agent_paused(layer, trap.clone());
    let warm_id = if row.reused {
        let answer = fetch(&agent, server.url("/warm")).await.unwrap();
        settle().await;
        Some(answer.info.id())
    } else {
        None
    };
    if let Some(fault) = row.fault() {
        trap.set(fault);
    }
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = {
        let tries = tries.clone();
        service_fn(move |request: Req| {
            tries.fetch_add(1, Ordering::SeqCst);
            agent.clone().oneshot(request)
        })
    };
    let client = RetryLayer::new(ReusedReset::new()).layer(counted);
    let result = client.oneshot(row.request(&server.url("/row"))).await;
    let outcome = match result {
        Ok(response) if response.headers().contains_key("x-first") => {
            let info = response.body().connection().clone();
            assert_eq!(info.is_reused(), row.reused, "{row:?}");
            // Its end is not the head's concern, and is no reset.
            match read(response).await {
                Ok(answer) => assert_eq!((&row.method, &*answer.body), (&Method::HEAD, "")),
                Err(error) => assert!(!error.is_reset(), "{row:?}: {error:?}"),
            }
            Outcome::FirstAnswer
        }
        Ok(response) => {
            let answer = read(response).await.unwrap();
            assert!(!answer.info.is_reused(), "{row:?}");
            assert_ne!(Some(answer.info.id()), warm_id, "{row:?}");
            assert_eq!(answer.info.uses(), 1, "{row:?}");
            Outcome::SentAgain
        }
        Err(error) => {
            assert_eq!(error.is_reused(), row.reused, "{row:?}: {error:?}");
            assert!(error.is_reset() || error.is_unsent(), "{row:?}: {error:?}");
            let failed = error.connection().expect("it had one").id();
            assert!(
                warm_id.is_none_or(|warm| warm == failed),
                "{row:?}: {error:?}"
            );
            Outcome::Failed {
                unsent: error.is_unsent(),
            }
        }
    };
    assert_eq!(outcome, row.expected(), "{row:?}");
    // What is unsent the agent sends again beneath the policy, everything else the policy on top of the agent.
    let sent_again = outcome == Outcome::SentAgain;
    let by_agent = matches!(row.sent, Sent::Unsent | Sent::Nothing);
    let by_policy = sent_again && !by_agent;
    assert_eq!(
        tries.load(Ordering::SeqCst),
        1 + usize::from(by_policy),
        "{row:?}"
    );
    assert_eq!(trap.made(), 1 + usize::from(sent_again), "{row:?}");
    // What the server has done: what it read to its end, each time that it did.
    let first = usize::from(row.sent == Sent::All);
    assert_eq!(
        executed.load(Ordering::SeqCst),
        first + usize::from(sent_again),
        "{row:?}"
    );
    if !row.method.is_idempotent() && !row.key {
        assert!(executed.load(Ordering::SeqCst) <= 1, "{row:?}");
    }
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn trust_04_the_truth_table_holds_row_by_row() {
    let rows = Row::all();
    assert_eq!(rows.len(), 10 * 7 * 16);
    for row in rows.clone() {
        holds(row, false).await;
    }
    println!(
        "trust 4: {} of {} rows as the table says",
        rows.len(),
        rows.len()
    );
}

#[tokio::test(start_paused = true)]
async fn trust_04_the_truth_table_holds_at_the_limit() {
    let rows = Row::all();
    for row in rows.clone() {
        holds(row, true).await;
    }
    println!(
        "trust 4: {} of {} rows as the table says, at a limit of one connection",
        rows.len(),
        rows.len()
    );
}
