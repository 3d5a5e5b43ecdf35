//! Whether further connects for a key may begin before the first one is complete.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

tokio::task_local! {
    static SIGNAL: SideBySide;
}

/// The signal from a connect to its initiator that further connects may begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct SideBySide(Arc<AtomicBool>);

impl SideBySide {
    /// Runs a connect, which may send the signal ([`signal`]).
    pub(crate) fn scope<F: Future>(&self, connect: F) -> impl Future<Output = F::Output> + use<F> {
        SIGNAL.scope(self.clone(), connect)
    }

    /// Whether the signal was sent since the last call.
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// Signals that the connect that is being polled makes, or may make, a connection for one use: other callers need not
/// wait for its result.
#[cfg(any(test, feature = "http2"))]
pub(crate) fn signal() {
    // Fails if connections are never shared: there is no scope then.
    let _ = SIGNAL.try_with(|signal| signal.0.store(true, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_signal_is_taken_once_and_only_from_its_own_connect() {
        signal();
        let own = SideBySide::default();
        own.scope(async {}).await;
        assert!(!own.take());
        own.scope(async { signal() }).await;
        assert!(own.take() && !own.take());
    }
}
