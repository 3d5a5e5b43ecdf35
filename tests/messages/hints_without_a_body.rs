//! What a response says about its connection is heeded where it has no body, too.

use std::time::Duration;

use crate::support::agent::{agent_paused, at_rest, read};
use crate::support::{Server, eventually};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tower_keep_alive::{CloseReason, KeepAliveLayer};

/// Answers that end with their heads.
const ANSWERS: [(Method, &str); 4] = [
    (Method::HEAD, "200 OK\r\ncontent-length: 5"),
    (Method::GET, "204 No Content"),
    (Method::GET, "304 Not Modified"),
    (Method::GET, "200 OK\r\ncontent-length: 0"),
];

#[tokio::test(start_paused = true)]
async fn a_hint_is_heeded_on_an_answer_without_a_body() {
    // What the answer says, how long the connection is idle then, and why it is not used again, if it is not.
    let cases = [
        ("x: y", 3_900, None),
        ("keep-alive: timeout=3", 1_900, None),
        ("keep-alive: timeout=3", 2_100, Some(CloseReason::Idle)),
        // Within the margin.
        ("keep-alive: timeout=1", 0, Some(CloseReason::Idle)),
        ("keep-alive: timeout=30, max=1", 0, None),
        ("keep-alive: max=0", 0, Some(CloseReason::Uses)),
        ("connection: close", 0, Some(CloseReason::Final)),
    ];
    for (method, status) in &ANSWERS {
        for (field, idle, reason) in cases {
            let name = format!("{method} {status}, {field}, {idle} ms");
            let head = format!("HTTP/1.1 {status}\r\n{field}\r\n\r\n");
            let server = Server::in_memory(move |mut conn| {
                let head = head.clone();
                async move {
                    while conn.request().await.is_some() {
                        conn.send(&head).await;
                    }
                }
            });
            let (client, handle) =
                agent_paused(KeepAliveLayer::<Full<Bytes>>::new(), server.connector());
            let mut reused = Vec::new();
            for _ in 0..2 {
                let request = Request::builder().method(method).uri(server.url("/"));
                let request = request.body(Full::default()).unwrap();
                let answer = read(client.request(request).await.unwrap()).await.unwrap();
                reused.push(answer.info.is_reused());
                tokio::time::sleep(Duration::from_millis(idle)).await;
            }
            assert_eq!(reused, [false, reason.is_none()], "{name}");
            if let Some(reason) = reason {
                eventually(&name, || handle.status().closes == [(reason, 2)].into()).await;
            }
            at_rest(&handle).await;
        }
    }
}
