//! Which name a connect is resolving.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

tokio::task_local! {
    static RESOLVING: Resolving;
}

/// The name that a connect is resolving at present, so that whoever gives the connect up can say what took too long.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resolving(Arc<Mutex<Option<String>>>);

impl Resolving {
    /// Runs a connect, whose lookups say so ([`host`]).
    pub(crate) fn scope<F: Future>(&self, connect: F) -> impl Future<Output = F::Output> + use<F> {
        RESOLVING.scope(self.clone(), connect)
    }

    /// The host whose lookup is under way.
    pub(crate) fn host(&self) -> Option<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, host: Option<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = host;
    }
}

/// Runs the lookup of this host. Nobody learns of one that is polled in a task of its own.
pub(super) async fn host<F: Future>(host: &str, lookup: F) -> F::Output {
    let _ended = RESOLVING.try_with(|resolving| {
        resolving.set(Some(host.to_owned()));
        EndOfLookup(resolving.clone())
    });
    lookup.await
}

/// Dropped with the lookup, which may be given up while its connect goes on.
struct EndOfLookup(Resolving);

impl Drop for EndOfLookup {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn a_connect_resolves_a_name_while_its_lookup_is_under_way() {
        host("nobodys.test", async {}).await;
        let resolving = Resolving::default();
        let seen = resolving.clone();
        let connect = resolving.scope(async {
            let during = host("host.test", async { seen.host() }).await;
            (during, seen.host())
        });
        assert_eq!(connect.await, (Some("host.test".to_owned()), None));
        {
            let mut hangs = pin!(resolving.scope(host("host.test", pending::<()>())));
            let mut cx = Context::from_waker(Waker::noop());
            assert!(hangs.as_mut().poll(&mut cx).is_pending());
            assert_eq!(resolving.host().as_deref(), Some("host.test"));
        }
        assert_eq!(resolving.host(), None, "it was given up");
    }
}
