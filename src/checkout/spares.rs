//! Connections made ahead of the requests that will use them: spare ones, and those that spread the load of shared ones.

use std::any::Any;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::agent::{Prewarm, Spare};
use crate::connection::poolable::Poolable;
use crate::pool::{KeyPool, Spares, SparesTask};
use crate::target::{Destination, Reuse};

/// Between two rounds that make connections: twice as long each time that one has failed, or that there are still not enough
/// although no caller came.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A connect of this key begins: from now on there is a task that keeps spare connections ready, or makes those that spread the
/// load, if that is wanted.
pub(super) fn begin<C: Poolable>(
    key_pool: &KeyPool<C>,
    maker: Option<Weak<dyn Prewarm>>,
    target: &dyn Any,
) {
    let Some(spares) = key_pool.spares() else {
        return;
    };
    let Some(target) = target.downcast_ref::<Destination>() else {
        return;
    };
    let (Some(maker), Ok(runtime)) = (maker, Handle::try_current()) else {
        return;
    };
    if let Some(task) = spares.clone().task() {
        let mut target = target.clone();
        // Any caller may use a spare connection.
        target.set_reuse(Reuse::Any);
        runtime.spawn(run(task, spares, maker, target));
    }
}

/// A connect that comes while the task ends finds the task, and begins no other. So the task looks once more after its end.
async fn run(
    mut task: SparesTask,
    spares: Arc<Spares>,
    maker: Weak<dyn Prewarm>,
    target: Destination,
) {
    loop {
        keep(task, maker.clone(), target.clone()).await;
        if !are_wanted(&spares, &maker, &target) {
            return;
        }
        match spares.clone().task() {
            Some(next) => task = next,
            None => return,
        }
    }
}

/// Whether the key is in use.
fn are_wanted(spares: &Spares, maker: &Weak<dyn Prewarm>, target: &Destination) -> bool {
    let is_used = || {
        let until = spares.in_use_until();
        until.is_none_or(|until| until > Instant::now())
    };
    maker.upgrade().is_some_and(|it| it.has_key(target)) && is_used()
}

/// Keeps connections idle, and spreads the load beside that: a connect that spreads it may take long, since its address may not
/// answer, and no spare connection waits for it.
async fn keep(task: SparesTask, maker: Weak<dyn Prewarm>, target: Destination) {
    let spares = task.spares();
    let mut keeps = pin!(keep_idle(spares, &maker, &target));
    let mut spreads = pin!(spread_load(spares, &maker, &target));
    poll_fn(|cx| {
        // Where a limit leaves room for one, it is a spare one.
        let keeps = keeps.as_mut().poll(cx);
        if keeps.is_pending() {
            let _: Poll<Infallible> = spreads.as_mut().poll(cx);
        }
        keeps
    })
    .await;
}

/// Ends when the key is not in use any more, when the agent is shut down, and when its last service is gone. Where no connections
/// are kept idle, a key is in use while it has connections.
async fn keep_idle(spares: &Spares, maker: &Weak<dyn Prewarm>, target: &Destination) {
    let mut pause = FIRST_PAUSE;
    let mut was_in_use_until = None;
    loop {
        let in_use_until = spares.in_use_until();
        if in_use_until.is_some_and(|until| until <= Instant::now()) {
            return;
        }
        let Some(service) = maker.upgrade() else {
            return;
        };
        let keeps_idle = in_use_until.is_some();
        let made = service.make_spare(target.clone(), keeps_idle).await;
        match made {
            Spare::Over => return,
            Spare::Enough(until) => {
                pause = FIRST_PAUSE;
                match until.into_iter().chain(in_use_until).min() {
                    // Either way there is a reason to look again.
                    Some(until) => drop(timeout_at(until, spares.short()).await),
                    None => spares.short().await,
                }
            }
            Spare::Made | Spare::Failed => {
                // If callers came meanwhile, they have taken those that were made before.
                if matches!(made, Spare::Made) && was_in_use_until != in_use_until {
                    pause = FIRST_PAUSE;
                }
                was_in_use_until = in_use_until;
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// Makes a connection to each address that needs one, one after the other. It ends with the spare connections.
async fn spread_load(
    spares: &Spares,
    maker: &Weak<dyn Prewarm>,
    target: &Destination,
) -> Infallible {
    let mut pause = FIRST_PAUSE;
    loop {
        let made = match maker.upgrade() {
            Some(service) => service.make_to_spread(target.clone()).await,
            None => Spare::Over,
        };
        match made {
            // The next address may need one too.
            Spare::Made => pause = FIRST_PAUSE,
            Spare::Failed => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            Spare::Enough(_) | Spare::Over => {
                pause = FIRST_PAUSE;
                spares.narrow().await;
            }
        }
    }
}

#[cfg(all(test, not(tower_keep_alive_loom)))]
mod tests {
    use std::future::ready;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::Uri;
    use tokio::task::yield_now;

    use super::*;
    use crate::agent::{MakingSpare, Prewarming};

    /// A key that is retired when its task looks for the first time.
    struct Service {
        spares: Arc<Spares>,
        /// A connect makes the key again before the task has ended.
        is_back: bool,
        asked: AtomicUsize,
    }

    impl Service {
        fn new(keeps_idle: bool, is_back: bool) -> Arc<Self> {
            Arc::new(Self {
                spares: Arc::new(Spares::new(keeps_idle)),
                is_back,
                asked: AtomicUsize::new(0),
            })
        }

        fn run(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
            let task = self.spares.clone().task().expect("it is the first");
            let maker: Weak<dyn Prewarm> = Arc::<Self>::downgrade(self);
            let uri = Uri::from_static("http://host.test/");
            let target = Destination::try_from(uri).expect("it has a host");
            run(task, self.spares.clone(), maker, target)
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        fn has_task(&self) -> bool {
            self.spares.clone().task().is_none()
        }
    }

    impl Prewarm for Service {
        fn prewarm(self: Arc<Self>, _: Destination, _: usize) -> Prewarming {
            unreachable!("it was not asked for")
        }

        fn make_spare(self: Arc<Self>, _: Destination, _: bool) -> MakingSpare {
            Box::pin(async move {
                match self.asked.fetch_add(1, Ordering::SeqCst) {
                    0 => {
                        assert!(self.has_task(), "the connect begins no other");
                        Spare::Over
                    }
                    _ => Spare::Enough(None),
                }
            })
        }

        fn make_to_spread(self: Arc<Self>, _: Destination) -> MakingSpare {
            Box::pin(ready(Spare::Enough(None)))
        }

        fn has_key(&self, _: &Destination) -> bool {
            self.is_back
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_that_is_made_again_while_its_task_ends_has_a_task() {
        let service = Service::new(false, true);
        let run = tokio::spawn(service.run());
        yield_now().await;
        assert_eq!(service.asked(), 2);
        assert!(service.has_task() && !run.is_finished());
        run.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn the_task_ends_where_the_key_is_gone_or_not_in_use() {
        let gone = Service::new(false, false);
        gone.run().await;
        assert_eq!(gone.asked(), 1);
        assert!(!gone.has_task());
        let unused = Service::new(true, true);
        tokio::time::advance(Duration::from_secs(300)).await;
        unused.run().await;
        assert_eq!(unused.asked(), 0);
        assert!(!unused.has_task());
    }
}
