//! The limit of a connection's age, as it is put on one.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use crate::clock::Moment;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;

/// How old a connection may become.
#[derive(Clone, Copy, Debug)]
pub(super) struct Age {
    pub(super) max: Duration,
    pub(super) jitter: f64,
    pub(super) hard: bool,
}

impl Age {
    pub(super) fn put_on(self, lifespan: &mut Lifespan) {
        if self.max == Duration::MAX {
            return;
        }
        let max = lifespan.with_jitter(self.max, self.jitter);
        if self.hard {
            end_at(lifespan, max);
        } else {
            lifespan.limit_age(max);
        }
    }
}

/// One timer a connection, in a task that ends with the connection or with the timer, and keeps neither.
fn end_at(lifespan: &mut Lifespan, max: Duration) {
    let Some(left) = lifespan.limit_age_hard(max, Moment::now()) else {
        return;
    };
    let shared = Arc::downgrade(lifespan.shared());
    if let Ok(runtime) = Handle::try_current() {
        let timer = runtime.spawn(async move {
            tokio::time::sleep(left).await;
            // What was detached in the meantime is not the agent's any more.
            if let Some(shared) = shared.upgrade().filter(|it| !it.is_detached()) {
                shared.kill(CloseReason::Age);
            }
        });
        lifespan.attach(AbortOnDrop(timer.abort_handle()));
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
