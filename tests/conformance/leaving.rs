//! J. Connections that leave the pool with their exchange.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Channel, Full};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tower::{Layer, ServiceExt};
use tower_keep_alive::{AgentHandle, Body, KeepAliveLayer};

use super::detached::waiting_owner;
use super::timeouts::ms;
use crate::support::agent::{
    Connector, Req, agent, agent_over, agent_paused, at_rest, fetch, get, paused_clock, send,
};
use crate::support::{
    Conn, CountingConnector, Gate, Server, Sockets, alive_tasks, eventually, not_over_h2,
    not_over_unix, settle,
};

pub(super) const SWITCHES: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: raw\r\n\r\n";

const CONNECTED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";

pub(super) fn upgrade(url: String) -> Req {
    let mut request = get(url);
    let headers = request.headers_mut();
    headers.insert("connection", "upgrade".parse().unwrap());
    headers.insert("upgrade", "raw".parse().unwrap());
    request
}

fn connect(server: &Server) -> Req {
    Request::builder()
        .method(Method::CONNECT)
        .uri(server.url(""))
        .body(Full::default())
        .unwrap()
}

/// Takes over what a response left its connection to.
pub(super) async fn owner_of(response: Response<Body>) -> TokioIo<Upgraded> {
    TokioIo::new(
        hyper::upgrade::on(response)
            .await
            .expect("it is handed over"),
    )
}

/// Answers an upgrade or a CONNECT with `glued` right behind the head, and says everything in capitals from there on;
/// answers other requests.
async fn switching(mut conn: Conn, glued: Arc<[u8]>) {
    while let Some(head) = conn.request().await {
        let answer = if head.method == "CONNECT" {
            CONNECTED
        } else if head.header("upgrade").is_some() {
            SWITCHES
        } else {
            conn.respond("ok").await;
            continue;
        };
        conn.send([answer.as_bytes(), &glued].concat()).await;
        loop {
            let said = conn.read().await;
            if said.is_empty() {
                return conn.fin().await;
            }
            conn.send(said.to_ascii_uppercase()).await;
        }
    }
}

async fn switching_server(glued: impl Into<Arc<[u8]>>) -> Server {
    let glued = glued.into();
    Server::start(move |conn| switching(conn, glued.clone())).await
}

pub(super) fn one_at_a_time() -> (
    tower_keep_alive::KeepAlive<CountingConnector<Sockets>, Full<Bytes>>,
    AgentHandle,
    CountingConnector<Sockets>,
) {
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    (client, handle, counting)
}

/// The new owner reads what came with the head and after it, and writes; the permit is free at once.
async fn leaves_with_every_byte(asking: fn(&Server) -> Req, glued: &[u8]) {
    let server = switching_server(glued).await;
    let (client, handle, counting) = one_at_a_time();
    let url = server.url("/");
    let next = fetch(&client, &url);
    let leaving = async {
        let response = client.request(asking(&server)).await.unwrap();
        let info = response.body().connection().clone();
        // At once, and before anybody has taken it over.
        let status = handle.status();
        assert_eq!((status.created, status.detached), (1, 1));
        assert!(status.pending.is_empty());
        (owner_of(response).await, info)
    };
    let (mut owner, info, next) = {
        let ((owner, info), next) = tokio::join!(leaving, next);
        (owner, info, next.unwrap())
    };
    assert_eq!((next.body.as_str(), next.info.is_reused()), ("ok", false));
    assert_ne!(next.info.id(), info.id());
    assert_eq!((counting.made(), counting.alive()), (2, 2));
    let mut read = vec![0; glued.len()];
    owner.read_exact(&mut read).await.unwrap();
    assert!(read == glued, "{} bytes", glued.len());
    for said in ["x", "hello", "a\r\n\r\nb"] {
        owner.write_all(said.as_bytes()).await.unwrap();
        let mut answer = vec![0; said.len()];
        owner.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, said.to_ascii_uppercase().as_bytes());
    }
    // Never idle again: neither while it is open nor when its new owner is done.
    assert_eq!(handle.status().idle.values().sum::<usize>(), 1);
    owner.shutdown().await.unwrap();
    let mut rest = Vec::new();
    owner.read_to_end(&mut rest).await.unwrap();
    assert!(rest.is_empty());
    drop(owner);
    eventually("it is gone", || counting.alive() == 1).await;
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (2, 1, 0));
    assert_eq!(status.idle.values().sum::<usize>(), 1);
    let after = fetch(&client, &url).await.unwrap();
    assert_eq!(after.info.id(), next.info.id());
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

fn glued() -> [Vec<u8>; 4] {
    let long = (0..200_000_u32).map(|n| (n * 7 / 3) as u8).collect();
    // What looks like a message is none any more.
    let message = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno".to_vec();
    [Vec::new(), b"g".to_vec(), message, long]
}

#[tokio::test]
async fn node_87_an_upgrade_leaves_with_every_byte_and_frees_its_slot() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    for glued in glued() {
        leaves_with_every_byte(|server| upgrade(server.url("/")), &glued).await;
    }
}

#[tokio::test]
async fn node_88_a_tunnel_leaves_with_every_byte_and_frees_its_slot() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    for glued in glued() {
        leaves_with_every_byte(connect, &glued).await;
    }
}

#[tokio::test]
async fn node_87_who_is_in_line_has_its_turn_while_the_upgrade_is_open() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let gate = Gate::new();
    let server = {
        let gate = gate.clone();
        Server::start(move |mut conn| {
            let gate = gate.clone();
            async move {
                let head = conn.request().await.unwrap();
                gate.pass().await;
                match head.header("upgrade") {
                    Some(_) => conn.send(SWITCHES).await,
                    None => conn.respond("ok").await,
                }
                conn.closed().await;
            }
        })
        .await
    };
    let (client, handle, counting) = one_at_a_time();
    let pending = || handle.status().pending.values().sum::<usize>();
    let switch = tokio::spawn(client.clone().oneshot(upgrade(server.url("/"))));
    eventually("it is under way", || gate.waiting() == 1).await;
    let next = tokio::spawn({
        let (client, url) = (client.clone(), server.url("/"));
        async move { fetch(&client, url).await }
    });
    eventually("one is in line", || pending() == 1).await;
    settle().await;
    assert_eq!(counting.made(), 1);
    gate.open(1);
    let response = switch.await.unwrap().unwrap();
    eventually("the next is under way", || gate.waiting() == 1).await;
    let status = handle.status();
    assert_eq!((pending(), status.detached, status.open()), (0, 1, 1));
    assert_eq!(counting.alive(), 2);
    gate.open(1);
    assert!(!next.await.unwrap().unwrap().info.is_reused());
    drop(response);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_87_no_timer_of_the_agent_ends_an_upgrade() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = Server::in_memory(|conn| switching(conn, Arc::default()));
    let layer = KeepAliveLayer::new()
        .active_timeout(ms(100))
        .idle_timeout(ms(50))
        .ttl(ms(200))
        .drain_unread(100, ms(10));
    let (client, handle) = agent_paused(layer, server.connector());
    let response = client.request(upgrade(server.url("/"))).await.unwrap();
    let mut owner = owner_of(response).await;
    for _ in 0..3 {
        sleep(ms(5000)).await;
        owner.write_all(b"ping").await.unwrap();
        let mut answer = [0; 4];
        owner.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"PING");
    }
    let status = handle.status();
    assert_eq!((status.timeouts, status.detached, status.open()), (0, 1, 0));
    drop(owner);
    eventually("it is closed", || server.open() == 0).await;
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_87_the_later_close_of_an_upgrade_is_not_the_agents() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    // In each of the ways that it can end.
    for (fin, drops) in [(true, false), (false, false), (false, true)] {
        if !fin && !drops && not_over_unix("a Unix socket has no RST") {
            continue;
        }
        let server = Server::start(move |mut conn| async move {
            conn.request().await;
            conn.send(SWITCHES).await;
            conn.read().await;
            match (fin, drops) {
                (true, _) => conn.fin().await,
                (false, false) => conn.rst(),
                (false, true) => conn.closed().await,
            }
        })
        .await;
        let (client, mut handle) = agent(KeepAliveLayer::new());
        let response = client.request(upgrade(server.url("/"))).await.unwrap();
        let mut owner = owner_of(response).await;
        let before = handle.status();
        handle.status_changed();
        owner.write_all(b"bye").await.unwrap();
        if !drops {
            let mut rest = Vec::new();
            let end = owner.read_to_end(&mut rest).await;
            assert_eq!(end.is_ok(), fin, "{end:?}");
        }
        drop(owner);
        eventually("it is closed", || server.open() == 0).await;
        settle().await;
        assert!(!handle.status_changed());
        assert_eq!(handle.status(), before);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn node_88_a_connect_that_is_refused_is_an_ordinary_exchange() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            conn.respond_with("HTTP/1.1 407 Proxy Authentication Required", "who?")
                .await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for reused in [false, true] {
        let answer = send(&client, connect(&server)).await.unwrap();
        assert_eq!(answer.status, StatusCode::PROXY_AUTHENTICATION_REQUIRED);
        assert_eq!(answer.body, "who?");
        assert_eq!(answer.info.is_reused(), reused);
    }
    let status = handle.status();
    assert_eq!(
        (status.created, status.detached, status.completed),
        (1, 0, 2)
    );
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_88_a_tunnels_head_has_no_body_whatever_it_says() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    // RFC 9110 section 9.3.6: a length is ignored.
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\ntunnelled")
            .await;
        conn.fin().await;
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(connect(&server)).await.unwrap();
    let mut all = String::new();
    let mut owner = owner_of(response).await;
    owner.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "tunnelled");
    assert_eq!(handle.status().detached, 1);
    at_rest(&handle).await;
}

/// Asks for it, lets go of it in some way, and sees it closed and its permit free.
async fn closes_when_nobody_wants_it(asking: fn(&Server) -> Req, lets_go: fn(Response<Body>)) {
    let server = switching_server(&b"glued"[..]).await;
    let (client, handle, counting) = one_at_a_time();
    let response = client.request(asking(&server)).await.unwrap();
    lets_go(response);
    eventually("the transport is dropped", || counting.alive() == 0).await;
    eventually("the server sees it", || server.open() == 0).await;
    let next = fetch(&client, server.url("/")).await.unwrap();
    assert_eq!((next.body.as_str(), next.info.is_reused()), ("ok", false));
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (2, 1, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_89_an_upgrade_that_nobody_takes_is_closed() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let tasks = alive_tasks();
    for asking in [|server: &Server| upgrade(server.url("/")), connect] {
        closes_when_nobody_wants_it(asking, drop).await;
        // Its body is empty, and no place to hold it.
        closes_when_nobody_wants_it(asking, |response| drop(response.into_body())).await;
        closes_when_nobody_wants_it(asking, |response| drop(hyper::upgrade::on(response))).await;
        closes_when_nobody_wants_it(asking, |mut response| {
            drop(hyper::upgrade::on(&mut response));
        })
        .await;
    }
    eventually("no task is left", || alive_tasks() == tasks).await;
}

#[tokio::test]
async fn node_89_a_tunnels_body_is_at_its_end() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = switching_server(&b"glued"[..]).await;
    let (client, handle, counting) = one_at_a_time();
    for request in [upgrade(server.url("/")), connect(&server)] {
        let answer = send(&client, request).await.unwrap();
        assert_eq!(answer.body, "", "what is glued to the head is its owner's");
    }
    eventually("both are closed", || counting.alive() == 0).await;
    assert_eq!(handle.status().detached, 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_87_drain_does_not_wait_for_an_upgrade_and_destroy_ends_it() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = switching_server(&b""[..]).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let reading = waiting_owner(&client, &server).await;
    let response = client.request(connect(&server)).await.unwrap();
    let mut later = owner_of(response).await;
    settle().await;
    let drained = handle.drain();
    assert!(drained.now_or_never().is_some(), "nothing else is open");
    assert!(!reading.is_finished());
    assert_eq!(server.open(), 2);
    handle.destroy();
    let read = timeout(Duration::from_secs(5), reading);
    let error = read.await.expect("it is told").unwrap().unwrap_err();
    assert!(error.to_string().contains("destroyed"), "{error}");
    // Who was not reading is told when it comes.
    assert!(later.read(&mut [0; 8]).await.is_err());
    assert!(later.write(b"more").await.is_err());
    eventually("the server sees both", || server.open() == 0).await;
    let status = handle.status();
    assert_eq!((status.created, status.detached, status.closed), (2, 2, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_87_an_upgrade_outlives_its_service() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = switching_server(&b""[..]).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let response = client.request(upgrade(server.url("/"))).await.unwrap();
    drop(client);
    let mut owner = owner_of(response).await;
    settle().await;
    owner.write_all(b"on").await.unwrap();
    let mut answer = [0; 2];
    owner.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"ON");
    drop(owner);
    eventually("it is closed", || server.open() == 0).await;
    assert_eq!(handle.status().detached, 1);
    at_rest(&handle).await;
}

/// The connector of the crate itself is under the others here.
#[tokio::test]
async fn node_87_the_crates_own_transport_leaves_too() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = switching_server(&b"glued"[..]).await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, Connector);
    for n in 1..=3 {
        // From a connection that was used before.
        fetch(&client, server.url("/")).await.unwrap();
        let response = client.request(upgrade(server.url("/"))).await.unwrap();
        assert!(response.body().connection().is_reused());
        let mut owner = owner_of(response).await;
        let mut read = [0; 5];
        owner.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"glued");
        assert_eq!(handle.status().detached, n);
    }
    eventually("all are closed", || server.open() == 0).await;
    at_rest(&handle).await;
}

/// Wherever the agent is destroyed: nobody is left waiting, and no transport stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_87_destroy_is_heard_at_every_step_of_an_upgrade() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = switching_server(&b"glued"[..]).await;
    for step in 0..300 {
        let counting = CountingConnector::new(Sockets);
        let (client, handle) = agent_over(KeepAliveLayer::new(), counting.clone());
        let request = upgrade(server.url("/"));
        let upgrading = tokio::spawn(async move {
            let response = client.oneshot(request).await.ok()?;
            let mut owner = TokioIo::new(hyper::upgrade::on(response).await.ok()?);
            let mut all = Vec::new();
            Some(owner.read_to_end(&mut all).await)
        });
        sleep(Duration::from_micros(step * 5)).await;
        handle.destroy();
        let end = timeout(Duration::from_secs(5), upgrading).await;
        if let Some(read) = end.expect("it is told").unwrap() {
            read.expect_err("it has not ended by itself");
        }
        eventually("no transport is left", || counting.alive() == 0).await;
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_87_an_upgrade_waits_for_the_end_of_its_upload() {
    if not_over_h2("an upgrade and CONNECT are sent over HTTP/1.1") {
        return;
    }
    let server = Server::in_memory(|mut conn| async move {
        conn.head().await;
        conn.send([SWITCHES, "glued"].concat()).await;
        let body = conn.body().await.unwrap();
        conn.send(&body).await;
        conn.fin().await;
    });
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let handle = layer.handle();
    let client = layer.clock(paused_clock()).layer(counting.clone());
    let (mut upload, body) = Channel::<Bytes>::new(1);
    let request = Request::post(server.url("/"))
        .header("connection", "upgrade")
        .header("upgrade", "raw")
        .body(body)
        .unwrap();
    let response = client.oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    assert_eq!((handle.status().detached, handle.status().open()), (1, 0));
    let finishing = async {
        // Longer than a connection may take to come free: this one need not.
        sleep(ms(1200)).await;
        upload.send_data(Bytes::from_static(b"late")).await.unwrap();
        drop(upload);
    };
    let owning = async {
        let mut all = String::new();
        owner_of(response)
            .await
            .read_to_string(&mut all)
            .await
            .unwrap();
        all
    };
    let (all, ()) = tokio::join!(owning, finishing);
    assert_eq!(all, "gluedlate");
    eventually("it is gone", || counting.alive() == 0).await;
    at_rest(&handle).await;
}
