//! A connect under way.

use std::future::{Future, poll_fn};
use std::panic;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, TryLockError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::Instant;
use tower_service::Service;

use crate::checkout::span::CheckoutSpan;
use crate::connect::resolving::Resolving;
use crate::connect::side_by_side::SideBySide;
use crate::connect::{choice, deadline};
use crate::connection::close_reason::CloseReason;
use crate::connection::poolable::Poolable;
use crate::error::connect::ConnectError;
use crate::error::{BoxError, CheckoutError, Denied};
use crate::pool::{Choice, ConnPermit, KeyPool, PooledConn, Stop, WaiterId};

/// A connect under way, with its permit. The caller polls it once, which is enough for a connect that completes at
/// once; then it runs in a task of its own, so that it goes on when the caller is not polled, and leaves its connection
/// in the queue for the caller.
///
/// Dropping it cancels the connect.
pub(super) struct Connect<C: Poolable> {
    job: Arc<Job<C>>,
    key_pool: Arc<KeyPool<C>>,
    index: usize,
    /// The caller that the connect is for; `None` if it is for the pool.
    waiter_id: Option<WaiterId>,
    limit: Duration,
    /// The task, once there is one. It resolves to the error if the connect failed.
    task: Option<JoinHandle<Option<CheckoutError>>>,
    span: CheckoutSpan,
    /// The connect goes on when this is dropped.
    is_left: bool,
}

/// How a connect ended.
pub(super) enum Ended<C: Poolable> {
    /// The connection goes straight to the caller.
    Made(Box<PooledConn<C>>),
    /// The connection was left in the queue for the caller, or in the pool.
    Delivered,
    Failed(CheckoutError),
}

/// The work of a connect, behind a lock, so that the pool can take it away from a task that is not polled.
struct Job<C: Poolable> {
    work: Mutex<Option<Work<C>>>,
    is_stopped: AtomicBool,
    /// Whether the connect has learned that further connects should be made side by side.
    side_by_side: SideBySide,
    key_pool: Arc<KeyPool<C>>,
    /// Ends together with the work, whoever ends it.
    task: OnceLock<AbortHandle>,
}

struct Work<C: Poolable> {
    waiter_id: Option<WaiterId>,
    /// Dropped before the permit, so that a transport is gone when its permit passes on.
    future: Pin<Box<dyn Future<Output = Made<C>> + Send>>,
    permit: ConnPermit<C>,
    /// Dropped after the permit: it counts at its address until the connection does.
    choice: Option<Arc<Choice>>,
    begun: Instant,
}

/// What comes of a connect; or why there is no connection, and the reason that is counted.
type Made<C> = Result<C, (CheckoutError, CloseReason)>;

/// How long after the connect timeout the pool cancels a connect whose own timer does not run.
const GRACE: Duration = Duration::from_millis(50);

impl<C: Poolable> Connect<C> {
    /// Begins a connect to an address of `choice`; the time counts from here. `limit` includes the wait until `maker` is ready.
    pub(super) fn begin<M, T>(
        mut permit: ConnPermit<C>,
        waiter_id: Option<WaiterId>,
        choice: Option<Arc<Choice>>,
        mut maker: M,
        target: T,
        limit: Duration,
        span: CheckoutSpan,
    ) -> Self
    where
        M: Service<T, Response = C> + Send + 'static,
        M::Future: Send,
        M::Error: Into<BoxError>,
        T: Send + 'static,
    {
        let begun = permit.begin();
        let make = async move {
            poll_fn(|cx| maker.poll_ready(cx)).await?;
            maker.call(target).await
        };
        let make = choice::by(choice.clone(), make);
        let side_by_side = SideBySide::default();
        let make = side_by_side.scope(make);
        let make = deadline::until(begun.checked_add(limit), make);
        let resolving = Resolving::default();
        let make = resolving.scope(make);
        let future = Box::pin(async move {
            let mut made = pin!(tokio::time::timeout(limit, make));
            match made.as_mut().await {
                Ok(made) => made.map_err(|error: M::Error| {
                    (CheckoutError::Connect(error.into()), CloseReason::Connect)
                }),
                // Its lookup, if there is one, is dropped after this.
                Err(_) => Err((given_up(&resolving, limit), CloseReason::ConnectTimeout)),
            }
        });
        Self {
            key_pool: permit.key_pool().clone(),
            index: permit.index(),
            job: Arc::new(Job {
                key_pool: permit.key_pool().clone(),
                side_by_side,
                work: Mutex::new(Some(Work {
                    waiter_id,
                    future,
                    permit,
                    choice,
                    begun,
                })),
                is_stopped: AtomicBool::new(false),
                task: OnceLock::new(),
            }),
            waiter_id,
            limit,
            task: None,
            span,
            is_left: false,
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Ended<C>> {
        if let Some(task) = &mut self.task {
            return Poll::Ready(match ready!(Pin::new(task).poll(cx)) {
                Ok(None) => Ended::Delivered,
                Ok(Some(error)) => Ended::Failed(error),
                Err(failed) => match failed.try_into_panic() {
                    Ok(panic) => panic::resume_unwind(panic),
                    // The pool has cancelled the connect, or the task's runtime is gone.
                    Err(_) => Ended::Failed(Denied::ConnectTimeout(self.limit).into()),
                },
            });
        }
        if let Poll::Ready(made) = self.job.poll(cx) {
            return Poll::Ready(match made {
                Some(Ok(pooled)) => Ended::Made(pooled),
                Some(Err(error)) => Ended::Failed(error),
                None => Ended::Failed(Denied::ConnectTimeout(self.limit).into()),
            });
        }
        let Ok(runtime) = Handle::try_current() else {
            return Poll::Pending;
        };
        self.spawn(&runtime);
        // Registers the waker with the task.
        self.poll(cx)
    }

    /// Spawns the task. It ends with the connect, which is bounded by the connect timeout, or with the pool.
    fn spawn(&mut self, runtime: &Handle) {
        let stop = self.stop();
        let due = self.limit.checked_add(GRACE);
        let due = due.and_then(|it| Instant::now().checked_add(it));
        self.key_pool.set_connecting(self.index, stop, due);
        let (job, key_pool, waiter_id) = (self.job.clone(), self.key_pool.clone(), self.waiter_id);
        let limit = self.limit;
        let ends = EndsWithTask(job.clone());
        // Stays in the span of the caller that began it, whichever caller is served by it.
        let span = self.span.clone();
        let task = runtime.spawn(async move {
            let _ends = ends;
            let made = poll_fn(|cx| span.within(|| job.poll(cx))).await;
            let Some(made) = made else {
                // The pool has cancelled it because it took too long. The caller gets this error if it still waits.
                return Some(Denied::ConnectTimeout(limit).into());
            };
            match made {
                Ok(pooled) => {
                    match waiter_id {
                        Some(waiter_id) => key_pool.deliver(waiter_id, pooled),
                        None => pooled.give_back(),
                    }
                    None
                }
                // The failure was counted. Without its caller, nobody gets the error.
                Err(error) => Some(error),
            }
        });
        let _ = self.job.task.set(task.abort_handle());
        self.task = Some(task);
    }

    /// Goes on without the caller, for the next caller in the queue or for the pool. Without a runtime it is cancelled.
    pub(super) fn leave_behind(mut self) {
        if self.task.is_none() {
            let Ok(runtime) = Handle::try_current() else {
                return;
            };
            self.spawn(&runtime);
        }
        self.is_left = self.key_pool.leave_connecting(self.index, &self.stop());
    }

    fn stop(&self) -> Weak<dyn Stop> {
        Arc::downgrade(&(self.job.clone() as Arc<dyn Stop>))
    }

    pub(super) fn key_pool(&self) -> &Arc<KeyPool<C>> {
        &self.key_pool
    }
}

/// Drops the permit when the task ends before its connect does: by a panic of the connector, or with its runtime.
struct EndsWithTask<C: Poolable>(Arc<Job<C>>);

impl<C: Poolable> Drop for EndsWithTask<C> {
    fn drop(&mut self) {
        self.0.take(CloseReason::Connect);
    }
}

impl<C: Poolable> Drop for Connect<C> {
    fn drop(&mut self) {
        if !self.is_left {
            self.job.stop(CloseReason::Cancelled);
        }
    }
}

impl<C: Poolable> Job<C> {
    /// `None`: the connect was cancelled.
    fn poll(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Box<PooledConn<C>>, CheckoutError>>> {
        let mut held = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(work) = &mut *held else {
            return Poll::Ready(None);
        };
        let polled = work.future.as_mut().poll(cx);
        let Poll::Ready(made) = polled else {
            drop(held);
            if self.side_by_side.take() {
                self.key_pool.go_side_by_side();
            }
            // A `stop` during this poll could not take the work, so it is done here.
            if self.is_stopped.load(Ordering::SeqCst) {
                self.take(CloseReason::Cancelled);
                return Poll::Ready(None);
            }
            return Poll::Pending;
        };
        let work = held.take();
        // Filling or failing the permit may call this job again.
        drop(held);
        let Work {
            waiter_id,
            future,
            permit,
            choice,
            begun,
        } = work.expect("polled above");
        drop(future);
        Poll::Ready(Some(match made {
            Ok(conn) => Ok(permit.fill_for(waiter_id, conn, begun)),
            Err((error, reason)) => {
                if let Some(choice) = &choice {
                    choice.failed();
                }
                permit.fail(reason);
                Err(error)
            }
        }))
    }

    /// Cancels the connect, unless it is being polled.
    fn take(&self, reason: CloseReason) {
        let work = match self.work.try_lock() {
            Ok(mut held) => held.take(),
            Err(TryLockError::Poisoned(held)) => held.into_inner().take(),
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(Work { future, permit, .. }) = work {
            if let Some(task) = self.task.get() {
                task.abort();
            }
            drop(future);
            permit.fail(reason);
        }
    }
}

/// The error of a connect that takes too long.
#[cold]
fn given_up(resolving: &Resolving, limit: Duration) -> CheckoutError {
    match resolving.host() {
        Some(host) => CheckoutError::Connect(ConnectError::unresolved(host, limit).into()),
        None => Denied::ConnectTimeout(limit).into(),
    }
}

impl<C: Poolable> Stop for Job<C> {
    fn stop(&self, reason: CloseReason) {
        // A connect that is being polled at its deadline is not stuck, so it is left alone.
        if reason == CloseReason::Cancelled {
            self.is_stopped.store(true, Ordering::SeqCst);
        }
        self.take(reason);
    }
}

#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests {
    use std::future::pending;

    use http::Uri;

    use super::*;
    use crate::clock::Moment;
    use crate::connection::lifespan::Lifespan;
    use crate::pool::{CheckoutRequest, Decision, Pool, PoolConfig};
    use crate::target::Target;

    struct Conn(Lifespan);

    impl Poolable for Conn {
        fn is_open(&self) -> bool {
            true
        }

        fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
            Poll::Ready(())
        }

        fn lifespan(&self) -> &Lifespan {
            &self.0
        }

        fn lifespan_mut(&mut self) -> &mut Lifespan {
            &mut self.0
        }
    }

    /// The pool may give a connect up in the moment in which its task runs, and cannot abort that then.
    #[tokio::test]
    async fn a_connect_that_the_pool_has_given_up_fails_its_caller() {
        let pool: Pool<Conn> = Pool::new(PoolConfig::new());
        let target = Uri::from_static("http://a/");
        let request = CheckoutRequest::from_target(&target);
        let decision = pool.checkout(&target.key(), request, None, Moment::now());
        let Decision::Make(permit, waiter) = decision else {
            panic!("nothing is open");
        };
        let maker = tower::service_fn(|_: Uri| pending::<Result<Conn, BoxError>>());
        let limit = Duration::from_secs(8);
        let span = CheckoutSpan::begin(&target, pool.agent());
        let waiter_id = Some(waiter.waiter_id());
        let mut connect = Connect::begin(permit, waiter_id, None, maker, target, limit, span);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(connect.poll(&mut cx).is_pending());
        let work = connect
            .job
            .work
            .lock()
            .expect("nobody panics with it")
            .take();
        drop(work);
        let ended = poll_fn(|cx| connect.poll(cx)).await;
        assert!(matches!(
            ended,
            Ended::Failed(CheckoutError::Denied(Denied::ConnectTimeout(it))) if it == limit
        ));
        drop((connect, waiter));
        assert_eq!(pool.handle().status().open(), 0);
    }
}
