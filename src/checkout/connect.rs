//! A connect under way.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_service::Service;

use crate::cause::Cause;
use crate::checkout::watch::Watch;
use crate::connect_deadline;
use crate::error::{BoxError, CheckoutError, Denied};
use crate::pool::{Berth, HostPool, Slot};
use crate::poolable::Poolable;

/// A connect under way, and the slot that it is for. Its caller polls it; if the caller finds something better, it goes
/// on in a task of its own.
pub(super) struct Connect<C: Poolable> {
    /// Before the slot, so that a transport is gone when its slot passes on. Boxed, because it may change tasks.
    future: Pin<Box<dyn Future<Output = Result<C, CheckoutError>> + Send>>,
    slot: Option<Slot<C>>,
    begun: Instant,
    watch: Watch,
}

impl<C: Poolable> Connect<C> {
    /// Counts from here. `limit` is the time for all of it, with the wait until `maker` is ready.
    pub(super) fn begin<M, T>(
        mut slot: Slot<C>,
        mut maker: M,
        target: T,
        limit: Duration,
        watch: Watch,
    ) -> Self
    where
        M: Service<T, Response = C> + Send + 'static,
        M::Future: Send,
        M::Error: Into<BoxError>,
        T: Send + 'static,
    {
        let begun = slot.begin();
        let make = async move {
            poll_fn(|cx| maker.poll_ready(cx)).await?;
            maker.call(target).await
        };
        let future = Box::pin(async move {
            let make = connect_deadline::until(begun.checked_add(limit), make);
            match tokio::time::timeout(limit, make).await {
                Ok(made) => made.map_err(|error: M::Error| CheckoutError::Connect(error.into())),
                Err(_) => Err(CheckoutError::Denied(Denied::ConnectTimeout(limit))),
            }
        });
        Self {
            future,
            slot: Some(slot),
            begun,
            watch,
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Box<Berth<C>>, CheckoutError>> {
        let made = ready!(self.future.as_mut().poll(cx));
        let slot = self.slot.take().expect("not polled after it is ready");
        Poll::Ready(match made {
            Ok(conn) => Ok(slot.fill(conn, self.begun)),
            Err(error) => {
                slot.fail(match error {
                    CheckoutError::Connect(_) => Cause::Connect,
                    CheckoutError::Denied(_) => Cause::ConnectTimeout,
                });
                Err(error)
            }
        })
    }

    pub(super) fn home(&self) -> &Arc<HostPool<C>> {
        self.slot.as_ref().expect("not ready yet").home()
    }

    /// Goes on without its caller, for the next in line or for the pool; given up where there is no runtime to go on in.
    /// The task ends with the connect, which is bounded by the connect timeout, or with the pool.
    pub(super) fn leave_behind(mut self) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let (cancel, mut cancelled) = oneshot::channel();
        let place = self.slot.as_ref().expect("not ready yet").place();
        if !self.home().to_background(place, cancel) {
            return;
        }
        // Still within the span of the caller who began it, and of nobody who is served by it.
        let watch = self.watch.clone();
        runtime.spawn(async move {
            let made = poll_fn(|cx| match watch.within(|| self.poll(cx)) {
                Poll::Ready(made) => Poll::Ready(made.ok()),
                Poll::Pending => Pin::new(&mut cancelled).poll(cx).map(|_| None),
            });
            // A failure is in the counters, and nobody's.
            if let Some(berth) = made.await {
                berth.give_back();
            }
        });
    }
}
