//! Whether connects of one key may be made side by side before the first of them is over.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

tokio::task_local! {
    static SAID: SideBySide;
}

/// What was said of a connect by who makes it, for who has begun it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SideBySide(Arc<AtomicBool>);

impl SideBySide {
    /// Runs a connect, which may [say so](say) meanwhile.
    pub(crate) fn heard<F: Future>(&self, connect: F) -> impl Future<Output = F::Output> + use<F> {
        SAID.scope(self.clone(), connect)
    }

    /// Whether it was said since this was asked for the last time.
    pub(crate) fn take(&self) -> bool {
        self.0.load(Ordering::Relaxed) && self.0.swap(false, Ordering::Relaxed)
    }
}

/// Says that the connect that is being polled is for one use, or might be: others need not wait for what becomes of it.
#[cfg(any(test, feature = "http2"))]
pub(crate) fn say() {
    // Nobody listens where connections are never shared.
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
