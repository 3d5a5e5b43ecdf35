//! When a connect has to be over.

use std::future::Future;

use tokio::time::Instant;

tokio::task_local! {
    static DEADLINE: Option<Instant>;
}

/// Runs a connect that will be dropped at `deadline`. Connectors below see the deadline, whatever their target type is and
/// whatever layers are in between; a connector that is polled in a task of its own does not see it.
pub(crate) fn until<F: Future>(
    deadline: Option<Instant>,
    connect: F,
) -> impl Future<Output = F::Output> {
    DEADLINE.scope(deadline, connect)
}

/// When the connect that is being polled will be dropped, where that is known.
pub(crate) fn current() -> Option<Instant> {
    DEADLINE.try_with(|deadline| *deadline).ok().flatten()
}
