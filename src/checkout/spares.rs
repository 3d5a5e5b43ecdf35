//! Spare connections, made ahead of the requests that will use them.

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

/// A connect of this key begins: from now on there is a task that keeps spare connections ready, if that is wanted.
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

/// Ends when the key is not in use any more, when the agent is shut down, and when its last service is gone.
async fn keep(task: SparesTask, maker: Weak<dyn Prewarm>, target: Destination) {
    let spares = task.spares();
    let mut pause = FIRST_PAUSE;
    loop {
        let in_use_until = spares.in_use_until();
        if Instant::now() >= in_use_until {
            return;
        }
        let Some(service) = maker.upgrade() else {
            return;
        };
        match service.make_spare(target.clone()).await {
            Spare::ShutDown => return,
            Spare::Enough(until) => {
                pause = FIRST_PAUSE;
                let until = until.map_or(in_use_until, |until| until.min(in_use_until));
                // Either way there is a reason to look again.
                let _ = timeout_at(until, spares.short()).await;
            }
            Spare::Made => {
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}
