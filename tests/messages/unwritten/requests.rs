use std::collections::VecDeque;
use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, sleep};
use tower::Layer;
use tower_keep_alive::{BoxError, Error, KeepAliveLayer, RequestBody};

use super::resetting::Resetting;
use crate::support::agent::{Answer, agent_paused, at_rest, belongs_here, fetch, post, read, send};
use crate::support::{Conn, Fault, Server, TrapConnector, script, settle};

/// A body of these pieces, between which it may wait.
#[derive(Debug)]
struct Pieces {
    /// `None`: it waits once.
    left: VecDeque<Option<&'static str>>,
    /// It has said that it ends, and is not to be polled again.
    is_over: bool,
}

impl Pieces {
    fn of(pieces: &[Option<&'static str>]) -> RequestBody {
        RequestBody::new(Self {
            left: pieces.iter().copied().collect(),
            is_over: false,
        })
    }
}

impl Body for Pieces {
    /// Two chunks.
    type Data = bytes::buf::Chain<Bytes, Bytes>;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
        assert!(!self.is_over, "polled after its end");
        Poll::Ready(match self.left.pop_front() {
            Some(Some(piece)) => {
                let (one, two) = piece.split_at(1);
                Some(Ok(Frame::data(Bytes::from(one).chain(Bytes::from(two)))))
            }
            Some(None) => {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            None => {
                self.is_over = true;
                None
            }
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// What the caller attached to its request, as axum and layers of tower-http do.
#[derive(Clone)]
struct Own;

/// What a request has for a body, and its fields of framing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    None,
    Bytes,
    /// Several frames at once, of unknown length.
    Pieces,
    /// All of it is there at once, and its end too.
    Whole,
    /// The first frame is there only after the head was to be written.
    Late,
    /// It has given all that is announced, and does not end at once.
    EndsLate,
    /// Nothing is announced.
    Announced0,
    /// Waits for the server to ask for it.
    Expected,
}

impl Content {
    const ALL: [Self; 8] = [
        Self::None,
        Self::Bytes,
        Self::Pieces,
        Self::Whole,
        Self::Late,
        Self::EndsLate,
        Self::Announced0,
        Self::Expected,
    ];

    fn request(self, method: &Method, url: &str) -> Request<RequestBody> {
        let request = Request::builder().method(method).uri(url);
        let chunked = || (TRANSFER_ENCODING, "chunked");
        let length = |length| (CONTENT_LENGTH, length);
        let (field, body) = match self {
            Self::None => (None, RequestBody::empty()),
            Self::Bytes => (None, RequestBody::from("content")),
            Self::Pieces => {
                let pieces = [Some("con"), Some("te"), None, Some("nt")];
                (Some(chunked()), Pieces::of(&pieces))
            }
            Self::Whole => {
                let pieces = [Some("con"), Some("tent")];
                (Some(chunked()), Pieces::of(&pieces))
            }
            Self::Late => (Some(chunked()), Pieces::of(&[None, Some("content")])),
            Self::EndsLate => {
                let pieces = [Some("cont"), Some("ent"), None, None, None];
                (Some(length("7")), Pieces::of(&pieces))
            }
            Self::Announced0 => (Some(length("0")), Pieces::of(&[None])),
            Self::Expected => {
                let field = (http::header::EXPECT, "100-continue");
                (Some(field), RequestBody::from("content"))
            }
        };
        let request = match field {
            Some((name, value)) => request.header(name, value),
            None => request,
        };
        request.body(body).unwrap()
    }

    fn expected(self) -> &'static str {
        match self {
            Self::None | Self::Announced0 => "",
            _ => "content",
        }
    }
}

#[tokio::test]
async fn a_request_whose_first_write_meets_a_reset_goes_elsewhere_whatever_it_is() {
    let methods = [
        "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "POST", "PATCH", "BREW",
    ];
    for method in methods.map(|it| Method::from_bytes(it.as_bytes()).unwrap()) {
        for content in Content::ALL {
            for bits in 0..4 {
                let [is_vectored, has_own] = [1, 2].map(|bit| bits & bit != 0);
                let server = Server::start_tcp(script::ok).await;
                let connector = Resetting::then(&server, is_vectored);
                let layer = KeepAliveLayer::<RequestBody>::new();
                let handle = layer.handle();
                belongs_here(&handle);
                let layer = layer.expect_continue_timeout(Duration::from_millis(10));
                let client = layer.layer(connector.clone());
                let url = server.url("/a?b=c");
                let what = format!("{method} {content:?}, vectored {is_vectored}, own {has_own}");
                let warm = Content::None.request(&Method::GET, &url);
                let warm = read(client.request(warm).await.unwrap()).await.unwrap();
                assert_eq!(warm.body, "warm");

                let mut request = content.request(&method, &url);
                if has_own {
                    request.extensions_mut().insert(Own);
                }
                let answer = client.request(request).await;
                let answer = answer.unwrap_or_else(|error| panic!("{what}: {error:?}"));
                let answer = read(answer).await.unwrap();
                assert!(!answer.info.is_reused(), "{what}");

                assert_eq!((connector.made(), server.requests()), (2, 1), "{what}");
                let head = server.heads().pop().unwrap();
                assert_eq!((&*head.method, &*head.target), (method.as_str(), "/a?b=c"));
                let sent = String::from_utf8(head.body).unwrap();
                assert_eq!(sent, content.expected(), "{what}");
                at_rest(&handle).await;
            }
        }
    }
}

/// Closes the first connection when its second request should be there.
async fn closes_once(mut conn: Conn) {
    while conn.request().await.is_some() {
        conn.respond("ok").await;
        if conn.index == 0 {
            sleep(Duration::from_millis(20)).await;
            return conn.fin().await;
        }
    }
}

/// A request with this body over a transport that takes one piece at a time, and none of this one.
async fn taken_by_nobody(
    write: Option<ErrorKind>,
    reused: bool,
    body: Vec<u8>,
) -> (Result<Answer, Error>, usize) {
    let server = Server::in_memory(closes_once);
    let trap = TrapConnector::new(server.connector());
    let (client, handle) = agent_paused(KeepAliveLayer::new(), trap.clone());
    if reused {
        fetch(&client, server.url("/")).await.unwrap();
        settle().await;
    }
    trap.set(Fault {
        accepts: 0,
        write,
        read: None,
    });
    let begun = Instant::now();
    let answer = send(&client, post(server.url("/"), body)).await;
    if write.is_some() && answer.is_ok() {
        // A first write that took nothing is told at once: there is no answer to wait for.
        assert!(begun.elapsed().is_zero(), "{:?}", begun.elapsed());
    }
    at_rest(&handle).await;
    (answer, trap.made())
}

/// A connection that was made for the request is not taken for one that had gone stale.
#[tokio::test(start_paused = true)]
async fn what_is_unsent_on_a_connection_of_its_own_is_the_callers() {
    for body in [vec![], vec![b'u'; 9]] {
        let (answer, made) = taken_by_nobody(Some(ErrorKind::BrokenPipe), false, body).await;
        let error = answer.unwrap_err();
        assert!(error.is_unsent() && error.is_reset(), "{error:?}");
        assert!(!error.is_reused() && made == 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_goes_elsewhere_loses_no_time() {
    let (answer, made) = taken_by_nobody(Some(ErrorKind::BrokenPipe), true, vec![]).await;
    assert!(!answer.unwrap().info.is_reused() && made == 2);
}

/// A transport that encrypts may have sent a record of it, RFC 8446 §5.1.
#[tokio::test(start_paused = true)]
async fn a_first_write_of_more_than_one_record_may_have_been_taken_in_part() {
    let head = "POST / HTTP/1.1\r\nhost: in-memory.test\r\ncontent-length: 16000\r\n\r\n";
    let most = (16 << 10) - head.len();
    for (length, is_unsent) in [(most, true), (most + 1, false)] {
        let write = Some(ErrorKind::BrokenPipe);
        let (answer, made) = taken_by_nobody(write, true, vec![b'u'; length]).await;
        assert_eq!(
            (answer.is_ok(), made),
            (is_unsent, 1 + usize::from(is_unsent))
        );
        if let Err(error) = answer {
            assert!(error.is_reset() && !error.is_unsent(), "{error:?}");
        }
    }
}

/// hyper has copied the body into one piece with the head: no second copy is kept of so much.
#[tokio::test(start_paused = true)]
async fn a_large_body_that_was_copied_is_told_unsent_and_not_sent_again() {
    for (length, is_had_back) in [(16 << 10, true), ((16 << 10) + 1, false)] {
        let (answer, made) = taken_by_nobody(None, true, vec![b'u'; length]).await;
        assert_eq!(made, 1 + usize::from(is_had_back));
        match answer {
            Ok(answer) => assert!(is_had_back && !answer.info.is_reused()),
            Err(error) => {
                assert!(error.is_unsent() && error.is_reset(), "{error:?}");
                assert!(!is_had_back && error.is_reused());
            }
        }
    }
}
