use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::checkin::{CheckinFuture, Lease};
use crate::checkout::CheckoutFuture;
use crate::error::{BoxError, Error};
use crate::exchange::{Body, ExchangeFuture};
use crate::handshake::{HttpConnection, HttpFuture};
use crate::keep_alive::service::{Connections, Leases};
use crate::target::Destination;

/// Provides a lease of a connection.
type Leasing<M, B> =
    CheckinFuture<CheckoutFuture<Connections<M, B>, Destination, HttpConnection<B>>>;

type Exchanging<M, B> =
    ExchangeFuture<Leases<M, B>, Leasing<M, B>, Lease<HttpConnection<B>>, HttpFuture<B>, B>;

pin_project! {
    /// Resolves to the response of one request.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future before it is ready cancels the request: a place in the queue is lost, and a connection on
    /// which the request was begun is closed. Then it is not known whether the server acts on the request.
    pub struct KeepAliveFuture<M, B>
    where
        B: Send,
        B: 'static,
    {
        #[pin]
        exchange: Exchanging<M, B>,
    }
}

impl<M, B> KeepAliveFuture<M, B>
where
    B: Send + 'static,
{
    #[inline]
    pub(super) fn new(exchange: Exchanging<M, B>) -> Self {
        Self { exchange }
    }
}

impl<M, B> Future for KeepAliveFuture<M, B>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: HttpBody + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.project().exchange.poll(cx)
    }
}

impl<M, B> fmt::Debug for KeepAliveFuture<M, B>
where
    B: Send + 'static,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeepAliveFuture")
    }
}
