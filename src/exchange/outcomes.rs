//! Tells the pool how exchanges end, if it ejects addresses.

use std::time::Duration;

use http::Response;
use tokio::time::Instant;

use crate::connection::lifespan::Lifespan;
use crate::connection::shared::ConnShared;
use crate::error::Error;

/// The head of a response has arrived. Called while the connection is still held: the result is known before the next use.
#[inline(never)]
pub(super) fn observe_response<R>(lifespan: &Lifespan, response: &Response<R>) {
    let shared = lifespan.shared();
    if let Some(observer) = shared.outcome_observer() {
        observer.on_response(shared.id(), response.status(), response.headers());
    }
}

/// There is no response, or its body has failed.
#[cold]
pub(super) fn observe_error(shared: &ConnShared, error: &Error) {
    if let Some(observer) = shared.outcome_observer() {
        let connection_over = shared.connection().is_some_and(|it| it.is_ending());
        observer.on_error(shared.id(), connection_over, error);
    }
}

/// The caller has dropped its request before the head of a response.
#[cold]
pub(super) fn observe_abandoned(lifespan: &Lifespan) {
    let shared = lifespan.shared();
    if let Some(observer) = shared.outcome_observer() {
        let taken = lifespan.idle().map(|(_, taken)| taken);
        let begun = taken.or_else(|| shared.born().map(|born| born.mono));
        let after = begun.map_or(Duration::ZERO, |begun| {
            Instant::now().saturating_duration_since(begun)
        });
        observer.on_abandoned(shared.id(), after);
    }
}
