//! One call to start: `KeepAlive::new`, its methods, and the bodies that they take.

use std::time::Duration;

use crate::support::agent::{at_rest, belongs_here, read};
use crate::support::{Conn, RefusingPort, Server, not_over_tls, only_over_tcp, script};
use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body::{Body as _, Frame};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::ServiceExt;
use tower::retry::Retry;
use tower_keep_alive::connect::{DefaultConnector, DefaultTransport};
use tower_keep_alive::retry::{ReusedReset, Unsent};
use tower_keep_alive::{
    Body, BoxError, Error, KeepAlive, RequestBody, RequestFuture, connect::Destination,
};

/// Over plain TCP, which is what `KeepAlive::new` makes for `http`.
fn agent() -> KeepAlive {
    let agent = KeepAlive::new();
    belongs_here(&agent.handle());
    agent
}

#[tokio::test]
async fn one_call_makes_a_client_that_reuses_its_connections() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::ok().await;
    let agent = agent();
    for reused in [false, true] {
        let answer = read(agent.get(server.url("/")).await.unwrap());
        assert_eq!(answer.await.unwrap().info.is_reused(), reused);
    }
    let head = agent.head(server.url("/")).await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    drop(head);
    let status = agent.handle().status();
    assert_eq!((status.created, status.reused), (1, 2));
    assert_eq!(server.heads()[2].method, "HEAD");
    at_rest(&agent.handle()).await;
}

/// `get` has a future that can stand in a struct, and the default connector a transport of its own, which knows its two ends.
#[tokio::test]
async fn what_the_default_client_gives_has_a_name() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::ok().await;
    let agent = agent();
    let asked: RequestFuture = agent.get(server.url("/"));
    let answer = read(asked.await.unwrap()).await.unwrap();
    assert_eq!(answer.info.remote_addr(), Some(server.addr()));
    let destination = Destination::try_from(server.url("/").parse::<Uri>().unwrap()).unwrap();
    assert_eq!(
        (destination.host(), destination.port()),
        ("127.0.0.1", server.addr().port())
    );
    let connected = DefaultConnector::new().oneshot(destination).await.unwrap();
    let transport: DefaultTransport = connected;
    drop(transport);
    at_rest(&agent.handle()).await;
}

#[tokio::test]
async fn whatever_a_body_is_made_of_is_sent_whole() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::ok().await;
    let agent = agent();
    let url: Uri = server.url("/").parse().unwrap();
    let streamed = || {
        let pieces =
            ["pi", "ec", "es"].map(|it| Ok::<_, std::io::Error>(Frame::data(Bytes::from(it))));
        StreamBody::new(futures_util::stream::iter(pieces))
    };
    for (body, sent) in [
        (RequestBody::from(()), ""),
        (RequestBody::from("a text"), "a text"),
        (RequestBody::from(String::from("a string")), "a string"),
        (RequestBody::from(Bytes::from("bytes")), "bytes"),
        (RequestBody::from(vec![b'v'; 3]), "vvv"),
        (RequestBody::from(&b"slice"[..]), "slice"),
        (RequestBody::new(Full::new(Bytes::from("boxed"))), "boxed"),
        (RequestBody::from(Full::new(Bytes::from("full"))), "full"),
        (RequestBody::from(Full::<Bytes>::default()), ""),
        (RequestBody::from(http_body_util::Empty::<Bytes>::new()), ""),
        (streamed().into(), "pieces"),
        (BoxBody::new(streamed()).into(), "pieces"),
        (UnsyncBoxBody::new(streamed()).into(), "pieces"),
    ] {
        let again = body.try_clone();
        read(agent.post(url.clone(), body).await.unwrap())
            .await
            .unwrap();
        let came = server.heads().pop().unwrap();
        assert_eq!(String::from_utf8_lossy(&came.body), sent);
        // A length that is known is announced, in a box too.
        let length = came.header("content-length").map(str::to_owned);
        let announced = (sent != "pieces").then(|| sent.len().to_string());
        assert_eq!(length, announced);
        if let Some(again) = again {
            let again = again.collect().await.unwrap().to_bytes();
            assert_eq!(again, sent);
        }
    }
    assert!(RequestBody::from(streamed()).try_clone().is_none());
    at_rest(&agent.handle()).await;
}

#[tokio::test]
async fn a_request_with_fields_of_its_own_is_sent_as_it_is() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::ok().await;
    let agent = agent();
    let request = Request::put(server.url("/here"))
        .header("x-own", "yes")
        .body("text")
        .unwrap();
    read(agent.request(request).await.unwrap()).await.unwrap();
    let head = &server.heads()[0];
    assert_eq!(
        (head.method.as_str(), head.body.as_slice()),
        ("PUT", &b"text"[..])
    );
    at_rest(&agent.handle()).await;
}

/// A body of bytes can be sent twice, and one that is a stream cannot.
#[tokio::test]
async fn a_request_body_is_sent_again_by_the_retry_policy_if_it_is_bytes() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    for streamed in [false, true] {
        // The first connection ends at its second request, before an answer.
        let server = Server::start(|mut conn: Conn| async move {
            if conn.index > 0 {
                return script::ok(conn).await;
            }
            conn.request().await;
            conn.respond("ok").await;
            conn.request().await;
            conn.fin().await;
        })
        .await;
        let agent = agent();
        let client = Retry::new(ReusedReset::new(), agent.clone());
        read(agent.get(server.url("/")).await.unwrap())
            .await
            .unwrap();
        let body = match streamed {
            true => RequestBody::new(Full::new(Bytes::from("text"))),
            false => RequestBody::from("text"),
        };
        let request = Request::put(server.url("/"))
            .header("x-own", "yes")
            .body(body)
            .unwrap();
        let answer = client.oneshot(request).await;
        match answer {
            Ok(response) => {
                assert!(!streamed && !response.body().connection().is_reused());
                read(response).await.unwrap();
            }
            Err(error) => assert!(
                streamed && error.is_reset() && error.is_reused(),
                "{error:?}"
            ),
        }
        let heads = server.heads();
        assert_eq!(heads.len(), if streamed { 2 } else { 3 });
        for put in &heads[1..] {
            let sent = (put.method.as_str(), put.body.as_slice());
            assert_eq!(sent, ("PUT", &b"text"[..]));
            assert_eq!(put.header("x-own"), Some("yes"));
        }
        at_rest(&agent.handle()).await;
    }
}

#[tokio::test]
async fn a_request_body_that_never_reached_a_server_is_sent_again_if_it_is_bytes() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let refusing = RefusingPort::new();
    for (body, attempts) in [
        (RequestBody::from("text"), 2),
        (RequestBody::new(Full::new(Bytes::from("text"))), 1),
    ] {
        let agent = agent();
        let policy = Unsent::new()
            .attempts(2)
            .backoff(Duration::ZERO, Duration::from_millis(1), 0.0)
            .unwrap();
        let client = Retry::new(policy, agent.clone());
        let request = Request::post(refusing.url("/")).body(body).unwrap();
        let error = client.oneshot(request).await.unwrap_err();
        assert!(error.is_connect(), "{error:?}");
        assert_eq!(agent.handle().status().create_errors, attempts);
        at_rest(&agent.handle()).await;
    }
}

#[tokio::test]
async fn a_body_of_another_type_goes_where_a_body_is_wanted() {
    let mut body = Body::new(Full::new(Bytes::from("hello")));
    assert_eq!(body.size_hint().exact(), Some(5));
    let info = body.connection();
    assert_eq!((info.uses(), info.is_reused()), (0, false));
    assert!(info.key().is_none() && info.remote_addr().is_none());
    // Harmless where there is no connection.
    info.poison();
    info.detach();
    let id = info.id();
    body = Body::new(body);
    assert_eq!(body.connection().id(), id, "it stays as it is");
    assert_eq!(body.bytes(5).await.unwrap(), "hello");

    let failing = StreamBody::new(futures_util::stream::iter([Err::<Frame<Bytes>, _>("why")]));
    let error = Body::new(failing).bytes(5).await.unwrap_err();
    assert!(error.connection().is_none(), "{error:?}");
    assert_eq!(
        std::error::Error::source(&error).unwrap().to_string(),
        "why"
    );
}

/// What a layer has made of a body is a body of ours again, and knows its connection.
#[tokio::test]
async fn a_response_with_a_body_in_a_body_keeps_its_connection() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::start(|mut conn: Conn| async move {
        conn.request().await;
        conn.respond("hello").await;
        conn.request().await;
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut")
            .await;
        conn.fin().await;
    })
    .await;
    let agent = agent();
    let wrapped = async || {
        let response = agent.get(server.url("/")).await.unwrap();
        Body::from_response(response.map(|body| body.map_err(BoxError::from)))
    };
    let first = wrapped().await.into_body();
    let id = first.connection().id();
    assert!(first.connection().key().is_some());
    assert_eq!(first.text(9).await.unwrap(), "hello");

    let second = wrapped().await.into_body();
    assert_eq!(
        (second.connection().id(), second.connection().uses()),
        (id, 2)
    );
    // The error is the inner body's own.
    let error = second.text(9).await.unwrap_err();
    assert_eq!(error.connection().unwrap().id(), id);
    assert!(Error::find(std::error::Error::source(&error).unwrap()).is_none());
    at_rest(&agent.handle()).await;
}

#[tokio::test]
async fn what_is_no_uri_is_named_and_nothing_is_sent() {
    let agent = agent();
    for (uri, why) in [
        ("http://h/ space", "parsed"),
        ("", "parsed"),
        // A name of other letters is not taken for another name.
        ("http://bücher.test/", "Punycode"),
        ("/relative", "http://"),
        (
            "localhost:3000/x",
            "has no scheme, or no host: write http://",
        ),
        ("example.com/x", "has no scheme, or no host: write http://"),
        ("ftp://h/", "ftp"),
    ] {
        let error = agent.get(uri).await.unwrap_err();
        assert!(error.is_target() && error.is_unsent(), "{uri}: {error:?}");
        assert!(error.to_string().contains(why), "{uri}: {error}");
        let error = agent.post(uri, "body").await.unwrap_err();
        assert!(error.is_target(), "{uri}: {error:?}");
    }
    assert_eq!(agent.handle().status().created, 0);
    at_rest(&agent.handle()).await;
}

#[tokio::test]
async fn a_client_has_the_settings_of_its_builder() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::start(|mut conn: Conn| async move {
        conn.request().await;
        conn.respond("ok").await;
        conn.request().await;
    })
    .await;
    let agent: KeepAlive = KeepAlive::builder().max_uses(1).build();
    belongs_here(&agent.handle());
    for _ in 0..2 {
        read(agent.get(server.url("/")).await.unwrap())
            .await
            .unwrap();
    }
    assert_eq!(server.accepted(), 2);
    at_rest(&agent.handle()).await;
}

#[tokio::test]
async fn a_client_is_sent_to_a_task_and_shared_between_tasks() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::ok().await;
    let agent = agent();
    let urls = [server.url("/a"), server.url("/b")];
    let tasks = urls.map(|url| {
        let agent = agent.clone();
        tokio::spawn(async move {
            let answer = read(agent.post(url, "text").await.unwrap()).await;
            answer.unwrap().status
        })
    });
    for task in tasks {
        assert_eq!(task.await.unwrap(), StatusCode::OK);
    }
    at_rest(&agent.handle()).await;
}

/// `https` is spoken, or refused by a server that does not speak it: never sent in the clear.
#[tokio::test]
async fn https_is_never_sent_in_the_clear() {
    if not_over_tls("it is about a server without TLS") || only_over_tcp("it is about TCP") {
        return;
    }
    let server = Server::start(script::stall).await;
    let agent: KeepAlive = KeepAlive::builder()
        .connect_timeout(Duration::from_millis(50))
        .build();
    belongs_here(&agent.handle());
    let url = format!("https://{}/", server.addr());
    let error = agent.get(url).await.unwrap_err();
    assert!(error.is_connect() && error.is_unsent(), "{error:?}");
    let refusing = RefusingPort::new();
    let error = agent.get(refusing.url("/")).await.unwrap_err();
    assert!(error.is_connect(), "{error:?}");
    assert!(server.heads().is_empty());
    at_rest(&agent.handle()).await;
}

/// Answers each request with this body, of a known length or in chunks.
async fn answers(body: &'static str, chunked: bool) -> Server {
    Server::start(move |mut conn: Conn| async move {
        while conn.request().await.is_some() {
            let (first, second) = body.split_at(body.len() / 2);
            let answer = match chunked {
                false => format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                ),
                true => format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n",
                    first.len(),
                    second.len()
                ),
            };
            conn.send(answer).await;
        }
    })
    .await
}

#[tokio::test]
async fn a_body_of_many_pieces_is_read_up_to_its_limit() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
            conn.send(format!("{head}2\r\nab\r\n2\r\ncd\r\n2\r\nef\r\n0\r\n\r\n"))
                .await;
        }
    })
    .await;
    let agent = agent();
    let body = async || agent.get(server.url("/")).await.unwrap().into_body();
    assert_eq!(body().await.bytes(6).await.unwrap(), "abcdef");
    let error = body().await.bytes(5).await.unwrap_err();
    assert!(error.is_too_large(), "{error:?}");
}

#[tokio::test]
async fn a_body_is_read_whole_up_to_its_limit() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    for chunked in [false, true] {
        let server = answers("[1, 22, 3]", chunked).await;
        let agent = agent();
        let body = async || agent.get(server.url("/")).await.unwrap().into_body();
        assert_eq!(body().await.bytes(10).await.unwrap(), "[1, 22, 3]");
        assert_eq!(body().await.text(10).await.unwrap(), "[1, 22, 3]");
        let numbers: Vec<u32> = body().await.json(usize::MAX).await.unwrap();
        assert_eq!(numbers, [1, 22, 3]);
        // What was read to its end was reused.
        assert_eq!(server.accepted(), 1);
        for limit in [9, 0] {
            let error = body().await.bytes(limit).await.unwrap_err();
            assert!(error.is_too_large() && !error.is_decode(), "{error:?}");
            assert!(error.connection().is_some(), "{error:?}");
            assert!(
                error.to_string().contains(&format!("{limit} bytes")),
                "{error}"
            );
        }
        let error = body().await.json::<Vec<String>>(10).await.unwrap_err();
        assert!(error.is_decode() && !error.is_too_large(), "{error:?}");
        assert_eq!(
            error.to_string(),
            "the body of the response is not the JSON that was asked for"
        );
        assert!(std::error::Error::source(&error).is_some());
        at_rest(&agent.handle()).await;
    }
}

#[tokio::test]
async fn what_is_no_utf_8_is_no_text() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::start(|mut conn: Conn| async move {
        while conn.request().await.is_some() {
            conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n\xff\xfe")
                .await;
        }
    })
    .await;
    let agent = agent();
    let body = agent.get(server.url("/")).await.unwrap().into_body();
    let error = body.text(2).await.unwrap_err();
    assert!(error.is_decode(), "{error:?}");
    assert_eq!(error.to_string(), "the body of the response is not UTF-8");
    at_rest(&agent.handle()).await;
}

#[tokio::test]
async fn a_body_that_is_cut_off_is_the_connections_error() {
    if only_over_tcp("the default connector is TCP's") {
        return;
    }
    let server = Server::start(|mut conn: Conn| async move {
        conn.request().await;
        conn.send(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ncut")
            .await;
    })
    .await;
    let agent = agent();
    let body = agent.get(server.url("/")).await.unwrap().into_body();
    let error = body.text(100).await.unwrap_err();
    assert!(!error.is_decode() && !error.is_too_large(), "{error:?}");
    at_rest(&agent.handle()).await;
}
