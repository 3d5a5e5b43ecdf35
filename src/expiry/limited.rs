//! The mechanism behind the layers: each sets its limit on a connection when the connection is made, and the pool
//! enforces it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tower_service::Service;

use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;

/// A limit to set on each new connection.
pub(super) trait Limit: fmt::Debug + Send + Sync {
    fn put_on(&self, lifespan: &mut Lifespan);
}

/// Provides the connections of `M`, each with one more limit; the service of
/// [`IdleEvictionLayer`](crate::layers::IdleEvictionLayer), [`TtlLayer`](crate::layers::TtlLayer),
/// [`MaxUsesLayer`](crate::layers::MaxUsesLayer) and [`ActiveTimeoutLayer`](crate::layers::ActiveTimeoutLayer). The pool above enforces
/// the limit.
#[derive(Clone, Debug)]
pub struct Limited<M> {
    inner: M,
    limit: Arc<dyn Limit>,
}

impl<M> Limited<M> {
    pub(super) fn new(inner: M, limit: impl Limit + 'static) -> Self {
        Self {
            inner,
            limit: Arc::new(limit),
        }
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

impl<M, T> Service<T> for Limited<M>
where
    M: Service<T>,
    M::Response: Poolable,
{
    type Response = M::Response;
    type Error = M::Error;
    type Future = LimitedFuture<M::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        LimitedFuture {
            inner: self.inner.call(target),
            limit: self.limit.clone(),
        }
    }
}

pin_project! {
    /// Resolves to a connection with one more limit.
    ///
    /// # Cancel safety
    ///
    /// As for the inner service.
    #[derive(Debug)]
    pub struct LimitedFuture<F> {
        #[pin]
        inner: F,
        limit: Arc<dyn Limit>,
    }
}

impl<F, C, E> Future for LimitedFuture<F>
where
    F: Future<Output = Result<C, E>>,
    C: Poolable,
{
    type Output = Result<C, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut conn = ready!(this.inner.poll(cx))?;
        this.limit.put_on(conn.lifespan_mut());
        Poll::Ready(Ok(conn))
    }
}
