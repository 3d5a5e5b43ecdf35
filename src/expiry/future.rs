use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;

use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;
use crate::expiry::age::Age;

pin_project! {
    /// Resolves to a connection, with one more limit on it.
    ///
    /// # Cancel safety
    ///
    /// That of the service below.
    #[derive(Debug)]
    pub struct ExpiryFuture<F> {
        #[pin]
        inner: F,
        limit: Limit,
    }
}

/// What is put on a connection.
#[derive(Clone, Copy, Debug)]
pub(super) enum Limit {
    Idle(Duration),
    Age(Age),
    Uses(u64),
    Silence(Duration),
}

impl Limit {
    fn put_on(self, lifespan: &mut Lifespan) {
        match self {
            Self::Idle(max) => lifespan.limit_idle(max),
            Self::Age(age) => age.put_on(lifespan),
            Self::Uses(max) => lifespan.limit_uses(max),
            Self::Silence(max) => lifespan.limit_inactivity(max),
        }
    }
}

impl<F> ExpiryFuture<F> {
    pub(super) fn new(inner: F, limit: Limit) -> Self {
        Self { inner, limit }
    }
}

impl<F, C, E> Future for ExpiryFuture<F>
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
