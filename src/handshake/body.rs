use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::error::BoxError;

/// The body of a response as [`HttpConnection`](crate::HttpConnection) reads it. [`Exchange`](crate::Exchange) puts it into a
/// [`Body`](crate::Body), which returns the connection at its end.
///
/// Drop it before its connection where the rest is not wanted.
///
/// # Errors
///
/// If the connection fails before the end, or ends before the length that the server announced.
pub struct IncomingBody(Incoming);

impl IncomingBody {
    #[inline]
    pub(super) fn http1(body: Incoming) -> Self {
        Self(body)
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
        let polled = Pin::new(&mut self.0).poll_frame(cx);
        polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl fmt::Debug for IncomingBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IncomingBody")
    }
}
