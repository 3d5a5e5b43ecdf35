use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::error::BoxError;
#[cfg(feature = "http2")]
use crate::http2::Http2Body;

/// The body of a response as [`HttpConnection`](crate::layers::HttpConnection) reads it. [`Exchange`](crate::layers::Exchange) wraps it
/// in a [`Body`](crate::Body), which returns the connection at its end.
///
/// To leave the rest of it unread, drop it before its connection.
///
/// # Errors
///
/// If the connection fails before the end, or ends before the length that the server announced.
pub struct IncomingBody(Inner);

enum Inner {
    Http1(Incoming),
    #[cfg(feature = "http2")]
    Http2(Http2Body),
}

impl IncomingBody {
    #[inline]
    pub(super) fn http1(body: Incoming) -> Self {
        Self(Inner::Http1(body))
    }

    #[cfg(feature = "http2")]
    #[inline]
    pub(super) fn http2(body: Http2Body) -> Self {
        Self(Inner::Http2(body))
    }

    /// Whether dropping it before its end makes the connection unusable. Over HTTP/2, the rest of a response is
    /// cancelled by a reset of its stream.
    pub(crate) fn ends_its_connection(&self) -> bool {
        match self.0 {
            Inner::Http1(_) => true,
            #[cfg(feature = "http2")]
            Inner::Http2(_) => false,
        }
    }

    /// hyper's own, for whoever has an error of its own, too: a frame is moved each time that its error is made another.
    #[inline]
    pub(crate) fn into_http1(self) -> Result<Incoming, Self> {
        match self.0 {
            Inner::Http1(body) => Ok(body),
            #[cfg(feature = "http2")]
            Inner::Http2(_) => Err(self),
        }
    }
}

impl Body for IncomingBody {
    type Data = Bytes;
    type Error = BoxError;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Inner::Http1(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            #[cfg(feature = "http2")]
            Inner::Http2(body) => Pin::new(body).poll_frame(cx),
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Http1(body) => body.is_end_stream(),
            #[cfg(feature = "http2")]
            Inner::Http2(body) => body.is_end_stream(),
        }
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Http1(body) => body.size_hint(),
            #[cfg(feature = "http2")]
            Inner::Http2(body) => body.size_hint(),
        }
    }
}

impl fmt::Debug for IncomingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IncomingBody")
    }
}
