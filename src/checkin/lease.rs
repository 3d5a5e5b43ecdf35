use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::task::{Context, Poll, Waker};

use tokio::runtime::{Handle, RuntimeFlavor};
use tower_service::Service;

use crate::connection::close_reason::Cause;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{Liveness, Poolable, Use};
use crate::connection::shared::{CloseHook, WIND_DOWN};
use crate::pool::Berth;

/// The use of one connection. It is the connection (by `Deref`, and as a `Service` where that is one) and gives it back
/// when it is dropped.
///
/// When the last use is not entirely over by then, the connection is waited for, one second at the most, in a task of
/// its own; a connection that has [ended](Lifespan::end) is closed.
///
/// See [`Poolable`] for a connection of your own, and `examples/by_hand.rs` for a stack.
pub struct Lease<C: Poolable>(Option<Box<Berth<C>>>);

impl<C: Poolable> Lease<C> {
    #[inline]
    pub(super) fn new(conn: C) -> Self {
        Self(Some(Berth::around(conn)))
    }

    /// Of a connection that is in use from now on.
    #[inline]
    pub(crate) fn of(berth: Box<Berth<C>>) -> Self {
        Self(Some(berth))
    }

    #[inline]
    fn berth(&self) -> &Berth<C> {
        self.0.as_ref().expect("held until dropped")
    }
}

impl<C: Poolable> Deref for Lease<C> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        self.berth().connection_ref()
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

    #[inline]
    fn into_use(mut self) -> Box<dyn Use> {
        let berth = self.0.take().expect("held until dropped");
        // Nothing is left of it to be dropped.
        mem::forget(self);
        berth
    }
}

impl<C: Poolable> Drop for Lease<C> {
    fn drop(&mut self) {
        if let Some(berth) = self.0.take() {
            Use::release(berth);
        }
    }
}

impl<C: Poolable> fmt::Debug for Lease<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lease").field((**self).lifespan()).finish()
    }
}

impl<C: Poolable> Use for Berth<C> {
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
    fn release_if_free(self: Box<Self>, cx: &mut Context<'_>) -> Option<Box<dyn Use>> {
        wait_or_leave_behind(end(self, cx)?)
    }
}

/// Ends a use that is over; gives back one whose connection is not free.
#[inline]
fn end<C: Poolable>(mut berth: Box<Berth<C>>, cx: &mut Context<'_>) -> Option<Box<Berth<C>>> {
    let conn = berth.connection();
    if conn.lifespan().has_ended() {
        // The cause was said by whoever ended it.
        berth.close(Cause::Dropped);
    } else if conn.poll_free(cx).is_ready() {
        check_in(berth);
    } else {
        return Some(berth);
    }
    None
}

/// Gives back what is worth waiting for: a driver that needs no more than its turn, and has a thread for it.
#[cold]
fn wait_or_leave_behind<C: Poolable>(mut berth: Box<Berth<C>>) -> Option<Box<dyn Use>> {
    // Only the threads of a runtime like this go on whoever waits, and its timers with them.
    let has_thread = Handle::try_current().is_ok_and(|runtime| {
        runtime.runtime_flavor() == RuntimeFlavor::MultiThread && berth.lives_in(runtime.id())
    });
    if has_thread && berth.connection().is_almost_free() {
        return Some(berth);
    }
    leave_behind(berth);
    None
}

#[cold]
fn leave_behind<C: Poolable>(mut berth: Box<Berth<C>>) {
    match Handle::try_current() {
        Ok(runtime) => {
            // Before the task is polled: others who wait look at this, and the task may never be.
            berth.connection().lifespan().bond().set_winds_down(true);
            runtime.spawn(wind_down(berth));
        }
        Err(_) => berth.close(Cause::Abandoned),
    }
}

/// The last use is over, or the connection has closed, or it is known that it will never be free.
#[inline]
fn check_in<C: Poolable>(mut berth: Box<Berth<C>>) {
    let conn = berth.connection();
    if !conn.lifespan().is_unfinished() {
        berth.completed();
    } else if !conn.is_open() {
        return berth.close(Cause::Abandoned);
    }
    berth.give_back();
}

/// Waits for the end of a use that nobody else waits for. Ends when it has come, or after a second.
async fn wind_down<C: Poolable>(mut berth: Box<Berth<C>>) {
    let free = poll_fn(|cx| berth.connection().poll_free(cx));
    match tokio::time::timeout(WIND_DOWN, free).await {
        Ok(()) => {
            berth.connection().lifespan().bond().set_winds_down(false);
            check_in(berth);
        }
        Err(_) => berth.close(Cause::Abandoned),
    }
}
