//! The forms that a reset comes in.

use std::collections::HashMap;
use std::future::Future;
use std::io::ErrorKind;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::retrying;
use crate::support::agent::{Req, agent, agent_paused, at_rest, fetch, get, post, send};
use crate::support::{Conn, Fault, Server, TrapConnector, eventually, settle};
use futures_util::future::join_all;
use tokio::time::{sleep, timeout};
use tower_keep_alive::KeepAliveLayer;

/// How a server ends a connection, and what the caller makes of that.
struct Form {
    what: &'static str,
    request: fn(&str) -> Req,
    script: fn(Conn) -> Pin<Box<dyn Future<Output = ()> + Send>>,
    is_reset: bool,
}

fn large(url: &str) -> Req {
    post(url, vec![b'u'; 8 << 20])
}

/// HYPER.md 1.3, by number, where a server can make it happen.
fn forms() -> Vec<Form> {
    macro_rules! form {
        ($what:literal, $request:expr, $is_reset:literal, $conn:ident, $script:block) => {
            Form {
                what: $what,
                request: $request,
                #[allow(unused_mut)]
                script: |mut $conn| Box::pin(async move { $script }),
                is_reset: $is_reset,
            }
        };
    }
    let get = |url: &str| get(url);
    let small = |url: &str| post(url, "small");
    vec![
        form!("5: FIN before the head", get, true, conn, {
            conn.request().await;
            conn.fin().await;
        }),
        form!("5: FIN before the head of a POST", small, true, conn, {
            conn.request().await;
            conn.fin().await;
        }),
        form!("6: RST before the head", get, true, conn, {
            conn.request().await;
            conn.rst();
        }),
        form!("6: RST before the head of a POST", small, true, conn, {
            conn.request().await;
            conn.rst();
        }),
        form!("7: closed with the request unread", small, true, conn, {
            conn.head().await;
            drop(conn);
        }),
        form!("8: RST in the middle of an upload", large, true, conn, {
            conn.head().await;
            conn.read().await;
            conn.rst();
        }),
        form!("8: FIN in the middle of an upload", large, true, conn, {
            conn.head().await;
            conn.read().await;
            conn.fin().await;
        }),
        form!("14: FIN inside the head", get, true, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-le").await;
            conn.fin().await;
        }),
        form!("14: RST inside the head", get, true, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-le").await;
            conn.rst();
        }),
        form!("FIN after an interim response", get, true, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 103 Early Hints\r\n\r\n").await;
            conn.fin().await;
        }),
        form!("15: FIN inside a body with a length", get, false, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")
                .await;
            conn.fin().await;
        }),
        form!("FIN inside a chunk", get, false, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nhalf")
                .await;
            conn.fin().await;
        }),
        form!("FIN instead of the last chunk", get, false, conn, {
            conn.request().await;
            conn.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n")
                .await;
            conn.fin().await;
        }),
        form!("no HTTP", get, false, conn, {
            conn.request().await;
            conn.send("SSH-2.0-OpenSSH_9.9\r\n").await;
            conn.fin().await;
        }),
    ]
}

#[tokio::test]
async fn every_form_of_a_reset_is_known_as_one_and_nothing_else_is() {
    for Form {
        what,
        request,
        script,
        is_reset,
    } in forms()
    {
        for reused in [false, true] {
            let server = Server::start(move |mut conn| async move {
                if reused {
                    conn.request().await;
                    conn.respond("warm").await;
                }
                script(conn).await;
            })
            .await;
            let (agent, handle) = agent(KeepAliveLayer::new());
            if reused {
                fetch(&agent, server.url("/warm")).await.unwrap();
            }
            let error = send(&agent, request(&server.url("/")))
                .await
                .expect_err(what);
            assert_eq!(error.is_reset(), is_reset, "{what}: {error:?}");
            assert_eq!(error.is_reused(), reused, "{what}: {error:?}");
            assert!(!error.is_unsent(), "{what}: {error:?}");
            assert!(!error.is_timeout() && !error.is_connect() && !error.is_shut_down());
            assert_eq!(server.accepted(), 1, "{what}");
            eventually("it is closed", || handle.status().open() == 0).await;
            at_rest(&handle).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_fails_is_a_reset_in_every_form() {
    // 4 and 24: hyper has no predicate for them.
    for kind in [
        ErrorKind::BrokenPipe,
        ErrorKind::ConnectionReset,
        ErrorKind::ConnectionAborted,
        // The way there has gone; Go takes these for the same.
        ErrorKind::TimedOut,
        ErrorKind::HostUnreachable,
        ErrorKind::NetworkUnreachable,
        ErrorKind::NetworkDown,
    ] {
        for (accepts, length, is_unsent) in [
            (0, 8 << 10, true),
            // Two records of TLS: the server may have had the first.
            (0, 1 << 20, false),
            (10, 8 << 10, false),
            (1000, 1 << 20, false),
        ] {
            let server = Server::in_memory(crate::support::script::ok);
            let trap = TrapConnector::new(server.connector());
            let (agent, handle) = agent_paused(KeepAliveLayer::new(), trap.clone());
            fetch(&agent, server.url("/")).await.unwrap();
            settle().await;
            trap.set(Fault {
                accepts,
                write: Some(kind),
                read: None,
            });
            let answer = send(&agent, post(server.url("/"), vec![b'u'; length])).await;
            match answer {
                Ok(answer) => assert!(is_unsent && !answer.info.is_reused(), "{kind}"),
                Err(error) => {
                    assert!(error.is_reset() && error.is_reused(), "{kind}: {error:?}");
                    assert!(!is_unsent && !error.is_unsent(), "{kind}: {error:?}");
                }
            }
            assert_eq!(trap.made(), 1 + usize::from(is_unsent), "{kind}");
            at_rest(&handle).await;
        }
    }
}

#[tokio::test]
async fn the_race_with_a_closing_server_fails_no_get_and_runs_no_post_twice() {
    const EACH: usize = 100;
    // Closes a connection 2 ms after a response, and never before its first.
    let posts = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
    let server = {
        let posts = posts.clone();
        Server::start(move |mut conn| {
            let posts = posts.clone();
            async move {
                let mut next = conn.request().await;
                while let Some(head) = next {
                    if head.method == "POST" {
                        *posts
                            .lock()
                            .unwrap()
                            .entry(head.target.clone())
                            .or_default() += 1;
                    }
                    conn.respond(&head.target).await;
                    let in_time = timeout(Duration::from_millis(2), conn.request()).await;
                    next = in_time.ok().flatten();
                }
                conn.fin().await;
            }
        })
        .await
    };
    let (agent, handle) = agent(KeepAliveLayer::new());
    let client = retrying(agent.clone());
    let callers = (0..10).map(|caller| {
        let (client, server) = (client.clone(), &server);
        async move {
            let mut failed = 0;
            for n in 0..EACH {
                let path = format!("/{caller}/{n}");
                if n % 2 == 0 {
                    let answer = fetch(&client, server.url(&path)).await.unwrap();
                    assert_eq!(answer.body, path);
                } else {
                    match send(&client, post(server.url(&path), "x")).await {
                        Ok(answer) => assert_eq!(answer.body, path),
                        Err(error) => {
                            assert!(error.is_reset() && error.is_reused(), "{error:?}");
                            failed += 1;
                        }
                    }
                }
                sleep(Duration::from_micros(1500 + 200 * (n as u64 % 8))).await;
            }
            failed
        }
    });
    let failed: usize = join_all(callers).await.into_iter().sum();
    let posts = posts.lock().unwrap().clone();
    assert!(posts.values().all(|&times| times == 1), "{posts:?}");
    // Each that failed was in a race that somebody has to lose; the others are there.
    assert!(posts.len() + failed >= 10 * EACH / 2);
    at_rest(&handle).await;
}
