//! What an exchange leaves behind when one of its sides ends early: trust tests 13, 14 and 21.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Channel, Either, Full};
use tokio::time::Instant;
use tower::{Layer, ServiceExt};
use tower_keep_alive::{CloseReason, KeepAliveLayer};

use crate::environment::{
    Layers, closes, closes_all, in_paused_time, on_current_thread, on_threads, runs,
};
use crate::support::agent::{
    Client, agent, agent_paused, at_rest, fetch, get, paused_clock, post, read, send,
};
use crate::support::{Conn, CountingConnector, Server, eventually, not_over_unix};

/// More than the buffers of a loopback socket have room for.
const UPLOAD: usize = 8 << 20;

/// Answers to the head of each POST, before its body: by the target.
async fn hasty(mut conn: Conn) {
    while let Some(head) = conn.head().await {
        let target = head.target.as_str();
        match target.split('/').nth(1).unwrap() {
            // And then reads the upload to its end.
            "answers" => conn.respond(target).await,
            // And reads no more.
            "stalls" => {
                conn.respond(target).await;
                return conn.stall().await;
            }
            // And closes in good order: what comes is read and thrown away.
            "lingers" => {
                let head = "HTTP/1.1 413 Content Too Large\r\nconnection: close";
                conn.respond_with(head, target).await;
                conn.half_close().await;
                return conn.closed().await;
            }
            "resets" => {
                conn.respond(target).await;
                return conn.rst();
            }
            // Reads all, then answers.
            _ => {
                conn.body().await;
                conn.respond(target).await;
            }
        }
    }
}

/// POSTs to `/{kind}/{run}` of a server that answers at once, each with a request after it.
async fn early_answers(kind: &str, status: u16, size: usize, times: usize) -> (usize, usize) {
    let server = Server::start(hasty).await;
    let (client, handle) = agent(Layers::new());
    let (mut lost, mut reused) = (0, 0);
    for run in 0..times {
        let target = format!("/{kind}/{run}");
        let upload = send(&client, post(server.url(&target), vec![7; size])).await;
        let id = match upload {
            Ok(answer) => {
                assert_eq!((answer.status.as_u16(), answer.body), (status, target));
                Some(answer.info.id())
            }
            Err(error) => {
                println!("lost: {error:?}");
                lost += 1;
                None
            }
        };
        let next = format!("/next/{run}");
        let answer = fetch(&client, server.url(&next)).await.unwrap();
        assert_eq!(answer.body, next);
        // Not just any that was used before: there may be one whose connect was not waited for.
        reused += usize::from(Some(answer.info.id()) == id);
    }
    at_rest(&handle).await;
    closes_all(client, &handle).await;
    (lost, reused)
}

#[test]
fn trust_13_an_early_answer_is_delivered() {
    for (kind, status, name) in [
        ("answers", 200, "a 200 and the upload read on"),
        ("stalls", 200, "a 200 and nothing read"),
        ("lingers", 413, "a 413, and closed"),
        ("resets", 200, "a 200, and reset"),
    ] {
        let times = runs(20, 1000);
        let (lost, reused) = on_threads(|| early_answers(kind, status, UPLOAD, times));
        println!(
            "trust 13: {lost} of {times} early answers lost ({name}); its connection reused {reused} times"
        );
        assert_eq!(lost, 0, "{name}");
        assert!(kind == "answers" || reused == 0, "{name}");
    }
}

/// An upload that has ended by then is no reason to close: a server that answers what it has read to the end was given all
/// of it, and the answer comes when its connection is free.
#[test]
fn trust_13_an_upload_that_ended_is_reused() {
    let times = runs(100, 1000);
    let (lost, reused) = on_threads(|| early_answers("reads", 200, 1 << 16, times));
    println!("trust 13: {reused} of {times} reused after an upload that ended");
    assert_eq!((lost, reused), (0, times));
}

/// The server would read on, and the caller has more to send: nobody knows whether either ever comes to its end.
async fn goes_on(framing: &[(&str, &str)]) {
    let server = Server::in_memory(hasty);
    let counting = CountingConnector::new(server.connector());
    let layer = KeepAliveLayer::new().clock(paused_clock());
    let handle = layer.handle();
    let client = layer.layer(counting.clone());
    let (mut upload, body) = Channel::<Bytes>::new(1);
    let mut request = Request::post(server.url("/answers"));
    for (name, value) in framing {
        request = request.header(*name, *value);
    }
    upload.send_data("begun".into()).await.unwrap();
    let request = request.body(Either::Left(body)).unwrap();
    let first = client.clone().oneshot(request).await.unwrap();
    let id = first.body().connection().id();
    let begun = Instant::now();
    assert_eq!(
        first.into_body().collect().await.unwrap().to_bytes(),
        "/answers"
    );
    // Neither in a second nor by a timeout, nor as an idle connection.
    eventually("the transport is dropped", || counting.alive() == 0).await;
    assert!(
        begun.elapsed() < Duration::from_millis(100),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(
        (
            handle.status().open(),
            closes(&handle, CloseReason::Abandoned)
        ),
        (0, 1)
    );
    // Too late.
    upload.send_data("over".into()).await.ok();
    drop(upload);

    let request = Request::get(server.url("/next"));
    let request = request.body(Either::Right(Full::default())).unwrap();
    let next = client.clone().oneshot(request).await.unwrap();
    assert_ne!(next.body().connection().id(), id);
    assert!(!next.body().connection().is_reused());
    drop(next.into_body().collect().await.unwrap());
    assert_eq!(server.accepted(), 2);
    assert!(server.heads()[0].body.is_empty(), "the half looks whole");
    at_rest(&handle).await;
    closes_all(client, &handle).await;
}

#[test]
fn trust_13_an_upload_that_goes_on_costs_its_connection_at_once() {
    in_paused_time(|| async {
        goes_on(&[]).await;
        goes_on(&[("content-length", "9")]).await;
    });
    println!(
        "trust 13: an upload that went on behind its answer was cut, and its connection dropped at once"
    );
}

/// Answers by the target: `/{framing}/{run}`, with a body of `BODY` bytes that begins with the target.
async fn verbose(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let mut body = head.target.clone().into_bytes();
        body.resize(BODY, b'.');
        let ok = "HTTP/1.1 200 OK\r\n";
        match head.target.split('/').nth(1).unwrap() {
            "length" => {
                let head = format!("{ok}content-length: {BODY}\r\n\r\n");
                conn.send([head.as_bytes(), &body].concat()).await;
            }
            "chunked" => {
                let head = format!("{ok}transfer-encoding: chunked\r\n\r\n");
                let mut answer = head.into_bytes();
                for chunk in body.chunks(1000) {
                    answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    answer.extend(chunk);
                    answer.extend(b"\r\n");
                }
                answer.extend(b"0\r\n\r\n");
                conn.send(answer).await;
            }
            "close" => {
                conn.send([ok.as_bytes(), b"\r\n", &body].concat()).await;
                return conn.fin().await;
            }
            "endless" => {
                conn.send(format!("{ok}transfer-encoding: chunked\r\n\r\n"))
                    .await;
                let gone = async {
                    loop {
                        let chunk = [b"1000\r\n".as_slice(), &[b'.'; 0x1000], b"\r\n"].concat();
                        conn.send(chunk).await;
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                };
                // Ended with its server.
                tokio::time::timeout(Duration::from_millis(200), gone)
                    .await
                    .ok();
                return;
            }
            "trickling" => {
                conn.send(format!("{ok}content-length: {BODY}\r\n\r\n"))
                    .await;
                for byte in body.chunks(1) {
                    conn.send(byte).await;
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                return;
            }
            _ => conn.respond(&head.target).await,
        }
    }
}

const BODY: usize = 40_000;

/// Reads so much of a response and drops it.
async fn read_some(client: &Client, url: &str, part: usize) {
    let mut response = client.request(get(url)).await.unwrap();
    let target = url[url.find("//").unwrap() + 2..].find('/').unwrap();
    let target = &url[url.find("//").unwrap() + 2 + target..];
    let mut read = Vec::new();
    while read.len() < part {
        let frame = response.body_mut().frame().await.unwrap().unwrap();
        read.extend_from_slice(frame.data_ref().unwrap());
    }
    let known = read.len().min(target.len());
    assert_eq!(read[..known], target.as_bytes()[..known]);
}

async fn unread_bodies(layer: Layers, name: &str) {
    let server = Server::start(verbose).await;
    let (client, handle) = agent(layer.max_connections_per_host(4));
    let times = runs(120, 2000);
    let (mut dropped, mut reused) = (0, 0);
    for run in 0..times {
        for framing in ["length", "chunked", "close"] {
            for part in [0, BODY / 2, BODY - 1, BODY] {
                // In the middle of the run, so that the others are not only waited for.
                if run % 20 > 0 && framing == "close" {
                    continue;
                }
                let url = server.url(&format!("/{framing}/{run}"));
                read_some(&client, &url, part).await;
                dropped += 1;
                let next = format!("/next/{run}-{part}");
                let answer = fetch(&client, server.url(&next)).await.unwrap();
                assert_eq!(answer.body, next);
                reused += usize::from(answer.info.is_reused());
            }
        }
    }
    at_rest(&handle).await;
    println!(
        "trust 14: 0 of {} answers mixed up after {dropped} bodies dropped, {name} ({reused} reused)",
        2 * dropped
    );
    closes_all(client, &handle).await;
}

#[test]
fn trust_14_a_body_dropped_unread_mixes_nothing_up() {
    on_threads(|| unread_bodies(Layers::new(), "closed"));
}

#[test]
fn trust_14_a_body_dropped_unread_is_drained() {
    let draining = || Layers::new().drain_unread(1 << 16, Duration::from_secs(1));
    on_threads(|| unread_bodies(draining(), "drained"));
}

/// Neither its bytes nor its time are more than was allowed.
#[test]
fn trust_14_a_drain_has_its_ends() {
    let time = Duration::from_millis(50);
    for (kind, bytes, least, most) in [
        ("endless", 1 << 16, 10, 20),
        ("trickling", 1 << 16, 50, 51),
        ("length", BODY as u64 - 1, 0, 0),
        ("endless", u64::MAX, 50, 51),
    ] {
        let took = in_paused_time(|| async {
            let server = Server::in_memory(verbose);
            let layer = Layers::new().drain_unread(bytes, time);
            let (client, handle) = agent_paused(layer, server.connector());
            let url = server.url(&format!("/{kind}/0"));
            let response = client.request(get(url)).await.unwrap();
            let started = Instant::now();
            drop(response);
            eventually("it is closed", || handle.status().open() == 0).await;
            let took = started.elapsed();
            assert_eq!(closes(&handle, CloseReason::Abandoned), 1);
            assert_eq!(handle.status().completed, 0);
            let answer = fetch(&client, server.url("/next/1")).await.unwrap();
            assert_eq!(answer.body, "/next/1");
            at_rest(&handle).await;
            closes_all(client, &handle).await;
            took
        });
        println!(
            "trust 14: a body that is {kind}, with {bytes} bytes and {time:?} allowed, closed after {took:?}"
        );
        let bounds = Duration::from_millis(least)..=Duration::from_millis(most);
        assert!(bounds.contains(&took), "{kind}: {took:?}");
    }
}

/// How a server closes after some bytes.
#[derive(Clone, Copy, Debug)]
enum Close {
    Fin,
    Half,
    Rst,
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

#[test]
fn trust_21_what_is_complete_is_ok_and_what_is_truncated_is_not() {
    use Close::{Fin, Half, Rst};
    let chunked = format!("{OK}transfer-encoding: chunked\r\n");
    let cases: Vec<(&str, String, Close, bool)> = vec![
        (
            "length, whole",
            format!("{OK}content-length: 4\r\n\r\nbody"),
            Fin,
            true,
        ),
        (
            "length, whole",
            format!("{OK}content-length: 4\r\n\r\nbody"),
            Half,
            true,
        ),
        (
            "length, one short",
            format!("{OK}content-length: 5\r\n\r\nbody"),
            Fin,
            false,
        ),
        (
            "length, one short",
            format!("{OK}content-length: 5\r\n\r\nbody"),
            Half,
            false,
        ),
        (
            "length, one short",
            format!("{OK}content-length: 5\r\n\r\nbody"),
            Rst,
            false,
        ),
        (
            "length, no body",
            format!("{OK}content-length: 4\r\n\r\n"),
            Fin,
            false,
        ),
        (
            "chunked, whole",
            format!("{chunked}\r\n4\r\nbody\r\n0\r\n\r\n"),
            Fin,
            true,
        ),
        (
            "chunked, whole",
            format!("{chunked}\r\n4\r\nbody\r\n0\r\n\r\n"),
            Half,
            true,
        ),
        (
            "chunked, in a chunk",
            format!("{chunked}\r\n8\r\nbody"),
            Fin,
            false,
        ),
        (
            "chunked, in a chunk",
            format!("{chunked}\r\n8\r\nbody"),
            Rst,
            false,
        ),
        (
            "chunked, after a chunk",
            format!("{chunked}\r\n4\r\nbody"),
            Fin,
            false,
        ),
        (
            "chunked, between chunks",
            format!("{chunked}\r\n4\r\nbody\r\n"),
            Fin,
            false,
        ),
        (
            "chunked, between chunks",
            format!("{chunked}\r\n4\r\nbody\r\n"),
            Half,
            false,
        ),
        (
            "chunked, in a size",
            format!("{chunked}\r\n4\r\nbody\r\n0"),
            Fin,
            false,
        ),
        (
            "chunked, in the end",
            format!("{chunked}\r\n4\r\nbody\r\n0\r\n"),
            Fin,
            false,
        ),
        (
            "chunked, in the trailers",
            format!("{chunked}trailer: a\r\n\r\n4\r\nbody\r\n0\r\na: b"),
            Fin,
            false,
        ),
        ("until closed", format!("{OK}\r\nbody"), Fin, true),
        ("until closed", format!("{OK}\r\nbody"), Half, true),
        ("until closed", format!("{OK}\r\nbody"), Rst, false),
        (
            "HTTP/1.0, whole",
            "HTTP/1.0 200 OK\r\ncontent-length: 4\r\n\r\nbody".to_owned(),
            Fin,
            true,
        ),
        (
            "HTTP/1.0, one short",
            "HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nbody".to_owned(),
            Fin,
            false,
        ),
        (
            "HTTP/1.0, until closed",
            "HTTP/1.0 200 OK\r\n\r\nbody".to_owned(),
            Fin,
            true,
        ),
        ("in the head", OK.to_owned(), Fin, false),
        ("in the head", OK.to_owned(), Rst, false),
        ("nothing", String::new(), Fin, false),
        ("nothing", String::new(), Rst, false),
    ];
    let (mut complete, mut truncated) = (0, 0);
    for (name, answer, close, is_complete) in cases {
        if matches!(close, Rst) && not_over_unix("a Unix socket has no RST") {
            continue;
        }
        let times = runs(5, 50);
        on_current_thread(|| async {
            let server = Server::start(move |mut conn: Conn| {
                let answer = answer.clone();
                async move {
                    while let Some(head) = conn.request().await {
                        if head.target == "/next" {
                            conn.respond("next").await;
                            continue;
                        }
                        conn.send(&answer).await;
                        match close {
                            Fin => return conn.fin().await,
                            Rst => {
                                // What was sent has come by then; a RST may overtake it.
                                tokio::time::sleep(Duration::from_millis(1)).await;
                                return conn.rst();
                            }
                            Half => {
                                conn.half_close().await;
                                return conn.closed().await;
                            }
                        }
                    }
                }
            })
            .await;
            let (client, handle) = agent(Layers::new());
            for run in 0..times {
                // On a connection that is new, and on one that is not.
                if run % 2 == 1 {
                    assert_eq!(
                        fetch(&client, server.url("/next")).await.unwrap().body,
                        "next"
                    );
                }
                let outcome = fetch(&client, server.url("/")).await;
                match outcome {
                    Ok(answer) => {
                        assert!(is_complete, "{name}, {close:?}: {answer:?}");
                        assert_eq!(answer.body, "body", "{name}, {close:?}");
                    }
                    Err(error) => assert!(!is_complete, "{name}, {close:?}: {error:?}"),
                }
                eventually("it is not used again", || handle.status().open() == 0).await;
            }
            at_rest(&handle).await;
            closes_all(client, &handle).await;
        });
        if is_complete {
            complete += times;
        } else {
            truncated += times;
        }
    }
    println!(
        "trust 21: 0 of {complete} complete answers refused, 0 of {truncated} truncated ones taken, none reused"
    );
}

/// A response with a body that was read, and nothing else: what `read` returns is what was sent.
#[test]
fn trust_21_a_trickle_is_read_to_its_end() {
    in_paused_time(|| async {
        let server = Server::in_memory(verbose);
        let (client, handle) = agent_paused(Layers::new(), server.connector());
        let response = client
            .request(get(server.url("/trickling/0")))
            .await
            .unwrap();
        let answer = read(response).await.unwrap();
        assert_eq!(answer.body.len(), BODY);
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}
