//! Requests and responses of reqwest's over the agent.

#[path = "../../tests/support/mod.rs"]
mod support;

use std::error::Error as StdError;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Version;
use http_body_util::Full;
use hyper_util::client::legacy::connect::dns::Name;
use reqwest::{Body, Method, Request, Response, ResponseBuilderExt, Url};
use support::agent::at_rest;
use support::frames::Behaviour;
use support::{Conn, RefusingPort, Server, eventually, http2, script};
use tower::retry::RetryLayer;
use tower::timeout::error::Elapsed;
use tower::{Service, ServiceBuilder, ServiceExt};
use tower_http::decompression::DecompressionLayer;
use tower_http::follow_redirect::policy::{FilterCredentials, Limited, PolicyExt};
use tower_http::follow_redirect::{FollowRedirectLayer, RequestUri};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::reqwest::{Reqwest, ReqwestLayer};
use tower_keep_alive::retry::{ReusedReset, Unsent};
use tower_keep_alive::{
    AgentHandle, BoxError, ConnectionInfo, Error, KeepAlive, KeepAliveLayer, Protocol, TimeoutKind,
    extensions::{OneShot, Partition, RequestTimeout, Route},
};

type Client = Reqwest<KeepAlive<TcpConnector, Body>>;

fn client(layer: KeepAliveLayer<Body>) -> (Client, AgentHandle) {
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .layer(ReqwestLayer::new())
        .layer(layer)
        .service(TcpConnector::new());
    (client, handle)
}

fn get(url: impl AsRef<str>) -> Request {
    Request::new(Method::GET, url.as_ref().parse().unwrap())
}

fn info(response: &Response) -> ConnectionInfo {
    let info = response.extensions().get::<ConnectionInfo>();
    info.expect("on every response").clone()
}

#[tokio::test]
async fn a_request_goes_over_the_agent_and_its_url_is_kept() {
    let server = Server::echo().await;
    let (client, handle) = client(KeepAliveLayer::new());
    for reused in [false, true] {
        let url = server.url("/path?q=1#fragment");
        let response = client.clone().oneshot(get(&url)).await.unwrap();
        assert_eq!(response.url().as_str(), url);
        assert_eq!(info(&response).is_reused(), reused);
        assert_eq!(response.text().await.unwrap(), "/path?q=1");
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(server.heads()[0].method, "GET");
    assert_eq!(server.heads()[0].header("content-length"), None);
    at_rest(&handle).await;
    assert_eq!(handle.status().completed, 2);
}

#[tokio::test]
async fn requests_of_reqwests_share_a_connection_of_http_2() {
    let server = http2::Server::behaving(Behaviour::default()).await;
    let (client, handle) = client(KeepAliveLayer::new().protocol(Protocol::Http2));
    let posts = (0..10).map(|at| {
        let mut request =
            Request::new(Method::POST, server.url(&format!("/{at}")).parse().unwrap());
        *request.body_mut() = Some(Body::from(format!("body {at}")));
        client.clone().oneshot(request)
    });
    for (at, response) in join_all(posts).await.into_iter().enumerate() {
        let response = response.unwrap();
        assert_eq!(response.version(), Version::HTTP_2);
        assert!(info(&response).stream_id().is_some());
        assert_eq!(response.text().await.unwrap(), format!("/{at}"));
    }
    let mut bodies: Vec<_> = server
        .log
        .requests()
        .into_iter()
        .map(|it| it.body)
        .collect();
    bodies.sort();
    let sent: Vec<_> = (0..10)
        .map(|at| format!("body {at}").into_bytes())
        .collect();
    assert_eq!(bodies, sent);
    assert_eq!(handle.status().created, 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_host_of_other_letters_is_asked_for_in_punycode() {
    let server = Server::ok().await;
    let addr = server.addr();
    let resolver = tower::service_fn(move |name: Name| async move {
        assert_eq!(name.as_str(), "xn--bcher-kva.test");
        Ok::<_, BoxError>([addr].into_iter())
    });
    let layer = KeepAliveLayer::<Body>::new();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .layer(ReqwestLayer::new())
        .layer(layer)
        .service(TcpConnector::with_resolver(resolver));
    let response = client.oneshot(get("http://bücher.test/")).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "ok");
    let host = server.heads()[0].header("host").map(str::to_owned);
    assert_eq!(host.as_deref(), Some("xn--bcher-kva.test"));
    at_rest(&handle).await;
}

/// reqwest's builder takes it out of the URL, the agent out of the URI of a request that was made without one.
#[tokio::test]
async fn user_information_is_the_same_authorization_as_reqwests_builder_makes_of_it() {
    let server = Server::ok().await;
    let (client, handle) = client(KeepAliveLayer::new());
    for user in [
        "me:secret",
        "me",
        ":secret",
        "m%40e:s%3Ac%2F%C3%A9",
        "me:100%",
        ":",
        "",
    ] {
        let url = format!("http://{user}@{}/", server.addr());
        let built = reqwest::Client::new().get(&url).build().unwrap();
        for request in [built, get(&url)] {
            client
                .clone()
                .oneshot(request)
                .await
                .unwrap()
                .text()
                .await
                .unwrap();
        }
        let heads = server.heads();
        let [by_reqwest, by_agent] = heads.last_chunk().unwrap();
        let sent = |head: &support::Head| head.header("authorization").map(str::to_owned);
        assert_eq!(sent(by_reqwest), sent(by_agent), "{user}");
        assert_eq!(sent(by_agent).is_some(), user.len() > 1, "{user}");
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_a_request_builder_of_reqwest_makes_is_sent() {
    let server = Server::start(|mut conn| async move {
        conn.head().await;
        conn.body().await;
        conn.respond_with(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json",
            r#"{"answer":42}"#,
        )
        .await;
        conn.gone().await;
    })
    .await;
    let (client, handle) = client(KeepAliveLayer::new());
    let request = reqwest::Client::new()
        .post(server.url("/"))
        .bearer_auth("token")
        .json(&[1, 2, 3])
        .build()
        .unwrap();
    let response = client.oneshot(request).await.unwrap();
    let answer: std::collections::HashMap<String, u32> = response.json().await.unwrap();
    assert_eq!(answer["answer"], 42);
    let head = &server.heads()[0];
    assert_eq!(
        (head.method.as_str(), &head.body[..]),
        ("POST", &b"[1,2,3]"[..])
    );
    assert_eq!(head.header("authorization"), Some("Bearer token"));
    assert_eq!(head.header("content-length"), Some("7"));
    assert_eq!(head.header("content-type"), Some("application/json"));
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_a_request_says_about_its_connection_is_heard() {
    let server = Server::ok().await;
    let (client, handle) = client(KeepAliveLayer::new());
    let fetch = async |change: &dyn Fn(&mut http::Extensions)| {
        let mut request = http::Request::get(server.url("/"))
            .body(Full::<Bytes>::default())
            .unwrap();
        change(request.extensions_mut());
        let request = Request::try_from(request.map(Body::wrap)).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        let info = info(&response);
        assert_eq!(response.text().await.unwrap(), "ok");
        info
    };
    let plain = fetch(&|_| ()).await;
    let tenant = Partition::new("tenant");
    let apart = fetch(&|extensions| {
        extensions.insert(tenant.clone());
    })
    .await;
    assert_ne!(plain.id(), apart.id());
    let single = fetch(&|extensions| {
        extensions.insert(OneShot);
    })
    .await;
    assert!(!single.is_reused());
    assert_eq!(fetch(&|_| ()).await.id(), plain.id());
    assert_eq!(server.accepted(), 3);
    at_rest(&handle).await;
    assert_eq!(handle.status().idle.values().sum::<usize>(), 2);
}

#[tokio::test]
async fn the_connection_goes_back_at_the_end_of_the_body_and_is_closed_before_it() {
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbeg")
                .await;
            if conn.index > 0 {
                conn.send("end").await;
            }
        }
    })
    .await;
    let (client, handle) = client(KeepAliveLayer::new());
    let mut response = client.clone().oneshot(get(server.url("/"))).await.unwrap();
    assert_eq!(response.chunk().await.unwrap().unwrap(), "beg");
    drop(response);
    eventually("it is closed", || handle.status().open() == 0).await;
    let response = client.clone().oneshot(get(server.url("/"))).await.unwrap();
    assert_eq!(response.content_length(), Some(6));
    assert_eq!(response.text().await.unwrap(), "begend");
    eventually("it went back", || handle.status().idle.len() == 1).await;
    at_rest(&handle).await;
    assert_eq!(handle.status().closed, 1);
}

#[tokio::test]
async fn a_failure_is_the_agents_error_in_the_head_and_found_in_the_bodys() {
    let refusing = RefusingPort::new();
    let (client, handle) = client(KeepAliveLayer::new());
    let error = client
        .clone()
        .oneshot(get(refusing.url("/")))
        .await
        .unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");

    let error = client
        .clone()
        .oneshot(get("data:text/plain,hello"))
        .await
        .unwrap_err();
    assert!(error.is_target(), "{error:?}");
    let error = client
        .clone()
        .oneshot(get("ftp://127.0.0.1/"))
        .await
        .unwrap_err();
    assert!(error.is_target(), "{error:?}");

    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nbeg")
            .await;
        conn.fin().await;
    })
    .await;
    let response = client.oneshot(get(server.url("/"))).await.unwrap();
    let error: reqwest::Error = response.text().await.unwrap_err();
    let found = Error::find(&error).expect("it is the agent's");
    assert!(found.connection().is_some(), "{found:?}");
    at_rest(&handle).await;
    assert_eq!(handle.status().create_errors, 1);
}

/// Answers once on its first connection and closes at the second request there; answers all on others.
async fn closes_the_reused(mut conn: Conn) {
    if conn.index > 0 {
        return script::ok(conn).await;
    }
    conn.request().await;
    conn.respond("ok").await;
    conn.request().await;
    conn.fin().await;
}

#[tokio::test]
async fn reused_reset_sends_an_idempotent_request_of_reqwests_again() {
    // Two connections are idle, and both close at their next request: only a new one will do.
    let server = Server::start(|mut conn| async move {
        if conn.index > 1 {
            return script::ok(conn).await;
        }
        conn.request().await;
        conn.respond("ok").await;
        conn.request().await;
        conn.fin().await;
    })
    .await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(ReusedReset::new()))
        .layer(ReqwestLayer::new())
        .layer(layer)
        .service(TcpConnector::new());
    let fetch = || client.clone().oneshot(get(server.url("/")));
    let (first, second) = tokio::join!(fetch(), fetch());
    for response in [first, second] {
        assert_eq!(response.unwrap().text().await.unwrap(), "ok");
    }
    eventually("both are idle", || {
        handle.status().idle.values().sum::<usize>() == 2
    })
    .await;
    let mut request = get(server.url("/"));
    *request.body_mut() = Some("again".into());
    let response = client.clone().oneshot(request).await.unwrap();
    assert!(!info(&response).is_reused());
    assert_eq!(response.text().await.unwrap(), "ok");
    let heads = server.heads();
    assert_eq!((server.accepted(), heads.len()), (3, 4));
    assert!(heads[2..].iter().all(|head| head.body == b"again"));
    at_rest(&handle).await;
}

#[tokio::test]
async fn reused_reset_sends_no_post_of_reqwests_twice_unless_it_may() {
    for allowed in [false, true] {
        let server = Server::start(closes_the_reused).await;
        let layer = KeepAliveLayer::new();
        let handle = layer.handle();
        let policy = ReusedReset::new().retry_if(move |_| allowed);
        let client = ServiceBuilder::new()
            .layer(RetryLayer::new(policy))
            .layer(ReqwestLayer::new())
            .layer(layer)
            .service(TcpConnector::new());
        let first = client.clone().oneshot(get(server.url("/"))).await.unwrap();
        assert_eq!(first.text().await.unwrap(), "ok");
        let mut request = get(server.url("/"));
        *request.method_mut() = Method::POST;
        let answer = client.clone().oneshot(request).await;
        match answer {
            Ok(response) => assert!(allowed && !info(&response).is_reused()),
            Err(error) => assert!(
                !allowed && error.is_reset() && error.is_reused(),
                "{error:?}"
            ),
        }
        let posts = server
            .heads()
            .iter()
            .filter(|head| head.method == "POST")
            .count();
        assert_eq!(posts, if allowed { 2 } else { 1 });
        at_rest(&handle).await;
    }
}

/// The stack of the guide, in its order.
#[tokio::test]
async fn tower_http_gives_back_what_a_client_of_reqwests_does() {
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match head.target.as_str() {
                "/old" => {
                    conn.respond_with("HTTP/1.1 302 Found\r\nLocation: /new", "")
                        .await;
                }
                _ => {
                    conn.send(
                        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 25\r\n\r\n",
                    )
                    .await;
                    conn.send(HELLO_IN_GZIP).await;
                }
            }
        }
    })
    .await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .layer(ReqwestLayer::new())
        .map_response(with_last_url)
        .layer(FollowRedirectLayer::new())
        .layer(DecompressionLayer::new())
        .layer(layer)
        .service(TcpConnector::new());
    let response = client
        .clone()
        .oneshot(get(server.url("/old")))
        .await
        .unwrap();
    assert_eq!(response.url().as_str(), server.url("/new"));
    assert!(info(&response).is_reused());
    assert_eq!(response.text().await.unwrap(), "hello");
    assert_eq!(server.heads()[1].header("accept-encoding"), Some("gzip"));
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

/// What a request says of its connection does not outlive a redirect to another origin, and the layer's own route does.
#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_redirect_to_another_origin_leaves_by_the_layers_route() {
    let there = Server::ok().await;
    let location = there.url("/");
    let here = Server::start(move |mut conn: Conn| {
        let found = format!("HTTP/1.1 302 Found\r\nLocation: {location}");
        async move {
            while conn.request().await.is_some() {
                conn.respond_with(&found, "").await;
            }
        }
    })
    .await;
    let from = |last| Route::new().with_local_address([127, 0, 0, last].into());
    let filter = FilterCredentials::new().allow_extension::<Partition>();
    for (layers, own, expected) in [
        // The request's alone: lost.
        (None, Some(from(2)), "127.0.0.1"),
        (Some(from(3)), Some(from(2)), "127.0.0.3"),
        (Some(from(3)), None, "127.0.0.3"),
    ] {
        let layer = KeepAliveLayer::new();
        let layer = match layers {
            Some(route) => layer.route(route),
            None => layer,
        };
        let handle = layer.handle();
        let policy = Limited::default().and::<_, Full<Bytes>, Error>(filter.clone());
        let client = ServiceBuilder::new()
            .layer(FollowRedirectLayer::with_policy(policy))
            .layer(layer)
            .service(TcpConnector::new());
        let mut request = http::Request::get(here.url("/"))
            .header("authorization", "Bearer hidden")
            .extension(Partition::new("blue"));
        if let Some(route) = own.clone() {
            request = request.extension(route);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let response = client.clone().oneshot(request).await.unwrap();
        let info = response.body().connection().clone();
        assert_eq!(info.remote_addr(), Some(there.addr()));
        assert_eq!(info.local_addr().unwrap().ip().to_string(), expected);
        // The policy lets it pass.
        assert_eq!(info.key().unwrap().partition(), Some("blue"));
        let heads = there.heads();
        assert_eq!(heads.last().unwrap().header("authorization"), None);
        let heads = here.heads();
        assert!(heads.last().unwrap().header("authorization").is_some());
        drop(response);
        at_rest(&handle).await;
    }
}

/// `printf hello | gzip -n`
const HELLO_IN_GZIP: &[u8] =
    b"\x1f\x8b\x08\0\0\0\0\0\x02\x03\xcbH\xcd\xc9\xc9\x07\0\x86\xa6\x106\x05\0\0\0";

fn with_last_url<B>(response: http::Response<B>) -> http::Response<B> {
    let (mut head, body) = response.into_parts();
    let last = head.extensions.get::<RequestUri>();
    if let Some(url) = last.and_then(|RequestUri(uri)| Url::parse(&uri.to_string()).ok()) {
        let (told, ()) = http::Response::builder()
            .url(url)
            .body(())
            .unwrap()
            .into_parts();
        head.extensions.extend(told.extensions);
    }
    http::Response::from_parts(head, body)
}

#[tokio::test]
async fn boxed_errors_of_layers_between_pass() {
    let server = Server::start(script::stall).await;
    let layer = KeepAliveLayer::new();
    let handle = layer.handle();
    let client = ServiceBuilder::new()
        .layer(ReqwestLayer::new())
        .timeout(Duration::from_millis(50))
        .layer(layer)
        .service(TcpConnector::new());
    let error: BoxError = client
        .clone()
        .oneshot(get(server.url("/")))
        .await
        .unwrap_err();
    assert!(error.is::<Elapsed>(), "{error}");
    let error = client.oneshot(get("ftp://127.0.0.1/")).await.unwrap_err();
    let found = Error::find(&*error).expect("the agent's");
    assert!(found.is_target() && found.source().is_none(), "{found:?}");
    at_rest(&handle).await;
}

#[tokio::test]
async fn it_can_be_named_cloned_and_shared() {
    fn shared<S>(_: &S)
    where
        S: Service<Request, Response = Response, Error = Error> + Clone + Send + Sync + 'static,
    {
    }
    let (client, handle) = client(KeepAliveLayer::new());
    shared(&client);
    let future = tower::Service::call(&mut client.clone(), get("ftp://127.0.0.1/"));
    assert!(tokio::spawn(future).await.unwrap().is_err());
    at_rest(&handle).await;
}

/// A test because it compiles.
#[tokio::test]
async fn a_reqwest_body_can_be_sent_from_a_spawned_task() {
    let mut called: tower_keep_alive::KeepAlive<TcpConnector, Body> = ServiceBuilder::new()
        .layer(KeepAliveLayer::new())
        .service(TcpConnector::new());
    let asked = called.clone();
    let mut boxed = tower::util::BoxCloneSyncService::new(called.clone());
    let refused = RefusingPort::new();
    let request = move || {
        http::Request::get(refused.url("/"))
            .body(Body::from("text"))
            .unwrap()
    };
    tokio::spawn(async move {
        assert!(asked.request(request()).await.unwrap_err().is_connect());
        assert!(called.call(request()).await.unwrap_err().is_connect());
        assert!(boxed.call(request()).await.unwrap_err().is_connect());
    })
    .await
    .unwrap();
}

/// The whole exchange: the wait for the head, and a body that does not end.
#[tokio::test]
async fn a_requests_own_timeout_is_kept() {
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            match head.target.as_str() {
                "/never" => {}
                "/half" => {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha")
                        .await;
                }
                _ => conn.respond("ok").await,
            }
        }
    })
    .await;
    let (client, handle) = client(KeepAliveLayer::new().active_timeout(Duration::MAX));
    let limit = Duration::from_millis(60);
    let limited = |path: &str| {
        let mut request = get(server.url(path));
        *request.timeout_mut() = Some(limit);
        request
    };
    let error = client.clone().oneshot(limited("/never")).await.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Request));
    assert_eq!(error.timeout(), Some(limit));
    let response = client.clone().oneshot(limited("/half")).await.unwrap();
    let error = response.text().await.unwrap_err();
    let error = Error::find(&error).expect("the agent's error");
    assert_eq!(error.timeout(), Some(limit));
    // Its own extension says more.
    let own = http::Request::try_from(limited("/never")).unwrap();
    let (mut head, body) = own.into_parts();
    head.extensions.insert(RequestTimeout(limit / 2));
    let own = http::Request::from_parts(head, body).try_into().unwrap();
    let error = client.clone().oneshot(own).await.unwrap_err();
    assert_eq!(error.timeout(), Some(limit / 2));
    let response = client.oneshot(limited("/")).await.unwrap();
    assert_eq!(response.text().await.unwrap(), "ok");
    at_rest(&handle).await;
}

#[tokio::test]
async fn what_was_never_sent_is_sent_again_with_its_timeout() {
    let refusing = RefusingPort::new();
    let (client, handle) = client(KeepAliveLayer::new());
    let quick = Unsent::new().backoff(Duration::ZERO, Duration::from_millis(1), 0.0);
    let client = ServiceBuilder::new()
        .layer(RetryLayer::new(quick.unwrap()))
        .service(client);
    let mut request = Request::new(Method::POST, refusing.url("/").parse().unwrap());
    *request.body_mut() = Some("x".into());
    *request.timeout_mut() = Some(Duration::from_secs(20));
    let error = client.oneshot(request).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert_eq!(handle.status().create_errors, 3);
    at_rest(&handle).await;
}
