use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;
use tower_service::Service;

use crate::checkout::connect::{Connect, Ended};
use crate::checkout::service::Parts;
use crate::checkout::span::CheckoutSpan;
use crate::clock::{Clock, Moment};
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::{Liveness, Poolable};
use crate::error::{BoxError, CheckoutError, Denied};
use crate::pool::{
    CheckedOut, CheckoutRequest, ConnPermit, Decision, Pool, PooledConn, Rejected, WaitOutcome,
    Waiter,
};
use crate::target::{Internal, Reuse, Target};

/// Resolves to a connection.
///
/// # Cancel safety
///
/// Dropping it loses the place in line, and nothing else: what was given to it in the meantime passes to the next, and
/// a connect under way goes on if somebody waits whom it would serve.
pub struct CheckoutFuture<M, T, C>
where
    C: Poolable,
{
    parts: Arc<Parts<M, C>>,
    state: State<C, T>,
    span: CheckoutSpan,
}

enum State<C: Poolable, T> {
    /// Not in line.
    Start(Start<C, T>),
    /// Everything but an idle connection that is found open at once.
    Waiting(Box<Waiting<C, T>>),
    Done,
}

struct Start<C: Poolable, T> {
    /// Here until it is needed.
    target: Option<T>,
    /// A connection that this caller was given and has no use for.
    rejected: Option<Rejected<C>>,
    /// Its wait so far, where it has waited: one clock measures all of a wait.
    before: Option<Box<Waiting<C, T>>>,
}

struct Waiting<C: Poolable, T> {
    /// Here until a connect begins.
    target: Option<T>,
    /// Whether somebody else could use the connection that it makes.
    shared: bool,
    /// Before the connect: it leaves the line before its permit passes on.
    waiter: Option<Waiter<C>>,
    connect: Option<Connect<C>>,
    idle_check: Option<IdleCheck>,
    /// It began to wait then.
    since: Moment,
    /// How long it had waited before, where this is not the first try.
    waited_before: Duration,
    /// How long it waited for what it got, where that was somebody else's connection or a permit.
    waited: Option<Duration>,
    /// It was given a connection in line.
    handed_over: bool,
    /// How long it will stand in line without the right to connect.
    queue_timeout: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// A connection that cannot be looked at: the runtime gets two turns to say that it has closed. Meanwhile it lies in the line,
/// as what is handed over does, and is taken back from a caller who is not polled.
struct IdleCheck {
    /// The connection's number.
    id: u64,
    /// Boxed: tokio gives the type no name, and two of them have to be polled one after the other.
    turns: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<C: Poolable, T: Target> State<C, T> {
    /// The first, or that after an idle connection which is not known to be open.
    #[cold]
    fn after(
        pool: &Pool<C>,
        doubtful: Option<(Box<PooledConn<C>>, Liveness)>,
        target: T,
        now: Moment,
    ) -> Self {
        match doubtful {
            None => Self::Start(Start::new(target, None)),
            Some((pooled, Liveness::Dead)) => {
                let rejected = Rejected::new(pooled, CloseReason::Stale);
                Self::Start(Start::new(target, Some(rejected)))
            }
            Some((pooled, _)) => {
                let mut waiting = Waiting::new(&target, now);
                waiting.check(pool, pooled, &target, now);
                waiting.target = Some(target);
                Self::Waiting(Box::new(waiting))
            }
        }
    }
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
    /// An idle connection that is found open at once, or else the future that will have one.
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
        let picked = span.within(|| {
            let Some(mut pooled) =
                parts
                    .pool
                    .pop_idle(&target.key(), &CheckoutRequest::from_target(target), now)
            else {
                return Err(None);
            };
            match pooled.connection().probe() {
                Liveness::Open => {
                    pooled.check_out(now, None);
                    Ok(pooled)
                }
                other => Err(Some((pooled, other))),
            }
        });
        match picked {
            Ok(pooled) => {
                span.served(&pooled, Duration::ZERO);
                Ok(pooled)
            }
            Err(doubtful) => Err(Self {
                state: State::after(&parts.pool, doubtful, target.clone(), now),
                parts: parts.clone(),
                span,
            }),
        }
    }

    /// An idle connection that is found open at once, or else the state to go on in.
    #[inline]
    fn start(&mut self) -> Result<Option<CheckedOut<C>>, Denied> {
        let State::Start(start) = &mut self.state else {
            return Ok(None);
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
                        return Ok(Some(self.served(pooled, now, waited)));
                    }
                    Liveness::Dead => {
                        start.rejected = Some(Rejected::new(pooled, CloseReason::Stale));
                        request.is_retry = true;
                    }
                    Liveness::Unknown => {
                        self.start_waiting(Decision::Take(pooled), now)?;
                        return Ok(None);
                    }
                },
                decision => {
                    self.start_waiting(decision, now)?;
                    return Ok(None);
                }
            }
        }
    }

    #[cold]
    fn start_waiting(&mut self, decision: Decision<C>, now: Moment) -> Result<(), Denied> {
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
            Decision::QueueFull(limit) => return Err(Denied::QueueFull(limit)),
            Decision::ShutDown => return Err(Denied::ShutDown),
        }
        self.state = State::Waiting(waiting);
        Ok(())
    }

    fn connect(&self, permit: ConnPermit<C>, waiter: &Waiter<C>, target: T) -> Connect<C> {
        let config = waiter.config();
        let limit = target.connect_timeout().unwrap_or(config.connect_timeout);
        Connect::begin(
            permit,
            Some(waiter.waiter_id()),
            self.parts.maker.clone(),
            target,
            limit,
            self.span.clone(),
        )
    }

    /// With a connection that was not made for this caller, and for which it stood in line for so long.
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
            if matches!(this.state, State::Start(_)) {
                match this.start() {
                    Ok(None) => {}
                    Ok(Some(conn)) => {
                        this.state = State::Done;
                        return Poll::Ready(Ok(conn));
                    }
                    Err(denied) => {
                        this.state = State::Done;
                        this.parts.pool.agent().denied();
                        return Poll::Ready(Err(CheckoutError::Denied(denied)));
                    }
                }
            }
            let State::Waiting(mut waiting) = mem::replace(&mut this.state, State::Done) else {
                panic!("CheckoutFuture polled after it was ready");
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
                    // Who was not polled asks again.
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

/// What one poll of the slow way came to.
enum Step<C: Poolable> {
    Pending,
    /// Somebody else's.
    Connection(Box<PooledConn<C>>),
    /// Its own.
    Made(Box<PooledConn<C>>),
    Make(ConnPermit<C>),
    /// It has no use for what it was given: from the start, at the head of the line.
    Again(Rejected<C>),
    Failed(CheckoutError),
}

impl<C: Poolable, T> Waiting<C, T> {
    fn new(target: &T, now: Moment) -> Self
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
    fn poll(&mut self, clock: &Clock, cx: &mut Context<'_>) -> Step<C> {
        let mut delivered = false;
        loop {
            // The connection that was looked at for two turns, if it is still there now.
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
                    if pooled.has_lain_since_made(clock.now())
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
                    // It may have lain there for long: a caller comes for it when its runtime has time.
                    let reason = match pooled.is_over(clock.now()) {
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
                    // To be found in the line, if it was not taken back.
                    Ended::Delivered => {
                        delivered = true;
                        continue;
                    }
                    Ended::Failed(error) => return Step::Failed(error),
                }
            }
            if delivered {
                // What was made went to another caller, and no connect is under way that could end this wait.
                return self.not_polled();
            }
            if let Some((limit, queue_timeout)) = &mut self.queue_timeout
                && queue_timeout.as_mut().poll(cx).is_ready()
            {
                // Out of line first: what it is given from here on is the next one's.
                self.waiter = None;
                let limit = *limit;
                return Step::Failed(CheckoutError::Denied(Denied::CheckoutTimeout(limit)));
            }
            return Step::Pending;
        }
    }
}

impl<C: Poolable, T: Target> Waiting<C, T> {
    /// Gives an idle connection that cannot be looked at two turns, in line.
    fn check(&mut self, pool: &Pool<C>, pooled: Box<PooledConn<C>>, target: &T, now: Moment) {
        self.idle_check = Some(IdleCheck::new(pooled.id()));
        let waiter = pool.leave(pooled, CheckoutRequest::from_target(target), now);
        self.queue(waiter, target, now);
    }

    /// In line, for as long as it may wait.
    fn queue(&mut self, waiter: Waiter<C>, target: &T, now: Moment) {
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
    /// What was made for it went to another caller.
    fn not_polled(&self) -> Step<C> {
        let waited = self.waited.unwrap_or(self.waited_before);
        Step::Failed(Denied::NotPolled(waited).into())
    }

    /// It has no use for what it was given. Its own connect goes on, back in line; without one it starts again.
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

    /// It found something better than what it is making: that is for the pool.
    fn leave_connect_behind(&mut self) {
        if let Some(connect) = self.connect.take() {
            connect.leave_behind();
        }
    }
}

impl<C: Poolable, T> Drop for Waiting<C, T> {
    fn drop(&mut self) {
        // Out of line first, so as not to be counted among those whom the connect would serve.
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

/// Nothing in it is pinned in place.
impl<M, T, C> Unpin for CheckoutFuture<M, T, C> where C: Poolable {}

impl<M, T, C> fmt::Debug for CheckoutFuture<M, T, C>
where
    C: Poolable,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckoutFuture")
    }
}
