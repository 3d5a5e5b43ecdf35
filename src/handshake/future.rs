use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body;

use crate::error::{BoxError, SendError};
use crate::handshake::IncomingBody;
use crate::http1::Http1Future;
#[cfg(feature = "http2")]
use crate::http2::Http2Future;

/// Resolves to the head of the response.
///
/// # Cancel safety
///
/// Dropping it before it is ready cancels the request. Over HTTP/1 that closes the connection, because there is no
/// other way to cancel; over HTTP/2 it resets the request's stream.
pub struct HttpFuture<B>(Inner<B>);

enum Inner<B> {
    Http1(Http1Future<B>),
    #[cfg(feature = "http2")]
    Http2(Http2Future<B>),
}

impl<B> HttpFuture<B> {
    #[inline]
    pub(super) fn http1(future: Http1Future<B>) -> Self {
        Self(Inner::Http1(future))
    }

    #[cfg(feature = "http2")]
    #[inline]
    pub(super) fn http2(future: Http2Future<B>) -> Self {
        Self(Inner::Http2(future))
    }
}

impl<B> Future for HttpFuture<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<IncomingBody>, SendError<B>>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Inner::Http1(future) => future.poll_response(cx, IncomingBody::http1),
            #[cfg(feature = "http2")]
            Inner::Http2(future) => {
                let polled = Pin::new(future).poll(cx);
                polled.map_ok(|response| response.map(IncomingBody::http2))
            }
        }
    }
}

/// No field is structurally pinned.
impl<B> Unpin for HttpFuture<B> {}

impl<B> fmt::Debug for HttpFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpFuture")
    }
}
