use std::fmt;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{Liveness, Poolable};
use crate::error::{BoxError, SendError};
use crate::handshake::{HttpFuture, IncomingBody};
use crate::http1::Http1Connection;

/// A connection of HTTP: a `Service` for one request at a time.
///
/// It sends a request as it is. What a request to an origin needs, the target form and `Host`, is
/// [`Exchange`](crate::Exchange)'s to give.
///
/// It has to be kept until the response body has ended. Dropping it closes the transport: in good order if its last
/// exchange is over, at once if not.
pub struct HttpConnection<B>(Http1Connection<B>);

impl<B> HttpConnection<B> {
    pub(super) fn http1(connection: Http1Connection<B>) -> Self {
        Self(connection)
    }
}

impl<B> Poolable for HttpConnection<B>
where
    B: Send + 'static,
{
    #[inline]
    fn is_open(&self) -> bool {
        self.0.is_open()
    }

    #[inline]
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_free(cx)
    }

    #[inline]
    fn is_almost_free(&self) -> bool {
        self.0.is_almost_free()
    }

    #[inline]
    fn probe(&mut self) -> Liveness {
        self.0.probe()
    }

    #[inline]
    fn lifespan(&self) -> &Lifespan {
        self.0.lifespan()
    }

    #[inline]
    fn lifespan_mut(&mut self) -> &mut Lifespan {
        self.0.lifespan_mut()
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

    /// Ready when no request is under way: after the call of one, not before the body of its response has ended. Ready as
    /// well once the connection has closed; a request is given back unsent then.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<B>>> {
        self.0.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> HttpFuture<B> {
        HttpFuture::http1(self.0.call(request))
    }
}

impl<B> fmt::Debug for HttpConnection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection")
            .field("lifespan", self.0.lifespan_ref())
            .finish_non_exhaustive()
    }
}
