//! Whose failure an error tells of: the caller's, the connector's, or the connection's; and that it says so once.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending, ready};
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::agent::{
    Connector, agent, agent_over, agent_paused, at_rest, fetch, get, probe, read,
    says_nothing_twice, send,
};
use crate::support::{
    Fault, MemoryStream, RefusingPort, Server, TrapConnector, eventually, not_over_unix, script,
    settle,
};
use bytes::Bytes;
use http::{Method, Request};
use http_body::{Body, Frame};
use http_body_util::Full;
use tower::retry::RetryLayer;
use tower::timeout::TimeoutLayer;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{
    BoxError, CloseReason, Error, KeepAlive, KeepAliveLayer, TimeoutKind,
    connect::Destination,
    extensions::Partition,
    layers::{CheckoutError, Denied},
};

/// A request body that breaks off after some bytes, with the same error each time that it is sent.
#[derive(Clone)]
struct Breaks {
    given: bool,
    error: Arc<dyn Fn() -> BoxError + Send + Sync>,
}

impl Body for Breaks {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.given {
            return Poll::Ready(Some(Err((self.error)())));
        }
        self.given = true;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"some")))))
    }
}

fn breaks(error: impl Fn() -> BoxError + Send + Sync + 'static) -> Breaks {
    Breaks {
        given: false,
        error: Arc::new(error),
    }
}

/// An error of an agent, of a connection that was reset while it was idle.
async fn another_agents_reset() -> Error {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond("warm").await;
        conn.request().await;
        conn.rst();
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    fetch(&client, server.url("/")).await.unwrap();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_reused() && error.is_reset());
    at_rest(&handle).await;
    error
}

/// Sends `body` on a connection that is reused, under a policy that would send it again after a reset.
async fn upload_fails(body: Breaks) -> Error {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new().probe_with(probe);
    let handle = layer.handle();
    let agent: KeepAlive<Connector, Breaks> = layer.layer(Connector);
    // It does not break before its end, because GET takes no body of unknown length.
    let warm = Request::get(server.url("/")).body(body.clone()).unwrap();
    read(agent.request(warm).await.unwrap()).await.unwrap();
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = {
        let (agent, tries) = (agent.clone(), tries.clone());
        service_fn(move |request| {
            tries.fetch_add(1, Ordering::SeqCst);
            agent.clone().oneshot(request)
        })
    };
    let client = RetryLayer::new(ReusedReset::new()).layer(counted);
    let put = Request::put(server.url("/")).body(body).unwrap();
    let error = client.oneshot(put).await.expect_err("its body breaks off");
    says_nothing_twice(&error);
    assert_eq!(tries.load(Ordering::SeqCst), 1, "{error:?}");
    assert!(error.is_reused(), "{error:?}");
    eventually("the server sees it go", || server.open() == 0).await;
    assert_eq!((server.accepted(), server.requests()), (1, 1));
    at_rest(&handle).await;
    assert_eq!(
        handle.status().closes.get(&CloseReason::Abandoned),
        Some(&1)
    );
    error
}

#[tokio::test]
async fn a_request_body_that_fails_is_the_callers_and_never_sent_again() {
    for kind in [
        ErrorKind::ConnectionReset,
        ErrorKind::BrokenPipe,
        ErrorKind::UnexpectedEof,
        ErrorKind::TimedOut,
        ErrorKind::Other,
    ] {
        let error = upload_fails(breaks(move || io::Error::from(kind).into())).await;
        assert!(error.is_request_body(), "{error:?}");
        assert!(!error.is_reset() && !error.is_unsent(), "{error:?}");
        assert!(!error.is_timeout() && !error.is_connect(), "{error:?}");
        // The system's error would be the connection's.
        assert!(error.io_error().is_none());
        let source = error.source().expect("the body's own");
        let source = source.downcast_ref::<io::Error>().expect("as it was");
        assert_eq!(source.kind(), kind);
        assert_eq!(error.to_string(), "the request's own body failed");
    }
}

/// What passes a response of one agent on to another has that agent's errors in its body.
#[tokio::test]
async fn the_error_of_another_agent_in_a_request_body_is_not_this_ones() {
    let others = Arc::new(another_agents_reset().await);
    let body = breaks(move || Box::new(Shared(others.clone())));
    let error = upload_fails(body).await;
    assert!(error.is_request_body() && !error.is_reset(), "{error:?}");
    let boxed: BoxError = error.into();
    assert!(Error::find(&*boxed).unwrap().is_request_body());
}

/// An error that several have.
#[derive(Debug)]
struct Shared(Arc<Error>);

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("upstream")
    }
}

impl StdError for Shared {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// A connector that fails.
async fn fails_with<F, Fut>(fail: F) -> Error
where
    F: Fn() -> Fut + Clone + Send + Sync + 'static,
    Fut: Future<Output = BoxError> + Send + 'static,
{
    let connector = service_fn(move |_: Destination| {
        let failed = fail();
        async move { Err::<MemoryStream, _>(failed.await) }
    });
    let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
    let error = fetch(&client, "http://host.test/").await.unwrap_err();
    assert!(
        error.is_unsent() && error.connection().is_none(),
        "{error:?}"
    );
    assert!(!error.is_reset() && !error.is_reused(), "{error:?}");
    at_rest(&handle).await;
    error
}

#[tokio::test(start_paused = true)]
async fn a_timeout_from_below_is_a_timeout_and_a_failed_connect() {
    const LIMIT: Duration = Duration::from_millis(10);
    let system = fails_with(|| ready(io::Error::from(ErrorKind::TimedOut).into())).await;
    let wrapped = fails_with(|| {
        let error = io::Error::other(io::Error::from(ErrorKind::TimedOut));
        ready(error.into())
    })
    .await;
    let tokios = fails_with(|| async {
        let elapsed = tokio::time::timeout(LIMIT, pending::<()>()).await;
        elapsed.unwrap_err().into()
    })
    .await;
    let towers = fails_with(|| async {
        let never = service_fn(|(): ()| pending::<Result<(), Infallible>>());
        let limited = TimeoutLayer::new(LIMIT).layer(never);
        limited.oneshot(()).await.unwrap_err()
    })
    .await;
    for error in [system, wrapped, tokios, towers] {
        assert!(error.is_connect() && error.is_timeout(), "{error:?}");
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Connect));
        // Nobody below says how long it was.
        assert_eq!(error.timeout(), None);
    }
    let refused = fails_with(|| ready(io::Error::from(ErrorKind::ConnectionRefused).into())).await;
    assert!(refused.is_connect() && !refused.is_timeout());
    assert_eq!(
        refused.io_error().unwrap().kind(),
        ErrorKind::ConnectionRefused
    );
}

#[tokio::test]
async fn a_failed_connect_of_another_crates_connector_names_the_host() {
    const WHY: &str = "the connector is out of order";
    let broken = service_fn(|_: Destination| ready(Err::<MemoryStream, _>(WHY.into())));
    let broken = broken.map_err(|why: BoxError| why);
    let (client, handle) = agent_over(KeepAliveLayer::new(), broken);
    let error = fetch(&client, "http://host.test:8080/").await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    assert_eq!(error.to_string(), "cannot connect to host.test:8080");
    assert_eq!(
        error.source().expect("the connector's error").to_string(),
        WHY
    );
    at_rest(&handle).await;
}

/// What an agent says of a URL of its own: whether it is shut down, whether the URL will not do, and the error.
async fn asks(url: fn(&str) -> String, destroyed: bool) -> (bool, bool, BoxError) {
    let server = Server::in_memory(script::ok);
    let (client, handle) = agent_paused(KeepAliveLayer::new(), server.connector());
    if destroyed {
        handle.destroy();
    }
    let error = fetch(&client, url(&server.url("/"))).await.unwrap_err();
    at_rest(&handle).await;
    (error.is_shut_down(), error.is_target(), error.into())
}

/// A connector may ask an agent of its own, for a name or for a way.
#[tokio::test(start_paused = true)]
async fn what_befell_the_agent_of_a_connector_is_a_failed_connect() {
    let asked = || asks(str::to_owned, true);
    let (is_shut_down, _, _) = asked().await;
    assert!(is_shut_down);
    let error = fails_with(move || async move { asked().await.2 }).await;
    assert!(error.is_connect() && !error.is_shut_down(), "{error:?}");
    let asked = || asks(|_| "ftp://host.test/".to_owned(), false);
    let (_, is_target, _) = asked().await;
    assert!(is_target);
    let error = fails_with(move || async move { asked().await.2 }).await;
    assert!(error.is_connect() && !error.is_target(), "{error:?}");
    let full = || CheckoutError::from(Denied::QueueFull(1));
    let error = fails_with(move || ready(CheckoutError::Connect(full().into()).into())).await;
    assert!(error.is_connect() && !error.is_queue_full(), "{error:?}");
}

/// Without any policy: the agent reads the request back from what was to be written.
#[tokio::test(start_paused = true)]
async fn a_request_without_content_of_which_nothing_was_written_goes_elsewhere_whatever_its_method()
{
    let kinds = [
        ErrorKind::BrokenPipe,
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::Other,
    ];
    let methods = [Method::GET, Method::POST, Method::PATCH, Method::OPTIONS];
    for (kind, method) in kinds
        .into_iter()
        .flat_map(|kind| methods.iter().map(move |it| (kind, it)))
    {
        let server = Server::in_memory(script::ok);
        let trap = TrapConnector::new(server.connector());
        let (client, handle) = agent_paused(KeepAliveLayer::new(), trap.clone());
        fetch(&client, server.url("/")).await.unwrap();
        settle().await;
        trap.set(Fault {
            accepts: 0,
            write: Some(kind),
            read: None,
        });
        let mut request = get(server.url("/a?b=c"));
        *request.method_mut() = method.clone();
        for (name, value) in [("x-own", "1"), ("x-own", "2"), ("authorization", "me")] {
            request.headers_mut().append(name, value.parse().unwrap());
        }
        // Taken off before anything is sent, and not needed again.
        request.extensions_mut().insert(Partition::new(""));
        request.extensions_mut().remove::<Partition>();
        let response = client.request(request).await;
        let response = response.unwrap_or_else(|error| panic!("{method} {kind}: {error:?}"));
        assert!(!response.body().connection().is_reused());
        drop(response);
        let head = server.heads().pop().unwrap();
        assert_eq!(head.method, method.as_str());
        assert_eq!(head.header("authorization"), Some("me"));
        assert_eq!((trap.made(), server.requests()), (2, 2), "{method} {kind}");
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_first_write_that_waits_until_the_connection_ends_leaves_the_request_unsent() {
    let server = Server::in_memory(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.respond("ok").await;
            if conn.index == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                return conn.fin().await;
            }
        }
    });
    let trap = TrapConnector::new(server.connector());
    let (client, handle) = agent_paused(KeepAliveLayer::new(), trap.clone());
    fetch(&client, server.url("/")).await.unwrap();
    settle().await;
    trap.set(Fault {
        accepts: 0,
        write: None,
        read: None,
    });
    let mut request = get(server.url("/"));
    *request.method_mut() = Method::POST;
    let answer = send(&client, request).await.expect("on another one");
    assert!(!answer.info.is_reused());
    assert_eq!((trap.made(), server.requests()), (2, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn the_systems_error_is_found_wherever_it_is() {
    let port = RefusingPort::new();
    let (client, handle) = agent(KeepAliveLayer::new());
    let refused = fetch(&client, port.url("/")).await.unwrap_err();
    at_rest(&handle).await;
    let io = refused.io_error().expect("the system refused");
    assert!(io.raw_os_error().is_some(), "{refused:?}");
    if not_over_unix("a Unix socket has no RST") {
        return;
    }
    let reset = another_agents_reset().await;
    let io = reset.io_error().expect("the system said so");
    assert_eq!(io.kind(), ErrorKind::ConnectionReset);
    let boxed: BoxError = io::Error::other(reset).into();
    assert!(Error::find(&*boxed).unwrap().io_error().is_some());
}

/// What `send` and `read` do with each error of every suite, and what has no other test.
#[tokio::test(start_paused = true)]
async fn no_error_is_said_twice() {
    let server = Server::in_memory(script::stall);
    let layer = KeepAliveLayer::new()
        .active_timeout(Duration::from_millis(10))
        .max_connections_per_host(1)
        .checkout_timeout(Duration::from_millis(5))
        .max_pending_per_host(1);
    let (client, handle) = agent_paused(layer, server.connector());
    let url = server.url("/");
    let all = futures_util::future::join_all((0..3).map(|_| fetch(&client, &url))).await;
    let mut kinds: Vec<_> = all
        .into_iter()
        .map(|failed| failed.unwrap_err())
        .map(|error| (error.timeout_kind(), error.is_queue_full()))
        .collect();
    kinds.sort_by_key(|kind| format!("{kind:?}"));
    let expected = [
        (None, true),
        (Some(TimeoutKind::Checkout), false),
        (Some(TimeoutKind::Inactivity), false),
    ];
    assert_eq!(kinds, expected);
    handle.destroy();
    let error = fetch(&client, &url).await.unwrap_err();
    assert!(error.is_shut_down() && error.source().is_none());
    at_rest(&handle).await;

    let never = service_fn(|_: Destination| pending::<Result<MemoryStream, BoxError>>());
    let layer = KeepAliveLayer::new().active_timeout(Duration::from_millis(10));
    let (client, handle) = agent_paused(layer, never);
    let error = fetch(&client, "http://host.test/").await.unwrap_err();
    assert_eq!(error.timeout(), Some(Duration::from_millis(10)));
    assert!(error.source().is_none(), "it says so itself: {error:?}");
    at_rest(&handle).await;

    // A layer that has no words of its own.
    let layer = KeepAliveLayer::<Full<Bytes>>::new();
    let handle = layer.handle();
    handle.destroy();
    let client = ServiceBuilder::new()
        .map_err(|error: Error| io::Error::other(error))
        .layer(layer)
        .service(server.connector());
    let error = client.oneshot(get(&url)).await.unwrap_err();
    assert!(Error::find(&error).unwrap().is_shut_down());
}
