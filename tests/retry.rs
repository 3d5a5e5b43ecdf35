//! What is sent again, what is not, and where: never a POST twice, never after a response, never more than once more.

mod support;

use std::collections::HashMap;
use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, Response};
use http_body_util::{Channel, Full};
use support::agent::{
    Req, agent, agent_over, agent_paused, at_rest, fetch, get, paused_clock, post, read, send,
};
use support::{
    Conn, CountingConnector, Fault, RefusingPort, Server, Sockets, TrapConnector, eventually,
    not_over_unix, settle,
};
use tokio::time::{sleep, timeout};
use tower::retry::budget::{Budget, TpsBudget};
use tower::retry::{Retry, RetryLayer};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{Body, BoxError, CloseReason, Error, InactivityTimeout, KeepAliveLayer};

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

#[tokio::test]
async fn what_fails_again_is_the_callers() {
    if not_over_unix("a Unix socket has no RST") {
        return;
    }
    let executed = Arc::default();
    let server = resetting(&executed).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    let warm = fetch(&agent, server.url("/warm")).await.unwrap();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_reset() && !error.is_reused(), "{error:?}");
    assert_ne!(error.connection().unwrap().id(), warm.info.id());
    assert_eq!(executed.load(Ordering::SeqCst), 2);
    let status = handle.status();
    assert_eq!((status.created, status.closed, status.errors), (2, 2, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_post_is_never_sent_twice() {
    let executed = Arc::default();
    let server = resetting(&executed).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    for n in 1..=20 {
        fetch(&agent, server.url("/warm")).await.unwrap();
        let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
        assert!(error.is_reset() && error.is_reused(), "{error:?}");
        assert!(!error.is_unsent(), "{error:?}");
        assert_eq!(executed.load(Ordering::SeqCst), n);
    }
    assert_eq!(handle.status().created, 20);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_unsent_is_sent_again_with_the_body_it_had() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.respond(&String::from_utf8_lossy(&head.body)).await;
        }
    });
    let trap = TrapConnector::new(server.connector());
    let layer = KeepAliveLayer::<Channel<Bytes>>::new().max_connections_per_host(1);
    let handle = layer.handle();
    // A body that nobody could clone, and no policy.
    let agent = layer.clock(paused_clock()).layer(trap.clone());
    let request = |method| {
        let (upload, body) = Channel::<Bytes>::new(4);
        let request = Request::builder().method(method).uri(server.url("/"));
        (upload, request.body(body).unwrap())
    };
    let (upload, warm) = request(Method::GET);
    drop(upload);
    let warm = read(agent.request(warm).await.unwrap()).await.unwrap();
    settle().await;
    trap.set(Fault {
        accepts: 0,
        write: None,
        read: Some((b"", None)),
    });
    let (mut upload, streamed) = request(Method::POST);
    let uploading = async {
        for piece in ["in ", "three ", "pieces"] {
            sleep(Duration::from_millis(10)).await;
            upload.send_data(piece.into()).await.unwrap();
        }
        drop(upload);
    };
    let sending = async { read(agent.request(streamed).await?).await };
    let (answer, ()) = tokio::join!(sending, uploading);
    let answer = answer.unwrap();
    assert_eq!(answer.body, "in three pieces");
    assert!(!answer.info.is_reused());
    assert_ne!(answer.info.id(), warm.info.id());
    assert_eq!((trap.made(), server.requests()), (2, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn every_reused_connection_that_is_reset_is_retried_once_on_a_new_one() {
    const N: usize = 20;
    let server = Server::start(once_each).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    let warm = join_all((0..N).map(|_| fetch(&agent, server.url("/")))).await;
    let warm: Vec<_> = warm.into_iter().map(|it| it.unwrap().info.id()).collect();
    eventually("all are idle", || {
        handle.status().idle.values().sum::<usize>() == N
    })
    .await;
    let answers = join_all((0..N).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert!(!answer.info.is_reused() && !warm.contains(&answer.info.id()));
    }
    assert_eq!(server.accepted(), 2 * N);
    assert_eq!(server.requests(), 3 * N);
    at_rest(&handle).await;
}

#[tokio::test]
async fn at_the_limit_the_second_try_comes_first_and_takes_nothing_used() {
    let server = Server::start(resets_once).await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (agent, handle) = agent_over(layer, counting.clone());
    let client = retrying(agent.clone());
    let url = |path: &str| server.url(path);
    let warm = fetch(&agent, url("/warm")).await.unwrap();
    let order = Mutex::new(Vec::new());
    let noted = async |path: &str| {
        let answer = fetch(&client, url(path)).await.unwrap();
        order.lock().unwrap().push(path.to_owned());
        answer
    };
    let (again, a, b) = tokio::join!(noted("/reset"), noted("/a"), noted("/b"));
    assert!(!again.info.is_reused());
    assert_ne!(again.info.id(), warm.info.id());
    assert_eq!((a.body.as_str(), b.body.as_str()), ("/a", "/b"));
    assert_eq!(counting.max_alive(), 1);
    // Who was given the permit in between keeps its turn, and nobody else comes before the second try.
    let order = order.into_inner().unwrap();
    assert_ne!(order[2], "/reset", "{order:?}");
    assert!(counting.made() <= 3, "{}", counting.made());
    at_rest(&handle).await;
}

/// A second try finds the limit kept by an idle connection that somebody else made in between, for `other`.
async fn second_try_finds_the_limit_reached(layer: KeepAliveLayer<Full<Bytes>>, other: &str) {
    let server = Server::in_memory(resets_once);
    let counting = CountingConnector::new(server.connector());
    let (agent, handle) = agent_paused(layer, counting.clone());
    let warm = fetch(&agent, server.url("/warm")).await.unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let meanwhile = {
        let (agent, url, handle) = (agent.clone(), other.to_owned(), handle.clone());
        service_fn(move |request: Req| {
            let (agent, url, handle) = (agent.clone(), url.clone(), handle.clone());
            let again = tries.fetch_add(1, Ordering::SeqCst) > 0;
            async move {
                if again {
                    fetch(&agent, url).await.unwrap();
                    eventually("it is idle", || !handle.status().idle.is_empty()).await;
                }
                agent.oneshot(request).await
            }
        })
    };
    let client = retrying(meanwhile);
    let response = client.oneshot(get(server.url("/reset"))).await.unwrap();
    let again = read(response).await.unwrap();
    assert!(!again.info.is_reused());
    assert_ne!(again.info.id(), warm.info.id());
    assert_eq!(handle.status().closes.get(&CloseReason::Room), Some(&1));
    assert_eq!((counting.made(), counting.max_alive()), (3, 1));
    at_rest(&handle).await;
}

async fn resets_once(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        if head.target == "/reset" && conn.index == 0 {
            return conn.rst();
        }
        conn.respond(&head.target).await;
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_limit_an_idle_connection_makes_room_for_the_second_try() {
    let same = "http://in-memory.test/other";
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    second_try_finds_the_limit_reached(layer, same).await;
    // Of the same host, and of another one.
    for other in [same, "http://other.test/other"] {
        let layer = KeepAliveLayer::new().max_connections(1);
        second_try_finds_the_limit_reached(layer, other).await;
    }
}

/// An error of a layer's own around another one.
#[derive(Debug)]
struct Wrapped(BoxError);

impl fmt::Display for Wrapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("wrapped")
    }
}

impl StdError for Wrapped {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// A GET through a policy over some layers over an agent, on a connection that is reset then.
async fn is_retried_through<L, E>(layers: L)
where
    L: Layer<support::agent::Client>,
    L::Service: Service<Req, Response = Response<Body>, Error = E> + Clone,
    E: fmt::Debug + 'static,
{
    let server = Server::start(once_each).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    fetch(&agent, server.url("/")).await.unwrap();
    let client = retrying(layers.layer(agent));
    let response = client.oneshot(get(server.url("/"))).await.unwrap();
    assert!(!read(response).await.unwrap().info.is_reused());
    assert_eq!((server.accepted(), server.requests()), (2, 3));
    at_rest(&handle).await;
}

#[tokio::test]
async fn the_error_is_found_in_what_layers_between_make_of_it() {
    const LONG: Duration = Duration::from_secs(60);
    is_retried_through(ServiceBuilder::new()).await;
    is_retried_through(ServiceBuilder::new().timeout(LONG)).await;
    is_retried_through(ServiceBuilder::new().map_err(BoxError::from)).await;
    is_retried_through(ServiceBuilder::new().map_err(|error| Box::new(error) as Box<dyn StdError>))
        .await;
    let wrap = |error: BoxError| Box::new(Wrapped(error)) as BoxError;
    is_retried_through(
        ServiceBuilder::new()
            .map_err(wrap)
            .map_err(wrap)
            .timeout(LONG),
    )
    .await;
    is_retried_through(ServiceBuilder::new().load_shed().concurrency_limit(9)).await;
    is_retried_through(ServiceBuilder::new().buffer(9).timeout(LONG).load_shed()).await;
    let io = |error: Error| std::io::Error::other(error);
    is_retried_through(ServiceBuilder::new().map_err(move |error| Box::new(io(error)) as BoxError))
        .await;
}

#[tokio::test]
async fn retry_if_says_what_else_is_harmless() {
    let server = Server::start(once_each).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let asked = Arc::new(AtomicUsize::new(0));
    let policy = {
        let asked = asked.clone();
        ReusedReset::new().retry_if(move |request| {
            asked.fetch_add(1, Ordering::SeqCst);
            request.method() == Method::POST
                && request.uri().path() == "/search"
                && request.headers().contains_key("x-query")
                && request.extensions().get::<InactivityTimeout>().is_some()
        })
    };
    let client = RetryLayer::new(policy).layer(agent.clone());
    let search = |path: &str| {
        let mut request = post(server.url(path), "query");
        request
            .headers_mut()
            .insert("x-query", "1".parse().unwrap());
        let own = InactivityTimeout(Duration::from_secs(5));
        request.extensions_mut().insert(own);
        request
    };
    fetch(&agent, server.url("/")).await.unwrap();
    let answer = send(&client, search("/search")).await.unwrap();
    assert!(!answer.info.is_reused());
    assert_eq!(server.accepted(), 2);
    // Its connection is reused by what is not harmless.
    let error = send(&client, search("/order")).await.unwrap_err();
    assert!(error.is_reused() && error.is_reset());
    assert_eq!((server.accepted(), asked.load(Ordering::SeqCst)), (2, 2));
    // Who is idempotent anyway is not asked about.
    fetch(&agent, server.url("/")).await.unwrap();
    fetch(&client, server.url("/")).await.unwrap();
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert_eq!(server.accepted(), 4);
    at_rest(&handle).await;
}

#[tokio::test]
async fn retry_if_does_not_make_a_second_try_of_a_first_use_or_an_answer() {
    let executed = Arc::default();
    let server = resetting(&executed).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = RetryLayer::new(ReusedReset::new().retry_if(|_| true)).layer(agent.clone());
    let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
    assert!(!error.is_reused() && error.is_reset());
    assert_eq!(executed.load(Ordering::SeqCst), 1);
    fetch(&agent, server.url("/warm")).await.unwrap();
    let error = send(&client, post(server.url("/"), "x")).await.unwrap_err();
    assert!(!error.is_reused() && error.is_reset());
    assert_eq!(executed.load(Ordering::SeqCst), 3);
    at_rest(&handle).await;
}

/// Counts, and has so many to give.
#[derive(Default)]
struct Purse {
    has: AtomicUsize,
    deposits: AtomicUsize,
    withdrawals: AtomicUsize,
}

impl Budget for Purse {
    fn deposit(&self) {
        self.deposits.fetch_add(1, Ordering::SeqCst);
    }

    fn withdraw(&self) -> bool {
        self.withdrawals.fetch_add(1, Ordering::SeqCst);
        self.has
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |has| has.checked_sub(1))
            .is_ok()
    }
}

#[tokio::test]
async fn a_budget_pays_for_second_tries_and_for_nothing_else() {
    let server = Server::start(once_each).await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let purse = Arc::new(Purse::default());
    purse.has.store(2, Ordering::SeqCst);
    let policy = ReusedReset::new().budget(purse.clone());
    let client = RetryLayer::new(policy).layer(agent.clone());
    let url = server.url("/");
    let counts = || [&purse.deposits, &purse.withdrawals].map(|count| count.load(Ordering::SeqCst));
    let close_idle = async || {
        handle.close_idle();
        eventually("all are closed", || handle.status().open() == 0).await;
    };
    fetch(&client, &url).await.unwrap();
    assert_eq!(counts(), [1, 0]);
    for n in 1..=2 {
        fetch(&client, &url).await.expect("it is paid for");
        assert_eq!(counts()[1], n);
    }
    let error = fetch(&client, &url).await.unwrap_err();
    assert!(error.is_reset() && error.is_reused(), "{error:?}");
    assert_eq!(counts()[1], 3);
    // What would not be sent again anyway costs nothing.
    fetch(&agent, &url).await.unwrap();
    send(&client, post(&url, "x")).await.unwrap_err();
    let refusing = RefusingPort::new();
    fetch(&client, refusing.url("/")).await.unwrap_err();
    close_idle().await;
    assert_eq!(counts()[1], 3);
    // Nor does a POST's answer pay in.
    let before = counts();
    send(&client, post(&url, "x")).await.unwrap();
    assert_eq!(counts(), before);
    at_rest(&handle).await;
}

#[tokio::test]
async fn towers_own_budget_will_do() {
    for (reserve, retried) in [(1, true), (0, false)] {
        let server = Server::start(once_each).await;
        let (agent, handle) = agent(KeepAliveLayer::new());
        let budget = TpsBudget::new(Duration::from_secs(10), reserve, 0.0);
        let policy = ReusedReset::new().budget(Arc::new(budget));
        let client = RetryLayer::new(policy).layer(agent.clone());
        fetch(&agent, server.url("/")).await.unwrap();
        let answer = fetch(&client, server.url("/")).await;
        assert_eq!(answer.is_ok(), retried, "{answer:?}");
        assert_eq!(server.accepted(), 1 + usize::from(retried));
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn silence_is_not_retried_but_keeps_its_limit_on_the_second_try() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match &*head.target {
                "/reset" if conn.index == 0 => return conn.rst(),
                "/reset" | "/silent" => return conn.closed().await,
                _ => conn.respond("ok").await,
            }
        }
    });
    let layer = KeepAliveLayer::new().active_timeout(Duration::from_secs(60));
    let (agent, handle) = agent_paused(layer, server.connector());
    let client = retrying(agent.clone());
    let own = Duration::from_millis(100);
    let request = |path: &str| {
        let mut request = get(server.url(path));
        request.extensions_mut().insert(InactivityTimeout(own));
        request
    };
    fetch(&agent, server.url("/")).await.unwrap();
    let error = send(&client, request("/reset")).await.unwrap_err();
    assert_eq!(error.timeout(), Some(own));
    assert!(!error.is_reused());
    assert_eq!((server.accepted(), server.requests()), (2, 3));
    fetch(&agent, server.url("/")).await.unwrap();
    let error = send(&client, request("/silent")).await.unwrap_err();
    assert_eq!(error.timeout(), Some(own));
    assert!(error.is_reused() && !error.is_reset());
    assert_eq!((server.accepted(), server.requests()), (3, 5));
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_the_agent_itself_ends_or_refuses_is_not_retried() {
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/silent" {
                return conn.closed().await;
            }
            conn.respond("ok").await;
        }
    })
    .await;
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    fetch(&agent, server.url("/")).await.unwrap();
    let silent = fetch(&client, server.url("/silent"));
    let destroy = async {
        eventually("it is under way", || server.requests() == 2).await;
        handle.destroy();
    };
    let (error, ()) = tokio::join!(timeout(Duration::from_secs(5), silent), destroy);
    let error = error.expect("it is told").unwrap_err();
    assert!(error.is_shut_down() && error.is_reused() && !error.is_reset());
    assert_eq!((server.accepted(), server.requests()), (1, 2));
    at_rest(&handle).await;
}

/// How a server ends a connection, and what the caller makes of that.
struct Form {
    what: &'static str,
    request: fn(&str) -> Req,
    script: fn(Conn) -> Pin<Box<dyn Future<Output = ()> + Send>>,
    is_reset: bool,
}

fn large(url: &str) -> Req {
    post(url, vec![b'u'; 8 << 20])
}

/// HYPER.md 1.3, by number, where a server can make it happen.
fn forms() -> Vec<Form> {
    macro_rules! form {
        ($what:literal, $request:expr, $is_reset:literal, $conn:ident, $script:block) => {
            Form {
                what: $what,
                request: $request,
                #[allow(unused_mut)]
                script: |mut $conn| Box::pin(async move { $script }),
                is_reset: $is_reset,
            }
        };
    }
    let get = |url: &str| get(url);
    let small = |url: &str| post(url, "small");
    vec![
        form!("5: FIN before the head", get, true, conn, {
            conn.request().await;
            conn.fin().await;
        }),
        form!("5: FIN before the head of a POST", small, true, conn, {
            conn.request().await;
            conn.fin().await;
        }),
        form!("6: RST before the head", get, true, conn, {
            conn.request().await;
            conn.rst();
        }),
        form!("6: RST before the head of a POST", small, true, conn, {
            conn.request().await;
            conn.rst();
        }),
        form!("7: closed with the request unread", small, true, conn, {
            conn.head().await;
            drop(conn);
        }),
        form!("8: RST in the middle of an upload", large, true, conn, {
            conn.head().await;
            conn.read().await;
            conn.rst();
        }),
        form!("8: FIN in the middle of an upload", large, true, conn, {
            conn.head().await;
            conn.read().await;
            conn.fin().await;
        }),
        form!("14: FIN inside the head", get, true, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-le").await;
            conn.fin().await;
        }),
        form!("14: RST inside the head", get, true, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-le").await;
            conn.rst();
        }),
        form!("FIN after an interim response", get, true, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 103 Early Hints\r\n\r\n").await;
            conn.fin().await;
        }),
        form!("15: FIN inside a body with a length", get, false, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
                .await;
            conn.fin().await;
        }),
        form!("FIN inside a chunk", get, false, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf")
                .await;
            conn.fin().await;
        }),
        form!("FIN instead of the last chunk", get, false, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                .await;
            conn.fin().await;
        }),
        form!("no HTTP", get, false, conn, {
            conn.request().await;
            conn.send("SSH-2.0-OpenSSH_9.9\r\n").await;
            conn.fin().await;
        }),
    ]
}

#[tokio::test]
async fn every_form_of_a_reset_is_known_as_one_and_nothing_else_is() {
    for Form {
        what,
        request,
        script,
        is_reset,
    } in forms()
    {
        for reused in [false, true] {
            let server = Server::start(move |mut conn| async move {
                if reused {
                    conn.request().await;
                    conn.respond("warm").await;
                }
                script(conn).await;
            })
            .await;
            let (agent, handle) = agent(KeepAliveLayer::new());
            if reused {
                fetch(&agent, server.url("/warm")).await.unwrap();
            }
            let error = send(&agent, request(&server.url("/")))
                .await
                .expect_err(what);
            assert_eq!(error.is_reset(), is_reset, "{what}: {error:?}");
            assert_eq!(error.is_reused(), reused, "{what}: {error:?}");
            assert!(!error.is_unsent(), "{what}: {error:?}");
            assert!(!error.is_timeout() && !error.is_connect() && !error.is_shut_down());
            assert_eq!(server.accepted(), 1, "{what}");
            eventually("it is closed", || handle.status().open() == 0).await;
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_a_reset_in_every_form() {
    // 4 and 24: hyper has no predicate for them.
    for kind in [
        ErrorKind::BrokenPipe,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        // The way there has gone; Go takes these for the same.
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::NetworkDown,
    ] {
        for (accepts, length, is_unsent) in [
            (0, 8 << 10, true),
            // Two records of TLS: the server may have had the first.
            (0, 1 << 20, false),
            (10, 8 << 10, false),
            (1000, 1 << 20, false),
        ] {
            let server = Server::in_memory(support::script::ok);
            let trap = TrapConnector::new(server.connector());
            let (agent, handle) = agent_paused(KeepAliveLayer::new(), trap.clone());
            fetch(&agent, server.url("/")).await.unwrap();
            settle().await;
            trap.set(Fault {
                accepts,
                write: Some(kind),
                read: None,
            });
            let answer = send(&agent, post(server.url("/"), vec![b'u'; length])).await;
            match answer {
                Ok(answer) => assert!(is_unsent && !answer.info.is_reused(), "{kind}"),
                Err(error) => {
                    assert!(error.is_reset() && error.is_reused(), "{kind}: {error:?}");
                    assert!(!is_unsent && !error.is_unsent(), "{kind}: {error:?}");
                }
            }
            assert_eq!(trap.made(), 1 + usize::from(is_unsent), "{kind}");
            at_rest(&handle).await;
        }
    }
}

#[tokio::test]
async fn the_race_with_a_closing_server_fails_no_get_and_runs_no_post_twice() {
    const EACH: usize = 100;
    // Closes a connection 2 ms after a response, and never before its first.
    let posts = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let server = {
        let posts = posts.clone();
        Server::start(move |mut conn| {
            let posts = posts.clone();
            async move {
                let mut next = conn.request().await;
                while let Some(head) = next {
                    if head.method == "POST" {
                        *posts
                            .lock()
                            .unwrap()
                            .entry(head.target.clone())
                            .or_default() += 1;
                    }
                    conn.respond(&head.target).await;
                    let in_time = timeout(Duration::from_millis(2), conn.request()).await;
                    next = in_time.ok().flatten();
                }
                conn.fin().await;
            }
        })
        .await
    };
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    let callers = (0..10).map(|caller| {
        let (client, server) = (client.clone(), &server);
        async move {
            let mut failed = 0;
            for n in 0..EACH {
                let path = format!("/{caller}/{n}");
                if n % 2 == 0 {
                    let answer = fetch(&client, server.url(&path)).await.unwrap();
                    assert_eq!(answer.body, path);
                } else {
                    match send(&client, post(server.url(&path), "x")).await {
                        Ok(answer) => assert_eq!(answer.body, path),
                        Err(error) => {
                            assert!(error.is_reset() && error.is_reused(), "{error:?}");
                            failed += 1;
                        }
                    }
                }
                sleep(Duration::from_micros(1500 + 200 * (n as u64 % 8))).await;
            }
            failed
        }
    });
    let failed: usize = join_all(callers).await.into_iter().sum();
    let posts = posts.lock().unwrap().clone();
    assert!(posts.values().all(|&times| times == 1), "{posts:?}");
    // Each that failed was in a race that somebody has to lose; the others are there.
    assert!(posts.len() + failed >= 10 * EACH / 2);
    at_rest(&handle).await;
}
