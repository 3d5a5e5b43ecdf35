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

/// The body of a response over HTTP/2. The server may go on sending as the caller reads.
///
/// Dropping it before its end resets its stream.
pub(crate) struct Http2Body {
    stream: RecvStream,
    shared: Arc<StreamShared>,
    /// How many bytes are still to come, where the head of the response says. `h2` sees to it that no more and no fewer do.
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
            stream,
            shared,
        };
        if is_at_end {
            body.shared.end_response();
        }
        Response::from_parts(parts, body)
    }

    fn failed(&mut self, error: h2::Error) -> BoxError {
        self.position = Position::End;
        self.shared.end_response();
        fault::of(error, self.shared.connection())
    }

    /// The last frame has been read.
    #[inline]
    fn ended(&mut self) {
        self.position = Position::End;
        self.left = Some(0);
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
        if this.position == Position::Data {
            match ready!(this.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // It fails only where more is released than came.
                    let _ = this.stream.flow_control().release_capacity(data.len());
                    if let Some(left) = &mut this.left {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    if this.stream.is_end_stream() {
                        this.ended();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(this.failed(error)))),
                None => this.position = Position::Trailers,
            }
        }
        if this.position == Position::Trailers {
            let trailers = ready!(this.stream.poll_trailers(cx));
            return Poll::Ready(match trailers {
                Ok(trailers) => {
                    this.ended();
                    trailers.map(|it| Ok(Frame::trailers(it)))
                }
                Err(error) => Some(Err(this.failed(error))),
            });
        }
        Poll::Ready(None)
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
        if self.position != Position::End {
            self.shared.give_up();
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
