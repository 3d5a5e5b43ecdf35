//! Several upstreams, and names for types.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::{Response, Uri};
use tower::balance::p2c::Balance;
use tower::buffer::Buffer;
use tower::discover::ServiceList;
use tower::load::pending_requests::Count;
use tower::load::{CompleteOnResponse, Load, PendingRequests};
use tower::retry::RetryLayer;
use tower::steer::Steer;
use tower::util::BoxCloneSyncService;
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_keep_alive::retry::Unsent;
use tower_keep_alive::{Body, BoxError, Error, KeepAlive, KeepAliveLayer};

use crate::support::agent::{Connector, Req, at_rest, belongs_here, fetch, get, post, read, send};
use crate::support::{Gate, RefusingPort, Server, eventually, script};

type Agent = KeepAlive<Connector, http_body_util::Full<bytes::Bytes>>;

/// A client that sends everything to one server.
fn to(server: &Server, client: Agent) -> Named {
    to_url(&server.url("/"), client)
}

fn to_url(url: &str, client: Agent) -> Named {
    let uri: Uri = url.parse().unwrap();
    let authority = uri.authority().unwrap().clone();
    Named::new(client.map_request(move |mut request: Req| {
        let path = request.uri().path().to_owned();
        let uri = Uri::builder().scheme("http").authority(authority.clone());
        *request.uri_mut() = uri.path_and_query(path).build().unwrap();
        request
    }))
}

#[tokio::test]
async fn p2c_balances_by_what_is_under_way_and_each_upstream_has_a_pool() {
    let gate = Gate::new();
    let slow = {
        let gate = gate.clone();
        Server::start(move |mut conn| {
            let gate = gate.clone();
            async move {
                while conn.request().await.is_some() {
                    gate.pass().await;
                    conn.respond("slow").await;
                }
            }
        })
        .await
    };
    let fast = Server::ok().await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let upstreams = [&slow, &fast].map(|server| {
        let client = to(server, layer.layer(Connector));
        PendingRequests::new(client, CompleteOnResponse::default())
    });
    let balance = Buffer::new(Balance::new(ServiceList::new(upstreams)), 64);
    let client: BoxCloneSyncService<Req, Response<Body>, BoxError> =
        BoxCloneSyncService::new(balance);

    let mut held = Vec::new();
    while slow.requests() == 0 {
        let client = client.clone();
        let request = tokio::spawn(async move {
            let response = client.oneshot(get("http://balanced/")).await.unwrap();
            read(response).await.unwrap().body
        });
        let there = || slow.requests() + fast.requests();
        eventually("it is somewhere", || there() > held.len()).await;
        held.push(request);
    }
    // One is held at the slow one: all others go past it.
    let before = fast.requests();
    for _ in 0..20 {
        let response = client
            .clone()
            .oneshot(get("http://balanced/"))
            .await
            .unwrap();
        assert_eq!(read(response).await.unwrap().body, "ok");
    }
    assert_eq!((slow.requests(), fast.requests()), (1, before + 20));
    gate.open_for_all();
    for answer in join_all(held).await {
        assert!(["slow", "ok"].contains(&&*answer.unwrap()));
    }
    assert_eq!(slow.accepted(), 1);
    eventually("one handle tells of both pools", || {
        handle.status().idle.len() == 2
    })
    .await;
    // The buffer's task ends with it.
    drop(client);
    at_rest(&handle).await;
}

/// An upstream that could not be connected to is the second choice for a while.
#[derive(Clone, Default)]
struct Failed(Arc<Mutex<Option<Instant>>>);

impl Failed {
    /// Notes whether an error says so.
    fn note(&self, error: Error) -> Error {
        if error.is_connect() {
            *self.0.lock().unwrap() = Some(Instant::now());
        }
        error
    }
}

/// A client of one upstream, and what is under way there.
struct Upstream<S> {
    client: PendingRequests<S>,
    failed: Failed,
}

impl<S> Load for Upstream<S> {
    type Metric = (bool, Count);

    fn load(&self) -> (bool, Count) {
        let failed = *self.failed.0.lock().unwrap();
        let lately = failed.is_some_and(|at| at.elapsed() < Duration::from_secs(1));
        (lately, self.client.load())
    }
}

impl<S: Service<Req>> Service<Req> for Upstream<S> {
    type Response = <PendingRequests<S> as Service<Req>>::Response;
    type Error = <PendingRequests<S> as Service<Req>>::Error;
    type Future = <PendingRequests<S> as Service<Req>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.client.poll_ready(cx)
    }

    fn call(&mut self, request: Req) -> Self::Future {
        self.client.call(request)
    }
}

#[tokio::test]
async fn one_dead_upstream_of_two_fails_no_request() {
    let dead = RefusingPort::new();
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let upstreams = [dead.url("/"), server.url("/")].map(|url| {
        let failed = Failed::default();
        let noting = failed.clone();
        let client = to_url(&url, layer.layer(Connector)).map_err(move |error| noting.note(error));
        let client = PendingRequests::new(Named::new(client), CompleteOnResponse::default());
        Upstream { client, failed }
    });
    let balance = Balance::new(ServiceList::new(upstreams));
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(Unsent::new()))
        .service(Buffer::new(balance, 64));
    let client = BoxCloneSyncService::<Req, Response<Body>, BoxError>::new(client);
    // By turns, and many at a time.
    for at_once in [1, 20] {
        for _ in 0..500 / at_once {
            let requests = (0..at_once).map(|_| {
                let client = client.clone();
                async move {
                    let response = client.oneshot(post("http://balanced/", "x")).await;
                    read(response.expect("no request fails")).await.unwrap()
                }
            });
            for answer in join_all(requests).await {
                assert_eq!(answer.body, "ok");
            }
        }
    }
    assert_eq!(server.requests(), 1000);
    assert!(handle.status().create_errors > 0, "it was tried");
    drop(client);
    at_rest(&handle).await;
}

#[tokio::test]
async fn steer_picks_the_agent_by_host() {
    let (own, strange) = (Server::ok().await, Server::ok().await);
    let trusted = KeepAliveLayer::new();
    let careful = KeepAliveLayer::new().keep_alive(false);
    let handles = [trusted.handle(), careful.handle()];
    handles.iter().for_each(belongs_here);
    let agents = [trusted.layer(Connector), careful.layer(Connector)];
    let known = own.url("/").parse::<Uri>().unwrap().port_u16();
    let client = Steer::new(agents, move |request: &Req, _: &[Agent]| {
        usize::from(request.uri().port_u16() != known)
    });
    for server in [&own, &strange] {
        for _ in 0..3 {
            assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
        }
    }
    assert_eq!((own.accepted(), strange.accepted()), (1, 3));
    for handle in &handles {
        at_rest(handle).await;
        assert_eq!(handle.status().completed, 3);
    }
}

/// What a struct's field is declared as.
type Named = BoxCloneSyncService<Req, Response<Body>, Error>;

#[derive(Clone)]
struct App {
    client: Named,
}

#[tokio::test]
async fn box_clone_sync_service_names_any_stack_and_shares_its_pool() {
    fn state<S: Clone + Send + Sync + 'static>(_: &S) {}

    let server = Server::echo().await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let stack = ServiceBuilder::new()
        .map_request(|mut request: Req| {
            request
                .headers_mut()
                .insert("x-request-id", "1".parse().unwrap());
            request
        })
        .layer(layer)
        .service(Connector);
    let app = App {
        client: Named::new(stack),
    };
    state(&app);
    let clone = app.clone();
    assert_eq!(
        send(&app.client, get(server.url("/"))).await.unwrap().body,
        "1"
    );
    assert_eq!(
        send(&clone.client, get(server.url("/")))
            .await
            .unwrap()
            .body,
        "1"
    );
    assert_eq!(server.accepted(), 1);
    drop(app);
    at_rest(&handle).await;
    assert_eq!(handle.status().reused, 1);
    // The pool is that of all clones: it ends with the last.
    drop(clone);
    eventually("it closes with the last clone", || {
        handle.status().open() == 0
    })
    .await;
}

/// An answer without the network is a service like any other; so tests of an application need no server.
#[tokio::test]
async fn the_named_type_takes_a_stub_as_well() {
    #[derive(Clone)]
    struct Stub;

    impl Service<Req> for Stub {
        type Response = Response<String>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Response<String>, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Req) -> Self::Future {
            std::future::ready(Ok(Response::new(request.uri().path().to_owned())))
        }
    }

    type Text = BoxCloneSyncService<Req, Response<String>, BoxError>;
    let server = Server::start(script::echo).await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let agent = layer.layer(Connector);
    let real = Text::new(ServiceBuilder::new().service_fn(move |request: Req| {
        let agent = agent.clone();
        async move {
            let answer = send(&agent, request).await?;
            Ok::<_, BoxError>(Response::new(answer.body))
        }
    }));
    let stub = Text::new(Stub.map_err(|never| match never {}));
    for client in [real, stub] {
        let response = client.oneshot(get(server.url("/path"))).await.unwrap();
        assert_eq!(response.into_body(), "/path");
    }
    assert_eq!(server.requests(), 1);
    at_rest(&handle).await;
}
