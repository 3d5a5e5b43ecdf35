//! H. Which connections persist, and for how long the server wants it.

use std::time::Duration;

use futures_util::future::join_all;
use http::{Method, Request, header};
use http_body_util::Full;
use tokio::time::Instant;
use tower_keep_alive::{CloseReason, KeepAliveLayer};

use super::idle_timeout::{idle_life, saying};
use crate::support::agent::{Req, agent, agent_over, agent_paused, at_rest, fetch, get, send};
use crate::support::{CountingConnector, Gate, Server, Sockets, eventually, not_over_h2, settle};

fn saying_connection(value: &'static str, url: String) -> Req {
    let mut request = get(url);
    let value = header::HeaderValue::from_static(value);
    request.headers_mut().insert(header::CONNECTION, value);
    request
}

#[tokio::test]
async fn node_68_a_request_says_close_only_where_nothing_is_kept() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = Server::ok().await;
    let (kept, kept_handle) = agent(KeepAliveLayer::new());
    let (limited, limited_handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let (closed, closed_handle) = agent(KeepAliveLayer::new().keep_alive(false));
    for client in [&kept, &limited, &closed] {
        fetch(client, server.url("/")).await.unwrap();
    }
    // A user's own field stands.
    let own = saying_connection("keep-alive", server.url("/"));
    send(&kept, own).await.unwrap();
    let said: Vec<_> = server
        .heads()
        .iter()
        .map(|head| head.header("connection").map(str::to_owned))
        .collect();
    let [close, keep] = ["close", "keep-alive"].map(|it| Some(it.to_owned()));
    assert_eq!(said, [None, None, close, keep]);
    assert_eq!(kept_handle.status().idle.len(), 1);
    assert_eq!(limited_handle.status().idle.len(), 1);
    assert_eq!(closed_handle.status().idle.len(), 0);
    for handle in [kept_handle, limited_handle, closed_handle] {
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn node_69_a_request_that_says_close_is_its_connections_last() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let last = saying_connection("close", server.url("/"));
    send(&client, last).await.unwrap();
    assert_eq!(server.heads()[0].header("connection"), Some("close"));
    eventually("it is closed", || handle.status().open() == 0).await;
    assert_eq!(handle.status().closes, [(CloseReason::Final, 1)].into());
    assert!(
        !fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_69_a_request_cannot_ask_to_be_kept_where_nothing_is() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new().keep_alive(false));
    for _ in 0..2 {
        let keep = saying_connection("keep-alive", server.url("/"));
        send(&client, keep).await.unwrap();
    }
    eventually("both are closed", || handle.status().open() == 0).await;
    assert_eq!(server.accepted(), 2);
    assert_eq!(handle.status().closes, [(CloseReason::Final, 2)].into());
    at_rest(&handle).await;
}

/// Whether a connection is kept after `request` got this answer; the body that came with it.
async fn is_kept_after(request: Method, answer: &'static str, then_fin: bool) -> (bool, String) {
    let server = Server::start(move |mut conn| async move {
        while conn.request().await.is_some() {
            conn.send(answer).await;
            if then_fin {
                return conn.fin().await;
            }
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let mut bodies = Vec::new();
    for _ in 0..2 {
        let request = Request::builder()
            .method(request.clone())
            .uri(server.url("/"))
            .body(Full::default())
            .unwrap();
        bodies.push(send(&client, request).await.unwrap().body);
        // Long enough for one that is not kept to be seen as closed.
        eventually("nothing is in use", || handle.status().active.is_empty()).await;
    }
    assert_eq!(bodies[0], bodies[1], "{answer}");
    let status = handle.status();
    let kept = server.accepted() == 1;
    assert_eq!(status.idle.len(), usize::from(kept), "{answer}");
    if !kept {
        // A close by the server is the end of such a body.
        let reason = if then_fin {
            CloseReason::Peer
        } else {
            CloseReason::Final
        };
        assert_eq!(status.closes, [(reason, 2)].into(), "{answer}");
    }
    assert_eq!(status.completed, 2, "{answer}");
    at_rest(&handle).await;
    (kept, bodies.remove(0))
}

#[tokio::test]
async fn node_70_version_and_connection_decide() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    for (answer, kept) in [
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok", false),
        (
            "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
            true,
        ),
        (
            "HTTP/1.0 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", true),
        (
            "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\ncontent-length: 2\r\n\r\nok",
            true,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
    ] {
        let after = is_kept_after(Method::GET, answer, false).await;
        assert_eq!(after, (kept, "ok".to_owned()), "{answer}");
    }
}

#[tokio::test]
async fn node_71_close_is_found_among_other_tokens_and_in_any_case() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    for (answer, kept) in [
        (
            "HTTP/1.1 200 OK\r\nConnection: x, ClOsE\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x\r\nConnection: close\r\ncontent-length: 2\r\n\r\nok",
            false,
        ),
        (
            "HTTP/1.1 200 OK\r\nConnection: x, y\r\ncontent-length: 2\r\n\r\nok",
            true,
        ),
    ] {
        let after = is_kept_after(Method::GET, answer, false).await;
        assert_eq!(after, (kept, "ok".to_owned()), "{answer}");
    }
}

#[tokio::test]
async fn node_72_framing_decides() {
    for (method, answer, body, kept) in [
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "ok",
            true,
        ),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
            "ok",
            true,
        ),
        (
            Method::GET,
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "",
            true,
        ),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", "", true),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\n\r\n", "", true),
        (
            Method::GET,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
            "",
            true,
        ),
        (
            Method::HEAD,
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            "",
            true,
        ),
        (
            Method::HEAD,
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "",
            true,
        ),
        // Node's parser decides before it knows that the answer is one to HEAD.
        (Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n", "", true),
    ] {
        let after = is_kept_after(method.clone(), answer, false).await;
        assert_eq!(after, (kept, body.to_owned()), "{method} {answer}");
    }
}

#[tokio::test]
async fn node_72_a_body_that_ends_with_its_connection_is_the_last() {
    let after = is_kept_after(Method::GET, "HTTP/1.1 200 OK\r\n\r\nok", true).await;
    assert_eq!(after, (false, "ok".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn node_73_after_close_the_next_in_line_does_not_wait_for_the_servers_fin() {
    if not_over_h2("HTTP/2 has no field Connection") {
        return;
    }
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.respond_with("HTTP/1.1 200 OK\r\nConnection: close", "ok")
            .await;
        conn.closed().await;
    });
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, counting.clone());
    let begun = Instant::now();
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(begun.elapsed(), Duration::ZERO, "nothing was waited for");
    settle().await;
    assert_eq!((counting.made(), counting.max_alive()), (3, 1));
    assert_eq!(server.accepted(), 3);
    assert_eq!(handle.status().closes, [(CloseReason::Final, 3)].into());
    at_rest(&handle).await;
}

/// That `hint` keeps a connection for that long, to the millisecond, or not at all.
async fn kept_for(
    layer: KeepAliveLayer<Full<bytes::Bytes>>,
    hint: &'static str,
    life: Option<u64>,
) {
    let server = saying(hint);
    let lived = idle_life(layer, &server).await;
    assert_eq!(lived.is_some(), life.is_some(), "{hint}: {lived:?}");
    if let (Some((lived, reason)), Some(life)) = (lived, life) {
        let off = lived.abs_diff(Duration::from_millis(life));
        assert!(off <= Duration::from_millis(2), "{hint}: {lived:?}");
        assert_eq!(reason, CloseReason::Idle, "{hint}");
    }
    assert_eq!(server.accepted(), 1);
}

#[tokio::test(start_paused = true)]
async fn node_74_the_hint_less_its_margin_is_a_limit() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    for (idle_timeout, hint, life) in [
        (30_000, "Keep-Alive: timeout=5", Some(4000)),
        (30_000, "Keep-Alive: timeout=2", Some(1000)),
        (30_000, "Keep-Alive: timeout=1", None),
        (30_000, "Keep-Alive: timeout=0", None),
        (5000, "Keep-Alive: timeout=60", Some(5000)),
        (30_000, "", Some(30_000)),
    ] {
        let layer = KeepAliveLayer::new().idle_timeout(Duration::from_millis(idle_timeout));
        kept_for(layer, hint, life).await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_74_the_margin_is_a_setting() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    for (margin, hint, life) in [
        (0, "Keep-Alive: timeout=1", Some(1000)),
        (0, "Keep-Alive: timeout=0", None),
        (500, "Keep-Alive: timeout=1", Some(500)),
        (3000, "Keep-Alive: timeout=3", None),
        (3000, "Keep-Alive: timeout=4", Some(1000)),
    ] {
        let layer = KeepAliveLayer::new()
            .idle_timeout(Duration::from_secs(30))
            .server_hint_margin(Duration::from_millis(margin));
        kept_for(layer, hint, life).await;
    }
}

#[tokio::test(start_paused = true)]
async fn node_74_a_hint_holds_for_the_idle_time_after_it_only() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.respond_with("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=2", "ok")
            .await;
        while conn.request().await.is_some() {
            // Longer than the hint: it is no limit for a connection in use.
            tokio::time::sleep(Duration::from_secs(3)).await;
            conn.respond("ok").await;
        }
    });
    let layer = KeepAliveLayer::new().idle_timeout(Duration::from_secs(10));
    let (client, handle) = agent_paused(layer, server.connector());
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    // The second response said nothing.
    tokio::time::sleep(Duration::from_secs(9)).await;
    settle().await;
    assert_eq!(handle.status().idle.len(), 1);
    assert!(
        fetch(&client, server.url("/"))
            .await
            .unwrap()
            .info
            .is_reused()
    );
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_75_the_hint_needs_no_idle_timeout_beside_it() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let layer = || KeepAliveLayer::new().idle_timeout(Duration::MAX);
    kept_for(layer(), "Keep-Alive: timeout=5", Some(4000)).await;
    kept_for(layer(), "Keep-Alive: timeout=60", Some(59_000)).await;
    kept_for(layer(), "Keep-Alive: timeout=1", None).await;
}

#[tokio::test(start_paused = true)]
async fn node_76_the_hint_is_read_in_every_form_that_servers_write() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    for (hint, life) in [
        ("Keep-Alive: timeout=5", 4000),
        ("Keep-Alive: timeout=5, max=1", 4000),
        ("Keep-Alive: max=5, timeout=5", 4000),
        ("Keep-Alive: max=5,timeout=5", 4000),
        ("Keep-Alive: Timeout=5", 4000),
        ("KEEP-ALIVE: TIMEOUT=5", 4000),
        ("Keep-Alive: timeout = 5", 4000),
        ("Keep-Alive: timeout=\"5\"", 4000),
        ("Keep-Alive: max=5\r\nKeep-Alive: timeout=5", 4000),
        // No number of seconds, and so nothing said.
        ("Keep-Alive: timeout=-5", 10_000),
        ("Keep-Alive: timeout=2.5", 10_000),
        ("Keep-Alive: timeout=five", 10_000),
        ("Keep-Alive: timeout", 10_000),
        ("Keep-Alive: 5", 10_000),
        ("Keep-Alive: timeout=99999999999999999999", 10_000),
    ] {
        let layer = KeepAliveLayer::new().idle_timeout(Duration::from_secs(10));
        kept_for(layer, hint, Some(life)).await;
    }
}

/// A server that says before each end how many more it will answer, and means it.
async fn counting_down(from: usize) -> Server {
    Server::start(move |mut conn| async move {
        for left in (0..=from).rev() {
            if conn.request().await.is_none() {
                return;
            }
            let head = format!("HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5, max={left}");
            conn.respond_with(&head, "ok").await;
        }
        // One more would be answered with a reset.
        assert!(conn.request().await.is_none(), "one more than it said");
    })
    .await
}

#[tokio::test]
async fn node_77_the_servers_max_is_kept_to() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = counting_down(1).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    for turn in 0..6 {
        let answer = fetch(&client, server.url("/")).await.unwrap();
        assert_eq!(answer.info.uses(), 1 + turn % 2);
    }
    assert_eq!(server.accepted(), 3);
    eventually("the last is closed", || handle.status().open() == 0).await;
    assert_eq!(handle.status().closes, [(CloseReason::Uses, 3)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_77_the_servers_max_is_kept_to_on_a_hand_over() {
    if not_over_h2("HTTP/2 has no field Keep-Alive") {
        return;
    }
    let server = counting_down(1).await;
    let counting = CountingConnector::new(Sockets);
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_over(layer, counting.clone());
    let answers = join_all((0..6).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!((server.accepted(), counting.max_alive()), (3, 1));
    eventually("the last is closed", || handle.status().open() == 0).await;
    assert_eq!(handle.status().closes, [(CloseReason::Uses, 3)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_77_a_max_of_our_own_is_kept_to() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new()
        .max_uses(2)
        .max_connections_per_host(1);
    let (client, handle) = agent(layer);
    // Two taken from the pool, then four by hand-over.
    for _ in 0..2 {
        fetch(&client, server.url("/")).await.unwrap();
    }
    let answers = join_all((0..4).map(|_| fetch(&client, server.url("/")))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    assert_eq!(server.accepted(), 3);
    eventually("the last is closed", || handle.status().open() == 0).await;
    assert_eq!(handle.status().closes, [(CloseReason::Uses, 3)].into());
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_78_an_interim_response_is_not_the_end() {
    let gate = Gate::new();
    let server = {
        let gate = gate.clone();
        Server::start(move |mut conn| {
            let gate = gate.clone();
            async move {
                while conn.request().await.is_some() {
                    conn.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                    conn.send("HTTP/1.1 103 Early Hints\r\nlink: </style.css>\r\n\r\n")
                        .await;
                    gate.pass().await;
                    conn.respond("ok").await;
                }
            }
        })
        .await
    };
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let requests = join_all((0..2).map(|_| fetch(&client, server.url("/"))));
    let steps = async {
        eventually("the first is half answered", || gate.waiting() == 1).await;
        settle().await;
        let status = handle.status();
        assert_eq!((status.active.len(), status.pending.len()), (1, 1));
        assert!(status.idle.is_empty());
        assert_eq!(server.requests(), 1);
        gate.open_for_all();
    };
    let (answers, ()) = tokio::join!(requests, steps);
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!((answer.status.as_u16(), &*answer.body), (200, "ok"));
    }
    assert_eq!(server.accepted(), 1);
    assert_eq!(handle.status().completed, 2);
    at_rest(&handle).await;
}

#[tokio::test]
async fn node_80_a_dying_connection_is_not_handed_over() {
    let server = Server::start(|mut conn| async move {
        conn.request().await;
        // Both are there before the client has its next turn.
        conn.respond("ok").await;
        conn.fin().await;
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new().max_connections_per_host(1));
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    for answer in answers {
        assert!(!answer.unwrap().info.is_reused());
    }
    assert_eq!((server.accepted(), server.requests()), (3, 3));
    eventually("all are closed", || handle.status().closed == 3).await;
    assert_eq!(handle.status().errors, 0);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn node_80_a_hand_over_counts_as_reused() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        if conn.index == 0 {
            // The FIN crosses the next request.
            conn.request().await;
            return conn.fin().await;
        }
        conn.closed().await;
    });
    let layer = KeepAliveLayer::new().max_connections_per_host(1);
    let (client, handle) = agent_paused(layer, server.connector());
    let answers = join_all((0..3).map(|_| fetch(&client, server.url("/")))).await;
    assert!(!answers[0].as_ref().unwrap().info.is_reused());
    let error = answers[1].as_ref().expect_err("closed by the server");
    assert!(error.is_reset() && error.is_reused(), "{error:?}");
    assert!(!error.is_unsent());
    assert!(!answers[2].as_ref().unwrap().info.is_reused());
    assert_eq!(server.accepted(), 2);
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Peer, 1)].into());
    assert_eq!(status.reused, 1);
    at_rest(&handle).await;
}
