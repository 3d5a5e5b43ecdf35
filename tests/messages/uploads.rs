//! What becomes of the bodies of requests: of unknown lengths, of lengths that are not theirs, and of those that the server
//! does not want.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use crate::support::agent::{Connector, agent_paused, at_rest, post, probe, read, send};
use crate::support::{Fault, Gate, Server, TrapConnector, eventually, script};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Channel;
use tokio::io::BufWriter;
use tower::Layer;
use tower::util::MapResponse;
use tower_keep_alive::{AgentHandle, CloseReason, KeepAlive, KeepAliveLayer};

/// A body whose length nobody knows, and that ends, or goes on, as it likes.
struct Untold(Vec<&'static [u8]>);

impl Body for Untold {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let next = (!self.0.is_empty()).then(|| self.0.remove(0));
        Poll::Ready(next.map(|bytes| Ok(Frame::data(Bytes::from_static(bytes)))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

fn untold_agent() -> (KeepAlive<Connector, Untold>, AgentHandle) {
    let layer = KeepAliveLayer::new().probe_with(probe);
    let handle = layer.handle();
    (layer.layer(Connector), handle)
}

/// hyper's, and on purpose: such a body is almost always none, and many servers want no chunks with these methods.
#[tokio::test]
async fn a_body_of_unknown_length_is_not_sent_with_get_and_head() {
    for method in [Method::GET, Method::HEAD] {
        let server = Server::ok().await;
        let (client, handle) = untold_agent();
        for reused in [false, true, true] {
            let request = Request::builder().method(&method).uri(server.url("/"));
            let request = request.body(Untold(vec![b"not ", b"sent"])).unwrap();
            let answer = read(client.request(request).await.unwrap()).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.info.is_reused(), reused, "{method}");
        }
        for head in server.heads() {
            assert_eq!(head.method, method.as_str());
            assert_eq!(head.header(CONTENT_LENGTH.as_str()), None);
            assert_eq!(head.header(TRANSFER_ENCODING.as_str()), None);
        }
        // One more byte would have been a request of its own.
        assert_eq!((server.requests(), server.accepted()), (3, 1));
        assert_eq!(handle.status().completed, 3);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_body_of_unknown_length_is_sent_where_the_request_says_so() {
    let chunked = Some((TRANSFER_ENCODING, "chunked"));
    let length = Some((CONTENT_LENGTH, "7"));
    for (method, says_so) in [
        (Method::GET, chunked.clone()),
        (Method::GET, length.clone()),
        (Method::HEAD, chunked),
        (Method::HEAD, length),
        // With these it goes without saying.
        (Method::DELETE, None),
        (Method::POST, None),
    ] {
        let server = Server::ok().await;
        let (client, handle) = untold_agent();
        for reused in [false, true] {
            let mut request = Request::builder().method(&method).uri(server.url("/"));
            if let Some((name, value)) = &says_so {
                request = request.header(name, *value);
            }
            let request = request.body(Untold(vec![b"is ", b"sent"])).unwrap();
            let answer = read(client.request(request).await.unwrap()).await.unwrap();
            assert_eq!(answer.status, StatusCode::OK);
            assert_eq!(answer.info.is_reused(), reused, "{method}");
        }
        for head in server.heads() {
            assert_eq!(head.body, b"is sent");
            let (name, value) = says_so.clone().unwrap_or((TRANSFER_ENCODING, "chunked"));
            assert_eq!(head.header(name.as_str()), Some(value));
            let framings = [CONTENT_LENGTH, TRANSFER_ENCODING];
            let said = framings.map(|name| head.header(name.as_str()).is_some());
            assert_ne!(said, [true, true], "one of them");
        }
        assert_eq!((server.requests(), server.accepted()), (2, 1));
        at_rest(&handle).await;
    }
}

/// A request body that breaks off leaves the server waiting: that connection is of no use any more.
#[tokio::test]
async fn a_caller_who_lies_about_the_length_harms_nobody_else() {
    let server = Server::ok().await;
    let (client, handle) = untold_agent();
    let upload = |body| {
        Request::builder()
            .method(Method::POST)
            .uri(server.url("/"))
            .header("content-length", "4")
            .body(Untold(body))
            .unwrap()
    };
    let sent = client.request(upload(vec![b"ab", b"cd"])).await;
    assert_eq!(read(sent.expect("true")).await.unwrap().body, "ok");

    let short = client.request(upload(vec![b"ab"])).await;
    let error = short.expect_err("two bytes are missing");
    assert!(!error.is_reset(), "the server did nothing: {error:?}");
    assert!(error.connection().is_some());
    eventually("the server sees it go", || server.open() == 0).await;

    let next = client.request(upload(vec![b"efgh"])).await;
    assert_eq!(read(next.expect("true")).await.unwrap().body, "ok");
    assert_eq!(server.heads().last().unwrap().body, b"efgh");
    at_rest(&handle).await;
}

/// hyper writes no more than what is announced, and would say nothing of the rest.
#[tokio::test]
async fn a_body_that_has_not_its_announced_length_fails_and_is_never_cut_in_silence() {
    const TWO: Option<&str> = Some("2");
    let long: &[&[&[u8]]] = &[
        &[b"abc"],
        &[b"a", b"bc"],
        &[b"ab", b"c"],
        &[b"ab", b"", b"c"],
    ];
    let short: &[&[&[u8]]] = &[&[], &[b"a"], &[b"a", b""]];
    let by_field = |pieces: &[&'static [u8]]| (TWO, Untold(pieces.to_vec()), None);
    let by_body = |pieces: &[&'static [u8]]| (None, Untold(pieces.to_vec()), Some(2));
    let mut uploads = Vec::new();
    for (wrong, is_longer) in [(long, true), (short, false)] {
        for pieces in wrong {
            uploads.push((by_field(pieces), is_longer));
            uploads.push((by_body(pieces), is_longer));
        }
    }
    uploads.push(((Some("0"), Untold(vec![b"a"]), None), true));
    for ((field, Untold(pieces), said), is_longer) in uploads {
        for reused in [false, true] {
            let server = Server::ok().await;
            let layer = KeepAliveLayer::new().probe_with(probe);
            let handle = layer.handle();
            let client: KeepAlive<Connector, Lying> = layer.layer(Connector);
            let request = |method, pieces: &[&'static [u8]], said| {
                let body = Untold(pieces.to_vec());
                let mut request = Request::builder().method(method).uri(server.url("/"));
                if let Some(length) = field {
                    request = request.header(CONTENT_LENGTH, length);
                }
                request.body(Lying { body, said }).unwrap()
            };
            if reused {
                let right: &[&[u8]] = if field == Some("0") {
                    &[]
                } else {
                    &[b"a", b"b"]
                };
                let right = client.request(request(Method::PUT, right, said)).await;
                read(right.unwrap()).await.unwrap();
            }
            let wrong = client.request(request(Method::PUT, &pieces, said)).await;
            let error = wrong.expect_err("the body has another length");
            assert!(error.is_request_body(), "{pieces:?} {error:?}");
            assert!(!error.is_reset() && !error.is_unsent(), "{error:?}");
            assert_eq!(error.is_reused(), reused);
            let text = error.to_string();
            assert!(text.contains("Content-Length"), "{text}");
            assert_eq!(text.contains("more"), is_longer, "{text}");
            eventually("the server sees it go", || server.open() == 0).await;
            at_rest(&handle).await;
            assert_eq!(
                handle.status().closes.get(&CloseReason::Abandoned),
                Some(&1)
            );
            // The server got a whole request only where nothing was to be sent of the body.
            let whole = usize::from(reused) + usize::from(field == Some("0"));
            assert!(server.requests() <= whole, "{pieces:?}");
        }
    }
}

/// A body that may say a length, true or not.
struct Lying {
    body: Untold,
    said: Option<u64>,
}

impl Body for Lying {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn size_hint(&self) -> SizeHint {
        self.said
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// The end of a body may come long after all that was announced, and its owner may wait for the answer first.
#[tokio::test]
async fn what_a_body_gives_after_its_announced_length_fails_the_request_until_it_is_answered() {
    for more in [true, false] {
        let gate = Gate::new();
        let server = {
            let gate = gate.clone();
            Server::start(move |mut conn| {
                let gate = gate.clone();
                async move {
                    while conn.request().await.is_some() {
                        gate.pass().await;
                        conn.respond("ok").await;
                    }
                }
            })
            .await
        };
        let layer = KeepAliveLayer::new().probe_with(probe);
        let handle = layer.handle();
        let client: KeepAlive<Connector, Channel<Bytes>> = layer.layer(Connector);
        let (mut sender, body) = Channel::new(4);
        let request = Request::post(server.url("/")).header(CONTENT_LENGTH, 2);
        let sending = client.request(request.body(body).unwrap());
        let uploading = async {
            sender.send_data("ab".into()).await.unwrap();
            eventually("the server has all of it", || server.requests() == 1).await;
            if more {
                sender.send_data("c".into()).await.unwrap();
            } else {
                gate.open_for_all();
            }
            sender
        };
        let (answer, sender) = tokio::join!(sending, uploading);
        if more {
            let error = answer.expect_err("it gave more than two bytes");
            assert!(error.is_request_body(), "{error:?}");
            gate.open_for_all();
            eventually("the server sees it go", || server.open() == 0).await;
        } else {
            assert_eq!(read(answer.expect("it gave two")).await.unwrap().body, "ok");
            eventually("it is kept", || !handle.status().idle.is_empty()).await;
        }
        drop(sender);
        at_rest(&handle).await;
    }
}

#[tokio::test]
async fn a_body_that_http_1_0_cannot_carry_is_refused_and_never_left_out() {
    let server = Server::ok().await;
    let (client, handle) = untold_agent();
    let request = |method, length: Option<&str>| {
        let request = Request::builder().method(method).version(Version::HTTP_10);
        let mut request = request.uri(server.url("/"));
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        request.body(Untold(vec![b"is ", b"sent"])).unwrap()
    };
    for method in [Method::POST, Method::PUT, Method::DELETE] {
        let error = client.request(request(method, None)).await.unwrap_err();
        assert!(error.is_target() && error.is_unsent(), "{error:?}");
        let text = error.to_string();
        assert!(
            text.contains("HTTP/1.0") && text.contains("Content-Length"),
            "{text}"
        );
    }
    assert_eq!(handle.status().created, 0);
    let sent = client.request(request(Method::POST, Some("7"))).await;
    read(sent.unwrap()).await.unwrap();
    assert_eq!(server.heads()[0].body, b"is sent");
    // As with HTTP/1.1, and for its reason.
    read(client.request(request(Method::GET, None)).await.unwrap())
        .await
        .unwrap();
    at_rest(&handle).await;
}

/// hyper speaks HTTP/1.0 to a server that has, and would leave the body out.
#[tokio::test]
async fn a_body_of_unknown_length_does_not_go_where_the_server_has_answered_in_http_1_0() {
    let server = Server::start(|mut conn| async move {
        while conn.request().await.is_some() {
            let head = "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok";
            conn.send(head).await;
        }
    })
    .await;
    let (client, handle) = untold_agent();
    let request = |length: Option<&str>| {
        let mut request = Request::post(server.url("/"));
        if let Some(length) = length {
            request = request.header(CONTENT_LENGTH, length);
        }
        request.body(Untold(vec![b"is ", b"sent"])).unwrap()
    };
    for (length, reused) in [(Some("7"), false), (Some("7"), true), (None, false)] {
        let answer = client.request(request(length)).await.unwrap();
        let answer = read(answer).await.unwrap();
        assert_eq!(answer.info.is_reused(), reused, "{length:?}");
    }
    assert!(server.heads().iter().all(|head| head.body == b"is sent"));
    assert_eq!((server.requests(), server.accepted()), (3, 2));
    at_rest(&handle).await;
}

/// Fails once the server has answered; nothing else wakes whoever reads it.
struct FailsOnceAnswered(Arc<AtomicBool>);

impl Body for FailsOnceAnswered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.0.load(Ordering::SeqCst) {
            true => Poll::Ready(Some(Err(io::Error::other("the file is gone")))),
            false => Poll::Pending,
        }
    }
}

/// The head of the response is read in the same turn, before the upload fails: the server may have seen a part of the request.
#[tokio::test(start_paused = true)]
async fn a_response_to_an_upload_that_has_failed_by_then_does_not_count() {
    let is_answered = Arc::new(AtomicBool::new(false));
    let answered = is_answered.clone();
    let server = Server::in_memory(move |mut conn| {
        let answered = answered.clone();
        async move {
            conn.head().await;
            answered.store(true, Ordering::SeqCst);
            conn.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                .await;
            conn.stall().await;
        }
    });
    let layer = KeepAliveLayer::<FailsOnceAnswered>::new();
    let handle = layer.handle();
    let client = layer.layer(server.connector());
    let request = Request::post(server.url("/")).header(CONTENT_LENGTH, 4);
    let request = request.body(FailsOnceAnswered(is_answered)).unwrap();
    let error = client.request(request).await.expect_err("half a request");
    assert!(error.is_request_body() && !error.is_unsent(), "{error:?}");
    eventually("it is closed", || handle.status().closed == 1).await;
    assert_eq!(handle.status().closes[&CloseReason::Abandoned], 1);
    at_rest(&handle).await;
}

/// The server has answered and gone, and the upload fails before the answer was read: on a transport that has room for
/// all of it, in the flush and not in the write.
#[tokio::test(start_paused = true)]
async fn an_early_answer_is_read_where_the_upload_fails_in_a_write_or_a_flush() {
    const ANSWER: &[u8] =
        b"HTTP/1.1 413 Content Too Large\r\nconnection: close\r\ncontent-length: 8\r\n\r\ntoo much";
    for room in [0, 1 << 21] {
        for failure in [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset] {
            for end in [None, Some(ErrorKind::ConnectionReset)] {
                let server = Server::in_memory(script::stall);
                let trap = TrapConnector::new(server.connector());
                trap.set(Fault {
                    accepts: 1000,
                    write: Some(failure),
                    read: Some((ANSWER, end)),
                });
                let roomy = move |transport| BufWriter::with_capacity(room, transport);
                let connector = MapResponse::new(trap, roomy);
                let (client, handle) = agent_paused(KeepAliveLayer::new(), connector);
                let upload = post(server.url("/"), vec![7; 1 << 20]);
                let answer = send(&client, upload).await;
                let answer = answer.unwrap_or_else(|error| panic!("{room} {failure}: {error:?}"));
                assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
                assert_eq!(answer.body, "too much");
                // Nobody is served by it again.
                eventually("it is closed", || handle.status().closed == 1).await;
                assert_eq!((handle.status().created, server.accepted()), (1, 1));
                at_rest(&handle).await;
            }
        }
    }
}

/// A body that panics when it is polled for the last of its frames.
struct Panics(usize);

impl Body for Panics {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        assert!(self.0 > 0, "the body panics, as the test wants it to");
        self.0 -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"data")))))
    }
}

#[tokio::test]
async fn a_body_that_panics_fails_its_own_request_and_counts_as_no_failure_of_a_server() {
    let server = Server::ok().await;
    let layer = KeepAliveLayer::new()
        .max_connections_per_host(1)
        .probe_with(probe);
    let handle = layer.handle();
    let client: KeepAlive<Connector, Panics> = layer.layer(Connector);
    for frames in [0, 1, 2] {
        for length in [None, Some(8)] {
            let mut request = Request::post(server.url("/"));
            if let Some(length) = length.filter(|_| frames < 2) {
                request = request.header(CONTENT_LENGTH, length);
            }
            let error = client.request(request.body(Panics(frames)).unwrap()).await;
            let error = error.unwrap_err();
            assert!(error.is_request_body(), "{frames}: {error:?}");
            assert!(!error.is_unsent() && !error.is_reset(), "{error:?}");
        }
    }
    at_rest(&handle).await;
    let status = handle.status();
    assert_eq!((status.started, status.failed), (6, 0), "{status}");
    assert_eq!(status.closes[&CloseReason::Abandoned], 6, "{status}");
    assert_eq!(status.created, status.closed);
}
