//! The settings of the policy, its budget, and what other layers make of an error.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::{once_each, resetting, retrying};
use crate::support::agent::{Req, agent, agent_paused, at_rest, fetch, get, post, read, send};
use crate::support::{RefusingPort, Server, eventually};
use http::{Method, Response};
use tokio::time::timeout;
use tower::retry::RetryLayer;
use tower::retry::budget::{Budget, TpsBudget};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{Body, BoxError, Error, KeepAliveLayer, extensions::InactivityTimeout};

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
    L: Layer<crate::support::agent::Client>,
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
