use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;

use crate::error::SendError;
use crate::handshake::IncomingBody;
use crate::http1::Http1Future;

/// Resolves to the head of the response.
///
/// # Cancel safety
///
/// Dropping it before it is ready closes the connection: HTTP/1 has no other way to give up a request.
pub struct HttpFuture<B>(Http1Future<B>);

impl<B> HttpFuture<B> {
    #[inline]
    pub(super) fn http1(future: Http1Future<B>) -> Self {
        Self(future)
    }
}

impl<B: Send + 'static> Future for HttpFuture<B> {
    type Output = Result<Response<IncomingBody>, SendError<B>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll_response(cx, IncomingBody::http1)
    }
}

/// Nothing in it is pinned in place: a body that is kept is never polled.
impl<B> Unpin for HttpFuture<B> {}

impl<B> fmt::Debug for HttpFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpFuture")
    }
}
