use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::Response;
use http_body::{Body, Frame, SizeHint};

use crate::error::BoxError;
use crate::http2::stream::StreamShared;
use crate::http2::{fault, head};

/// The body of a response over HTTP/2. The server may send more as the caller reads.
///
/// Dropping it before its end resets its stream.
pub(crate) struct Http2Body {
    /// `None` after the end: the stream would keep the connection open.
    stream: Option<RecvStream>,
    shared: Arc<StreamShared>,
    /// How many bytes are still to come, if the head of the response announces it. `h2` checks that the length is
    /// exact.
    left: Option<u64>,
    position: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    Data,
    Trailers,
    End,
}

impl Http2Body {
    #[inline]
    pub(super) fn of(response: Response<RecvStream>, shared: Arc<StreamShared>) -> Response<Self> {
        let (parts, stream) = response.into_parts();
        let is_at_end = stream.is_end_stream();
        let body = Self {
            left: match is_at_end {
                true => Some(0),
                false => head::length(&parts.headers),
            },
            position: match is_at_end {
                true => Position::End,
                false => Position::Data,
            },
            stream: (!is_at_end).then_some(stream),
            shared,
        };
        if is_at_end {
            body.shared.end_response();
        }
        Response::from_parts(parts, body)
    }

    /// `None` if the error is not a failure.
    #[cold]
    fn failed(&mut self, error: h2::Error) -> Option<BoxError> {
        // A server that responds before it has the whole request may reset the stream with NO_ERROR after its response
        // (RFC 9113 §8.1).
        let is_answered = error.reason() == Some(h2::Reason::NO_ERROR)
            && error.is_reset()
            // Without a length nobody knows whether this is all of it.
            && self.left == Some(0)
            && self.shared.is_cut();
        if is_answered {
            self.ended();
            return None;
        }
        self.position = Position::End;
        if let Some(stream) = self.stream.take() {
            self.shared.fails(stream.stream_id().as_u32());
        }
        let is_large = self.shared.has_large_trailers();
        Some(fault::of_exchange(
            error,
            self.shared.connection(),
            is_large,
        ))
    }

    /// The last frame was read.
    #[inline]
    fn ended(&mut self) {
        self.position = Position::End;
        self.left = Some(0);
        self.stream = None;
        self.shared.end_response();
    }
}

impl Body for Http2Body {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let Some(stream) = &mut this.stream else {
            return Poll::Ready(None);
        };
        if this.position == Position::Data {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only if more is released than was received.
                    let _ = stream.flow_control().release_capacity(data.len());
                    if let Some(left) = &mut this.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    if stream.is_end_stream() {
                        this.ended();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(this.failed(error).map(Err)),
                None => this.position = Position::Trailers,
            }
        }
        Poll::Ready(match ready!(stream.poll_trailers(cx)) {
            Ok(Some(_)) if this.shared.has_large_trailers() => {
                // `h2` leaves out the fields beyond the limit, and does not say so.
                this.ended();
                Some(Err(fault::too_large(h2::Reason::PROTOCOL_ERROR)))
            }
            Ok(trailers) => {
                this.ended();
                trailers.map(|it| Ok(Frame::trailers(it)))
            }
            Err(error) => this.failed(error).map(Err),
        })
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.position == Position::End
    }

    fn size_hint(&self) -> SizeHint {
        self.left
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl Drop for Http2Body {
    #[inline]
    fn drop(&mut self) {
        if self.position != Position::End
            && let Some(stream) = &self.stream
        {
            self.shared.cancel(stream.stream_id().as_u32());
        }
    }
}

impl fmt::Debug for Http2Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Body")
            .field("position", &self.position)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
