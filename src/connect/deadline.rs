//! The deadline of a connect.

use std::future::Future;

use tokio::time::Instant;

tokio::task_local! {
    static DEADLINE: Option<Instant>;
}

/// Runs a connect that is dropped at `deadline`. Connectors below can read the deadline, whatever their target type and
/// whatever layers are in between. A connector that is polled in a task of its own cannot.
pub(crate) fn until<F: Future>(
    deadline: Option<Instant>,
    connect: F,
) -> impl Future<Output = F::Output> {
    DEADLINE.scope(deadline, connect)
}

/// The deadline of the connect that is being polled, if it is known.
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
