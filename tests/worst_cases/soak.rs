//! A response belongs to its request, whatever happens to the others: trust test 15.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http::{Method, Request};
use http_body_util::BodyExt;
use tower_keep_alive::extensions::OneShot;

use crate::environment::{self, Dice, Layers, alone, closes_all, leaves_nothing, runs};
use crate::support::agent::{Client, agent, at_rest};
use crate::support::{Conn, Server, eventually};

const CALLERS: usize = 32;

/// What the server does with a request, as its target says.
const KINDS: [&str; 14] = [
    "plain",
    "plain",
    "plain",
    "long",
    "chunked",
    "interim",
    "empty",
    "glued",
    "close",
    "until-closed",
    "truncated",
    "early",
    "reset",
    "fin",
];

/// So long is the body of an answer.
fn length(kind: &str, id: u64) -> usize {
    match kind {
        "empty" => 0,
        "long" | "chunked" | "truncated" => 2000 + (id % 60_000) as usize,
        _ => 20 + (id % 100) as usize,
    }
}

/// The body that only this request has.
fn body(id: u64, length: usize) -> Vec<u8> {
    let line = format!("<{id}>");
    line.bytes().cycle().take(length).collect()
}

async fn serve(mut conn: Conn) {
    while let Some(head) = conn.head().await {
        let mut parts = head.target.split('/').skip(1);
        let (kind, id) = (parts.next().unwrap().to_owned(), parts.next().unwrap());
        let id: u64 = id.parse().unwrap();
        if kind != "early" && conn.body().await.is_none() {
            return;
        }
        match kind.as_str() {
            "reset" if id.is_multiple_of(2) => return conn.rst(),
            "fin" if id.is_multiple_of(2) => return conn.fin().await,
            _ => {}
        }
        let length = length(&kind, id);
        let has_body = head.method != "HEAD";
        let content = if has_body {
            body(id, length)
        } else {
            Vec::new()
        };
        let framing = match kind.as_str() {
            "chunked" => "transfer-encoding: chunked\r\n".to_owned(),
            "until-closed" => String::new(),
            "close" => format!("connection: close\r\ncontent-length: {length}\r\n"),
            _ => format!("content-length: {length}\r\n"),
        };
        let interim = match kind.as_str() {
            "interim" => {
                "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
            }
            _ => "",
        };
        let mut answer =
            format!("{interim}HTTP/1.1 200 OK\r\nx-request-id: {id}\r\n{framing}\r\n").into_bytes();
        match kind.as_str() {
            "chunked" if has_body => {
                for chunk in content.chunks(5000) {
                    answer.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
                    answer.extend(chunk);
                    answer.extend(b"\r\n");
                }
                answer.extend(b"0\r\n\r\n");
            }
            "truncated" => answer.extend(&content[..content.len() / 2]),
            _ => answer.extend(&content),
        }
        if kind == "glued" {
            answer.extend(b"HTTP/1.1 200 OK\r\nx-request-id: 0\r\ncontent-length: 3\r\n\r\n<0>");
        }
        if kind == "long" && id.is_multiple_of(4) {
            // In two pieces, so that there is something to leave in the middle of.
            let rest = answer.split_off(answer.len() / 2);
            conn.send(answer).await;
            tokio::time::sleep(Duration::from_micros(300)).await;
            conn.send(rest).await;
        } else {
            conn.send(answer).await;
        }
        match kind.as_str() {
            "close" | "until-closed" | "truncated" => return conn.fin().await,
            "early" if id.is_multiple_of(4) => return conn.rst(),
            _ => {}
        }
    }
}

#[derive(Debug, Default)]
struct Counts {
    whole: usize,
    failed: usize,
    left: usize,
    mismatches: Vec<String>,
}

/// One request, read as far as it comes. What came is checked.
async fn exchange(
    client: &Client,
    url: &str,
    kind: &str,
    id: u64,
    dice: &mut Dice,
) -> Result<bool, String> {
    let method = match dice.roll(6) {
        0 => Method::POST,
        1 => Method::PUT,
        2 => Method::HEAD,
        _ => Method::GET,
    };
    let uploads = method == Method::POST || method == Method::PUT;
    let upload = match (uploads, dice.roll(8)) {
        (false, _) => Vec::new(),
        (true, 0) => vec![b'u'; 300_000],
        (true, _) => vec![b'u'; dice.roll(3000) as usize],
    };
    let mut request = Request::builder().method(&method).uri(url);
    if dice.roll(50) == 0 {
        request = request.extension(OneShot);
    }
    let Ok(mut response) = client
        .request(request.body(http_body_util::Full::from(upload)).unwrap())
        .await
    else {
        return Ok(false);
    };
    let own = response
        .headers()
        .get("x-request-id")
        .map(|own| own.as_bytes().to_vec());
    if own != Some(id.to_string().into_bytes()) {
        return Err(format!("{method} {kind} {id}: {own:?}"));
    }
    let whole = match method {
        Method::HEAD => Vec::new(),
        _ => body(id, length(kind, id)),
    };
    // Some leave in the middle of it.
    let enough = if dice.roll(8) == 0 {
        whole.len() / 2
    } else {
        usize::MAX
    };
    let mut read = 0;
    while read < enough {
        match response.body_mut().frame().await {
            None => {
                return match read == whole.len() {
                    true => Ok(true),
                    false => Err(format!(
                        "{method} {kind} {id}: ended after {read} of {}",
                        whole.len()
                    )),
                };
            }
            Some(Err(_)) => return Ok(false),
            Some(Ok(frame)) => {
                let data = frame.into_data().unwrap_or_default();
                if whole.get(read..read + data.len()) != Some(&data[..]) {
                    return Err(format!("{method} {kind} {id}: {data:?} at {read}"));
                }
                read += data.len();
            }
        }
    }
    Ok(false)
}

async fn soak(layer: Layers, requests: usize) -> (Counts, String) {
    let server = Server::start(serve).await;
    let (client, handle) = agent(layer);
    let next = Arc::new(AtomicU64::new(1));
    let counts = Arc::new(Mutex::new(Counts::default()));
    let callers: Vec<_> = (0..CALLERS as u64)
        .map(|caller| {
            let (client, next, counts) = (client.clone(), next.clone(), counts.clone());
            let root = server.url("/");
            tokio::spawn(async move {
                let mut dice = Dice::new(caller);
                loop {
                    let id = next.fetch_add(1, Ordering::Relaxed);
                    if id > requests as u64 {
                        return;
                    }
                    let kind = KINDS[dice.roll(KINDS.len() as u64) as usize];
                    let url = format!("{root}{kind}/{id}");
                    let patience = match dice.roll(6) {
                        0 => Duration::from_micros(dice.roll(3000)),
                        _ => Duration::from_secs(30),
                    };
                    let call = exchange(&client, &url, kind, id, &mut dice);
                    let outcome = tokio::time::timeout(patience, call).await;
                    let mut counts = counts.lock().unwrap();
                    match outcome {
                        Ok(Ok(true)) => counts.whole += 1,
                        Ok(Ok(false)) => counts.failed += 1,
                        Ok(Err(mismatch)) => counts.mismatches.push(mismatch),
                        Err(_) if patience > Duration::from_secs(1) => {
                            counts.mismatches.push(format!("{url} hangs"));
                        }
                        Err(_) => counts.left += 1,
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap();
    }
    at_rest(&handle).await;
    let status = handle.status().to_string();
    closes_all(client, &handle).await;
    eventually("the server sees all go", || server.open() == 0).await;
    let counts = std::mem::take(&mut *counts.lock().unwrap());
    (counts, status)
}

fn trust_15(name: &str, layer: Layers, requests: usize) {
    alone(|| {
        let started = Instant::now();
        let (counts, status) = leaves_nothing(&environment::multi_thread(2), soak(layer, requests));
        println!(
            "trust 15: {} mismatches in {requests} requests, {name} ({} whole, {} failed or left half read, {} given up) in {:.1?}; {status}",
            counts.mismatches.len(),
            counts.whole,
            counts.failed,
            counts.left,
            started.elapsed()
        );
        assert!(counts.mismatches.is_empty(), "{:?}", counts.mismatches);
        assert!(counts.whole > requests / 3, "{counts:?}");
        assert!(counts.left > requests / 100, "{counts:?}");
    });
}

#[test]
fn trust_15_cross_talk_soak() {
    trust_15("no limit", Layers::new(), runs(10_000, 200_000));
}

#[test]
fn trust_15_cross_talk_soak_in_line() {
    let limited = Layers::new().max_connections_per_host(6);
    trust_15("6 connections", limited, runs(5_000, 50_000));
}

#[test]
fn trust_15_cross_talk_soak_drained() {
    let draining = Layers::new()
        .max_connections_per_host(12)
        .drain_unread(1 << 17, Duration::from_millis(50));
    trust_15("12 connections, drained", draining, runs(5_000, 50_000));
}
