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
use crate::checkout::span::Watch;
use crate::clock::{Clock, Moment};
use crate::connection::close_reason::Cause;
use crate::connection::poolable::{Liveness, Poolable};
use crate::error::{BoxError, CheckoutError, Denied};
use crate::pool::{Ask, Berth, Slot, Spoiled, Turn, Verdict, Waiter};
use crate::target::{Reuse, Target};

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
    watch: Watch,
}

enum State<C: Poolable, T> {
    /// Not in line.
    Start(Start<C, T>),
    /// Everything but an idle connection that is found open at once.
    Slow(Box<Slow<C, T>>),
    Done,
}

struct Start<C: Poolable, T> {
    /// Here until it is needed.
    target: Option<T>,
    /// A connection that this caller was given and has no use for.
    spoiled: Option<Spoiled<C>>,
    /// Its wait so far, where it has waited: one clock measures all of a wait.
    before: Option<Box<Slow<C, T>>>,
}

struct Slow<C: Poolable, T> {
    /// Here until a connect begins.
    target: Option<T>,
    /// Whether somebody else could use the connection that it makes.
    shared: bool,
    /// Before the connect: it leaves the line before its slot passes on.
    waiter: Option<Waiter<C>>,
    connect: Option<Connect<C>>,
    vetting: Option<Vetting<C>>,
    /// It began to wait then.
    since: Moment,
    /// How long it waited for what it got, where that was somebody else's connection or a slot.
    waited: Option<Duration>,
    /// It was given a connection in line.
    handed_over: bool,
    /// How long it will stand in line without the right to connect.
    patience: Option<(Duration, Pin<Box<Sleep>>)>,
}

/// A connection that cannot be looked at: the runtime gets two turns to say that it has closed.
struct Vetting<C> {
    berth: Box<Berth<C>>,
    /// Boxed: tokio gives the type no name, and two of them have to be polled one after the other.
    turns: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<C: Poolable, T: Target> State<C, T> {
    /// The first, or that after an idle connection which is not known to be open.
    #[cold]
    fn after(doubtful: Option<(Box<Berth<C>>, Liveness)>, target: T, now: Moment) -> Self {
        match doubtful {
            None => Self::Start(Start::new(target, None)),
            Some((berth, Liveness::Dead)) => {
                let spoiled = Spoiled::new(berth, Cause::Stale);
                Self::Start(Start::new(target, Some(spoiled)))
            }
            Some((berth, _)) => {
                let mut slow = Slow::new(&target, now);
                slow.vetting = Some(Vetting::new(berth));
                slow.target = Some(target);
                Self::Slow(Box::new(slow))
            }
        }
    }
}

impl<C: Poolable, T> Start<C, T> {
    #[inline]
    fn new(target: T, spoiled: Option<Spoiled<C>>) -> Self {
        Self {
            target: Some(target),
            spoiled,
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
            watch: Watch::begin(&target),
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
    pub(super) fn at_once(parts: &Arc<Parts<M, C>>, target: &T) -> Result<Box<Berth<C>>, Self>
    where
        T: Clone,
    {
        let watch = Watch::begin(target);
        let now = parts.pool.limits().clock.now();
        let picked = watch.within(|| {
            let Some(mut berth) = parts.pool.pick(&target.key(), &Ask::of(target), now) else {
                return Err(None);
            };
            match berth.connection().probe() {
                Liveness::Open => {
                    berth.check_out(now, None);
                    Ok(berth)
                }
                other => Err(Some((berth, other))),
            }
        });
        match picked {
            Ok(berth) => {
                watch.served(berth.connection_ref().lifespan(), Duration::ZERO);
                Ok(berth)
            }
            Err(doubtful) => Err(Self {
                state: State::after(doubtful, target.clone(), now),
                parts: parts.clone(),
                watch,
            }),
        }
    }

    /// An idle connection that is found open at once, or else the state to go on in.
    #[inline]
    fn start(&mut self) -> Result<Option<C>, Denied> {
        let State::Start(start) = &mut self.state else {
            return Ok(None);
        };
        let wanted = start.target.as_ref().expect("kept until it is needed");
        let pool = &self.parts.pool;
        let mut ask = Ask::of(wanted);
        ask.returning |= start.spoiled.is_some();
        loop {
            let now = pool.limits().clock.now();
            match pool.checkout(&wanted.key(), ask, start.spoiled.take(), now) {
                Verdict::Take(mut berth) => match berth.connection().probe() {
                    Liveness::Open => {
                        let before = start.before.as_ref();
                        let waited = before.map(|slow| now.since(slow.since));
                        return Ok(Some(self.served(berth, now, waited)));
                    }
                    Liveness::Dead => {
                        start.spoiled = Some(Spoiled::new(berth, Cause::Stale));
                        ask.returning = true;
                    }
                    Liveness::Unknown => {
                        self.go_slow(Verdict::Take(berth), now)?;
                        return Ok(None);
                    }
                },
                verdict => {
                    self.go_slow(verdict, now)?;
                    return Ok(None);
                }
            }
        }
    }

    #[cold]
    fn go_slow(&mut self, verdict: Verdict<C>, now: Moment) -> Result<(), Denied> {
        let State::Start(start) = mem::replace(&mut self.state, State::Done) else {
            unreachable!("it has just asked");
        };
        let target = start.target.expect("kept until it is needed");
        let mut slow = match start.before {
            Some(mut before) => {
                before.waited = Some(now.since(before.since));
                before
            }
            None => Box::new(Slow::new(&target, now)),
        };
        match verdict {
            Verdict::Take(berth) => {
                slow.vetting = Some(Vetting::new(berth));
                slow.target = Some(target);
            }
            Verdict::Make(slot, waiter) => {
                slow.patience = None;
                slow.connect = Some(self.connect(slot, &waiter, target));
                slow.waiter = Some(waiter);
            }
            Verdict::Wait(waiter) => {
                if let Some(limit) = target.connect_timeout() {
                    waiter.set_connect_timeout(limit);
                }
                slow.waiter = Some(waiter);
                slow.target = Some(target);
                let limit = self.parts.pool.limits().checkout_timeout;
                if limit != Duration::MAX && slow.patience.is_none() {
                    let spent = now.mono.saturating_duration_since(slow.since.mono);
                    let sleep = tokio::time::sleep(limit.saturating_sub(spent));
                    slow.patience = Some((limit, Box::pin(sleep)));
                }
            }
            Verdict::QueueFull(limit) => return Err(Denied::QueueFull(limit)),
            Verdict::ShutDown => return Err(Denied::ShutDown),
        }
        self.state = State::Slow(slow);
        Ok(())
    }

    fn connect(&self, slot: Slot<C>, waiter: &Waiter<C>, target: T) -> Connect<C> {
        let limits = self.parts.pool.limits();
        let limit = target.connect_timeout().unwrap_or(limits.connect_timeout);
        Connect::begin(
            slot,
            Some(waiter.whom()),
            self.parts.maker.clone(),
            target,
            limit,
            self.watch.clone(),
        )
    }

    /// With a connection that was not made for this caller, and for which it stood in line for so long.
    #[inline]
    fn served(&self, mut berth: Box<Berth<C>>, now: Moment, waited: Option<Duration>) -> C {
        berth.check_out(now, waited);
        self.serve(berth, waited)
    }

    #[inline]
    fn serve(&self, berth: Box<Berth<C>>, waited: Option<Duration>) -> C {
        let conn = berth.into_connection();
        let lifespan = conn.lifespan();
        let waited = waited.unwrap_or_default();
        self.watch.served(lifespan, waited);
        conn
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
    type Output = Result<C, CheckoutError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let watch = this.watch.clone();
        watch.within(|| this.poll_within(cx))
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
    fn poll_within(&mut self, cx: &mut Context<'_>) -> Poll<Result<C, CheckoutError>> {
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
                        return Poll::Ready(Err(CheckoutError::Denied(denied)));
                    }
                }
            }
            let State::Slow(mut slow) = mem::replace(&mut this.state, State::Done) else {
                panic!("CheckoutFuture polled after it was ready");
            };
            let clock = &this.parts.pool.limits().clock;
            match slow.poll(clock, cx) {
                Step::Connection(berth) => {
                    slow.waiter = None;
                    slow.leave_connect_behind();
                    let now = clock.now();
                    let waited = slow.handed_over.then(|| now.since(slow.since));
                    return Poll::Ready(Ok(this.served(berth, now, waited)));
                }
                Step::Made(mut berth) => {
                    berth.connection().lifespan_mut().check_out(None);
                    return Poll::Ready(Ok(this.serve(berth, slow.waited)));
                }
                Step::Make(slot) => {
                    let now = clock.now();
                    slow.waited = Some(now.since(slow.since));
                    let target = slow.target.take().expect("kept until a connect begins");
                    slow.patience = None;
                    let waiter = slow.waiter.as_ref().expect("it was its turn");
                    slow.connect = Some(this.connect(slot, waiter, target));
                    this.state = State::Slow(slow);
                }
                Step::Again(spoiled) => {
                    this.state = State::Start(Start {
                        target: slow.target.take(),
                        spoiled: Some(spoiled),
                        before: Some(slow),
                    });
                }
                Step::Failed(error) => return Poll::Ready(Err(error)),
                Step::Pending => {
                    this.state = State::Slow(slow);
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
    Connection(Box<Berth<C>>),
    /// Its own.
    Made(Box<Berth<C>>),
    Make(Slot<C>),
    /// It has no use for what it was given: from the start, at the head of the line.
    Again(Spoiled<C>),
    Failed(CheckoutError),
}

impl<C: Poolable, T> Slow<C, T> {
    fn new(target: &T, now: Moment) -> Self
    where
        T: Target,
    {
        Self {
            shared: target.reuse() != Reuse::Never,
            target: None,
            waiter: None,
            connect: None,
            vetting: None,
            since: match target.waiting_since() {
                Some(since) => now.earlier(since.elapsed()),
                None => now,
            },
            waited: None,
            handed_over: false,
            patience: None,
        }
    }

    #[inline]
    fn poll(&mut self, clock: &Clock, cx: &mut Context<'_>) -> Step<C> {
        let mut delivered = false;
        loop {
            if let Some(vetting) = &mut self.vetting {
                if vetting.turns.as_mut().poll(cx).is_pending() {
                    return Step::Pending;
                }
                let Some(Vetting { berth, .. }) = self.vetting.take() else {
                    continue;
                };
                let Some(cause) = berth.is_over(clock.now()) else {
                    return Step::Connection(berth);
                };
                if let Some(again) = self.without(Spoiled::new(berth, cause)) {
                    return again;
                }
            }
            match self.waiter.as_mut().map(|waiter| waiter.poll_turn(cx)) {
                Some(Poll::Ready(Turn::Made(berth))) => {
                    self.waiter = None;
                    self.connect = None;
                    return Step::Made(berth);
                }
                Some(Poll::Ready(Turn::Connection(mut berth))) => {
                    self.handed_over = true;
                    // It may have lain there for long: a caller comes for it when its runtime has time.
                    let cause = match berth.is_over(clock.now()) {
                        Some(cause) => cause,
                        None => match berth.connection().probe() {
                            Liveness::Open => return Step::Connection(berth),
                            Liveness::Unknown => {
                                self.vetting = Some(Vetting::new(berth));
                                continue;
                            }
                            Liveness::Dead => Cause::Stale,
                        },
                    };
                    if let Some(again) = self.without(Spoiled::new(berth, cause)) {
                        return again;
                    }
                    continue;
                }
                Some(Poll::Ready(Turn::Make(slot))) => return Step::Make(slot),
                Some(Poll::Ready(Turn::Refused)) => {
                    return Step::Failed(Denied::ShutDown.into());
                }
                Some(Poll::Ready(Turn::Lost)) => {
                    return Step::Failed(Denied::NotPolled.into());
                }
                Some(Poll::Ready(Turn::Stuck(time))) => {
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
                    Ended::Made(berth) => return Step::Made(berth),
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
                return Step::Failed(Denied::NotPolled.into());
            }
            if let Some((limit, patience)) = &mut self.patience
                && patience.as_mut().poll(cx).is_ready()
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

impl<C: Poolable, T> Slow<C, T> {
    /// It has no use for what it was given. Its own connect goes on, back in line; without one it starts again.
    fn without(&mut self, spoiled: Spoiled<C>) -> Option<Step<C>> {
        match &mut self.waiter {
            Some(waiter) if self.connect.is_some() => {
                waiter.line_up_again(spoiled);
                None
            }
            _ => {
                self.waiter = None;
                Some(Step::Again(spoiled))
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

impl<C: Poolable, T> Drop for Slow<C, T> {
    fn drop(&mut self) {
        // Out of line first, so as not to be counted among those whom the connect would serve.
        self.waiter = None;
        if let Some(Vetting { berth, .. }) = self.vetting.take() {
            berth.give_back_unused();
        }
        if let Some(connect) = self.connect.take()
            && self.shared
            && !std::thread::panicking()
            && connect.home().has_takers()
        {
            connect.leave_behind();
        }
    }
}

impl<C> Vetting<C> {
    #[inline]
    fn new(berth: Box<Berth<C>>) -> Self {
        Self {
            berth,
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
