//! The body of a request on its way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, SendStream};
use http_body::Body;

use crate::error::BoxError;
use crate::error::request_body::{BodyFault, RequestBodyError};
use crate::http2::stream::StreamShared;

/// Sends a body as the server has room for it. Ready when all of it is sent, or when no more of it is wanted: what became of
/// the stream then, the response tells.
pub(super) struct Upload<B> {
    body: B,
    stream: SendStream<Bytes>,
    shared: Arc<StreamShared>,
    /// What the head of the request announces.
    announced: Option<u64>,
    given: u64,
    /// The body has been polled.
    has_begun: bool,
}

impl<B> Upload<B> {
    pub(super) fn new(
        body: B,
        stream: SendStream<Bytes>,
        shared: Arc<StreamShared>,
        announced: Option<u64>,
    ) -> Self {
        Self {
            body,
            stream,
            shared,
            announced,
            given: 0,
            has_begun: false,
        }
    }

    /// The body, if nothing was taken out of it.
    pub(super) fn into_whole(self) -> Option<B> {
        (!self.has_begun).then_some(self.body)
    }
}

impl<B> Upload<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestBodyError>> {
        let sent = ready!(self.poll_send(cx));
        if let Err(error) = &sent {
            self.stream.send_reset(match error.fault {
                BodyFault::Failed => Reason::INTERNAL_ERROR,
                BodyFault::Longer { .. } | BodyFault::Shorter { .. } => Reason::CANCEL,
            });
        }
        self.shared.end_request();
        Poll::Ready(sent)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RequestBodyError>> {
        let conn = self.shared.conn().clone();
        let activity = conn.activity();
        loop {
            let has_room = self.poll_room(cx);
            activity.written(has_room.is_pending());
            if !ready!(has_room) {
                return Poll::Ready(Ok(()));
            }
            self.has_begun = true;
            let polled = Pin::new(&mut self.body).poll_frame(cx);
            activity.set_upload_waits(polled.is_pending());
            if polled.is_pending() && self.stream.poll_reset(cx).is_ready() {
                // Nothing more is wanted, and who is waited for may never come.
                return Poll::Ready(Ok(()));
            }
            let frame = match ready!(polled) {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Poll::Ready(Err(RequestBodyError::failed(error))),
                None => {
                    self.check_end()?;
                    let _ = self.stream.send_data(Bytes::new(), true);
                    return Poll::Ready(Ok(()));
                }
            };
            match frame.into_data() {
                Ok(mut data) => {
                    self.given += data.remaining() as u64;
                    if let Some(announced) = self.announced
                        && self.given > announced
                    {
                        return Poll::Ready(Err(BodyFault::Longer { announced }.into()));
                    }
                    let is_last = self.body.is_end_stream();
                    if is_last {
                        self.check_end()?;
                    }
                    let data = data.copy_to_bytes(data.remaining());
                    if data.is_empty() && !is_last {
                        continue;
                    }
                    // That it cannot be sent is no error of its own: the stream has ended, and the response tells how.
                    if self.stream.send_data(data, is_last).is_err() || is_last {
                        return Poll::Ready(Ok(()));
                    }
                }
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else {
                        continue;
                    };
                    self.check_end()?;
                    let _ = self.stream.send_trailers(trailers);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Whether more is wanted; ready when there is room for at least a byte. Of what the body gives then, `h2` keeps what goes
    /// beyond.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.stream.reserve_capacity(1);
        while self.stream.capacity() == 0 {
            match self.stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(false),
                // A reset wakes who waits for room.
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(true)
    }

    fn check_end(&self) -> Result<(), RequestBodyError> {
        match self.announced {
            Some(announced) if self.given < announced => {
                let given = self.given;
                Err(BodyFault::Shorter { announced, given }.into())
            }
            _ => Ok(()),
        }
    }
}

/// In a task of its own, where the response came first: it may be read while the body goes on.
impl<B> Future for Upload<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll(&mut self, cx).map(drop)
    }
}
