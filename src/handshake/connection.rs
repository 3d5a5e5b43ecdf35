use std::fmt;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{Liveness, Poolable};
#[cfg(feature = "http2")]
use crate::connection::shared::ChangeHook;
use crate::error::{BoxError, SendError};
use crate::handshake::{HttpFuture, IncomingBody};
use crate::http1::Http1Connection;
#[cfg(feature = "http2")]
use crate::http2::Http2Connection;

/// An HTTP connection, or a use of one: a `Service` for one request at a time.
///
/// It sends a request as it is. [`Exchange`](crate::layers::Exchange) adds what a request to an origin needs: the form of the
/// target and `Host`.
///
/// Keep it until the response body has ended. Over HTTP/1, dropping it closes the transport: after an orderly shutdown
/// if its last exchange is over, at once if not. Over HTTP/2 (feature `http2`), it is one of several uses of its
/// connection, and dropping it only resets the stream of a request that is not over.
pub struct HttpConnection<B>(Inner<B>);

enum Inner<B> {
    Http1(Http1Connection<B>),
    #[cfg(feature = "http2")]
    Http2(Http2Connection<B>),
}

/// Calls the same method on either variant.
macro_rules! either {
    ($conn:expr, $it:ident => $call:expr) => {
        match $conn {
            Inner::Http1($it) => $call,
            #[cfg(feature = "http2")]
            Inner::Http2($it) => $call,
        }
    };
}

impl<B> HttpConnection<B> {
    pub(super) fn http1(connection: Http1Connection<B>) -> Self {
        Self(Inner::Http1(connection))
    }

    #[cfg(feature = "http2")]
    pub(super) fn http2(connection: Http2Connection<B>) -> Self {
        Self(Inner::Http2(connection))
    }
}

impl<B> Poolable for HttpConnection<B>
where
    B: Send + 'static,
{
    /// With the feature `http2`, also for HTTP/1: such a connection is one that has no further uses.
    const SHARED: bool = cfg!(feature = "http2");

    #[inline]
    fn is_open(&self) -> bool {
        either!(&self.0, it => it.is_open())
    }

    #[inline]
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(&mut self.0, it => it.poll_free(cx))
    }

    #[inline]
    fn is_almost_free(&self) -> bool {
        either!(&self.0, it => it.is_almost_free())
    }

    #[inline]
    fn probe(&mut self) -> Liveness {
        either!(&mut self.0, it => it.probe())
    }

    #[cfg(feature = "http2")]
    #[inline]
    fn capacity(&self) -> Option<usize> {
        either!(&self.0, it => it.capacity())
    }

    #[cfg(feature = "http2")]
    fn is_doubted(&self) -> bool {
        match &self.0 {
            Inner::Http1(_) => false,
            Inner::Http2(connection) => connection.is_doubted(),
        }
    }

    #[cfg(feature = "http2")]
    fn another(&mut self) -> Option<Self> {
        match &mut self.0 {
            Inner::Http1(_) => None,
            Inner::Http2(connection) => connection.another().map(Self::http2),
        }
    }

    #[cfg(feature = "http2")]
    fn on_change(&mut self, hook: ChangeHook) {
        either!(&mut self.0, it => it.on_change(hook));
    }

    #[inline]
    fn lifespan(&self) -> &Lifespan {
        either!(&self.0, it => it.lifespan())
    }

    #[inline]
    fn lifespan_mut(&mut self) -> &mut Lifespan {
        either!(&mut self.0, it => it.lifespan_mut())
    }
}

impl<B> Service<Request<B>> for HttpConnection<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<IncomingBody>;
    type Error = SendError<B>;
    type Future = HttpFuture<B>;

    /// Over HTTP/1, ready when no request is in progress: after a call, not before the body of its response has ended.
    /// Also ready once the connection has closed; a request is then returned unsent.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<B>>> {
        either!(&mut self.0, it => it.poll_ready(cx))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> HttpFuture<B> {
        match &mut self.0 {
            Inner::Http1(connection) => HttpFuture::http1(connection.call(request)),
            #[cfg(feature = "http2")]
            Inner::Http2(connection) => HttpFuture::http2(connection.call(request)),
        }
    }
}

impl<B> fmt::Debug for HttpConnection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lifespan = either!(&self.0, it => it.lifespan_ref());
        f.debug_struct("HttpConnection")
            .field("version", &lifespan.shared().version())
            .field("lifespan", lifespan)
            .finish_non_exhaustive()
    }
}
