//! What a caller gets wrong is named before anything is opened, and a server that lies harms nobody but its own answer.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use crate::support::agent::{Req, agent, agent_paused, at_rest, fetch, get, post, read, send};
use crate::support::{Conn, Gate, Server, not_over_tls, script};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::time::{Instant, sleep};
use tower_keep_alive::{
    Error, Http2, KeepAliveLayer, TimeoutKind,
    layers::{ExchangeLayer, IdleEvictionLayer, MaxUsesLayer, PoolConfig, TtlLayer},
};

/// A request as it is given, however wrong.
fn request(method: &str, uri: &str, fields: &[(&str, &str)]) -> Req {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let body = Full::new(Bytes::from_static(b"ab"));
    request.body(body).expect("http itself lets it pass")
}

/// The text of an error and of all that it came from.
fn whole_text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

#[tokio::test]
async fn what_cannot_be_sent_is_named_and_opens_nothing() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let url = server.url("/");
    for (method, uri, fields, named) in [
        ("GET", "/relative?x=1", &[][..], "scheme"),
        ("GET", "*", &[], "scheme"),
        ("GET", "localhost:80", &[], "scheme"),
        ("GET", "localhost", &[], "scheme"),
        ("GET", "http://:80/", &[], "host"),
        ("GET", "http://[]/", &[], "host"),
        ("GET", "ftp://localhost/", &[], "\"ftp\""),
        ("GET", "ws://localhost/", &[], "\"ws\""),
        ("GET", "http://localhost:99999/", &[], "\"99999\""),
        ("GET", "http://localhost:65536/", &[], "\"65536\""),
        ("CONNECT", "localhost", &[], "port"),
        ("CONNECT", "http://localhost/", &[], "port"),
        ("POST", &url, &[("content-length", "3")], "content-length"),
        ("POST", &url, &[("content-length", "two")], "content-length"),
        ("POST", &url, &[("content-length", "-2")], "content-length"),
        (
            "POST",
            &url,
            &[("content-length", "2"), ("content-length", "3")],
            "content-length",
        ),
        ("GET", &url, &[("host", "a"), ("host", "b")], "host"),
    ] {
        let error = send(&client, request(method, uri, fields))
            .await
            .expect_err(uri);
        assert!(error.is_target(), "{method} {uri} {fields:?}: {error:?}");
        assert!(error.is_unsent(), "{method} {uri} {fields:?}: {error:?}");
        assert!(error.connection().is_none());
        let text = error.to_string();
        assert!(text.contains(named), "{method} {uri} {fields:?}: {text}");
        assert_eq!(handle.status().created, 0, "{method} {uri} {fields:?}");
    }
    assert_eq!(server.accepted(), 0);

    let answer = fetch(&client, &url).await.expect("a good one goes through");
    assert_eq!(answer.body, "ok");
    at_rest(&handle).await;
}

/// What was taken off the request at the first poll, its route or its partition, would not be found at the second.
#[tokio::test]
async fn what_was_refused_is_not_sent_when_it_is_polled_again() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let twice = [("host", "a"), ("host", "b")];
    let request = request("GET", &server.url("/"), &twice);
    let mut refused = pin!(client.request(request));
    let error = refused.as_mut().await.expect_err("two hosts");
    assert!(error.is_target(), "{error:?}");
    let mut cx = Context::from_waker(Waker::noop());
    let again = catch_unwind(AssertUnwindSafe(|| refused.poll(&mut cx)));
    assert!(again.is_err(), "it was ready");
    at_rest(&handle).await;
    assert_eq!(handle.status().created, 0);
    assert_eq!(server.accepted(), 0);
}

#[tokio::test]
async fn the_same_length_twice_is_no_contradiction() {
    let server = Server::ok().await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let twice = [("content-length", "2"), ("content-length", "2")];
    send(&client, request("POST", &server.url("/"), &twice))
        .await
        .expect("it says the same");
    assert_eq!(server.heads()[0].body, b"ab");
    at_rest(&handle).await;
}

#[tokio::test]
async fn https_without_tls_is_a_target_that_names_the_remedy() {
    if not_over_tls("it is about a connector without TLS") {
        return;
    }
    let (client, handle) = agent(KeepAliveLayer::new());
    let error = fetch(&client, "https://localhost:9/").await.unwrap_err();
    assert!(error.is_target() && !error.is_connect(), "{error:?}");
    assert!(error.is_unsent());
    let text = whole_text(&error);
    assert!(
        text.contains("scheme") && text.contains("TlsLayer"),
        "{text}"
    );
    let status = handle.status();
    assert_eq!((status.created, status.create_errors), (1, 1));
    at_rest(&handle).await;
}

#[tokio::test]
async fn a_port_where_nobody_can_listen_is_a_connect_error() {
    let (client, handle) = agent(KeepAliveLayer::new());
    let error = fetch(&client, "http://127.0.0.1:0/").await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    at_rest(&handle).await;
}

#[test]
fn settings_that_make_no_sense_panic_with_their_names() {
    type Layer = KeepAliveLayer<Full<Bytes>>;
    let told = |name: &str, build: &dyn Fn()| {
        let panic = catch_unwind(AssertUnwindSafe(build)).expect_err(name);
        let text = match panic.downcast_ref::<String>() {
            Some(text) => text.as_str(),
            None => panic.downcast_ref::<&str>().expect("a message"),
        };
        assert!(text.contains(name), "{name}: {text}");
    };
    told("max_connections_per_host", &|| {
        let _ = Layer::new().max_connections_per_host(0);
    });
    told("max_connections_per_host", &|| {
        let _ = PoolConfig::new().max_connections_per_host(0);
    });
    told("connect_timeout must not be zero", &|| {
        let _ = Layer::new().connect_timeout(Duration::ZERO);
    });
    told("connect_timeout must not be zero", &|| {
        let _ = PoolConfig::new().connect_timeout(Duration::ZERO);
    });
    told("connect_timeout must not be zero", &|| {
        let _ = Layer::new().for_host("h", |host| host.connect_timeout(Duration::ZERO));
    });
    told("max_response_fields must not be 0", &|| {
        let _ = Layer::new().max_response_fields(0);
    });
    told("max_streams_per_connection must not be 0", &|| {
        let _ = Http2::new().max_streams_per_connection(0);
    });
    told("max_header_list_size must not be 0", &|| {
        let _ = Http2::new().max_header_list_size(0);
    });
    told("stream_window must not be 0", &|| {
        let _ = Http2::new().stream_window(0);
    });
    told("max_connections", &|| {
        let _ = Layer::new().max_connections(0);
    });
    told("max_connections", &|| {
        let _ = PoolConfig::new().max_connections(0);
    });
    told("max_uses", &|| {
        let _ = Layer::new().max_uses(0);
    });
    told("max_uses", &|| {
        let _ = MaxUsesLayer::new(0);
    });
    for part in [1.5, -0.1, f64::NAN, f64::INFINITY] {
        told("ttl_jitter", &|| {
            let _ = Layer::new().ttl_jitter(part);
        });
        told("ttl_jitter", &|| {
            let _ = TtlLayer::new(Duration::from_secs(1)).jitter(part);
        });
    }
}

#[tokio::test]
async fn settings_at_their_edges_are_fine() {
    let server = Server::ok().await;
    for layer in [
        KeepAliveLayer::new()
            .idle_timeout(Duration::MAX)
            .ttl(Duration::MAX)
            .ttl_jitter(1.0)
            .connect_timeout(Duration::MAX)
            .checkout_timeout(Duration::MAX)
            .server_hint_margin(Duration::MAX)
            .max_uses(u64::MAX)
            .max_connections(usize::MAX)
            .max_connections_per_host(usize::MAX)
            .max_idle(usize::MAX)
            .max_pending_per_host(usize::MAX),
        KeepAliveLayer::new()
            .ttl(Duration::MAX - Duration::from_nanos(1))
            .ttl_jitter(0.0)
            .idle_timeout(Duration::MAX - Duration::from_nanos(1)),
        KeepAliveLayer::new().idle_timeout(Duration::ZERO),
        KeepAliveLayer::new().ttl(Duration::ZERO).ttl_jitter(1.0),
        KeepAliveLayer::new()
            .max_idle(0)
            .max_idle_per_host(0)
            .max_pending_per_host(0),
        KeepAliveLayer::new().checkout_timeout(Duration::ZERO),
    ] {
        let text = format!("{layer:?}");
        let (client, handle) = agent(layer);
        for _ in 0..2 {
            let answer = fetch(&client, server.url("/")).await.expect(&text);
            assert_eq!(answer.body, "ok", "{text}");
        }
        at_rest(&handle).await;
    }
    let _ = IdleEvictionLayer::new(Duration::ZERO);
    let _ = ExchangeLayer::new().server_hint_margin(Duration::ZERO);
}

/// What a lie may come to.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    /// No head: `is_reset`, as if the server had closed.
    Reset,
    /// No head, and not because of a close.
    NoResponse,
    /// A head, and a body that fails.
    NoEnd,
    /// The true answer.
    Answer(&'static str),
}

/// One lie, raw, after which the server closes or waits for the client to.
struct Lie {
    name: &'static str,
    raw: Vec<u8>,
    closes: bool,
    outcome: Outcome,
}

fn lies() -> Vec<Lie> {
    use Outcome::{Answer, NoEnd, NoResponse, Reset};
    let lie = |name, raw: &str, closes, outcome| Lie {
        name,
        raw: raw.as_bytes().to_vec(),
        closes,
        outcome,
    };
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let with = |rest: &str| format!("{OK}{rest}");
    let huge = with(&format!(
        "x: {}\r\ncontent-length: 2\r\n\r\nok",
        "y".repeat(1 << 20)
    ));
    let many = with(&format!(
        "{}content-length: 2\r\n\r\nok",
        "x: y\r\n".repeat(10_000)
    ));
    let chunked = |rest: &str| with(&format!("transfer-encoding: chunked\r\n\r\n{rest}"));
    let extended = chunked(&format!("2;{}\r\nok\r\n0\r\n\r\n", "y".repeat(1 << 20)));
    let trailed = chunked(&format!(
        "2\r\nok\r\n0\r\nx: {}\r\n\r\n",
        "y".repeat(1 << 20)
    ));
    vec![
        lie(
            "shorter",
            &with("content-length: 10\r\n\r\nok"),
            true,
            NoEnd,
        ),
        lie(
            "longer",
            &with("content-length: 2\r\n\r\nokwrong"),
            false,
            Answer("ok"),
        ),
        lie(
            "longer, and closes",
            &with("content-length: 2\r\n\r\nokwrong"),
            true,
            Answer("ok"),
        ),
        lie(
            "two heads",
            &with("content-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong"),
            false,
            Answer("ok"),
        ),
        lie(
            "bytes after the last chunk",
            &with("transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nwrong"),
            false,
            Answer("ok"),
        ),
        lie(
            "bytes after no body",
            "HTTP/1.1 204 No Content\r\n\r\nwrong",
            false,
            Answer(""),
        ),
        lie(
            "a body where there is none",
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\nwrong",
            false,
            Answer(""),
        ),
        lie("a head of 1 MB", &huge, false, NoResponse),
        lie("ten thousand fields", &many, false, NoResponse),
        lie(
            "chunks that are not",
            &with("transfer-encoding: chunked\r\n\r\nzz\r\nok\r\n"),
            false,
            NoEnd,
        ),
        lie(
            "a chunk longer than said",
            &with("transfer-encoding: chunked\r\n\r\n1\r\nok\r\n0\r\n\r\n"),
            false,
            NoEnd,
        ),
        lie(
            "a chunk too large for a number",
            &with("transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n"),
            false,
            NoEnd,
        ),
        lie("a chunk with an extension of 1 MB", &extended, false, NoEnd),
        lie("trailers of 1 MB", &trailed, false, NoEnd),
        lie(
            "chunks without end",
            &with("transfer-encoding: chunked\r\n\r\n2\r\nok\r\n"),
            true,
            NoEnd,
        ),
        lie(
            "two lengths",
            &with("content-length: 2\r\ncontent-length: 5\r\n\r\nok"),
            false,
            NoResponse,
        ),
        lie(
            "a length that is none",
            &with("content-length: many\r\n\r\nok"),
            false,
            NoResponse,
        ),
        lie(
            "a length too large for a number",
            &with("content-length: 99999999999999999999\r\n\r\nok"),
            false,
            NoResponse,
        ),
        lie("no HTTP", "SSH-2.0-OpenSSH_9.6\r\n\r\n", false, NoResponse),
        lie("half a head", "HTTP/1.1 200 OK\r\ncontent-le", true, Reset),
        lie("nothing at all", "", true, Reset),
    ]
}

/// The first `good` requests are answered, the next one with a lie; other connections never lie.
async fn liar(raw: Vec<u8>, closes: bool, good: usize) -> Server {
    Server::start(move |mut conn: Conn| {
        let raw = raw.clone();
        async move {
            if conn.index > 0 {
                return script::ok(conn).await;
            }
            for _ in 0..good {
                conn.request().await;
                conn.respond("ok").await;
            }
            if conn.request().await.is_none() {
                return;
            }
            conn.send(raw).await;
            if closes {
                conn.fin().await;
            } else {
                conn.closed().await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_server_that_lies_harms_only_its_own_answer() {
    for Lie {
        name,
        raw,
        closes,
        outcome,
    } in lies()
    {
        for good in [0, 1] {
            let server = liar(raw.clone(), closes, good).await;
            let (client, handle) = agent(KeepAliveLayer::new());
            let url = server.url("/");
            for _ in 0..good {
                assert_eq!(fetch(&client, &url).await.expect(name).body, "ok");
            }
            let response = client.request(get(&url)).await;
            let seen = match response {
                Ok(response) => match read(response).await {
                    Ok(answer) => Ok(answer.body),
                    Err(error) => {
                        assert!(!error.is_reset(), "{name}: there was a head: {error:?}");
                        assert_eq!(outcome, Outcome::NoEnd, "{name}: {error:?}");
                        assert!(error.to_string().contains("to its end"), "{name}: {error}");
                        Err(error)
                    }
                },
                Err(error) => {
                    let expected = match error.is_reset() {
                        true => Outcome::Reset,
                        false => Outcome::NoResponse,
                    };
                    assert_eq!(outcome, expected, "{name}: {error:?}");
                    Err(error)
                }
            };
            match (&seen, outcome) {
                (Ok(body), Outcome::Answer(expected)) => assert_eq!(body, expected, "{name}"),
                (Ok(body), _) => panic!("{name}: taken for an answer: {body:?}"),
                (Err(error), Outcome::Answer(_)) => panic!("{name}: {error:?}"),
                (Err(error), _) => {
                    assert!(!error.is_unsent(), "{name}");
                    let connection = error.connection().expect("there was one");
                    assert_eq!(connection.uses(), good as u64 + 1, "{name}");
                    assert_eq!(error.is_reused(), good > 0, "{name}");
                }
            }

            for _ in 0..2 {
                let next = fetch(&client, &url).await;
                let next = next.unwrap_or_else(|error| panic!("after {name}: {error:?}"));
                assert_eq!((next.status, &*next.body), (StatusCode::OK, "ok"), "{name}");
            }
            assert_eq!(server.accepted(), 2, "{name}: the first was not used again");
            at_rest(&handle).await;
            let status = handle.status();
            assert_eq!(
                (status.created, status.closed, status.open()),
                (2, 1, 1),
                "{name}"
            );
        }
    }
}

/// The first connection sends `at_once`, and then a byte a second, whatever comes; others answer properly.
fn dripping(at_once: &'static str, drops: &'static str) -> Server {
    Server::in_memory(move |mut conn: Conn| async move {
        while conn.index == 0 && conn.request().await.is_some() {
            conn.send(at_once).await;
            for byte in drops.as_bytes() {
                sleep(DROP).await;
                conn.send([*byte]).await;
            }
        }
        script::ok(conn).await;
    })
}

const DROP: Duration = Duration::from_secs(1);

/// What is sent at once, and what by the byte: heads, bodies, chunks, and what is between them.
const DRIPS: [(&str, &str); 4] = [
    ("", "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndrip"),
    ("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n", "drip"),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "2\r\ndr\r\n2\r\nip\r\n0\r\n\r\n",
    ),
    (
        "HTTP/1.1 103 Early Hints\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndrip",
    ),
];

#[tokio::test(start_paused = true)]
async fn one_byte_a_second_is_the_true_answer_where_silence_may_last_longer() {
    for (at_once, drops) in DRIPS {
        let server = dripping(at_once, drops);
        let (client, handle) = agent_paused(KeepAliveLayer::new(), server.connector());
        // The same connection drips twice.
        for uses in 1..=2 {
            let begun = Instant::now();
            let answer = fetch(&client, server.url("/")).await.expect(drops);
            assert_eq!(answer.body, "drip", "{drops:?}");
            assert_eq!(answer.info.uses(), uses, "{drops:?}");
            assert!(begun.elapsed() >= DROP * drops.len() as u32, "{drops:?}");
        }
        assert_eq!(server.accepted(), 1, "{drops:?}");
        at_rest(&handle).await;
        assert_eq!((handle.status().timeouts, handle.status().closed), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn one_byte_a_second_is_a_timeout_where_silence_may_not_last_so_long() {
    let limit = DROP * 6 / 10;
    for (at_once, drops) in DRIPS {
        let server = dripping(at_once, drops);
        let layer = KeepAliveLayer::new().active_timeout(limit);
        let (client, handle) = agent_paused(layer, server.connector());
        let begun = Instant::now();
        let error = fetch(&client, server.url("/")).await.expect_err(drops);
        assert!(begun.elapsed() < DROP, "{drops:?}: {:?}", begun.elapsed());
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
        assert_eq!(error.timeout(), Some(limit));
        assert!(!error.is_reset() && !error.is_unsent(), "{error:?}");
        assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
        assert_eq!(server.accepted(), 2, "{drops:?}: it was not used again");
        at_rest(&handle).await;
        let status = handle.status();
        assert_eq!((status.timeouts, status.closed), (1, 1), "{drops:?}");
    }
}

/// Nothing at all, half a head, half a body, half a chunk: and then silence, on a connection that stays open.
#[tokio::test(start_paused = true)]
async fn a_server_that_falls_silent_is_waited_for_no_longer_than_allowed() {
    for raw in [
        "",
        "HTTP/1.1 200 OK\r\ncontent-le",
        "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nha",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 100 Continue\r\n\r\n",
    ] {
        let server = Server::in_memory(move |mut conn: Conn| async move {
            if conn.index == 0 && conn.request().await.is_some() {
                conn.send(raw).await;
                conn.closed().await;
            } else {
                script::ok(conn).await;
            }
        });
        let layer = KeepAliveLayer::new().active_timeout(DROP);
        let (client, handle) = agent_paused(layer, server.connector());
        let begun = Instant::now();
        let error = fetch(&client, server.url("/")).await.expect_err(raw);
        let elapsed = begun.elapsed();
        assert!(
            (DROP..DROP * 6 / 5).contains(&elapsed),
            "{raw:?}: {elapsed:?}"
        );
        assert_eq!(error.timeout_kind(), Some(TimeoutKind::Inactivity));
        assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
        assert_eq!(server.accepted(), 2, "{raw:?}");
        at_rest(&handle).await;
    }
}

/// The answer to HEAD has no body, whatever is sent for one.
#[tokio::test]
async fn a_body_after_head_is_nobodys_answer() {
    let raw = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwrong".to_vec();
    let server = liar(raw, false, 0).await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let answer = send(&client, request("HEAD", &server.url("/"), &[])).await;
    assert_eq!(answer.expect("a head is all of it").body, "");
    assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}

/// What comes while a connection is idle is not taken for the next answer, even where the runtime has not heard of it.
#[tokio::test]
async fn a_stray_answer_on_an_idle_connection_is_nobodys() {
    let (say, said) = (Gate::new(), Gate::new());
    let server = Server::start({
        let (say, said) = (say.clone(), said.clone());
        move |mut conn: Conn| {
            let (say, said) = (say.clone(), said.clone());
            async move {
                if conn.index > 0 {
                    return script::ok(conn).await;
                }
                conn.request().await;
                conn.respond("ok").await;
                say.pass().await;
                conn.respond("wrong").await;
                said.open(1);
                conn.closed().await;
            }
        }
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    let url = server.url("/");
    fetch(&client, &url).await.unwrap();
    say.open(1);
    said.pass().await;
    let answer = fetch(&client, &url).await.unwrap();
    assert_eq!(answer.body, "ok");
    assert!(!answer.info.is_reused());
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
    assert_eq!(handle.status().closed, 1);
}

#[tokio::test]
async fn an_upgrade_nobody_asked_for_is_not_pooled() {
    let server = Server::start(|mut conn: Conn| async move {
        if conn.index > 0 {
            return script::ok(conn).await;
        }
        conn.request().await;
        conn.send("HTTP/1.1 101 Switching Protocols\r\nupgrade: none\r\n\r\nwrong")
            .await;
        conn.closed().await;
    })
    .await;
    let (client, handle) = agent(KeepAliveLayer::new());
    if let Ok(response) = client.request(post(server.url("/"), "x")).await {
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    }
    assert_eq!(fetch(&client, server.url("/")).await.unwrap().body, "ok");
    assert_eq!(server.accepted(), 2);
    at_rest(&handle).await;
}
