use std::fmt;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use tower_service::Service;

use crate::agent::Prewarm;
use crate::checkout::CheckoutFuture;
use crate::connection::poolable::Poolable;
use crate::error::{BoxError, CheckoutError};
use crate::pool::{CheckedOut, Pool, PooledConn};
use crate::target::Target;

/// Checks out connections: an idle one, one that another caller returns, or a new one from `M`. At a limit, the caller
/// waits in a queue for whichever of them comes first.
///
/// It is always ready. `M` is asked for its readiness only when a connection has to be made: a caller that waited for a
/// limit below could miss idle connections here.
///
/// # Clone
///
/// Clones share `M` and the pool. `M` is cloned only to make a connection.
pub struct Checkout<M, C: Poolable>(Arc<Parts<M, C>>);

pub(crate) struct Parts<M, C: Poolable> {
    pub(super) maker: M,
    pub(super) pool: Pool<C>,
}

impl<M, C: Poolable> Checkout<M, C> {
    /// A service over an existing pool, which other services may use too. All of them must make connections of the same
    /// kind: each may get connections that another has made.
    pub fn with_pool(maker: M, pool: Pool<C>) -> Self {
        Self(Arc::new(Parts { maker, pool }))
    }

    /// The pool that keeps its connections.
    #[must_use]
    pub fn pool(&self) -> &Pool<C> {
        &self.0.pool
    }

    /// Lets the agent's handle make connections in advance (prewarm).
    pub(crate) fn register(&self)
    where
        Parts<M, C>: Prewarm + 'static,
    {
        let maker: Weak<dyn Prewarm> = Arc::downgrade(&(self.0.clone() as Arc<dyn Prewarm>));
        self.pool().set_maker(maker.clone());
        self.pool().agent().add_maker(maker);
    }

    /// Takes an idle connection, if one is there and its probe says that it is open; without making a future.
    #[inline]
    pub(crate) fn try_checkout<T>(
        &self,
        target: &T,
    ) -> Result<Box<PooledConn<C>>, CheckoutFuture<M, T, C>>
    where
        M: Service<T, Response = C> + Clone + Send + Sync + 'static,
        M::Future: Send + 'static,
        M::Error: Into<BoxError>,
        T: Target + Clone + Send + 'static,
    {
        CheckoutFuture::try_checkout(&self.0, target)
    }

    /// The service that makes its connections.
    pub fn get_ref(&self) -> &M {
        &self.0.maker
    }
}

impl<M, T, C> Service<T> for Checkout<M, C>
where
    M: Service<T, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    T: Target + Send + 'static,
    C: Poolable,
{
    type Response = CheckedOut<C>;
    type Error = CheckoutError;
    type Future = CheckoutFuture<M, T, C>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, target: T) -> Self::Future {
        CheckoutFuture::new(self.0.clone(), target)
    }
}

impl<M, C: Poolable> Clone for Checkout<M, C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M, C: Poolable> fmt::Debug for Checkout<M, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkout")
            .field("pool", self.pool())
            .finish_non_exhaustive()
    }
}
