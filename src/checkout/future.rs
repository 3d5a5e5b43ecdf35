use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_service::Service;

use crate::checkout::connect::Connect;
use crate::checkout::service::Parts;
use crate::checkout::span::CheckoutSpan;
use crate::checkout::spares;
use crate::checkout::waiting::{Step, Waiting};
use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::{Liveness, Poolable};
use crate::error::{BoxError, CheckoutError, Denied};
use crate::pool::{
    CheckedOut, CheckoutRequest, ConnPermit, Decision, PooledConn, Rejected, Waiter,
};
use crate::target::Target;

/// Resolves to a connection.
///
/// # Cancel safety
///
/// Dropping it loses the caller's place in the queue, and nothing else: a connection or permit that was delivered to
/// the caller passes to the next caller, and a connect under way goes on if it would serve somebody who waits.
pub struct CheckoutFuture<M, T, C>
where
    C: Poolable,
{
    parts: Arc<Parts<M, C>>,
    state: State<C, T>,
    span: CheckoutSpan,
}

enum State<C: Poolable, T> {
    /// Not in the queue.
    Start(Start<C, T>),
    /// Everything except taking an idle connection whose probe says at once that it is open.
    Waiting(Box<Waiting<C, T>>),
    Denied(Denied),
    Done,
}

struct Start<C: Poolable, T> {
    /// Taken when it is needed.
    target: Option<T>,
    /// A connection that this caller was given and cannot use.
    rejected: Option<Rejected<C>>,
    /// The wait so far, if there was one: the time limit applies to the whole wait.
    before: Option<Box<Waiting<C, T>>>,
}

impl<C: Poolable, T> Start<C, T> {
    #[inline]
    fn new(target: T, rejected: Option<Rejected<C>>) -> Self {
        Self {
            target: Some(target),
            rejected,
            before: None,
        }
    }
}

impl<M, T, C> CheckoutFuture<M, T, C>
where
    T: Target,
    C: Poolable,
{
    #[inline]
    pub(super) fn new(parts: Arc<Parts<M, C>>, target: T) -> Self {
        Self {
            span: CheckoutSpan::begin(&target, parts.pool.agent()),
            parts,
            state: State::Start(Start::new(target, None)),
        }
    }
}

impl<M, T, C> CheckoutFuture<M, T, C>
where
    M: Service<T, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    T: Target + Send + 'static,
    C: Poolable,
{
    /// Takes an idle connection that is open by its probe, or returns the future that gets a connection otherwise.
    #[inline]
    pub(super) fn try_checkout(
        parts: &Arc<Parts<M, C>>,
        target: &T,
    ) -> Result<Box<PooledConn<C>>, Self>
    where
        T: Clone,
    {
        let span = CheckoutSpan::begin(target, parts.pool.agent());
        let now = parts.pool.config().clock.now();
        let taken = span.within(|| {
            let request = CheckoutRequest::from_target(target);
            match parts.pool.checkout(&target.key(), request, None, now) {
                Decision::Take(mut pooled) => match pooled.connection().probe() {
                    Liveness::Open => {
                        pooled.check_out(now, None);
                        Ok(pooled)
                    }
                    other => Err((Decision::Take(pooled), other)),
                },
                decision => Err((decision, Liveness::Unknown)),
            }
        });
        match taken {
            Ok(pooled) => {
                span.served(&pooled, Duration::ZERO);
                Ok(pooled)
            }
            Err((decision, liveness)) => Err(Self {
                parts: parts.clone(),
                state: State::Start(Start::new(target.clone(), None)),
                span,
            }
            .after(decision, liveness, now)),
        }
    }

    /// The future after its first decision, which did not give it a connection that is known to be open.
    #[cold]
    fn after(mut self, decision: Decision<C>, liveness: Liveness, now: Moment) -> Self {
        match (decision, &mut self.state) {
            (Decision::Take(pooled), State::Start(start)) if liveness == Liveness::Dead => {
                start.rejected = Some(Rejected::new(pooled, CloseReason::Stale));
            }
            (decision, _) => {
                let span = self.span.clone();
                span.within(|| self.start_waiting(decision, now));
            }
        }
        self
    }

    /// Takes an idle connection that is open by its probe, or sets the state to continue in.
    #[inline]
    fn start(&mut self) -> Option<CheckedOut<C>> {
        let State::Start(start) = &mut self.state else {
            return None;
        };
        let wanted = start.target.as_ref().expect("kept until it is needed");
        let pool = &self.parts.pool;
        let mut request = CheckoutRequest::from_target(wanted);
        request.is_retry |= start.rejected.is_some();
        loop {
            let now = pool.config().clock.now();
            match pool.checkout(&wanted.key(), request, start.rejected.take(), now) {
                Decision::Take(mut pooled) => match pooled.connection().probe() {
                    Liveness::Open => {
                        let before = start.before.as_ref();
                        let waited = before.map(|waiting| now.since(waiting.since));
                        return Some(self.served(pooled, now, waited));
                    }
                    Liveness::Dead => {
                        start.rejected = Some(Rejected::new(pooled, CloseReason::Stale));
                        request.is_retry = true;
                    }
                    Liveness::Unknown => {
                        self.start_waiting(Decision::Take(pooled), now);
                        return None;
                    }
                },
                decision => {
                    self.start_waiting(decision, now);
                    return None;
                }
            }
        }
    }

    #[cold]
    fn start_waiting(&mut self, decision: Decision<C>, now: Moment) {
        let State::Start(start) = mem::replace(&mut self.state, State::Done) else {
            unreachable!("it has just asked");
        };
        let target = start.target.expect("kept until it is needed");
        let mut waiting = match start.before {
            Some(mut before) => {
                before.waited = Some(now.since(before.since));
                before
            }
            None => Box::new(Waiting::new(&target, now)),
        };
        match decision {
            Decision::Take(pooled) => {
                waiting.check(&self.parts.pool, pooled, &target, now);
                waiting.target = Some(target);
            }
            Decision::Make(permit, waiter) => {
                waiting.queue_timeout = None;
                waiting.connect = Some(self.connect(permit, &waiter, target));
                waiting.waiter = Some(waiter);
            }
            Decision::Wait(waiter) => {
                waiting.queue(waiter, &target, now);
                waiting.target = Some(target);
            }
            Decision::QueueFull(limit) => {
                self.state = State::Denied(Denied::QueueFull(limit));
                return;
            }
            Decision::ShutDown => {
                self.state = State::Denied(Denied::ShutDown);
                return;
            }
        }
        self.state = State::Waiting(waiting);
    }

    fn connect(&self, permit: ConnPermit<C>, waiter: &Waiter<C>, target: T) -> Connect<C> {
        let config = waiter.config();
        let limit = target.connect_timeout().unwrap_or(config.connect_timeout);
        spares::begin(permit.key_pool(), self.parts.pool.maker(), &target);
        let choice = permit.key_pool().choice();
        Connect::begin(
            permit,
            Some(waiter.waiter_id()),
            choice,
            self.parts.maker.clone(),
            target,
            limit,
            self.span.clone(),
        )
    }

    /// Completes with a connection that was not made for this caller, after a wait of `waited` in the queue.
    #[inline]
    fn served(
        &self,
        mut pooled: Box<PooledConn<C>>,
        now: Moment,
        waited: Option<Duration>,
    ) -> CheckedOut<C> {
        pooled.check_out(now, waited);
        self.serve(pooled, waited)
    }

    #[inline]
    fn serve(&self, pooled: Box<PooledConn<C>>, waited: Option<Duration>) -> CheckedOut<C> {
        self.span.served(&pooled, waited.unwrap_or_default());
        CheckedOut::new(pooled)
    }
}

impl<M, T, C> Future for CheckoutFuture<M, T, C>
where
    M: Service<T, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    T: Target + Send + 'static,
    C: Poolable,
{
    type Output = Result<CheckedOut<C>, CheckoutError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let span = this.span.clone();
        span.within(|| this.poll_within(cx))
    }
}

impl<M, T, C> CheckoutFuture<M, T, C>
where
    M: Service<T, Response = C> + Clone + Send + Sync + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    T: Target + Send + 'static,
    C: Poolable,
{
    #[inline]
    fn poll_within(&mut self, cx: &mut Context<'_>) -> Poll<Result<CheckedOut<C>, CheckoutError>> {
        let this = self;
        loop {
            if let Some(conn) = this.start() {
                this.state = State::Done;
                return Poll::Ready(Ok(conn));
            }
            let mut waiting = match mem::replace(&mut this.state, State::Done) {
                State::Waiting(waiting) => waiting,
                State::Denied(denied) => {
                    this.parts.pool.agent().denied();
                    return Poll::Ready(Err(denied.into()));
                }
                State::Start(_) | State::Done => {
                    panic!("CheckoutFuture polled after it was ready");
                }
            };
            let clock = &this.parts.pool.config().clock;
            match waiting.poll(clock, cx) {
                Step::Connection(pooled) => {
                    waiting.waiter = None;
                    waiting.leave_connect_behind();
                    let now = clock.now();
                    let waited = waiting.handed_over.then(|| now.since(waiting.since));
                    return Poll::Ready(Ok(this.served(pooled, now, waited)));
                }
                Step::Made(mut pooled) => {
                    pooled.connection().lifespan_mut().check_out(None);
                    this.parts.pool.agent().used_first();
                    return Poll::Ready(Ok(this.serve(pooled, waiting.waited)));
                }
                Step::Make(permit) => {
                    let now = clock.now();
                    waiting.waited = Some(now.since(waiting.since));
                    let target = waiting.target.take().expect("kept until a connect begins");
                    waiting.queue_timeout = None;
                    let waiter = waiting.waiter.as_ref().expect("it was its turn");
                    waiting.connect = Some(this.connect(permit, waiter, target));
                    this.state = State::Waiting(waiting);
                }
                Step::Again(rejected) => {
                    this.state = State::Start(Start {
                        target: waiting.target.take(),
                        rejected: Some(rejected),
                        before: Some(waiting),
                    });
                }
                Step::Failed(error) => {
                    // A caller that was not polled asks again, so it does not count as denied.
                    if !matches!(error, CheckoutError::Denied(Denied::NotPolled(_))) {
                        this.parts.pool.agent().denied();
                    }
                    return Poll::Ready(Err(error));
                }
                Step::Pending => {
                    this.state = State::Waiting(waiting);
                    return Poll::Pending;
                }
            }
        }
    }
}

/// No field is structurally pinned.
impl<M, T, C> Unpin for CheckoutFuture<M, T, C> where C: Poolable {}

impl<M, T, C> fmt::Debug for CheckoutFuture<M, T, C>
where
    C: Poolable,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckoutFuture")
    }
}
