use std::task::{Context, Poll};

use tower_service::Service;

use crate::checkin::from_checkout::FromCheckout;
use crate::checkin::{CheckinFuture, Lease};

/// Turns each connection of `M` into a [`Lease`], which returns it to its pool when it is dropped.
#[derive(Clone, Debug)]
pub struct Checkin<M> {
    inner: M,
}

impl<M> Checkin<M> {
    /// Wraps `inner`.
    pub const fn new(inner: M) -> Self {
        Self { inner }
    }

    /// The service that provides the connections.
    pub const fn get_ref(&self) -> &M {
        &self.inner
    }

    /// The service that provides the connections.
    pub const fn get_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// The service that provides the connections.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

impl<M, T> Service<T> for Checkin<M>
where
    M: Service<T>,
    M::Response: FromCheckout,
{
    type Response = Lease<<M::Response as FromCheckout>::Conn>;
    type Error = M::Error;
    type Future = CheckinFuture<M::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, target: T) -> Self::Future {
        CheckinFuture::new(self.inner.call(target))
    }
}
