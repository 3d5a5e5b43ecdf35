//! reqwest-middleware's client over the agent, with the middlewares of others before it.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::error::Error as StdError;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::Extensions;
use reqwest::cookie::{CookieStore, Jar};
use reqwest::header::COOKIE;
use reqwest::{Body, Request, Response, StatusCode};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Middleware, Next, RequestBuilder};
use reqwest_retry::RetryTransientMiddleware;
use reqwest_retry::policies::ExponentialBackoff;
use reqwest_tracing::TracingMiddleware;
use support::agent::at_rest;
use support::tls::Authority;
use support::{Conn, RefusingPort, Server, eventually, script};
use tower::ServiceBuilder;
use tower_keep_alive::connect::{Proxy, ProxyLayer, TcpConnector};
use tower_keep_alive::reqwest::{AgentMiddleware, AgentStrategy};
use tower_keep_alive::{
    AgentHandle, ConnectionInfo, Error, KeepAliveLayer, TimeoutKind,
    extensions::{OneShot, Route},
};

/// A client whose own `reqwest::Client` must not be used.
fn client(
    layer: KeepAliveLayer<Body>,
    before: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> (ClientWithMiddleware, AgentHandle) {
    let handle = layer.handle();
    let service = ServiceBuilder::new()
        .layer(layer)
        .service(TcpConnector::new());
    let client = before(ClientBuilder::new(reqwest::Client::new()))
        .with(AgentMiddleware::new(service))
        .build();
    (client, handle)
}

fn retrying(builder: ClientBuilder) -> ClientBuilder {
    let backoff = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(1), Duration::from_millis(2))
        .build_with_max_retries(2);
    builder.with(RetryTransientMiddleware::new_with_policy_and_strategy(
        backoff,
        AgentStrategy,
    ))
}

fn agents<'a>(error: &'a (dyn StdError + 'static)) -> &'a Error {
    Error::find(error).expect("the agent's error")
}

#[tokio::test]
async fn requests_go_over_the_agent_and_none_over_the_client() {
    let server = Server::echo().await;
    let (client, handle) = client(KeepAliveLayer::new(), |builder| builder);
    for reused in [false, true] {
        let response = client.get(server.url("/path")).send().await.unwrap();
        assert_eq!(response.url().as_str(), server.url("/path"));
        let info = response.extensions().get::<ConnectionInfo>().unwrap();
        assert_eq!(info.is_reused(), reused);
        assert_eq!(response.text().await.unwrap(), "/path");
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
    assert_eq!(handle.status().completed, 2);
}

#[tokio::test]
async fn middlewares_before_it_run_as_ever() {
    let server = Server::ok().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Counter(seen.clone());
    let (client, handle) = client(KeepAliveLayer::new(), |builder| {
        retrying(builder.with(TracingMiddleware::default())).with(counter)
    });
    for _ in 0..3 {
        let response = client.get(server.url("/")).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), "ok");
    }
    assert_eq!(seen.load(Ordering::Relaxed), 3);
    assert_eq!((server.accepted(), server.requests()), (1, 3));
    at_rest(&handle).await;
}

struct Counter(Arc<AtomicUsize>);

#[async_trait::async_trait]
impl Middleware for Counter {
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        self.0.fetch_add(1, Ordering::Relaxed);
        next.run(request, extensions).await
    }
}

/// Answers the first request of its first connection, and closes at the second.
async fn closes_the_reused(mut conn: Conn) {
    if conn.index > 0 {
        return script::ok(conn).await;
    }
    conn.request().await;
    conn.respond("ok").await;
    conn.request().await;
    conn.fin().await;
}

fn posts(server: &Server) -> usize {
    let heads = server.heads();
    heads.iter().filter(|head| head.method == "POST").count()
}

#[tokio::test]
async fn a_get_that_a_reused_connection_lost_is_sent_again_on_a_new_one() {
    // Two connections are idle, and both close at their next request: only a new one will do.
    let server = Server::start(|mut conn| async move {
        match conn.index {
            0 | 1 => {
                conn.request().await;
                conn.respond("ok").await;
                conn.request().await;
                conn.fin().await;
            }
            _ => script::ok(conn).await,
        }
    })
    .await;
    let (client, handle) = client(KeepAliveLayer::new(), retrying);
    let both = [(); 2].map(|()| client.get(server.url("/")).send());
    for response in join_all(both).await {
        assert_eq!(response.unwrap().text().await.unwrap(), "ok");
    }
    eventually("both are idle", || {
        handle.status().idle.values().sum::<usize>() == 2
    })
    .await;
    let response = client.get(server.url("/")).send().await.unwrap();
    let info = response.extensions().get::<ConnectionInfo>().unwrap();
    assert!(!info.is_reused(), "{info:?}");
    assert_eq!(response.text().await.unwrap(), "ok");
    assert_eq!((server.accepted(), server.requests()), (3, 4));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_post_that_a_reused_connection_lost_is_not_sent_again() {
    let server = Server::start(closes_the_reused).await;
    let (client, handle) = client(KeepAliveLayer::new(), retrying);
    let first = client.get(server.url("/")).send().await.unwrap();
    assert_eq!(first.text().await.unwrap(), "ok");
    let error = client.post(server.url("/")).send().await.unwrap_err();
    let found = agents(&error);
    assert!(found.is_reset() && found.is_reused(), "{error:?}");
    assert_eq!(posts(&server), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_post_with_an_idempotency_key_is_sent_again() {
    let server = Server::start(closes_the_reused).await;
    let (client, handle) = client(KeepAliveLayer::new(), retrying);
    let first = client.get(server.url("/")).send().await.unwrap();
    assert_eq!(first.text().await.unwrap(), "ok");
    let request = client.post(server.url("/")).body("b");
    let request = request.header("idempotency-key", "\"8e03978e\"");
    assert_eq!(request.send().await.unwrap().text().await.unwrap(), "ok");
    assert_eq!(posts(&server), 2);
    at_rest(&handle).await;
}

/// Sends to a server that answers 503 once a request, and gives what came of it.
async fn to_a_server_with_a_bad_day(
    request: impl FnOnce(&ClientWithMiddleware, String) -> RequestBuilder,
) -> (StatusCode, usize) {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.respond_with("HTTP/1.1 503 Service Unavailable", "")
            .await;
        script::ok(conn).await;
    })
    .await;
    let (client, handle) = client(KeepAliveLayer::new(), retrying);
    let response = request(&client, server.url("/")).send().await.unwrap();
    let status = response.status();
    drop(response);
    at_rest(&handle).await;
    (status, server.requests())
}

#[tokio::test]
async fn a_503_is_followed_by_another_try_where_that_does_no_harm() {
    let get = to_a_server_with_a_bad_day(|client, url| client.get(url)).await;
    assert_eq!(get, (StatusCode::OK, 2));
    let post = to_a_server_with_a_bad_day(|client, url| client.post(url)).await;
    assert_eq!(post, (StatusCode::SERVICE_UNAVAILABLE, 1));
    let delete = to_a_server_with_a_bad_day(|client, url| client.delete(url)).await;
    assert_eq!(delete, (StatusCode::OK, 2));
}

#[tokio::test]
async fn what_was_never_sent_is_tried_again_whatever_its_method() {
    let refusing = RefusingPort::new();
    let (client, handle) = client(KeepAliveLayer::new(), retrying);
    let error = client.post(refusing.url("/")).send().await.unwrap_err();
    let found = agents(&error);
    assert!(found.is_connect() && found.is_unsent(), "{error:?}");
    assert_eq!(handle.status().create_errors, 3, "once, and twice more");
    let error = client.get("ftp://127.0.0.1/").send().await.unwrap_err();
    assert!(agents(&error).is_target(), "{error:?}");
    handle.destroy();
    let error = client.post(refusing.url("/")).send().await.unwrap_err();
    assert!(agents(&error).is_shut_down(), "{error:?}");
    at_rest(&handle).await;
}

/// Nothing was sent; but what a proxy refuses for good, as for want of a login, it refuses the next time too.
#[tokio::test]
async fn a_refused_tunnel_is_asked_for_again_where_the_status_is_a_passing_one() {
    for (status, asked) in [(407, 1), (403, 1), (404, 1), (502, 3), (503, 3), (429, 3)] {
        let server = Server::start(move |mut conn: Conn| async move {
            conn.request().await;
            conn.respond_with(&format!("HTTP/1.1 {status} No"), "no")
                .await;
        })
        .await;
        let proxy: Proxy = format!("http://{}", server.addr()).parse().unwrap();
        let layer = KeepAliveLayer::<Body>::new();
        let layer = layer.route(Route::new().with_proxy(proxy.with_tunnel()));
        let handle = layer.handle();
        let service = ServiceBuilder::new()
            .layer(layer)
            .layer(ProxyLayer::new())
            .service(TcpConnector::new());
        let client = retrying(ClientBuilder::new(reqwest::Client::new()))
            .with(AgentMiddleware::new(service))
            .build();
        let request = client.post("http://origin.test/");
        let error = request.send().await.unwrap_err();
        let refused = agents(&error).proxy_status();
        assert_eq!(refused.map(|it| it.as_u16()), Some(status), "{error:?}");
        assert_eq!(server.requests(), asked, "{status}");
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn silence_is_followed_by_another_try_where_that_does_no_harm() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.stall().await;
    })
    .await;
    let layer = KeepAliveLayer::new().active_timeout(Duration::from_millis(40));
    let (client, handle) = client(layer, retrying);
    let error = client.post(server.url("/")).send().await.unwrap_err();
    assert!(agents(&error).is_timeout(), "{error:?}");
    assert_eq!(server.requests(), 1);
    let error = client.get(server.url("/")).send().await.unwrap_err();
    assert!(agents(&error).is_timeout(), "{error:?}");
    assert_eq!(server.requests(), 1 + 3);
    at_rest(&handle).await;
}

/// A limit of tower's between the middleware and the agent says nothing of the agent's, and is a timeout all the same.
#[tokio::test]
async fn a_time_limit_of_a_layer_below_is_followed_by_another_try_where_that_does_no_harm() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.stall().await;
    })
    .await;
    let layer = KeepAliveLayer::<Body>::new();
    let handle = layer.handle();
    let service = ServiceBuilder::new()
        .timeout(Duration::from_millis(40))
        .layer(layer)
        .service(TcpConnector::new());
    let client = retrying(ClientBuilder::new(reqwest::Client::new()))
        .with(AgentMiddleware::new(service))
        .build();
    let error = client.post(server.url("/")).send().await.unwrap_err();
    let found = agents(&error);
    assert_eq!(
        found.timeout_kind(),
        Some(TimeoutKind::Request),
        "{error:?}"
    );
    assert_eq!(found.timeout(), None);
    assert!(!found.is_unsent() && !found.is_permanent());
    assert_eq!(server.requests(), 1);
    let error = client.get(server.url("/")).send().await.unwrap_err();
    assert!(agents(&error).is_timeout(), "{error:?}");
    assert_eq!(server.requests(), 1 + 3);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_requests_own_timeout_is_kept_in_each_try() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.stall().await;
    })
    .await;
    let (client, handle) = client(KeepAliveLayer::new(), retrying);
    let limit = Duration::from_millis(40);
    let error = client.get(server.url("/")).timeout(limit).send().await;
    let error = error.unwrap_err();
    assert_eq!(agents(&error).timeout(), Some(limit), "{error:?}");
    assert_eq!(server.requests(), 3);
    at_rest(&handle).await;
}

/// Another try ends in the same way.
#[tokio::test]
async fn a_certificate_that_does_not_verify_is_not_tried_again() {
    let server = Server::start_tls(support::tls::localhost().server(), script::ok).await;
    let layer = KeepAliveLayer::<Body>::new();
    let handle = layer.handle();
    let service = ServiceBuilder::new()
        .layer(layer)
        .layer(Authority::new("another").trusted())
        .service(TcpConnector::new());
    let client = retrying(ClientBuilder::new(reqwest::Client::new()))
        .with(AgentMiddleware::new(service))
        .build();
    let error = client.get(server.url("/")).send().await.unwrap_err();
    let found = agents(&error);
    assert!(found.is_certificate() && found.is_permanent(), "{error:?}");
    assert_eq!(handle.status().create_errors, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn an_error_says_what_was_asked_for_and_why_it_failed() {
    let refusing = RefusingPort::new();
    let (client, handle) = client(KeepAliveLayer::new(), |builder| builder);
    let error = client.post(refusing.url("/")).send().await.unwrap_err();
    assert!(error.is_middleware());
    let error = anyhow::Error::from(error);
    let text = format!("{error:#}");
    let expected = format!(
        "POST request failed: cannot connect to {}: ",
        refusing.addr()
    );
    assert!(text.starts_with(&expected), "{text}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn extensions_go_with_the_request_and_come_back_with_its_connection() {
    let server = Server::start(closes_the_reused).await;
    let (client, handle) = client(KeepAliveLayer::new(), |builder| builder);
    let response = client.get(server.url("/")).send().await.unwrap();
    let first = response.extensions().get::<ConnectionInfo>().unwrap().id();
    assert_eq!(response.text().await.unwrap(), "ok");

    let apart = client.get(server.url("/")).with_extension(OneShot);
    let apart = apart.send().await.unwrap();
    let info = apart.extensions().get::<ConnectionInfo>().unwrap();
    assert_ne!(info.id(), first);
    drop(apart);

    let mut extensions = Extensions::new();
    let request = client.post(server.url("/")).build().unwrap();
    let answer = client
        .execute_with_extensions(request, &mut extensions)
        .await;
    assert!(answer.is_err());
    let info = extensions
        .get::<ConnectionInfo>()
        .expect("of the failed try");
    assert_eq!((info.id(), info.is_reused()), (first, true));
    at_rest(&handle).await;
}

/// What the guide offers for a cookie store.
struct Cookies(Arc<Jar>);

#[async_trait::async_trait]
impl Middleware for Cookies {
    async fn handle(
        &self,
        mut request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> reqwest_middleware::Result<Response> {
        if let Some(cookies) = self.0.cookies(request.url()) {
            request.headers_mut().insert(COOKIE, cookies);
        }
        let response = next.run(request, extensions).await?;
        let mut set = response.headers().get_all("set-cookie").iter().peekable();
        if set.peek().is_some() {
            self.0.set_cookies(&mut set, response.url());
        }
        Ok(response)
    }
}

#[tokio::test]
async fn cookies_are_a_middleware() {
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let cookies = head.header("cookie").unwrap_or("none").to_owned();
            conn.respond_with("HTTP/1.1 200 OK\r\nSet-Cookie: a=1", &cookies)
                .await;
        }
    })
    .await;
    let jar = Arc::new(Jar::default());
    let (client, handle) = client(KeepAliveLayer::new(), |builder| {
        builder.with(Cookies(jar.clone()))
    });
    for expected in ["none", "a=1"] {
        let response = client.get(server.url("/")).send().await.unwrap();
        assert_eq!(response.text().await.unwrap(), expected);
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}
