use std::fmt;
use std::future::poll_fn;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_service::Service;

use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{ErasedLease, Leased, Liveness, Poolable, Released};
use crate::connection::shared::{CloseHook, FINISH_TIMEOUT};
use crate::pool::PooledConn;

/// One use of a connection. It derefs to the connection, and is a `Service` if the connection is one. Dropping it
/// returns the connection to its pool.
///
/// If the last use is not entirely over when the lease is dropped, a task waits for its end, for at most one second,
/// before the connection returns. A connection that has [ended](Lifespan::end) is closed.
///
/// See [`Poolable`] for a connection of your own, and `examples/by_hand.rs` for a stack.
pub struct Lease<C: Poolable>(Option<Box<PooledConn<C>>>);

impl<C: Poolable> Lease<C> {
    /// Makes a lease of a connection that is in use from now on.
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
        // The lease's own drop then does nothing.
        self.0.take().expect("held until dropped")
    }
}

impl<C: Poolable> Drop for Lease<C> {
    #[inline]
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
            leave_behind(busy, None);
        }
    }

    #[inline]
    fn release_soon(self: Box<Self>, cx: &mut Context<'_>) -> Option<Released> {
        leave_for_a_moment(end(self, cx)?)
    }
}

/// Ends a use that is over; returns the connection if it is not free yet.
#[inline]
fn end<C: Poolable>(
    mut pooled: Box<PooledConn<C>>,
    cx: &mut Context<'_>,
) -> Option<Box<PooledConn<C>>> {
    let conn = pooled.connection();
    if conn.lifespan().has_ended() {
        // Whoever ended the connection has recorded the reason; `Dropped` applies only if there is none.
        pooled.close_uncompleted(CloseReason::Dropped);
    } else if conn.poll_free(cx).is_ready() {
        check_in(pooled);
    } else {
        return Some(pooled);
    }
    None
}

/// Leaves the end of the use to a task, if the connection will be free in a moment and another thread can drive it.
#[cold]
fn leave_for_a_moment<C: Poolable>(mut pooled: Box<PooledConn<C>>) -> Option<Released> {
    // Only a multi-thread runtime drives its tasks and timers whatever this thread does.
    let has_thread = Handle::try_current().is_ok_and(|runtime| {
        runtime.runtime_flavor() == RuntimeFlavor::MultiThread && pooled.lives_in(runtime.id())
    });
    if !has_thread || !pooled.connection().is_almost_free() {
        leave_behind(pooled, None);
        return None;
    }
    let (waits, released) = oneshot::channel();
    leave_behind(pooled, Some(waits));
    Some(Released(released))
}

/// Ends the use in a task, so that the connection returns whether or not the caller is polled.
#[cold]
fn leave_behind<C: Poolable>(mut pooled: Box<PooledConn<C>>, waits: Option<oneshot::Sender<()>>) {
    match Handle::try_current() {
        Ok(runtime) => {
            // Recorded before the task runs, because other waiters look at it, and the task may never run.
            let shared = pooled.connection().lifespan().shared();
            shared.set_finishing(true);
            runtime.spawn(wind_down(pooled, waits));
        }
        Err(_) => pooled.close_uncompleted(CloseReason::Abandoned),
    }
}

/// Returns the connection: its last use is over, or it has closed, or it will never be free.
#[inline]
fn check_in<C: Poolable>(mut pooled: Box<PooledConn<C>>) {
    let conn = pooled.connection();
    let lifespan = conn.lifespan();
    if C::SHARED && lifespan.has_ended() && lifespan.shared().connection().is_some() {
        // Its use has, and others of the same connection go on.
        return pooled.close_uncompleted(CloseReason::Dropped);
    }
    if !conn.lifespan().is_unfinished() {
        pooled.completed();
    } else if conn.lifespan().is_unused() {
        pooled.unused();
    } else if !conn.is_open() {
        return pooled.close_uncompleted(CloseReason::Abandoned);
    } else {
        pooled.cut_short();
    }
    pooled.give_back();
}

/// The pause before the first check whether the connection is still almost free; each following pause is twice as long.
const PAUSE: Duration = Duration::from_millis(1);

/// Waits for the end of a use, at most one second. `waits` is completed when the connection is back in the pool, or is
/// no longer almost free.
async fn wind_down<C: Poolable>(
    mut pooled: Box<PooledConn<C>>,
    mut waits: Option<oneshot::Sender<()>>,
) {
    let until = Instant::now() + FINISH_TIMEOUT;
    let mut pause = PAUSE;
    loop {
        let next = match waits {
            Some(_) => until.min(Instant::now() + pause),
            None => until,
        };
        let free = poll_fn(|cx| pooled.connection().poll_free(cx));
        if tokio::time::timeout_at(next, free).await.is_ok() {
            pooled.connection().lifespan().shared().set_finishing(false);
            check_in(pooled);
            break;
        }
        if Instant::now() >= until {
            pooled.close_uncompleted(CloseReason::Abandoned);
            break;
        }
        // The caller does not wait any longer for a connection that is not almost free.
        waits = waits.filter(|_| pooled.connection().is_almost_free());
        pause *= 2;
    }
    // After the connection is back: whoever waited finds it.
    drop(waits);
}
