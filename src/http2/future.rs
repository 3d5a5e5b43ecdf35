use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::client::ResponseFuture;
use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Handle;

use crate::connection::taken::Taken;
use crate::error::{BoxError, SendError};
use crate::http2::interim::Interim;
use crate::http2::stream::StreamShared;
use crate::http2::upload::Upload;
use crate::http2::{Http2Body, fault};

/// Resolves to the head of the response. Polling it sends the body of the request; if the response comes before the end
/// of the body, a task of its own sends the rest.
///
/// # Cancel safety
///
/// Dropping it before it is ready resets its stream. Other requests on the connection go on.
pub(crate) struct Http2Future<B>(State<B>);

enum State<B> {
    Sent(Sent<B>),
    /// Why the connection did not accept the request, until that is returned.
    Refused(Option<Box<SendError<B>>>),
}

struct Sent<B> {
    response: ResponseFuture,
    body: Content<B>,
    interim: Interim,
    /// The response is here, or there is none.
    is_over: bool,
    shared: Arc<StreamShared>,
}

/// The body of the request.
pub(super) enum Content<B> {
    /// It is empty.
    None(B),
    /// In a box: most requests have none, and are moved less.
    Upload(Box<Upload<B>>),
    /// It goes on elsewhere, or back to the caller.
    Gone,
}

// It is moved several times with each request, over HTTP/1 as well.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Http2Future<()>>() <= 72);

impl<B> Http2Future<B> {
    #[cold]
    pub(super) fn refused(error: SendError<B>) -> Self {
        Self(State::Refused(Some(Box::new(error))))
    }

    /// `expects`: how long the body waits for a 100, if it does.
    #[inline]
    pub(super) fn sent(
        response: ResponseFuture,
        body: Content<B>,
        expects: Option<Duration>,
        shared: Arc<StreamShared>,
    ) -> Self {
        Self(State::Sent(Sent {
            response,
            body,
            interim: Interim::new(shared.connection().max_interim(), expects),
            is_over: false,
            shared,
        }))
    }
}

impl<B> Future for Http2Future<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Http2Body>, SendError<B>>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let sent = match &mut self.get_mut().0 {
            State::Sent(sent) => sent,
            State::Refused(error) => {
                let error = error.take().expect("not polled after it is ready");
                return Poll::Ready(Err(*error));
            }
        };
        let interim = sent.interim.poll(&mut sent.response, cx);
        if let Content::Upload(upload) = &mut sent.body
            && !upload.is_over()
            && sent.interim.lets_body_through()
            && let Poll::Ready(Err(error)) = upload.poll(cx)
        {
            return Poll::Ready(Err(sent.ended(error)));
        }
        if let Err(error) = ready!(interim) {
            return Poll::Ready(Err(sent.ended(error)));
        }
        Poll::Ready(match ready!(Pin::new(&mut sent.response).poll(cx)) {
            Ok(response) => {
                sent.is_over = true;
                sent.shared.conn().activity().answered();
                drop(sent.shared.take_head());
                sent.upload_in_task();
                Ok(Http2Body::of(response, sent.shared.clone()))
            }
            Err(error) => Err(sent.failed(error)),
        })
    }
}

impl<B> Sent<B> {
    /// The stream's id. Takes a lock of `h2`.
    #[cold]
    fn id(&self) -> u32 {
        self.response.stream_id().as_u32()
    }

    /// The body is sent while the response is read.
    #[inline]
    fn upload_in_task(&mut self)
    where
        B: Body + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if let Content::Upload(upload) = &self.body
            && !upload.is_over()
            && let Content::Upload(mut upload) = mem::replace(&mut self.body, Content::Gone)
        {
            if !self.interim.lets_body_through() {
                // The server has answered without the body, and so it does not get it.
                self.shared.end_request(self.id(), false);
            } else if let Ok(runtime) = Handle::try_current() {
                upload.keep_nothing();
                let task = runtime.spawn(*upload);
                self.shared.goes_on(task.abort_handle());
            }
        }
    }

    /// The request failed here.
    #[cold]
    fn ended(&mut self, error: impl Into<BoxError>) -> SendError<B> {
        self.is_over = true;
        self.shared.fails(self.id());
        SendError::new(error)
    }

    #[cold]
    fn failed(&mut self, error: h2::Error) -> SendError<B> {
        self.is_over = true;
        let head = self.shared.take_head();
        self.shared.fails(self.id());
        let connection = self.shared.connection();
        let nothing_written = error.is_io() && !self.shared.has_written();
        let is_refused = fault::is_refused(&error);
        if error.reason() == Some(h2::Reason::REFUSED_STREAM) && error.is_reset() {
            connection.is_refused();
        }
        let is_large = self.shared.has_large_fields();
        let error = fault::of_exchange(error, connection, is_large);
        if !is_refused && !nothing_written {
            return SendError::new(error);
        }
        let body = match mem::replace(&mut self.body, Content::Gone) {
            Content::None(body) => Some((body, Taken::default())),
            Content::Upload(upload) => upload.into_parts(),
            Content::Gone => None,
        };
        match (head, body) {
            (Some(head), Some((body, taken))) => {
                unsent(error, Request::from_parts(head, body), taken)
            }
            _ if nothing_written => SendError::unsent(error, None),
            _ => SendError::new(error),
        }
    }
}

impl<B> Drop for Sent<B> {
    #[inline]
    fn drop(&mut self) {
        if !self.is_over {
            self.shared.cancel(self.id());
        }
    }
}

/// The original request, with the frames that were read from its body.
pub(super) fn unsent<B>(error: BoxError, mut request: Request<B>, taken: Taken) -> SendError<B> {
    if taken.is_empty() && !taken.is_all() {
        return SendError::unsent(error, Some(Box::new(request)));
    }
    request.extensions_mut().insert(taken);
    SendError::begun(error, Box::new(request))
}

impl<B> fmt::Debug for Http2Future<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http2Future")
    }
}
