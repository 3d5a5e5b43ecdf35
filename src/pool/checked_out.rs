//! The connection that Checkout passes to Checkin.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll};

use tower_service::Service;

use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{Liveness, Poolable};
use crate::connection::shared::CloseHook;
use crate::pool::PooledConn;

/// A connection that [`Checkout`](crate::layers::Checkout) provides, and that [`Checkin`](crate::layers::Checkin) turns into a
/// [`Lease`](crate::layers::Lease). It derefs to the connection.
///
/// Only a lease returns a connection to its pool: dropping a `CheckedOut` closes the connection.
#[must_use = "the connection is closed if it does not become a lease"]
pub struct CheckedOut<C: Poolable>(Box<PooledConn<C>>);

impl<C: Poolable> CheckedOut<C> {
    #[inline]
    pub(crate) fn new(pooled: Box<PooledConn<C>>) -> Self {
        Self(pooled)
    }

    #[inline]
    pub(crate) fn into_pooled(self) -> Box<PooledConn<C>> {
        self.0
    }
}

impl<C: Poolable> Deref for CheckedOut<C> {
    type Target = C;

    fn deref(&self) -> &C {
        self.0.connection_ref()
    }
}

impl<C: Poolable> DerefMut for CheckedOut<C> {
    fn deref_mut(&mut self) -> &mut C {
        self.0.connection()
    }
}

/// Layers above Checkout can set limits, too.
impl<C: Poolable> Poolable for CheckedOut<C> {
    fn is_open(&self) -> bool {
        (**self).is_open()
    }

    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_free(cx)
    }

    fn is_almost_free(&self) -> bool {
        (**self).is_almost_free()
    }

    fn probe(&mut self) -> Liveness {
        (**self).probe()
    }

    fn on_close(&mut self, hook: CloseHook) {
        (**self).on_close(hook);
    }

    fn lifespan(&self) -> &Lifespan {
        (**self).lifespan()
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        (**self).lifespan_mut()
    }
}

/// The service of the connection.
impl<C, R> Service<R> for CheckedOut<C>
where
    C: Poolable + Service<R>,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = C::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        (**self).poll_ready(cx)
    }

    fn call(&mut self, request: R) -> C::Future {
        (**self).call(request)
    }
}

impl<C: Poolable> fmt::Debug for CheckedOut<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CheckedOut").field(self.lifespan()).finish()
    }
}
