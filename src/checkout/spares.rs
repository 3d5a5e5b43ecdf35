//! Connections made ahead of the requests that will use them: spare ones, and those that spread the load of shared ones.

use std::any::Any;
use std::sync::Weak;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::agent::{Prewarm, Spare};
use crate::connection::poolable::Poolable;
use crate::pool::{KeyPool, SparesTask};
use crate::target::{Destination, Reuse};

/// Between two rounds that make connections: twice as long each time that there are still not enough.
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
    if let Some(task) = spares.task() {
        let mut target = target.clone();
        // Any caller may use a spare connection.
        target.set_reuse(Reuse::Any);
        runtime.spawn(keep(task, maker, target));
    }
}

/// Ends when the key is not in use any more, when the agent is shut down, and when its last service is gone. Where no connections
/// are kept idle, a key is in use while it has connections.
async fn keep(task: SparesTask, maker: Weak<dyn Prewarm>, target: Destination) {
    let spares = task.spares();
    let mut pause = FIRST_PAUSE;
    loop {
        let in_use_until = spares.in_use_until();
        if in_use_until.is_some_and(|until| until <= Instant::now()) {
            return;
        }
        let Some(service) = maker.upgrade() else {
            return;
        };
        let keeps_idle = in_use_until.is_some();
        match service.make_spare(target.clone(), keeps_idle).await {
            Spare::Over => return,
            Spare::Enough(until) => {
                pause = FIRST_PAUSE;
                match until.into_iter().chain(in_use_until).min() {
                    // Either way there is a reason to look again.
                    Some(until) => drop(timeout_at(until, spares.short()).await),
                    None => spares.short().await,
                }
            }
            // The next address may lack one too.
            Spare::Spread => pause = FIRST_PAUSE,
            Spare::Made => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
