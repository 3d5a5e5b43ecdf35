use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Extensions, Method, Request, Response, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::SendRequest;

use crate::connect::Probe;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{Liveness, Poolable};
use crate::connection::shared::ConnShared;
use crate::connection::taken::Taken;
use crate::error::{self, BoxError, DriverGone, SendError};
use crate::http1::asterisk;
use crate::http1::unwritten;
use crate::http1::upload::{Framing, Returns, Upload};

/// An HTTP/1 connection, inside of an [`HttpConnection`](crate::layers::HttpConnection).
pub(crate) struct Http1Connection<B>(Box<Parts<B>>);

/// Boxed for the life of the connection, which is moved often: from the pool to its lease and back.
struct Parts<B> {
    /// `None` once it is known to be closed.
    sender: Option<SendRequest<Upload<B>>>,
    probe: Option<Probe>,
    lifespan: Lifespan,
}

impl<B> Http1Connection<B> {
    pub(super) fn new(
        sender: SendRequest<Upload<B>>,
        probe: Option<Probe>,
        lifespan: Lifespan,
    ) -> Self {
        Self(Box::new(Parts {
            sender: Some(sender),
            probe,
            lifespan,
        }))
    }

    /// The connection's limits, for any type of request bodies.
    pub(crate) fn lifespan_ref(&self) -> &Lifespan {
        &self.0.lifespan
    }
}

impl<B> Parts<B> {
    /// Ready when another request can be sent, or when none can be sent ever again.
    #[inline]
    fn poll_sender(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sender {
            // The usual case, without a poll.
            Some(sender) if sender.is_ready() => Poll::Ready(()),
            Some(sender) => sender.poll_ready(cx).map(drop),
            None => Poll::Ready(()),
        }
    }
}

impl<B> Poolable for Http1Connection<B>
where
    B: Send + 'static,
{
    #[inline]
    fn is_open(&self) -> bool {
        self.0.sender.as_ref().is_some_and(|it| !it.is_closed())
    }

    #[inline]
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error means that the connection is closed.
        if self.0.poll_sender(cx).is_ready() {
            return Poll::Ready(());
        }
        if self.0.lifespan.shared().is_uploading() {
            // The response is over and the upload is not: nobody knows how much of it the server will still read.
            self.0.lifespan.end_use(CloseReason::Abandoned);
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// False if it waits for the server to read the end of an upload, or if it is to close.
    #[cold]
    fn is_almost_free(&self) -> bool {
        let shared = self.0.lifespan.shared();
        !shared.is_uploading() && !shared.activity().write_waits() && !shared.is_ending()
    }

    #[inline]
    fn probe(&mut self) -> Liveness {
        self.0
            .probe
            .as_ref()
            .map_or(Liveness::Unknown, Probe::check)
    }

    #[inline]
    fn lifespan(&self) -> &Lifespan {
        &self.0.lifespan
    }

    #[inline]
    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.0.lifespan
    }
}

impl<B> Http1Connection<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    /// Ready when no request is in progress: after a call, not before the body of its response has ended. Also ready
    /// once the connection has closed; a request is then returned unsent.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<B>>> {
        self.0.poll_sender(cx).map(Ok)
    }

    // Not inlined, and neither is `hand_over`: a request is passed to them by its address, and moved by what is inlined. Each
    // move costs 35 instructions, and this saves three.
    #[inline(never)]
    pub(crate) fn call(&mut self, request: Request<B>) -> Http1Future<B> {
        let parts = &mut *self.0;
        let shared = parts.lifespan.shared().clone();
        let Some(sender) = &mut parts.sender else {
            return Http1Future::refused(request, shared, io::ErrorKind::ConnectionAborted.into());
        };
        let is_plain = request.body().is_end_stream()
            && *request.method() != Method::OPTIONS
            && request.extensions().get::<Taken>().is_none();
        let (sent, kept) = if is_plain {
            let (version, extensions) = (request.version(), request.extensions().clone());
            let mut whole = None;
            let request = request.map(|body| {
                whole = Some(body);
                Upload::NONE
            });
            let sent = hand_over(request, sender, &shared);
            let body = KeptBody::Whole(whole.expect("it has a body"));
            let kept = Kept {
                body,
                version,
                extensions,
            };
            (sent, kept)
        } else {
            match framed(request, &shared) {
                Ok((request, kept)) => (hand_over(request, sender, &shared), kept),
                Err(refused) => return refused,
            }
        };
        // hyper#4122 and tokio#7714: a request that is sent in the moment when hyper's connection ends can arrive in
        // its channel after the channel was emptied for the last time. It stays there, and its caller waits, until the
        // sender is dropped, which returns the request. The sender is therefore dropped if the connection is closed
        // after the send.
        //
        // hyper marks the connection as closed (a SeqCst swap in `want`) before it empties the channel. So either the
        // mark is seen here, or it was set after this fence, and the emptying that follows it finds the request. The
        // last step holds on every processor that Rust has threads on: no load passes a SeqCst swap before it. The
        // memory model alone would want a fence in hyper as well.
        fence(Ordering::SeqCst);
        if sender.is_closed() {
            parts.sender = None;
        }
        Http1Future {
            state: State::Sent(sent),
            kept: Some(kept),
            shared,
        }
    }
}

/// Gives the request to hyper.
#[inline(never)]
fn hand_over<B>(
    request: Request<Upload<B>>,
    sender: &mut SendRequest<Upload<B>>,
    shared: &ConnShared,
) -> Pin<Box<dyn Future<Output = Sent<B>> + Send>>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    shared.activity().request();
    Box::pin(sender.try_send_request(request))
}

/// The request in the form for hyper, and what is kept of it meanwhile.
type Prepared<B> = (Request<Upload<B>>, Kept<B>);

#[inline]
fn without_content<B>(request: Request<B>) -> Prepared<B> {
    let (head, body) = request.into_parts();
    let kept = Kept {
        body: KeptBody::Whole(body),
        version: head.version,
        extensions: head.extensions.clone(),
    };
    (Request::from_parts(head, Upload::NONE), kept)
}

/// Prepares a request with a body, or one for `*`. `Err`: it cannot be sent.
#[inline(never)]
fn framed<B>(
    mut request: Request<B>,
    shared: &Arc<ConnShared>,
) -> Result<Prepared<B>, Http1Future<B>>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    asterisk::begin(&request, shared);
    if request.body().is_end_stream() && request.extensions().get::<Taken>().is_none() {
        return Ok(without_content(request));
    }
    let framing = Framing::of(&request, shared.is_http10());
    if framing == Framing::Impossible {
        shared.set_close_reason(CloseReason::Final);
        let why = io::Error::new(io::ErrorKind::InvalidInput, NO_CHUNKS);
        return Err(Http1Future::refused(request, shared.clone(), why));
    }
    let taken = request.extensions_mut().remove::<Taken>();
    let (head, body) = request.into_parts();
    let (upload, returns) = Upload::begin(body, taken.unwrap_or_default(), framing, shared);
    let kept = Kept {
        body: KeptBody::Sent(returns),
        version: head.version,
        extensions: head.extensions.clone(),
    };
    Ok((Request::from_parts(head, upload), kept))
}

const NO_CHUNKS: &str = "the server speaks HTTP/1.0, which cannot carry a body of unknown length";

impl<B> Drop for Http1Connection<B> {
    fn drop(&mut self) {
        let over = self.0.poll_sender(&mut Context::from_waker(Waker::noop()));
        let shared = self.0.lifespan.shared();
        shared.set_close_reason(CloseReason::Dropped);
        shared.set_orphaned();
        // When the sender is dropped, an idle driver ends by itself, after an orderly shutdown. A driver with an
        // exchange in progress might wait for its end for ever (hyper#4176). A driver that passes its transport on to
        // an upgrade is no longer ours.
        if over.is_pending() && !shared.is_upgraded() {
            shared.kill(CloseReason::Dropped);
        }
    }
}

/// Resolves to the head of the response. Boxed, because hyper's future has no name. Dropping it before it is ready
/// closes the connection.
pub(crate) struct Http1Future<B> {
    state: State<B>,
    /// Kept of a request that was sent.
    kept: Option<Kept<B>>,
    shared: Arc<ConnShared>,
}

enum State<B> {
    Sent(Pin<Box<dyn Future<Output = Sent<B>> + Send>>),
    /// Nothing was written, and hyper is about to return what it has of the body.
    GivenBack(Pin<Box<dyn Future<Output = SendError<B>> + Send>>),
    /// Why the connection did not accept the request, until that is returned.
    Refused(Option<Box<SendError<B>>>),
}

type Sent<B> = Result<Response<Incoming>, TrySendError<Request<Upload<B>>>>;

/// The parts of a request that hyper does not return once it has encoded the head.
struct Kept<B> {
    body: KeptBody<B>,
    version: Version,
    extensions: Extensions,
}

enum KeptBody<B> {
    /// The body of a request without content: hyper does not need it.
    Whole(B),
    Sent(Arc<Returns<B>>),
}

/// How long to wait until the driver's task drops the connection, and with it what hyper has of the body.
const PATIENCE: Duration = Duration::from_millis(50);

impl<B> Http1Future<B> {
    #[cold]
    fn refused(request: Request<B>, shared: Arc<ConnShared>, why: io::Error) -> Self {
        let error = SendError::unsent(why, Some(Box::new(request)));
        Self {
            state: State::Refused(Some(Box::new(error))),
            kept: None,
            shared,
        }
    }

    fn has_content(&self) -> bool {
        let kept = self.kept.as_ref().map(|kept| &kept.body);
        matches!(kept, Some(KeptBody::Sent(_)))
    }

    /// If the body of a request with content has failed meanwhile, the response does not count: the server may have
    /// seen only a part of the request.
    #[cold]
    fn answered(&self, response: Response<Incoming>) -> Result<Response<Incoming>, SendError<B>> {
        match self.shared.end_body() {
            Some(error) => {
                self.shared.kill(CloseReason::Abandoned);
                Err(SendError::new(error))
            }
            None => Ok(response),
        }
    }
}

impl<B: Send + 'static> Http1Future<B> {
    #[cold]
    fn failed(&mut self, mut failed: TrySendError<Request<Upload<B>>>) -> State<B> {
        let refused = |error| State::Refused(Some(Box::new(error)));
        let kept = self
            .kept
            .take()
            .map(|kept| (kept.body, kept.version, kept.extensions));
        if let Some(request) = failed.take_message() {
            // hyper returns a request only if it has not begun to send it.
            let (head, upload) = request.into_parts();
            let body = match (upload.take(), kept) {
                (Some((body, taken)), _) => Some((body, taken)),
                (None, Some((KeptBody::Whole(body), ..))) => Some((body, Taken::default())),
                // The announced length is 0.
                (None, _) => None,
            };
            let error = failed.into_error();
            return refused(match body {
                Some((body, taken)) => unsent(error, Request::from_parts(head, body), taken),
                None => SendError::unsent(error, None),
            });
        }
        if let Some(error) = self.shared.end_body() {
            return refused(SendError::new(error));
        }
        let error = DriverGone::or(failed.into_error(), &self.shared);
        if self.shared.activity().has_written() {
            return refused(SendError::new(error));
        }
        match kept {
            Some((KeptBody::Sent(returns), version, extensions)) => {
                // All that is left is that the connection drops what it has.
                let is_reused = self.shared.activity().uses() > 1;
                self.shared.kill(match error::is_reset(&*error, is_reused) {
                    true => CloseReason::Peer,
                    false => CloseReason::Error,
                });
                let shared = self.shared.clone();
                State::GivenBack(Box::pin(async move {
                    let back = poll_fn(|cx| returns.poll_back(cx));
                    let back = tokio::time::timeout(PATIENCE, back).await.ok().flatten();
                    if shared.activity().has_written() {
                        return SendError::new(error);
                    }
                    let body = back.map(|(content, taken)| {
                        let (body, rest) = content.end();
                        (body, taken.then(rest))
                    });
                    unwritten(error, &shared, body, version, extensions)
                }))
            }
            Some((KeptBody::Whole(body), version, extensions)) => {
                let body = Some((body, Taken::default()));
                refused(unwritten(error, &self.shared, body, version, extensions))
            }
            None => refused(SendError::unsent(error, None)),
        }
    }
}

/// The original request, if enough of it is left.
fn unwritten<B>(
    error: BoxError,
    shared: &ConnShared,
    body: Option<(B, Taken)>,
    version: Version,
    extensions: Extensions,
) -> SendError<B> {
    let head = shared.take_unwritten();
    let request = head.as_deref().and_then(unwritten::read);
    let (Some(request), Some((body, taken))) = (request, body) else {
        return SendError::unsent(error, None);
    };
    let mut request = request.map(|()| body);
    *request.version_mut() = version;
    *request.extensions_mut() = extensions;
    unsent(error, request, taken)
}

fn unsent<B>(error: impl Into<BoxError>, mut request: Request<B>, taken: Taken) -> SendError<B> {
    if taken.is_empty() && !taken.is_all() {
        return SendError::unsent(error, Some(Box::new(request)));
    }
    request.extensions_mut().insert(taken);
    SendError::begun(error, Box::new(request))
}

impl<B: Send + 'static> Http1Future<B> {
    /// The head of the response, with `body` applied to its body; moved once, because a response is large.
    #[inline]
    pub(crate) fn poll_response<R>(
        &mut self,
        cx: &mut Context<'_>,
        body: impl Fn(Incoming) -> R,
    ) -> Poll<Result<Response<R>, SendError<B>>> {
        let this = self;
        loop {
            match &mut this.state {
                State::Sent(sent) => {
                    let polled = sent.as_mut().poll(cx);
                    if let Poll::Ready(Ok(response)) = &polled {
                        this.shared.activity().answered();
                        if response.version() == Version::HTTP_10 {
                            this.shared.set_http10();
                        }
                    }
                    match polled {
                        Poll::Ready(Ok(response))
                            if !this.has_content() || this.shared.has_no_driver_flags() =>
                        {
                            return Poll::Ready(Ok(response.map(body)));
                        }
                        Poll::Ready(Ok(response)) => {
                            return Poll::Ready(this.answered(response).map(|it| it.map(body)));
                        }
                        Poll::Ready(Err(failed)) => this.state = this.failed(failed),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                State::GivenBack(error) => return error.as_mut().poll(cx).map(Err),
                State::Refused(error) => {
                    let error = error.take().expect("not polled after it is ready");
                    return Poll::Ready(Err(*error));
                }
            }
        }
    }
}
