//! A caller that waits: in the queue, for its connect, or for the check of an idle connection.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use crate::checkout::connect::{Connect, Ended};
use crate::clock::{Clock, Moment};
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::{Liveness, Poolable};
use crate::error::{CheckoutError, Denied};
use crate::pool::{CheckoutRequest, ConnPermit, Pool, PooledConn, Rejected, WaitOutcome, Waiter};
use crate::target::{Internal, Reuse, Target};

/// Everything about a wait. Boxed by the future, because most callers do not wait.
pub(super) struct Waiting<C: Poolable, T> {
    /// Taken when a connect begins.
    pub(super) target: Option<T>,
    /// Whether another caller could use the connection that is made.
    shared: bool,
    /// Dropped before the connect: the caller leaves the queue before its permit passes on.
    pub(super) waiter: Option<Waiter<C>>,
    pub(super) connect: Option<Connect<C>>,
    idle_check: Option<IdleCheck>,
    /// When the wait began.
    pub(super) since: Moment,
    /// How long the caller had waited in earlier attempts.
    waited_before: Duration,
    /// How long it waited for another caller's connection or for a permit, if it got one.
    pub(super) waited: Option<Duration>,
    /// It was given a connection while in the queue.
    pub(super) handed_over: bool,
    /// How long it may wait in the queue without a permit to connect.
    pub(super) queue_timeout: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// Waits two turns of the runtime for a connection that has no probe, so that its driver can notice a close. Meanwhile
/// the connection is a delivery in the queue, and so it is taken back from a caller that is not polled.
struct IdleCheck {
    /// The connection's number.
    id: u64,
    /// Boxed, because the future has no name.
    turns: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The result of one poll.
pub(super) enum Step<C: Poolable> {
    Pending,
    /// A connection that another caller returned.
    Connection(Box<PooledConn<C>>),
    /// The caller's own new connection.
    Made(Box<PooledConn<C>>),
    Make(ConnPermit<C>),
    /// The caller cannot use what it was given, and starts again at the head of the queue.
    Again(Rejected<C>),
    Failed(CheckoutError),
}

impl<C: Poolable, T> Waiting<C, T> {
    pub(super) fn new(target: &T, now: Moment) -> Self
    where
        T: Target,
    {
        let before = target
            .waiting_since(Internal::NEW)
            .map_or(Duration::ZERO, |it| it.elapsed());
        Self {
            shared: target.reuse() != Reuse::Never,
            target: None,
            waiter: None,
            connect: None,
            idle_check: None,
            since: now.earlier(before),
            waited_before: before,
            waited: None,
            handed_over: false,
            queue_timeout: None,
        }
    }

    #[inline]
    pub(super) fn poll(&mut self, clock: &Clock, cx: &mut Context<'_>) -> Step<C> {
        let mut delivered = false;
        loop {
            // The connection whose two turns are over, if it has not been taken back.
            let mut checked = None;
            if let Some(idle_check) = &mut self.idle_check {
                if idle_check.turns.as_mut().poll(cx).is_pending() {
                    return Step::Pending;
                }
                checked = self.idle_check.take().map(|it| it.id);
            }
            match self.waiter.as_mut().map(|waiter| waiter.poll_outcome(cx)) {
                Some(Poll::Ready(WaitOutcome::Made(mut pooled))) => {
                    self.waiter = None;
                    self.connect = None;
                    if pooled.was_collected_late(clock.now())
                        && pooled.connection().probe() == Liveness::Dead
                    {
                        pooled.close(CloseReason::Stale);
                        return self.not_polled();
                    }
                    return Step::Made(pooled);
                }
                Some(Poll::Ready(WaitOutcome::Connection(mut pooled))) => {
                    let is_checked = checked == Some(pooled.id());
                    self.handed_over |= !is_checked;
                    // It may have been delivered long ago: the caller collects it whenever its runtime polls it.
                    let reason = match pooled.close_reason(clock.now()) {
                        Some(reason) => reason,
                        None if is_checked => return Step::Connection(pooled),
                        None => match pooled.connection().probe() {
                            Liveness::Open => return Step::Connection(pooled),
                            Liveness::Unknown => {
                                self.idle_check = Some(IdleCheck::new(pooled.id()));
                                let is_making = self.connect.is_some();
                                if let Some(waiter) = &self.waiter {
                                    waiter.leave(pooled, is_making);
                                }
                                continue;
                            }
                            Liveness::Dead => CloseReason::Stale,
                        },
                    };
                    if let Some(again) = self.without(Rejected::new(pooled, reason)) {
                        return again;
                    }
                    continue;
                }
                Some(Poll::Ready(WaitOutcome::Make(permit))) => return Step::Make(permit),
                Some(Poll::Ready(WaitOutcome::Refused)) => {
                    return Step::Failed(Denied::ShutDown.into());
                }
                Some(Poll::Ready(WaitOutcome::Lost)) => {
                    return self.not_polled();
                }
                Some(Poll::Ready(WaitOutcome::Stuck(time))) => {
                    return Step::Failed(Denied::CannotClose(time).into());
                }
                Some(Poll::Pending) | None => {}
            }
            if let Some(connect) = &mut self.connect {
                let Poll::Ready(ended) = connect.poll(cx) else {
                    return Step::Pending;
                };
                self.connect = None;
                match ended {
                    Ended::Made(pooled) => return Step::Made(pooled),
                    // The queue has it, unless it was taken back.
                    Ended::Delivered => {
                        delivered = true;
                        continue;
                    }
                    Ended::Failed(error) => return Step::Failed(error),
                }
            }
            if delivered {
                // The connection went to another caller, and no connect is under way that could end this wait.
                return self.not_polled();
            }
            if let Some((limit, queue_timeout)) = &mut self.queue_timeout
                && queue_timeout.as_mut().poll(cx).is_ready()
            {
                // Leave the queue first: whatever is delivered from here on belongs to the next caller.
                self.waiter = None;
                let limit = *limit;
                return Step::Failed(CheckoutError::Denied(Denied::CheckoutTimeout(limit)));
            }
            return Step::Pending;
        }
    }
}

impl<C: Poolable, T: Target> Waiting<C, T> {
    /// Keeps an idle connection without a probe in the queue for two turns of the runtime.
    pub(super) fn check(
        &mut self,
        pool: &Pool<C>,
        pooled: Box<PooledConn<C>>,
        target: &T,
        now: Moment,
    ) {
        self.idle_check = Some(IdleCheck::new(pooled.id()));
        let waiter = pool.leave(pooled, CheckoutRequest::from_target(target), now);
        self.queue(waiter, target, now);
    }

    /// Waits in the queue, for as long as the caller may wait.
    pub(super) fn queue(&mut self, waiter: Waiter<C>, target: &T, now: Moment) {
        if let Some(limit) = target.connect_timeout() {
            waiter.set_connect_timeout(limit);
        }
        let limit = waiter.config().checkout_timeout;
        self.waiter = Some(waiter);
        if limit != Duration::MAX && self.queue_timeout.is_none() {
            let spent = now.mono.saturating_duration_since(self.since.mono);
            let sleep = tokio::time::sleep(limit.saturating_sub(spent));
            self.queue_timeout = Some((limit, Box::pin(sleep)));
        }
    }
}

impl<C: Poolable, T> Waiting<C, T> {
    /// The connection that was made for this caller went to another one.
    fn not_polled(&self) -> Step<C> {
        let waited = self.waited.unwrap_or(self.waited_before);
        Step::Failed(Denied::NotPolled(waited).into())
    }

    /// Rejects what the caller was given. If its own connect is under way, the caller returns to the queue; otherwise
    /// it starts again.
    fn without(&mut self, rejected: Rejected<C>) -> Option<Step<C>> {
        match &mut self.waiter {
            Some(waiter) if self.connect.is_some() => {
                waiter.requeue(rejected);
                None
            }
            _ => {
                self.waiter = None;
                Some(Step::Again(rejected))
            }
        }
    }

    /// Leaves the caller's own connect to the pool, because the caller was served otherwise.
    pub(super) fn leave_connect_behind(&mut self) {
        if let Some(connect) = self.connect.take() {
            connect.leave_behind();
        }
    }
}

impl<C: Poolable, T> Drop for Waiting<C, T> {
    fn drop(&mut self) {
        // Leave the queue first, so as not to count among those whom the connect would serve.
        self.waiter = None;
        if let Some(connect) = self.connect.take()
            && self.shared
            && !std::thread::panicking()
            && connect.key_pool().has_takers()
        {
            connect.leave_behind();
        }
    }
}

impl IdleCheck {
    #[inline]
    fn new(id: u64) -> Self {
        Self {
            id,
            turns: Box::pin(async {
                tokio::task::yield_now().await;
                tokio::task::yield_now().await;
            }),
        }
    }
}
