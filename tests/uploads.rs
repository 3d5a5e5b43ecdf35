//! What becomes of the bodies of requests: of unknown lengths, of lengths that are not theirs, and of those that the server
//! does not want.

mod support;

use std::convert::Infallible;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, StatusCode};
use http_body::{Body, Frame, SizeHint};
use support::agent::{Connector, agent_paused, at_rest, post, probe, read, send};
use support::{Fault, Server, TrapConnector, eventually, script};
use tokio::io::BufWriter;
use tower::Layer;
use tower::util::MapResponse;
use tower_keep_alive::{AgentHandle, KeepAlive, KeepAliveLayer};

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
        assert_eq!(handle.status().requests, 3);
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
