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

/// Gives out connections: an idle one, or one that another caller gives back, or a new one of `M`, or, where a limit is
/// reached, whichever of them comes first when it is this caller's turn.
///
/// It is always ready. Whether `M` is, is asked on a miss only: a caller that waited for a limit below could wait for
/// connections that are idle here.
///
/// # Clone
///
/// Clones share `M` and the pool. `M` is cloned to make a connection, and only then.
pub struct Checkout<M, C: Poolable>(Arc<Parts<M, C>>);

pub(crate) struct Parts<M, C: Poolable> {
    pub(super) maker: M,
    pub(super) pool: Pool<C>,
}

impl<M, C: Poolable> Checkout<M, C> {
    /// Over a pool that other services may have too. Give it only to services that make connections of the same kind:
    /// one may get what another has made.
    pub fn with_pool(maker: M, pool: Pool<C>) -> Self {
        Self(Arc::new(Parts { maker, pool }))
    }

    /// Where its connections are kept.
    #[must_use]
    pub fn pool(&self) -> &Pool<C> {
        &self.0.pool
    }

    /// Lets the agent's handle have connections made before they are asked for.
    pub(crate) fn register(&self)
    where
        Parts<M, C>: Prewarm + 'static,
    {
        let maker: Weak<dyn Prewarm> = Arc::downgrade(&(self.0.clone() as Arc<dyn Prewarm>));
        self.pool().agent().add_maker(maker);
    }

    /// An idle connection, if one is found open at once: without a future in between.
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

    /// What makes its connections.
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
