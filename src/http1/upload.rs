//! A request's body on its way to hyper.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::thread;

use bytes::Buf;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{Method, Request, Version};
use http_body::{Body, Frame, SizeHint};

use crate::connection::shared::ConnShared;
use crate::connection::taken::Taken;
use crate::error::BoxError;
use crate::error::request_body::{BodyFault, RequestBodyError};
use crate::http1::gate::Gate;
use crate::http1::replay::{self, Data, Piece};

/// The request body that hyper is given.
///
/// It reports to its connection when hyper has the whole body. If a server responds before that, the connection cannot
/// be reused, and hyper would go on with the upload (hyper#4176). It also compares the body with the length that the
/// head announces, because hyper silently cuts a longer body.
///
/// It is one pointer, because each connection of hyper has room for 32 requests. It is empty for a request without
/// content, whose body stays with the [`Http1Future`](crate::http1::Http1Future).
pub(super) struct Upload<B>(Option<Box<Content<B>>>);

/// Where a body with content goes back to, with the frames that hyper has read.
pub(super) type Returns<B> = replay::Returns<Box<Content<B>>>;

/// A body with content that is being sent.
pub(super) struct Content<B> {
    body: B,
    /// Frames that another connection has read from the body and not written. They are sent first.
    taken: Taken,
    /// How many frames hyper was given before anything of the request was written.
    unwritten: usize,
    /// `None` once it has gone back.
    returns: Option<Arc<Returns<B>>>,
    /// `false` once hyper has the whole body and only its end is awaited.
    is_uploading: bool,
    /// For a request with `Expect: 100-continue`, until its body may be sent.
    gate: Option<Gate>,
    /// The length that the head announces; `None` if the body is sent in chunks.
    announced: Option<u64>,
    given: u64,
}

/// How hyper sends a body with content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// With a `Content-Length`: the caller's, or else the body's exact size.
    Length(u64),
    Chunked,
    /// Not at all: GET, HEAD and CONNECT with a body of unknown length, which is almost always empty.
    Omitted,
    /// HTTP/1.0 has no chunks; hyper would send the request without its body.
    Impossible,
}

impl Framing {
    /// Decides as hyper's `Client::set_length` does.
    pub(super) fn of<B: Body>(request: &Request<B>, peer_is_http10: bool) -> Self {
        let is_http10 = peer_is_http10 || request.version() == Version::HTTP_10;
        let fields = request.headers();
        if !is_http10 && fields.contains_key(TRANSFER_ENCODING) {
            return Self::Chunked;
        }
        let length = fields.get(CONTENT_LENGTH);
        let length = length.and_then(|it| it.to_str().ok()?.parse().ok());
        let of_body = || match request.extensions().get::<Taken>() {
            None => request.body().size_hint().exact(),
            Some(taken) => taken.size_with(request.body()).exact(),
        };
        match length.or_else(of_body) {
            Some(length) => Self::Length(length),
            None if matches!(
                *request.method(),
                Method::GET | Method::HEAD | Method::CONNECT
            ) =>
            {
                Self::Omitted
            }
            None if is_http10 => Self::Impossible,
            None => Self::Chunked,
        }
    }

    fn announced(self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(length),
            _ => None,
        }
    }
}

impl<B> Upload<B> {
    /// For a request without content.
    pub(super) const NONE: Self = Self(None);

    /// Begins to send a body with content, and the frames that were read from it before.
    pub(super) fn begin(
        body: B,
        taken: Taken,
        framing: Framing,
        shared: &Arc<ConnShared>,
    ) -> (Self, Arc<Returns<B>>)
    where
        B: Body + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let returns = Arc::new(Returns::new(shared.clone()));
        let mut content = Box::new(Content {
            body,
            taken,
            unwritten: 0,
            returns: Some(returns.clone()),
            is_uploading: false,
            gate: None,
            announced: framing.announced(),
            given: 0,
        });
        if framing == Framing::Length(0) {
            // hyper will not read any of it.
            shared.watch_rest(Box::pin(Rest(Some(content))));
            return (Self::NONE, returns);
        }
        shared.set_uploading(true);
        content.is_uploading = true;
        // HTTP/1.0 has no 100.
        if !shared.is_http10() {
            content.gate = shared.continue_timeout().map(Gate::new);
        }
        (Self(Some(content)), returns)
    }

    /// The body of a request that was not sent, if it has content.
    pub(super) fn take(mut self) -> Option<(B, Taken)> {
        self.0.take().map(|content| content.end())
    }
}

impl<B> Drop for Upload<B> {
    #[inline]
    fn drop(&mut self) {
        if let Some(content) = self.0.take() {
            content.go_back();
        }
    }
}

/// The error that hyper gets when a request's body fails. The cause is left in the shared state and returned to the
/// caller from there, because hyper does not return the errors that it holds.
#[derive(Debug)]
pub(super) struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the body of the request failed")
    }
}

impl std::error::Error for Failed {}

impl<B> Body for Upload<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Data = Piece<B::Data, Box<Content<B>>>;
    type Error = Failed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Failed>>> {
        let Some(content) = &mut self.0 else {
            return Poll::Ready(None);
        };
        let Some(returns) = content.returns.clone() else {
            return Poll::Ready(None);
        };
        let shared = returns.shared();
        ready!(content.poll_gate(shared, cx));
        let polled = content.poll_frame(cx);
        // If anything else holds the upload back, it is not the caller's slowness.
        shared.activity().set_upload_waits(polled.is_pending());
        let polled = match ready!(polled) {
            // The last frame, if the length is right. hyper asks for nothing after it.
            Some(Ok(frame)) if content.is_complete() => match content.poll_end(cx) {
                Poll::Ready(Ok(())) => Some(Ok(content.give(frame, &returns))),
                Poll::Ready(Err(error)) => Some(Err(error)),
                Poll::Pending => {
                    let frame = content.give(frame, &returns);
                    if let Some(mut content) = self.0.take() {
                        content.is_uploading = false;
                        shared.set_uploading(false);
                        shared.watch_rest(Box::pin(Rest(Some(content))));
                    }
                    return Poll::Ready(Some(Ok(frame)));
                }
            },
            Some(Ok(frame)) => Some(Ok(content.give(frame, &returns))),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        };
        Poll::Ready(polled.map(|polled| {
            polled.map_err(|error| {
                shared.fail_body(error);
                Failed
            })
        }))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|it| it.is_end_stream())
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        let content = self.0.as_ref();
        content.map_or_else(|| SizeHint::with_exact(0), |it| it.size_hint())
    }
}

impl<B> Content<B> {
    /// Ready when the body may be sent.
    #[inline]
    fn poll_gate(&mut self, shared: &ConnShared, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(gate) = &mut self.gate {
            ready!(gate.poll_open(shared, cx));
            self.gate = None;
        }
        Poll::Ready(())
    }

    fn is_complete(&self) -> bool {
        self.announced == Some(self.given)
    }

    /// hyper does not need it any more.
    fn go_back(mut self: Box<Self>) {
        let Some(returns) = self.returns.take() else {
            return;
        };
        if self.is_uploading {
            returns.shared().set_uploading(false);
        }
        let unwritten = self.unwritten;
        returns.put_content(self, unwritten);
    }

    /// The body, and the frames that were read from it before and not given to hyper.
    pub(super) fn end(self) -> (B, Taken) {
        if let (Some(returns), true) = (&self.returns, self.is_uploading) {
            returns.shared().set_uploading(false);
        }
        (self.body, self.taken)
    }
}

impl<B> Content<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    fn is_end_stream(&self) -> bool {
        self.taken.is_empty() && (self.taken.is_all() || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.taken.size_with(&self.body)
    }

    /// Gives data to hyper.
    fn give(
        &mut self,
        frame: Frame<Data<B::Data>>,
        returns: &Arc<Returns<B>>,
    ) -> Frame<Piece<B::Data, Box<Self>>> {
        if returns.shared().activity().has_written() {
            return frame.map_data(Piece::written);
        }
        let number = self.unwritten;
        self.unwritten += 1;
        if let Some(trailers) = frame.trailers_ref() {
            returns.put_trailers(number, trailers);
        }
        frame.map_data(|data| Piece::unwritten(data, number, returns))
    }

    #[inline]
    fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let shared = self.returns.as_ref().map(|returns| returns.shared());
        let _panic = NotedPanic(shared);
        Pin::new(&mut self.body).poll_frame(cx)
    }

    /// Frames as the body gives them, but never more than announced, and no end before that.
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Data<B::Data>>, RequestBodyError>>> {
        let frame = match self.taken.next() {
            Some(frame) => Some(frame.map_data(Data::Again)),
            None if self.taken.is_all() => None,
            None => match ready!(self.poll_body(cx)) {
                Some(Ok(frame)) => Some(frame.map_data(Data::Own)),
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(RequestBodyError::failed(error))));
                }
                None => {
                    self.taken.set_all();
                    None
                }
            },
        };
        let Some(announced) = self.announced else {
            return Poll::Ready(frame.map(Ok));
        };
        let data = frame.as_ref().and_then(Frame::data_ref);
        self.given += data.map_or(0, |data| data.remaining() as u64);
        let given = self.given;
        let is_over = match &frame {
            Some(frame) => frame.is_trailers() || self.is_end_stream(),
            None => true,
        };
        let fault = if given > announced {
            BodyFault::Longer { announced }
        } else if given < announced && is_over {
            BodyFault::Shorter { announced, given }
        } else {
            return Poll::Ready(frame.map(Ok));
        };
        Poll::Ready(Some(Err(fault.into())))
    }

    /// Ready when a body that has given its announced length ends, or gives more.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestBodyError>> {
        loop {
            if self.is_end_stream() {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.poll_frame(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                // No trailers follow a body with a length, and an empty frame does not count.
                Some(Ok(_)) => {}
            }
        }
    }
}

/// Notes a panic of the body, which ends the driver: hyper does not say whether it was the body or the transport.
struct NotedPanic<'a>(Option<&'a ConnShared>);

impl Drop for NotedPanic<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(shared) = self.0
            && thread::panicking()
        {
            shared.fail_body(RequestBodyError::failed("it panicked"));
        }
    }
}

/// The rest of a body after hyper has its announced length. Resolves when the body ends, or gives more.
struct Rest<B>(Option<Box<Content<B>>>);

impl<B> Future for Rest<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = Result<(), RequestBodyError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Some(content) => content.poll_end(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<B> Drop for Rest<B> {
    fn drop(&mut self) {
        if let Some(content) = self.0.take() {
            content.go_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use bytes::Bytes;
    use http::HeaderMap;
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn it_is_one_pointer() {
        assert_eq!(size_of::<Upload<Empty<Bytes>>>(), size_of::<usize>());
        assert_eq!(size_of::<Upload<Full<Bytes>>>(), size_of::<usize>());
    }

    #[test]
    fn its_end_is_heard_of_by_its_own_connection() {
        let both = [(); 2].map(|()| Arc::new(ConnShared::new()));
        let begin = |shared| {
            let body = Full::new(Bytes::from("content"));
            Upload::begin(body, Taken::default(), Framing::Length(7), shared).0
        };
        let [first, second] = both.each_ref().map(begin);
        assert!(both.iter().all(|shared| shared.is_uploading()));
        drop(second);
        assert!(both[0].is_uploading() && !both[1].is_uploading());
        drop(first);
        assert!(!both[0].is_uploading());
    }

    #[test]
    fn one_that_was_not_sent_is_given_back() {
        let shared = Arc::new(ConnShared::new());
        let body = Full::new(Bytes::from("content"));
        let (upload, _) = Upload::begin(body, Taken::default(), Framing::Chunked, &shared);
        let (body, taken) = upload.take().expect("it has content");
        assert!(taken.is_empty() && !shared.is_uploading());
        assert_eq!(body.size_hint().exact(), Some(7));
    }

    /// The frames of a body.
    enum Step {
        Data(&'static str),
        Trailers,
        Wait,
        Error,
    }

    struct Steps(VecDeque<Step>);

    impl Body for Steps {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, &'static str>>> {
            Poll::Ready(match self.0.pop_front() {
                None => None,
                Some(Step::Data(data)) => Some(Ok(Frame::data(data.into()))),
                Some(Step::Trailers) => Some(Ok(Frame::trailers(HeaderMap::new()))),
                Some(Step::Wait) => return Poll::Pending,
                Some(Step::Error) => Some(Err("its own")),
            })
        }
    }

    /// The frames that hyper gets, and the fault of the body, if any.
    fn given(framing: Framing, steps: Vec<Step>) -> (String, Option<RequestBodyError>) {
        let shared = Arc::new(ConnShared::new());
        let steps = Steps(steps.into());
        let (mut upload, _) = Upload::begin(steps, Taken::default(), framing, &shared);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut given = String::new();
        while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut upload).poll_frame(&mut cx) {
            let mut data = frame.into_data().unwrap_or_else(|_| panic!("no trailers"));
            let data = data.copy_to_bytes(data.remaining());
            given.push_str(std::str::from_utf8(&data).unwrap());
            if framing == Framing::Length(given.len() as u64) {
                break;
            }
        }
        drop(upload);
        assert!(!shared.is_uploading());
        let error = shared.end_body();
        let is_failed = shared.has_failed_body();
        assert_eq!(error.is_some(), is_failed);
        (given, error)
    }

    #[test]
    fn what_is_announced_is_given_and_nothing_else() {
        use Step::{Data, Error, Trailers, Wait};
        let announced = Framing::Length(4);
        let longer = Some(BodyFault::Longer { announced: 4 });
        let shorter = |given| {
            Some(BodyFault::Shorter {
                announced: 4,
                given,
            })
        };
        let failed = Some(BodyFault::Failed);
        for (framing, steps, expected, fault) in [
            (announced, vec![Data("ab"), Data("cd")], "abcd", None),
            (
                announced,
                vec![Data("abcd"), Data(""), Trailers],
                "abcd",
                None,
            ),
            (announced, vec![Data("abcd"), Wait], "abcd", None),
            // The server does not get the end of what is wrong.
            (announced, vec![Data("abcde")], "", longer),
            (announced, vec![Data("ab"), Data("cde")], "ab", longer),
            (
                announced,
                vec![Data("ab"), Data("cd"), Data("e")],
                "ab",
                longer,
            ),
            (
                announced,
                vec![Data("abcd"), Data(""), Data("e")],
                "",
                longer,
            ),
            // Unless it comes when hyper has all of it.
            (
                announced,
                vec![Data("abcd"), Wait, Data("e")],
                "abcd",
                longer,
            ),
            (announced, vec![], "", shorter(0)),
            (announced, vec![Data("abc")], "abc", shorter(3)),
            (announced, vec![Data("abc"), Trailers], "abc", shorter(3)),
            (announced, vec![Data("ab"), Error], "ab", failed),
            (announced, vec![Data("abcd"), Error], "", failed),
            (announced, vec![Data("abcd"), Wait, Error], "abcd", failed),
            (Framing::Length(0), vec![], "", None),
            (
                Framing::Length(0),
                vec![Data("a")],
                "",
                Some(BodyFault::Longer { announced: 0 }),
            ),
            (
                Framing::Chunked,
                vec![Data("ab"), Data("cd"), Data("e")],
                "abcde",
                None,
            ),
            (Framing::Chunked, vec![Data("ab"), Error], "ab", failed),
        ] {
            let (given, error) = given(framing, steps);
            assert_eq!(given, expected);
            assert_eq!(error.map(|it| it.fault), fault, "{given}");
        }
    }

    #[test]
    fn the_framing_is_what_hyper_makes_of_it() {
        let framing = |method, version, fields: &[(&str, &str)], length: Option<u64>| {
            let mut request = Request::builder().method(method).version(version);
            for (name, value) in fields {
                request = request.header(*name, *value);
            }
            let body = match length {
                Some(length) => Full::new(Bytes::from(vec![0; length as usize])).boxed(),
                None => Steps(VecDeque::new())
                    .map_err(|_| -> Infallible { unreachable!() })
                    .boxed(),
            };
            Framing::of(&request.body(body).unwrap(), false)
        };
        use http_body_util::BodyExt;
        let (old, new) = (Version::HTTP_10, Version::HTTP_11);
        let length: &[_] = &[("content-length", "5")];
        let chunked: &[_] = &[("transfer-encoding", "chunked")];
        for (method, version, fields, known, expected) in [
            ("POST", new, &[][..], None, Framing::Chunked),
            ("POST", new, &[], Some(3), Framing::Length(3)),
            ("POST", new, length, None, Framing::Length(5)),
            ("GET", new, length, None, Framing::Length(5)),
            ("GET", new, &[], None, Framing::Omitted),
            ("GET", new, &[], Some(3), Framing::Length(3)),
            ("GET", new, chunked, None, Framing::Chunked),
            ("POST", new, chunked, Some(3), Framing::Chunked),
            ("POST", old, &[], None, Framing::Impossible),
            ("POST", old, chunked, None, Framing::Impossible),
            ("POST", old, chunked, Some(3), Framing::Length(3)),
            ("POST", old, length, None, Framing::Length(5)),
            ("HEAD", old, &[], None, Framing::Omitted),
        ] {
            let found = framing(method, version, fields, known);
            assert_eq!(found, expected, "{method} {version:?} {fields:?} {known:?}");
        }
        let unknown = Request::post("/").body(Steps(VecDeque::new())).unwrap();
        assert_eq!(Framing::of(&unknown, true), Framing::Impossible);
    }
}
