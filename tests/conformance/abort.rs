//! I. Aborts, and connections that end at the wrong moment.

use std::io::{self, ErrorKind};

use futures_util::future::{abortable, join_all};
use http::Method;
use tokio::task::JoinHandle;
use tower::retry::RetryLayer;
use tower::{Layer, Service, ServiceExt};
use tower_keep_alive::retry::ReusedReset;
use tower_keep_alive::{AgentHandle, Body, CloseReason, Error, KeepAliveLayer};

use crate::support::agent::{
    Answer, Req, agent, agent_over, agent_paused, at_rest, fetch, get, post, read, send,
};
use crate::support::{
    CountingConnector, Fault, Gate, Over, Server, Sockets, TrapConnector, eventually, not_over_h2,
    not_over_unix, over, script, settle,
};

fn pending(handle: &AgentHandle) -> usize {
    handle.status().pending.values().sum()
}

fn idle(handle: &AgentHandle) -> usize {
    handle.status().idle.values().sum()
}

fn spawn_fetch<S>(client: &S, url: String) -> JoinHandle<Result<Answer, Error>>
where
    S: Service<Req, Response = http::Response<Body>, Error = Error> + Clone + Send + Sync + 'static,
    S::Future: Send,
{
    let client = client.clone();
    tokio::spawn(async move { fetch(&client, url).await })
}

/// Answers with the target, each once let through.
async fn gated(gate: &Gate) -> Server {
    let gate = gate.clone();
    Server::start(move |mut conn| {
        let gate = gate.clone();
        async move {
            while let Some(head) = conn.request().await {
                gate.pass().await;
                conn.respond(&head.target).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn node_81_an_abort_in_line_leaves_the_line_at_once() {
    let gate = Gate::new();
    let server = gated(&gate).await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let first = spawn_fetch(&client, server.url("/first"));
    eventually("it is under way", || gate.waiting() == 1).await;
    // In the line's middle, at its head and at its end.
    let mut line: Vec<_> = Vec::new();
    for n in 0..6 {
        line.push(spawn_fetch(&client, server.url(&format!("/{n}"))));
        eventually("it is in line", || pending(&handle) == n + 1).await;
    }
    for (left, n) in [(5, 2), (4, 0), (3, 5)] {
        line[n].abort();
        let gone = (&mut line[n]).await;
        assert!(gone.unwrap_err().is_cancelled());
        // Not when its turn comes.
        assert_eq!(pending(&handle), left);
    }
    assert_eq!((counting.made(), server.requests()), (1, 1));
    gate.open_for_all();
    assert_eq!(first.await.unwrap().unwrap().body, "/first");
    for n in [1, 3, 4] {
        let answer = (&mut line[n]).await.unwrap().unwrap();
        assert_eq!(answer.body, format!("/{n}"));
        assert!(answer.info.is_reused());
    }
    // Nobody who was gone was sent, nor cost a connection.
    assert_eq!((counting.made(), server.requests()), (1, 4));
    eventually("it is idle", || idle(&handle) == 1).await;
    assert_eq!((handle.status().completed, handle.status().closed), (4, 0));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_81_an_abort_of_one_that_was_just_served_passes_it_on() {
    let gate = Gate::new();
    let server = gated(&gate).await;
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent(layer);
    let first = client.request(get(server.url("/first")));
    gate.open(1);
    let first = first.await.unwrap();
    let second = spawn_fetch(&client, server.url("/second"));
    eventually("it is in line", || pending(&handle) == 1).await;
    let third = spawn_fetch(&client, server.url("/third"));
    eventually("it is in line", || pending(&handle) == 2).await;
    // The connection is the second's when its body ends, and that never comes to look.
    read(first).await.unwrap();
    second.abort();
    gate.open_for_all();
    assert_eq!(third.await.unwrap().unwrap().body, "/third");
    assert!(second.await.unwrap_err().is_cancelled());
    assert_eq!((server.accepted(), server.requests()), (1, 2));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_82_an_abort_while_connecting_leaves_its_connect_to_who_waits() {
    let server = Server::echo().await;
    let gate = Gate::new();
    let counting = CountingConnector::new(Sockets).gate(&gate);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let first = spawn_fetch(&client, server.url("/first"));
    eventually("it connects", || gate.waiting() == 1).await;
    let second = spawn_fetch(&client, server.url("/second"));
    eventually("one is in line", || pending(&handle) == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    settle().await;
    assert_eq!((counting.made(), counting.alive()), (1, 1));
    gate.open(1);
    let answer = second.await.unwrap().unwrap();
    assert_eq!(answer.body, "/second");
    assert!(answer.info.is_reused(), "it was not made for it");
    assert_eq!((counting.made(), server.requests()), (1, 1));
    assert_eq!(handle.status().closed, 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_82_an_abort_while_connecting_for_nobody_else_gives_up_the_connect() {
    let server = Server::echo().await;
    let gate = Gate::new();
    let counting = CountingConnector::new(Sockets).gate(&gate);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let first = spawn_fetch(&client, server.url("/first"));
    eventually("it connects", || gate.waiting() == 1).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    assert_eq!(counting.alive(), 0);
    let status = handle.status();
    assert_eq!(
        (status.created, status.closed, status.create_errors),
        (1, 1, 0)
    );
    assert_eq!(status.closes, [(CloseReason::Cancelled, 1)].into());
    // Its permit is free.
    gate.open_for_all();
    let answer = fetch(&client, server.url("/second")).await.unwrap();
    assert!(!answer.info.is_reused());
    assert_eq!((server.accepted(), server.requests()), (1, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_82_an_abort_before_the_first_poll_is_nothing() {
    let server = Server::echo().await;
    let (client, mut handle) = agent(KeepAliveLayer::new());
    handle.status_changed();
    drop(client.clone().oneshot(get(server.url("/"))));
    drop(client.request(get(server.url("/"))));
    settle().await;
    assert!(!handle.status_changed());
    assert_eq!(server.accepted(), 0);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_83_an_abort_signal_is_a_drop() {
    if not_over_h2("an abort ends its stream, and not its connection") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        while let Some(head) = conn.request().await {
            if head.target == "/hang" {
                return conn.closed().await;
            }
            conn.respond("ok").await;
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    // Given before the start, and in flight.
    let (early, signal) = abortable(fetch(&client, server.url("/")));
    signal.abort();
    early.await.unwrap_err();
    assert_eq!(handle.status().created, 0);
    let (late, signal) = abortable(fetch(&client, server.url("/hang")));
    let abort = async {
        eventually("it is in flight", || server.requests() == 1).await;
        signal.abort();
    };
    let (late, ()) = tokio::join!(late, abort);
    late.unwrap_err();
    eventually("the server sees it", || server.open() == 0).await;
    let status = handle.status();
    assert_eq!(
        (status.errors, status.timeouts, status.completed),
        (0, 0, 0)
    );
    assert_eq!(status.closes, [(CloseReason::Abandoned, 1)].into());
    fetch(&client, server.url("/")).await.unwrap();
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_84_a_close_before_the_head_is_a_reset() {
    for rst in [false, true] {
        if rst && not_over_unix("a Unix socket has no RST") {
            continue;
        }
        let server = Server::start(move |mut conn| async move {
            while let Some(head) = conn.request().await {
                if head.target == "/close" {
                    return if rst { conn.rst() } else { conn.fin().await };
                }
                conn.respond("ok").await;
            }
        })
        .await;
        let (client, handle) = agent(KeepAliveLayer::new());
        for reused in [false, true] {
            if reused {
                fetch(&client, server.url("/")).await.unwrap();
            }
            let error = fetch(&client, server.url("/close")).await.unwrap_err();
            assert!(error.is_reset() && !error.is_unsent(), "{error:?}");
            assert_eq!(error.is_reused(), reused);
            eventually("it is gone", || handle.status().open() == 0).await;
        }
        let status = handle.status();
        let reason = if rst {
            CloseReason::Error
        } else {
            CloseReason::Peer
        };
        assert_eq!(status.closes, [(reason, 2)].into());
        assert_eq!((status.created, status.completed), (2, 1));
        assert_eq!(server.accepted(), 2);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn node_85_a_reset_in_a_body_is_the_bodys_error_and_is_never_retried() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let gate = Gate::new();
    for (rst, framing) in [
        (true, "content-length: 8"),
        (false, "content-length: 8"),
        (true, "transfer-encoding: chunked"),
        (false, "transfer-encoding: chunked"),
        (true, "connection: close"),
    ] {
        if rst && not_over_unix("a Unix socket has no RST") {
            continue;
        }
        let server = {
            let gate = gate.clone();
            Server::start(move |mut conn| {
                let gate = gate.clone();
                async move {
                    conn.request().await;
                    conn.respond("warm").await;
                    conn.request().await;
                    let part = match framing {
                        "transfer-encoding: chunked" => "4\r\nhalf\r\n",
                        _ => "half",
                    };
                    conn.send(format!("HTTP/1.1 200 OK\r\n{framing}\r\n\r\n{part}"))
                        .await;
                    gate.pass().await;
                    if rst {
                        conn.rst();
                    } else {
                        conn.fin().await;
                    }
                }
            })
            .await
        };
        let (agent, handle) = agent(KeepAliveLayer::new());
        let client = RetryLayer::new(ReusedReset::new().retry_if(|_| true)).layer(agent.clone());
        fetch(&agent, server.url("/")).await.unwrap();
        let response = client.oneshot(get(server.url("/"))).await.unwrap();
        assert!(response.body().connection().is_reused());
        gate.open(1);
        let error = read(response).await.expect_err(framing);
        // Nothing that a policy above the body's reader could take for one before the head.
        assert!(!error.is_reset() && !error.is_unsent(), "{error:?}");
        assert!(error.is_reused());
        eventually("it is gone", || handle.status().open() == 0).await;
        let status = handle.status();
        assert_eq!((status.completed, status.created), (1, 1));
        assert_eq!((server.accepted(), server.requests()), (1, 2));
        at_rest(&handle).await;
    }
}

/// The I/O error at the bottom of it.
fn io_kind(error: &Error) -> Option<ErrorKind> {
    let mut error: &dyn std::error::Error = error;
    loop {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        error = error.source()?;
    }
}

#[tokio::test(start_paused = true)]
async fn node_86_every_code_of_a_stale_connection_is_a_reset() {
    let resets = [
        ErrorKind::BrokenPipe,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
    ];
    // Something is on its way, or else it would be sent again unseen.
    for (method, accepts) in [(Method::GET, 10), (Method::POST, 1000)] {
        // By writing, or by reading after what was written; as an error, or as the end of the stream.
        let by_write = resets.map(|kind| (Some(kind), None, Some(kind)));
        let by_read = resets.map(|kind| (None, Some((&b""[..], Some(kind))), Some(kind)));
        let eof = (
            None,
            Some((&b""[..], Some(ErrorKind::UnexpectedEof))),
            Some(ErrorKind::UnexpectedEof),
        );
        // `h2` makes an error of it.
        let of_fin = (over() == Over::Http2).then_some(ErrorKind::BrokenPipe);
        let fin = (None, Some((&b""[..], None)), of_fin);
        for (write, read, kind) in by_write.into_iter().chain(by_read).chain([eof, fin]) {
            let server = Server::in_memory(script::ok);
            let trap = TrapConnector::new(server.connector());
            let (client, handle) = agent_paused(KeepAliveLayer::new(), trap.clone());
            fetch(&client, server.url("/")).await.unwrap();
            settle().await;
            trap.set(Fault {
                accepts,
                write,
                read,
            });
            let mut request = post(server.url("/"), vec![b'u'; 1 << 20]);
            if method == Method::GET {
                request = get(server.url("/"));
            }
            let error = send(&client, request).await.unwrap_err();
            assert!(error.is_reset() && error.is_reused(), "{error:?}");
            assert!(!error.is_unsent(), "{error:?}");
            assert_eq!(io_kind(&error), kind, "{error:?}");
            assert_eq!(trap.made(), 1);
            at_rest(&handle).await;
        }
    }
}

#[tokio::test]
async fn node_86_what_is_stale_already_is_never_sent_on() {
    for rst in [false, true] {
        let gate = Gate::new();
        let server = {
            let gate = gate.clone();
            Server::start(move |mut conn| {
                let gate = gate.clone();
                async move {
                    let head = conn.request().await.unwrap();
                    conn.respond(&head.target).await;
                    if conn.index > 0 {
                        return conn.closed().await;
                    }
                    gate.pass().await;
                    if rst {
                        conn.rst();
                    } else {
                        conn.fin().await;
                    }
                }
            })
            .await
        };
        let (client, handle) = agent(KeepAliveLayer::new());
        fetch(&client, server.url("/")).await.unwrap();
        gate.open(1);
        eventually("the server has closed", || server.open() == 0).await;
        let answers = join_all([send(
            &client,
            post(server.url("/post"), vec![b'u'; 1 << 20]),
        )])
        .await;
        for answer in answers {
            let answer = answer.unwrap();
            assert_eq!(
                (answer.body.as_str(), answer.info.is_reused()),
                ("/post", false)
            );
        }
        assert_eq!((server.accepted(), server.requests()), (2, 2));
        at_rest(&handle).await;
    }
}
