//! How connections end: what was cut off is told from what was all, and we say goodbye.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Uri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tower::{Layer, ServiceExt};
use tower_keep_alive::connect::TcpConnector;
use tower_keep_alive::{CloseReason, KeepAliveLayer, connect::Destination};

use crate::support::agent::{agent_over, at_rest, fetch, post, send};
use crate::support::tls::{CA, localhost};
use crate::support::{Conn, Fault, Server, TrapConnector, eventually, script};
use crate::{agent, agent_with, idle, text};

/// How a server ends a connection.
#[derive(Clone, Copy, Debug)]
enum End {
    /// close_notify and FIN.
    Good,
    /// FIN.
    Cut,
    Reset,
}

async fn end(conn: Conn, end: End) {
    match end {
        End::Good => conn.fin().await,
        End::Cut => conn.cut().await,
        End::Reset => conn.rst(),
    }
}

/// Answers `/kind` and ends the connection.
async fn answering(how: End) -> Server {
    let config = localhost().server();
    Server::start_tls(config, move |mut conn| async move {
        let Some(head) = conn.request().await else {
            return;
        };
        let answer = match &*head.target {
            "/closed" => "HTTP/1.1 200 OK\r\n\r\nhello",
            "/length" => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
            "/length-cut" => "HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello",
            "/chunked" => {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
            }
            "/chunked-cut" => "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "/head-cut" => "HTTP/1.1 200 OK\r\ncontent-le",
            other => panic!("{other}"),
        };
        conn.send(answer).await;
        end(conn, how).await;
    })
    .await
}

/// (n), R12: 0 silent truncations.
#[tokio::test]
async fn a_body_that_may_have_been_cut_off_is_an_error() {
    for (how, target, is_whole) in [
        (End::Good, "/closed", true),
        (End::Cut, "/closed", false),
        (End::Good, "/length", true),
        (End::Cut, "/length", true),
        (End::Good, "/length-cut", false),
        (End::Cut, "/length-cut", false),
        (End::Reset, "/length-cut", false),
        (End::Good, "/chunked", true),
        (End::Cut, "/chunked", true),
        (End::Good, "/chunked-cut", false),
        (End::Cut, "/chunked-cut", false),
        (End::Reset, "/chunked-cut", false),
        (End::Good, "/head-cut", false),
        (End::Cut, "/head-cut", false),
        (End::Reset, "/head-cut", false),
    ] {
        let server = answering(how).await;
        let (client, handle) = agent(CA.trusted());
        let fetched = fetch(&client, server.url(target)).await;
        match &fetched {
            Ok(answer) => assert_eq!(answer.body, "hello"),
            Err(error) => assert!(!error.is_connect() && !error.is_timeout(), "{error:?}"),
        }
        assert_eq!(fetched.is_ok(), is_whole, "{target}, {how:?}: {fetched:?}");
        if let Err(error) = &fetched
            && target == "/head-cut"
        {
            assert!(error.is_reset(), "{how:?}: {}", text(error));
        }
        eventually("it is closed", || handle.status().closed == 1).await;
        assert_eq!((handle.status().created, idle(&handle)), (1, 0));
        assert_eq!(server.accepted(), 1);
        at_rest(&handle).await;
    }
}

/// With a goodbye or without, an end is told as the server's, whenever it comes, and counted as no failure.
#[tokio::test]
async fn an_end_is_the_servers_with_a_goodbye_and_without() {
    // Before the head is whole, in a body, where a body ends, and with nothing under way.
    let paths = [
        "/head-cut",
        "/length-cut",
        "/chunked-cut",
        "/closed",
        "/length",
    ];
    for how in [End::Good, End::Cut] {
        for path in paths {
            let server = answering(how).await;
            let (client, handle) = agent(CA.trusted());
            // Whether it fails is the matter of the test above.
            let _ = fetch(&client, server.url(path)).await;
            eventually("it is closed", || handle.status().closed == 1).await;
            let status = handle.status();
            assert_eq!(
                status.closes,
                [(CloseReason::Peer, 1)].into(),
                "{path}, {how:?}"
            );
            assert_eq!((status.created, status.errors), (1, 0), "{path}, {how:?}");
            at_rest(&handle).await;
        }
    }
}

/// What the server reads after the last request: a close_notify ends its reading in good order, a FIN alone does not.
async fn counting_goodbyes(goodbyes: &Arc<AtomicUsize>) -> Server {
    let goodbyes = goodbyes.clone();
    Server::start_tls(localhost().server(), move |mut conn| {
        let goodbyes = goodbyes.clone();
        async move {
            while conn.request().await.is_some() {
                conn.respond("ok").await;
            }
            let is_goodbye = conn.tls().unwrap().process_new_packets();
            if is_goodbye.unwrap().peer_has_closed() {
                goodbyes.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await
}

#[tokio::test]
async fn we_say_that_we_close() {
    let goodbyes = Arc::default();
    let server = counting_goodbyes(&goodbyes).await;
    let said = || goodbyes.load(Ordering::SeqCst);
    let layer = KeepAliveLayer::new().idle_timeout(Duration::from_millis(50));
    let (client, handle) = agent_with(layer, CA.trusted());
    fetch(&client, server.url("/")).await.unwrap();
    eventually("its time idle is over", || said() == 1).await;
    fetch(&client, server.url("/")).await.unwrap();
    handle.close_idle();
    eventually("it is closed on demand", || said() == 2).await;
    fetch(&client, server.url("/")).await.unwrap();
    drop(client);
    eventually("its agent is gone", || said() == 3).await;
    eventually("all are closed", || handle.status().closed == 3).await;
    assert_eq!(server.accepted(), 3);
    at_rest(&handle).await;
}

/// Half of trust test 24: our goodbye is said, and no answer to it is waited for.
#[tokio::test]
async fn a_server_that_answers_no_goodbye_holds_nobody_up() {
    let deaf = Server::start_tls(localhost().server(), |mut conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        conn.stall().await;
    })
    .await;
    let other = Server::start_tls(localhost().server(), script::ok).await;
    let (client, handle) = agent(CA.trusted());
    fetch(&client, deaf.url("/")).await.unwrap();
    fetch(&client, other.url("/")).await.unwrap();
    let begun = Instant::now();
    handle.close_idle();
    for _ in 0..100 {
        fetch(&client, other.url("/")).await.unwrap();
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
    eventually("both are closed", || handle.status().closed == 2).await;
    at_rest(&handle).await;
}

/// Neither version of TLS sends more than an exchange needs.
#[tokio::test]
async fn a_healthy_connection_is_used_for_ever() {
    for versions in [&[&TLS12], &[&TLS13]] {
        let config = localhost().server_of(versions, None);
        let server = Server::start_tls(config, script::ok).await;
        let (client, handle) = agent(CA.trusted());
        for _ in 0..500 {
            fetch(&client, server.url("/")).await.unwrap();
        }
        let status = handle.status();
        assert_eq!((status.created, status.completed), (1, 500));
        assert_eq!((server.accepted(), server.requests()), (1, 500));
        at_rest(&handle).await;
    }
}

/// rustls gives the plain error of the transport, whatever it had written before.
#[tokio::test]
async fn a_write_that_fails_inside_a_record_is_not_taken_for_none() {
    for (accepts, is_unsent) in [(0, true), (9, false)] {
        let server = Server::start_tls(localhost().server(), script::ok).await;
        let trap = TrapConnector::new(TcpConnector::new());
        let connector = CA.trusted().layer(trap.clone());
        let (client, handle) = agent_over(KeepAliveLayer::new(), connector);
        fetch(&client, server.url("/")).await.unwrap();
        trap.set(Fault {
            accepts,
            write: Some(ErrorKind::BrokenPipe),
            read: None,
        });
        match send(&client, post(server.url("/"), "content")).await {
            Ok(answer) => assert!(is_unsent && !answer.info.is_reused(), "{accepts}"),
            Err(error) => {
                assert!(error.is_reset() && error.is_reused(), "{error:?}");
                assert!(!is_unsent && !error.is_unsent(), "{accepts}: {error:?}");
                assert_eq!(error.io_error().unwrap().kind(), ErrorKind::BrokenPipe);
            }
        }
        assert_eq!(trap.made(), 1 + usize::from(is_unsent), "{accepts}");
        at_rest(&handle).await;
    }
}

/// Who shuts down the stream and reads on, as after an upgrade, has said goodbye in TLS and in TCP.
#[tokio::test]
async fn a_stream_that_is_shut_down_ends_with_a_goodbye_and_a_fin() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(localhost().server()));
        let mut tls = acceptor.accept(tcp).await.unwrap();
        let goodbye = tls.read(&mut [0]).await.unwrap();
        let (mut tcp, _) = tls.into_inner();
        let fin = tcp.read(&mut [0]).await.unwrap();
        assert_eq!((goodbye, fin), (0, 0));
    });
    let target: Destination = url.parse::<Uri>().unwrap().try_into().unwrap();
    let connector = CA.trusted().layer(TcpConnector::new());
    let connecting = connector.oneshot(target);
    let mut stream = connecting.await.unwrap();
    stream.shutdown().await.unwrap();
    // The stream is still here.
    server.await.unwrap();
    drop(stream);
}
