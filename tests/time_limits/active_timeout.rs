//! How long a connection in use may be silent.

use std::time::Duration;

use crate::support::agent::{agent_over, at_rest, fetch, get, send};
use crate::support::{Conn, CountingConnector, Gate, Server, eventually};
use bytes::Bytes;
use http::{Request, Uri};
use http_body_util::channel::Sender;
use http_body_util::{BodyExt, Channel, Full};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_keep_alive::{
    AgentHandle, Body, CloseReason, Error, KeepAliveLayer, TimeoutKind, connect::Destination,
    extensions::InactivityTimeout,
};

const T: Duration = Duration::from_millis(100);

/// Reads requests, and never answers.
async fn silent(mut conn: Conn) {
    while conn.request().await.is_some() {}
}

fn layer() -> KeepAliveLayer<Full<bytes::Bytes>> {
    KeepAliveLayer::new().active_timeout(T)
}

#[tokio::test(start_paused = true)]
async fn silence_fails_the_request_and_closes_the_connection() {
    let server = Server::in_memory(silent);
    let (client, handle) = agent_over(layer(), server.connector());
    let start = Instant::now();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
    assert_eq!(error.timeout(), Some(T));
    assert!(!error.is_reset());
    assert!(
        (T..T + T / 5).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!(
        (
            status.created,
            status.timeouts,
            status.errors,
            status.closed,
            status.completed
        ),
        (1, 1, 1, 1, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_reused_connection_has_its_time_anew() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.respond("one").await;
        silent(conn).await;
    });
    let (client, handle) = agent_over(layer(), server.connector());
    fetch(&client, server.url("/")).await.unwrap();
    tokio::time::sleep(T * 3).await;
    let start = Instant::now();
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert!(error.is_timeout() && error.is_reused());
    assert!(
        (T..T + T / 5).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn every_byte_begins_it_anew() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n")
            .await;
        for byte in ["d", "r", "i", "p", "s", "."] {
            tokio::time::sleep(T * 6 / 10).await;
            conn.send(byte).await;
        }
        conn.closed().await;
    });
    let (client, handle) = agent_over(layer(), server.connector());
    assert_eq!(
        fetch(&client, server.url("/")).await.unwrap().body,
        "drips."
    );
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_punished() {
    const SIZE: usize = 1 << 20;
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.respond(&"x".repeat(SIZE)).await;
        conn.closed().await;
    });
    let (client, handle) = agent_over(layer(), server.connector());
    let mut body = client
        .request(get(server.url("/")))
        .await
        .unwrap()
        .into_body();
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        read += frame.unwrap().into_data().unwrap().len();
        tokio::time::sleep(T * 3).await;
    }
    assert_eq!(read, SIZE);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn silence_in_the_middle_of_a_body_fails_the_body() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhalf")
            .await;
        conn.closed().await;
    });
    let (client, handle) = agent_over(layer(), server.connector());
    let response = client.request(get(server.url("/"))).await.unwrap();
    let error = response.into_body().collect().await.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
    at_rest(&handle).await;
}

/// While our own runtime is held up nothing can be read: only what is waited for counts, a step at a time.
#[tokio::test(start_paused = true)]
async fn a_stall_of_our_own_is_not_the_servers_silence() {
    let stalled = Gate::new();
    let server = Server::in_memory({
        let stalled = stalled.clone();
        move |mut conn| {
            let stalled = stalled.clone();
            async move {
                conn.request().await;
                stalled.pass().await;
                // Less than the limit is left for.
                tokio::time::sleep(T / 2).await;
                conn.respond("late").await;
                conn.closed().await;
            }
        }
    });
    let (client, handle) = agent_over(layer(), server.connector());
    let url = server.url("/");
    let fetched = tokio::spawn(async move { fetch(&client, url).await });
    eventually("it waits for the answer", || server.requests() == 1).await;
    tokio::time::advance(T * 20).await;
    stalled.open(1);
    assert_eq!(fetched.await.unwrap().unwrap().body, "late");
    at_rest(&handle).await;
}

/// A step that is noticed late does not put off the next one.
#[tokio::test(start_paused = true)]
async fn delays_of_our_own_do_not_add_up_in_a_silence() {
    let server = Server::in_memory(silent);
    let (client, handle) = agent_over(layer(), server.connector());
    let url = server.url("/");
    let fetched = tokio::spawn(async move { fetch(&client, url).await });
    eventually("it waits for the answer", || server.requests() == 1).await;
    let start = Instant::now();
    while !fetched.is_finished() {
        // Three quarters of a step, so that most steps are noticed late.
        tokio::time::advance(T * 3 / 32).await;
        crate::support::settle().await;
    }
    assert!(start.elapsed() < T * 5 / 4, "{:?}", start.elapsed());
    assert!(fetched.await.unwrap().unwrap_err().is_timeout());
    at_rest(&handle).await;
}

/// `Connection: close` says when the connection ends if all goes well.
#[tokio::test(start_paused = true)]
async fn silence_in_a_last_answer_is_its_cause() {
    let server = Server::in_memory(|mut conn| async move {
        conn.request().await;
        conn.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 6\r\n\r\nhalf")
            .await;
        conn.closed().await;
    });
    let (client, handle) = agent_over(layer(), server.connector());
    let error = fetch(&client, server.url("/")).await.unwrap_err();
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!(status.closes, [(CloseReason::Silence, 1)].into());
    assert_eq!((status.timeouts, status.errors), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_value_on_the_request_wins_and_is_gone_after_it() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            let wait = head.target.trim_start_matches('/').parse().unwrap();
            tokio::time::sleep(Duration::from_millis(wait)).await;
            conn.respond("late").await;
        }
    });
    let (client, handle) = agent_over(layer(), server.connector());
    let within = |path: &str, max| {
        let mut request = get(server.url(path));
        request.extensions_mut().insert(InactivityTimeout(max));
        send(&client, request)
    };
    within("/250", T * 3)
        .await
        .expect("longer than the agent's");
    within("/5000", Duration::MAX).await.expect("none at all");
    fetch(&client, server.url("/50"))
        .await
        .expect("the agent's");
    let start = Instant::now();
    let error = within("/80", T / 2).await.unwrap_err();
    assert_eq!(error.timeout(), Some(T / 2));
    assert!(start.elapsed() < T, "{:?}", start.elapsed());
    fetch(&client, server.url("/250"))
        .await
        .expect_err("the agent's again");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn each_in_line_has_its_own_time_on_one_connection_at_a_time() {
    if crate::support::not_tiny("a request in pieces is a silence more, and this adds up three") {
        return;
    }
    let server = Server::in_memory(silent);
    let (client, handle) = agent_over(layer().max_connections_per_host(1), server.connector());
    let start = Instant::now();
    let url = server.url("/");
    let calls = (0..3).map(|_| async {
        let error = fetch(&client, &url).await.unwrap_err();
        assert!(error.is_timeout());
        start.elapsed()
    });
    let times = futures_util::future::join_all(calls).await;
    for (index, time) in times.into_iter().enumerate() {
        let expected = T * (index as u32 + 1);
        assert!(
            (expected..expected + T / 5).contains(&time),
            "{index}: {time:?}"
        );
    }
    assert_eq!(server.max_open(), 1);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_not_in_use() {
    let server = Server::in_memory(crate::support::script::echo);
    let layer = layer().idle_timeout(T * 20);
    let (client, handle) = agent_over(layer, server.connector());
    for _ in 0..3 {
        fetch(&client, server.url("/")).await.unwrap();
        tokio::time::sleep(T * 5).await;
    }
    assert_eq!(server.accepted(), 1);
    at_rest(&handle).await;
}

type Upload = Channel<Bytes>;

/// A request whose body the test gives, and what becomes of it.
fn upload(
    server: &Server,
    length: Option<usize>,
    within: Option<Duration>,
) -> (
    Sender<Bytes>,
    AgentHandle,
    impl Future<Output = Result<String, Error>>,
) {
    let layer = match within {
        None => KeepAliveLayer::<Upload>::new().active_timeout(T),
        Some(_) => KeepAliveLayer::new(),
    };
    let handle = layer.handle();
    let client = layer.layer(server.connector());
    let (sender, body) = Upload::new(1);
    let mut request = Request::post(server.url("/"));
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    let mut request = request.body(body).unwrap();
    if let Some(max) = within {
        request.extensions_mut().insert(InactivityTimeout(max));
    }
    let answer = async move {
        let response: http::Response<Body> = client.oneshot(request).await?;
        let body = response.into_body().collect().await?.to_bytes();
        Ok(String::from_utf8(body.into()).unwrap())
    };
    (sender, handle, answer)
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_is_slow_with_its_upload_is_not_the_servers_silence() {
    let server = Server::in_memory(|mut conn| async move {
        while let Some(head) = conn.request().await {
            conn.respond(&String::from_utf8(head.body).unwrap()).await;
        }
    });
    for length in [None, Some(15)] {
        for within in [None, Some(T)] {
            let (mut sender, handle, answer) = upload(&server, length, within);
            let give = async move {
                for part in ["slow ", "but ", "steady"] {
                    tokio::time::sleep(T * 3).await;
                    sender.send_data(part.into()).await.unwrap();
                }
                // It has ended by its length, and may not say so itself for long.
                tokio::time::sleep(T * 3).await;
            };
            let (answer, ()) = tokio::join!(answer, give);
            assert_eq!(answer.expect("it was waited for"), "slow but steady");
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn silence_counts_anew_when_an_upload_has_gone_on() {
    // Reads all, and never answers.
    let server = Server::in_memory(silent);
    for within in [None, Some(T)] {
        let (mut sender, handle, answer) = upload(&server, None, within);
        let begun = Instant::now();
        let give = async move {
            sender.send_data("begun".into()).await.unwrap();
            tokio::time::sleep(T * 3).await;
        };
        let (answer, ()) = tokio::join!(answer, give);
        let error = answer.expect_err("the server is silent after the upload");
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
        let took = begun.elapsed();
        assert!((T * 4..T * 4 + T / 4).contains(&took), "{took:?}");
        at_rest(&handle).await;
    }
}

/// It was made in advance, or for a caller that was served by another connection first.
#[tokio::test(start_paused = true)]
async fn a_connection_that_nobody_has_used_yet_is_not_silent() {
    let limit = T * 10;
    let (answers, connects) = (Gate::new(), Gate::new());
    let server = Server::in_memory({
        let answers = answers.clone();
        move |mut conn| {
            let answers = answers.clone();
            async move {
                while conn.request().await.is_some() {
                    answers.pass().await;
                    conn.respond("here").await;
                }
            }
        }
    });
    let connector = CountingConnector::new(server.connector()).gate(&connects);
    let layer = layer().active_timeout(limit).idle_timeout(limit * 10);
    let (client, handle) = agent_over(layer, connector);
    let is_idle = |count| handle.status().idle.values().sum::<usize>() == count;
    connects.open(1);
    let ((), (), ()) = tokio::join!(
        async { drop(fetch(&client, server.url("/first")).await.unwrap()) },
        async {
            eventually("the first is sent", || server.requests() == 1).await;
            fetch(&client, server.url("/second")).await.unwrap();
        },
        async {
            eventually("the second connects", || connects.waiting() == 1).await;
            answers.open_for_all();
        },
    );
    connects.open_for_all();
    eventually("its connection is the pool's", || is_idle(2)).await;
    let target = Destination::try_from(server.url("/").parse::<Uri>().unwrap()).unwrap();
    assert_eq!(handle.prewarm(target, 3).await.unwrap(), 1);

    tokio::time::sleep(limit * 5).await;
    assert!(is_idle(3), "{}", handle.status());
    assert_eq!((handle.status().timeouts, handle.status().errors), (0, 0));
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_read_an_upload_is_silent() {
    let server = Server::in_memory(|mut conn| async move {
        conn.head().await;
        conn.stall().await;
    });
    let (mut sender, handle, answer) = upload(&server, None, None);
    let begun = Instant::now();
    let give = async {
        // More than the transport has room for; the rest is the caller's to give, and is not given.
        sender.send_data(vec![b'x'; 1 << 20].into()).await.unwrap();
    };
    let (answer, ()) = tokio::join!(answer, give);
    let error = answer.expect_err("the server does not read");
    assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
    let took = begun.elapsed();
    assert!((T..T + T / 4).contains(&took), "{took:?}");
    drop(sender);
    at_rest(&handle).await;
}
