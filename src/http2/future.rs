use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use h2::client::ResponseFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;
use tokio::runtime::Handle;

use crate::error::{BoxError, SendError};
use crate::http2::stream::StreamShared;
use crate::http2::upload::Upload;
use crate::http2::{Http2Body, fault};

/// Resolves to the head of the response. The body of the request is sent as this is polled, and by a task of its own where the
/// response comes before its end.
///
/// # Cancel safety
///
/// Dropping it before it is ready resets its stream. Other requests on the connection go on.
pub(crate) struct Http2Future<B>(State<B>);

#[expect(
    clippy::large_enum_variant,
    reason = "a box would cost each request an allocation"
)]
enum State<B> {
    Sent(Sent<B>),
    /// Why the connection did not take the request, until that is told.
    Refused(Option<Box<SendError<B>>>),
}

struct Sent<B> {
    response: ResponseFuture,
    /// As the caller gave it, for the next connection if this one refuses it.
    head: Option<Parts>,
    body: Content<B>,
    shared: Arc<StreamShared>,
}

/// The body of the request.
enum Content<B> {
    /// None of it is to be sent, or all of it has been.
    Whole(B),
    Going(Upload<B>),
    Gone,
}

impl<B> Http2Future<B> {
    #[cold]
    pub(super) fn refused(error: SendError<B>) -> Self {
        Self(State::Refused(Some(Box::new(error))))
    }

    /// `body`: as it is where it has no content, or on its way.
    #[inline]
    pub(super) fn sent(
        response: ResponseFuture,
        head: Parts,
        body: Result<B, Upload<B>>,
        shared: Arc<StreamShared>,
    ) -> Self {
        Self(State::Sent(Sent {
            response,
            head: Some(head),
            body: match body {
                Ok(body) => Content::Whole(body),
                Err(upload) => Content::Going(upload),
            },
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
        if let Content::Going(upload) = &mut sent.body
            && let Poll::Ready(uploaded) = upload.poll(cx)
        {
            sent.uploaded();
            if let Err(error) = uploaded {
                sent.shared.give_up();
                return Poll::Ready(Err(SendError::new(error)));
            }
        }
        Poll::Ready(match ready!(Pin::new(&mut sent.response).poll(cx)) {
            Ok(response) => {
                sent.shared.conn().activity().answered();
                sent.upload_in_task();
                Ok(Http2Body::of(response, sent.shared.clone()))
            }
            Err(error) => Err(sent.failed(error)),
        })
    }
}

impl<B> Sent<B> {
    /// The body has been sent to its end.
    fn uploaded(&mut self) {
        self.body = match std::mem::replace(&mut self.body, Content::Gone) {
            Content::Going(upload) => match upload.into_whole() {
                Some(body) => Content::Whole(body),
                None => Content::Gone,
            },
            other => other,
        };
    }

    #[inline]
    fn upload_in_task(&mut self)
    where
        B: Body + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if let Content::Going(_) = self.body
            && let Content::Going(upload) = std::mem::replace(&mut self.body, Content::Gone)
            && let Ok(runtime) = Handle::try_current()
        {
            let task = runtime.spawn(upload);
            self.shared.goes_on(task.abort_handle());
        }
    }

    #[cold]
    fn failed(&mut self, error: h2::Error) -> SendError<B> {
        self.uploaded();
        self.shared.give_up();
        let connection = self.shared.connection();
        let nothing_written = error.is_io() && !self.shared.has_written();
        let is_refused = fault::is_refused(&error);
        let error = fault::of(error, connection);
        if !is_refused && !nothing_written {
            return SendError::new(error);
        }
        let body = match std::mem::replace(&mut self.body, Content::Gone) {
            Content::Whole(body) => Some(body),
            Content::Going(_) | Content::Gone => None,
        };
        match (self.head.take(), body) {
            (Some(head), Some(body)) => {
                let request = Request::from_parts(head, body);
                SendError::unsent(error, Some(Box::new(request)))
            }
            _ if nothing_written => SendError::unsent(error, None),
            _ => SendError::new(error),
        }
    }
}

impl<B> fmt::Debug for Http2Future<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http2Future")
    }
}
