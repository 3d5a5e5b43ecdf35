//! Heads that are not the answer, and those that end HTTP: trust tests 19 and 20.

use std::time::Duration;

use http::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::environment::{Layers, closes_all, on_current_thread, on_threads, runs};
use crate::support::agent::{Req, agent, at_rest, fetch, get, post, send};
use crate::support::{Conn, Server, eventually, script};

/// What a server sends before, instead of and behind an answer, by the target.
async fn interim(mut conn: Conn) {
    while let Some(head) = conn.head().await {
        let mut parts = head.target.split('/').skip(1);
        let kind = parts.next().unwrap();
        let count: usize = parts.next().unwrap().parse().unwrap();
        let interim = [
            "100 Continue",
            "103 Early Hints\r\nlink: </style.css>",
            "102 Processing",
        ];
        let interim: Vec<_> = (0..count)
            .map(|at| format!("HTTP/1.1 {}\r\n\r\n", interim[at % 3]))
            .collect();
        match kind {
            "one-by-one" => {
                for interim in interim {
                    conn.send(interim).await;
                    tokio::time::sleep(Duration::from_micros(50)).await;
                }
                conn.body().await;
            }
            "at-once" => {
                conn.body().await;
                let length = head.target.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}",
                    head.target
                );
                conn.send(interim.concat() + &answer).await;
                continue;
            }
            // The 100 comes when the answer is already there.
            "late" => {
                conn.body().await;
                let length = head.target.len();
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{}",
                    head.target
                );
                conn.send(answer + "HTTP/1.1 100 Continue\r\n\r\n").await;
                continue;
            }
            // CVE-2024-24791: the final answer to `Expect`, whose body is read after it, or never.
            "final" => {
                conn.respond_with("HTTP/1.1 417 Expectation Failed", &head.target)
                    .await;
                continue;
            }
            "final-unread" => {
                conn.respond_with("HTTP/1.1 417 Expectation Failed", &head.target)
                    .await;
                return conn.stall().await;
            }
            _ => drop(conn.body().await),
        }
        conn.respond(&head.target).await;
    }
}

fn expecting(url: String, size: usize) -> Req {
    let mut request = post(url, vec![7; size]);
    let expect = http::HeaderValue::from_static("100-continue");
    request.headers_mut().insert(http::header::EXPECT, expect);
    request
}

#[test]
fn trust_19_the_next_request_succeeds_after_any_interim_answers() {
    on_threads(|| async {
        let server = Server::start(interim).await;
        let (client, handle) = agent(Layers::new().active_timeout(Duration::from_secs(2)));
        let rounds = runs(5, 100);
        let mut cases = 0;
        for round in 0..rounds {
            let mut requests = vec![
                (get(server.url("/late/0")), 200),
                (expecting(server.url("/at-once/1"), 1000), 200),
                (expecting(server.url("/one-by-one/1"), 1000), 200),
                (expecting(server.url("/final/0"), 1000), 417),
                (expecting(server.url("/final/0"), 1 << 20), 417),
                // More than the buffers have room for: who does not read it can be told from who does.
                (expecting(server.url("/final-unread/0"), 16 << 20), 417),
            ];
            for count in [0, 1, 2, 3, 8, 100] {
                requests.push((get(server.url(&format!("/one-by-one/{count}"))), 200));
                requests.push((get(server.url(&format!("/at-once/{count}"))), 200));
                requests.push((post(server.url(&format!("/at-once/{count}")), "x"), 200));
            }
            for (request, status) in requests {
                let target = request.uri().path().to_owned();
                let answer = send(&client, request).await;
                let answer = answer.unwrap_or_else(|error| panic!("{target}: {error:?}"));
                assert_eq!(
                    (answer.status.as_u16(), answer.body),
                    (status, target.clone())
                );
                let next = format!("/next/{round}");
                let answer = fetch(&client, server.url(&next)).await;
                let answer = answer.unwrap_or_else(|error| panic!("after {target}: {error:?}"));
                assert_eq!(answer.body, next, "after {target}");
                cases += 1;
            }
        }
        for how in ["one-by-one", "at-once"] {
            let answer = fetch(&client, server.url(&format!("/{how}/101"))).await;
            let error = answer.expect_err("101 interim answers are one too many");
            assert!(!error.is_reset() && !error.is_timeout(), "{error:?}");
            let answer = fetch(&client, server.url("/next/9")).await;
            assert_eq!(answer.expect("on another connection").body, "/next/9");
        }
        println!(
            "trust 19: 0 of {cases} next requests failed after 0 to 100 interim answers, a late 100, a final answer to Expect"
        );
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}

/// Switches protocols, or opens a tunnel, with bytes behind the head; then echoes until the client has closed.
async fn switching(mut conn: Conn) {
    while let Some(head) = conn.request().await {
        let answer = match (head.method.as_str(), head.header("upgrade")) {
            ("CONNECT", _) => "HTTP/1.1 200 OK\r\n\r\n",
            (_, Some(_)) => {
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n"
            }
            _ => {
                conn.respond(&head.target).await;
                continue;
            }
        };
        conn.send(format!("{answer}{GLUED}")).await;
        loop {
            let bytes = conn.read().await;
            if bytes.is_empty() {
                return;
            }
            conn.send(bytes).await;
        }
    }
}

const GLUED: &str = "the first bytes of the new protocol";

fn upgrade(server: &Server) -> Req {
    Request::get(server.url("/"))
        .header("connection", "upgrade")
        .header("upgrade", "echo")
        .body(Default::default())
        .unwrap()
}

fn tunnel(server: &Server) -> Req {
    Request::connect(server.addr().to_string())
        .body(Default::default())
        .unwrap()
}

async fn trust_20(name: &str, request: fn(&Server) -> Req, status: StatusCode) {
    let times = runs(50, 1000);
    let server = Server::start(switching).await;
    // One permit: who does not give it back at once holds up everything.
    let (client, handle) = agent(Layers::new().max_connections_per_host(1));
    let mut open = Vec::new();
    for run in 0..times {
        let response = client.request(request(&server)).await.unwrap();
        assert_eq!(response.status(), status);
        let counts = handle.status();
        assert_eq!((counts.open(), counts.detached), (0, run as u64 + 1));
        let upgraded = hyper::upgrade::on(response).await.unwrap();
        let mut io = TokioIo::new(upgraded);
        let mut glued = vec![0; GLUED.len()];
        io.read_exact(&mut glued).await.unwrap();
        assert_eq!(glued, GLUED.as_bytes());
        let words = format!("words {run}");
        io.write_all(words.as_bytes()).await.unwrap();
        let mut echo = vec![0; words.len()];
        io.read_exact(&mut echo).await.unwrap();
        assert_eq!(echo, words.as_bytes());
        // The permit is free, and this connection nobody else's.
        let answer = fetch(&client, server.url("/next")).await.unwrap();
        assert_eq!(
            (answer.body.as_str(), answer.info.is_reused()),
            ("/next", false)
        );
        eventually("it is closed", || {
            handle.close_idle();
            handle.status().open() == 0
        })
        .await;
        if run % 2 == 0 {
            open.push(io);
        }
    }
    eventually("those that were dropped are closed", || {
        server.open() == open.len()
    })
    .await;
    println!(
        "trust 20: {times} of {times} new owners read every byte ({name}), no slot held, none idle again"
    );
    drop(open);
    eventually("all are closed", || server.open() == 0).await;
    at_rest(&handle).await;
    let counts = handle.status();
    assert_eq!(
        (counts.detached, counts.created),
        (times as u64, 2 * times as u64)
    );
    closes_all(client, &handle).await;
}

#[test]
fn trust_20_upgrade_with_bytes_behind_the_head() {
    on_threads(|| trust_20("101", upgrade, StatusCode::SWITCHING_PROTOCOLS));
}

#[test]
fn trust_20_tunnel_with_bytes_behind_the_head() {
    on_current_thread(|| trust_20("CONNECT", tunnel, StatusCode::OK));
}

/// An upgrade that nobody takes closes.
#[test]
fn trust_20_an_upgrade_that_is_dropped_closes() {
    on_current_thread(|| async {
        let server = Server::start(switching).await;
        let (client, handle) = agent(Layers::new());
        let response = client.request(upgrade(&server)).await.unwrap();
        assert_eq!(server.open(), 1);
        drop(response);
        eventually("it is closed", || server.open() == 0).await;
        // And a refused one is an answer like any other.
        let plain = Server::start(script::ok).await;
        assert_eq!(send(&client, upgrade(&plain)).await.unwrap().body, "ok");
        assert!(
            fetch(&client, plain.url("/"))
                .await
                .unwrap()
                .info
                .is_reused()
        );
        at_rest(&handle).await;
        closes_all(client, &handle).await;
    });
}
