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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_is_seen_by_what_is_polled_in_its_connect_and_by_nothing_else() {
        let deadline = Some(Instant::now());
        assert_eq!(current(), None);
        let seen = until(deadline, async {
            let other = tokio::spawn(async { current() }).await.unwrap();
            (current(), other, until(None, async { current() }).await)
        });
        assert_eq!(seen.await, (deadline, None, None));
        assert_eq!(current(), None);
    }
}
