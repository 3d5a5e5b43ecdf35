use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;

use crate::checkin::Lease;
use crate::checkin::from_checkout::FromCheckout;

pin_project! {
    /// Resolves to a lease.
    ///
    /// # Cancel safety
    ///
    /// As for the inner service.
    #[derive(Debug)]
    pub struct CheckinFuture<F> {
        #[pin]
        inner: F,
    }
}

impl<F> CheckinFuture<F> {
    #[inline]
    pub(crate) fn new(inner: F) -> Self {
        Self { inner }
    }
}

impl<F, C, E> Future for CheckinFuture<F>
where
    F: Future<Output = Result<C, E>>,
    C: FromCheckout,
{
    type Output = Result<Lease<C::Conn>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let conn = ready!(self.project().inner.poll(cx))?;
        Poll::Ready(Ok(conn.into_lease()))
    }
}
