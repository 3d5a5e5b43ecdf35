use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, RuntimeFlavor};
use tower_service::Service;

use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{ErasedLease, Leased, Liveness, Poolable};
use crate::connection::shared::{CloseHook, FINISH_TIMEOUT};
use crate::pool::PooledConn;

/// The use of one connection. It is the connection (by `Deref`, and as a `Service` where that is one) and gives it back
/// when it is dropped.
///
/// When the last use is not entirely over by then, the connection is waited for, one second at the most, in a task of
/// its own; a connection that has [ended](Lifespan::end) is closed.
///
/// See [`Poolable`] for a connection of your own, and `examples/by_hand.rs` for a stack.
pub struct Lease<C: Poolable>(Option<Box<PooledConn<C>>>);

impl<C: Poolable> Lease<C> {
    /// Of a connection that is in use from now on.
    #[inline]
    pub(crate) fn from_pooled(pooled: Box<PooledConn<C>>) -> Self {
        Self(Some(pooled))
    }

    #[inline]
    fn pooled(&self) -> &PooledConn<C> {
        self.0.as_ref().expect("held until dropped")
    }
}

impl<C: Poolable> Deref for Lease<C> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        self.pooled().connection_ref()
    }
}

impl<C: Poolable> DerefMut for Lease<C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut C {
        self.0.as_mut().expect("held until dropped").connection()
    }
}

impl<C, R> Service<R> for Lease<C>
where
    C: Poolable + Service<R>,
{
    type Response = C::Response;
    type Error = C::Error;
    type Future = C::Future;

    /// Ready when the connection is. An HTTP/1 connection is ready when no request is under way on it.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        (**self).poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: R) -> C::Future {
        (**self).call(request)
    }
}

impl<C: Poolable> Poolable for Lease<C> {
    #[inline]
    fn is_open(&self) -> bool {
        (**self).is_open()
    }

    #[inline]
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_free(cx)
    }

    fn is_almost_free(&self) -> bool {
        (**self).is_almost_free()
    }

    #[inline]
    fn probe(&mut self) -> Liveness {
        (**self).probe()
    }

    fn on_close(&mut self, hook: CloseHook) {
        (**self).on_close(hook);
    }

    #[inline]
    fn lifespan(&self) -> &Lifespan {
        (**self).lifespan()
    }

    #[inline]
    fn lifespan_mut(&mut self) -> &mut Lifespan {
        Poolable::lifespan_mut(&mut **self)
    }
}

impl<C: Poolable> Leased for Lease<C> {
    #[inline]
    fn into_erased(mut self) -> Box<dyn ErasedLease> {
        // Its drop has nothing left to do.
        self.0.take().expect("held until dropped")
    }
}

impl<C: Poolable> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(pooled) = self.0.take() {
            ErasedLease::release(pooled);
        }
    }
}

impl<C: Poolable> fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field((**self).lifespan()).finish()
    }
}

impl<C: Poolable> ErasedLease for PooledConn<C> {
    #[inline]
    fn lifespan_mut(&mut self) -> &mut Lifespan {
        Poolable::lifespan_mut(self.connection())
    }

    #[inline]
    fn release(self: Box<Self>) {
        if let Some(busy) = end(self, &mut Context::from_waker(Waker::noop())) {
            leave_behind(busy);
        }
    }

    #[inline]
    fn release_if_free(self: Box<Self>, cx: &mut Context<'_>) -> Option<Box<dyn ErasedLease>> {
        wait_or_leave_behind(end(self, cx)?)
    }
}

/// Ends a use that is over; gives back one whose connection is not free.
#[inline]
fn end<C: Poolable>(
    mut pooled: Box<PooledConn<C>>,
    cx: &mut Context<'_>,
) -> Option<Box<PooledConn<C>>> {
    let conn = pooled.connection();
    if conn.lifespan().has_ended() {
        // The cause was said by whoever ended it.
        pooled.close(CloseReason::Dropped);
    } else if conn.poll_free(cx).is_ready() {
        check_in(pooled);
    } else {
        return Some(pooled);
    }
    None
}

/// Gives back what is worth waiting for: a driver that needs no more than its turn, and has a thread for it.
#[cold]
fn wait_or_leave_behind<C: Poolable>(
    mut pooled: Box<PooledConn<C>>,
) -> Option<Box<dyn ErasedLease>> {
    // Only the threads of a runtime like this go on whoever waits, and its timers with them.
    let has_thread = Handle::try_current().is_ok_and(|runtime| {
        runtime.runtime_flavor() == RuntimeFlavor::MultiThread && pooled.lives_in(runtime.id())
    });
    if has_thread && pooled.connection().is_almost_free() {
        return Some(pooled);
    }
    leave_behind(pooled);
    None
}

#[cold]
fn leave_behind<C: Poolable>(mut pooled: Box<PooledConn<C>>) {
    match Handle::try_current() {
        Ok(runtime) => {
            // Before the task is polled: others who wait look at this, and the task may never be.
            pooled.connection().lifespan().shared().set_finishing(true);
            runtime.spawn(wind_down(pooled));
        }
        Err(_) => pooled.close(CloseReason::Abandoned),
    }
}

/// The last use is over, or the connection has closed, or it is known that it will never be free.
#[inline]
fn check_in<C: Poolable>(mut pooled: Box<PooledConn<C>>) {
    let conn = pooled.connection();
    if !conn.lifespan().is_unfinished() {
        pooled.completed();
    } else if !conn.is_open() {
        return pooled.close(CloseReason::Abandoned);
    }
    pooled.give_back();
}

/// Waits for the end of a use that nobody else waits for. Ends when it has come, or after a second.
async fn wind_down<C: Poolable>(mut pooled: Box<PooledConn<C>>) {
    let free = poll_fn(|cx| pooled.connection().poll_free(cx));
    match tokio::time::timeout(FINISH_TIMEOUT, free).await {
        Ok(()) => {
            pooled.connection().lifespan().shared().set_finishing(false);
            check_in(pooled);
        }
        Err(_) => pooled.close(CloseReason::Abandoned),
    }
}
