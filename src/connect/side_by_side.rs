//! Whether further connects for a key may begin before the first one is complete.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

tokio::task_local! {
    static SAID: SideBySide;
}

/// The signal from a connect to its initiator that further connects may begin.
#[derive(Clone, Debug, Default)]
pub(crate) struct SideBySide(Arc<AtomicBool>);

impl SideBySide {
    /// Runs a connect, which may [send](say) the signal.
    pub(crate) fn heard<F: Future>(&self, connect: F) -> impl Future<Output = F::Output> + use<F> {
        SAID.scope(self.clone(), connect)
    }

    /// Whether the signal was sent since the last call.
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// Signals that the connect that is being polled makes, or may make, a connection for one use: other callers need not
/// wait for its result.
#[cfg(any(test, feature = "http2"))]
pub(crate) fn say() {
    // Fails if connections are never shared, because nobody listens.
    let _ = SAID.try_with(|said| said.0.store(true, Ordering::Relaxed));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_began_a_connect_hears_once_what_is_said_of_it() {
        say();
        let said = SideBySide::default();
        said.heard(async {}).await;
        assert!(!said.take());
        said.heard(async { say() }).await;
        assert!(said.take() && !said.take());
    }
}
