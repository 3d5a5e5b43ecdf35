//! What a request says about its connection, and a response about its own.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::Full;
use tower::{ServiceBuilder, ServiceExt};
use tower_keep_alive::{
    CloseReason, ConnectionInfo, KeepAliveLayer,
    extensions::{OneShot, Partition},
    layers::{CheckinLayer, CheckoutLayer, ExchangeLayer, HandshakeLayer, PoolConfig},
};

use crate::support::agent::{Connector, Req, agent, agent_over, at_rest, fetch, get, read, send};
use crate::support::{Conn, CountingConnector, Gate, Server, Sockets, eventually};

fn in_partition(url: &str, name: &'static str) -> Req {
    let mut request = get(url);
    request.extensions_mut().insert(Partition::new(name));
    request
}

fn one_shot(url: &str) -> Req {
    let mut request = get(url);
    request.extensions_mut().insert(OneShot);
    request
}

#[tokio::test]
async fn info_is_in_the_extensions_unless_it_is_not_wanted() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(get(server.url("/"))).await.unwrap();
    let info = response.extensions().get::<ConnectionInfo>().unwrap();
    assert_eq!(info.id(), response.body().connection().id());
    assert!(!info.is_reused());
    read(response).await.unwrap();
    at_rest(&handle).await;

    let (client, handle) = agent(KeepAliveLayer::new().info_in_extensions(false));
    let response = client.request(get(server.url("/"))).await.unwrap();
    assert!(response.extensions().get::<ConnectionInfo>().is_none());
    assert_eq!(response.body().connection().uses(), 1, "the body has it");
    read(response).await.unwrap();
    at_rest(&handle).await;
}

#[tokio::test]
async fn absolute_form_is_what_a_proxy_gets() {
    let server = Server::ok().await;
    let checkout = CheckoutLayer::new(PoolConfig::new());
    let handle = checkout.handle();
    let proxy = server.url("/").parse::<http::Uri>().unwrap();
    let client = ServiceBuilder::new()
        .layer(ExchangeLayer::new().absolute_form(true))
        .layer(CheckinLayer::new())
        .layer(checkout)
        .layer(HandshakeLayer::<Full<Bytes>>::new())
        // Wherever the request goes, the connection goes to the proxy.
        .map_request(move |_| proxy.clone())
        .service(Connector);
    let request = get("http://user:secret@origin.test:8080/path?query");
    assert_eq!(send(&client, request).await.unwrap().body, "ok");
    let heads = server.heads();
    assert_eq!(heads[0].target, "http://origin.test:8080/path?query");
    assert_eq!(heads[0].header("host"), Some("origin.test:8080"));
    let keys: Vec<_> = handle
        .status()
        .idle
        .keys()
        .map(|key| key.to_string())
        .collect();
    assert_eq!(keys, ["origin.test:8080:"]);
    at_rest(&handle).await;
}

#[tokio::test]
async fn partitions_share_no_connections() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let url = server.url("/");
    let mut ids = Vec::new();
    for _ in 0..2 {
        for request in [
            get(&url),
            in_partition(&url, "blue"),
            in_partition(&url, "green"),
        ] {
            ids.push(send(&client, request).await.unwrap().info.id());
        }
    }
    assert_eq!(ids[..3], ids[3..]);
    assert_eq!(server.accepted(), 3);
    let status = handle.status();
    assert_eq!((status.idle.len(), status.reused), (3, 3));
    let named: Vec<_> = status
        .idle
        .keys()
        .filter_map(|key| key.partition())
        .collect();
    assert_eq!(named, ["blue", "green"]);
    for head in server.heads() {
        let fields: Vec<_> = head.headers.iter().map(|(name, _)| &**name).collect();
        assert_eq!(fields, ["host"], "nothing of it is sent");
    }
    at_rest(&handle).await;
}

#[tokio::test]
async fn one_shot_is_outside_the_limits_closed_and_counted() {
    let gate = Gate::new();
    let server = Server::start({
        let gate = gate.clone();
        move |mut conn: Conn| {
            let gate = gate.clone();
            async move {
                while let Some(head) = conn.request().await {
                    if head.target == "/held" {
                        gate.pass().await;
                    }
                    conn.respond("ok").await;
                }
            }
        }
    })
    .await;
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .max_connections(1)
        .max_pending_per_host(0);
    let connector = CountingConnector::new(Sockets);
    let (client, handle) = agent_over(layer, connector.clone());
    let held = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/held"));
        async move { fetch(&client, url).await }
    });
    eventually("the limit is reached", || server.requests() == 1).await;
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap_err()
            .is_queue_full()
    );

    let answer = send(&client, one_shot(&server.url("/"))).await.unwrap();
    assert_eq!((answer.body.as_str(), answer.info.uses()), ("ok", 1));
    let head = server.heads().pop().unwrap();
    assert_eq!(head.header("connection"), Some("close"));
    eventually("it is closed", || connector.alive() == 1).await;
    eventually("and counted", || handle.status().closed == 1).await;
    let status = handle.status();
    assert_eq!((status.created, status.open()), (2, 1), "{status}");
    assert_eq!(status.closes[&CloseReason::Final], 1);

    gate.open_for_all();
    held.await.unwrap().unwrap();
    // Neither does it take the idle one.
    let answer = send(&client, one_shot(&server.url("/"))).await.unwrap();
    assert!(!answer.info.is_reused());
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!(connector.made(), 3);
    at_rest(&handle).await;
    assert_eq!(handle.status().completed, 4);

    // And leaves the limits as they were.
    handle.close_idle();
    eventually("all are closed", || handle.status().open() == 0).await;
    fetch(&client, server.url("/"))
        .await
        .expect("there is room");
    at_rest(&handle).await;
}

/// Many at once, dropped at all stages: their permits are nobody else's.
#[tokio::test]
async fn one_shots_given_up_leave_the_limits_alone() {
    let server = Server::start(crate::support::script::stall).await;
    let good = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections(1));
    for at in 0..10 {
        let shot = tokio::spawn(client.request(one_shot(&server.url("/"))));
        for _ in 0..at {
            tokio::task::yield_now().await;
        }
        shot.abort();
        assert!(shot.await.unwrap_err().is_cancelled());
    }
    assert_eq!(fetch(&client, good.url("/")).await.unwrap().body, "ok");
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!(status.open(), 1, "{status}");
}

#[tokio::test]
async fn a_request_of_a_version_that_is_not_spoken_is_refused_before_a_connect() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for version in [Version::HTTP_09, Version::HTTP_2, Version::HTTP_3] {
        let request = Request::get(server.url("/")).version(version);
        let request = request.body(Full::default()).unwrap();
        let error = client.clone().oneshot(request).await.unwrap_err();
        assert!(error.is_target() && error.is_unsent(), "{error:?}");
        assert!(error.to_string().contains("Version::HTTP_11"), "{error}");
    }
    assert_eq!(handle.status().created, 0);
    let request = Request::get(server.url("/")).version(Version::HTTP_10);
    let request = request.body(Full::default()).unwrap();
    read(client.clone().oneshot(request).await.unwrap())
        .await
        .unwrap();
    assert_eq!(server.heads()[0].version, "HTTP/1.0");
    at_rest(&handle).await;
}

#[tokio::test]
async fn one_shots_take_no_room_from_others() {
    let gate = Gate::new();
    let server = Server::start({
        let gate = gate.clone();
        move |mut conn: Conn| {
            let gate = gate.clone();
            async move {
                while conn.request().await.is_some() {
                    conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no")
                        .await;
                    gate.pass().await;
                    conn.send("k").await;
                }
            }
        }
    })
    .await;
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(2)
        .max_pending_per_host(0);
    let (client, handle) = agent(layer);
    let first = client.request(get(server.url("/"))).await.unwrap();
    let shot = client.request(one_shot(&server.url("/"))).await.unwrap();
    let second = client.request(get(server.url("/"))).await;
    let second = second.expect("the limit is two, beside the one-shot");
    assert_eq!((server.accepted(), handle.status().open()), (3, 3));
    gate.open_for_all();
    for response in [first, shot, second] {
        assert_eq!(read(response).await.unwrap().body, "ok");
    }
    eventually("one is closed", || handle.status().open() == 2).await;
    at_rest(&handle).await;
}
