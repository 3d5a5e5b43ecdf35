//! Tells the pool how exchanges end, if it ejects addresses. Each exchange has one result.

use std::time::Duration;

use http::Response;
use http_body::Body as HttpBody;
use tokio::time::Instant;

use crate::connection::lifespan::Lifespan;
use crate::connection::outcome_observer::{FailedExchange, Verdict};
use crate::connection::shared::ConnShared;
use crate::error::{Error, TimeoutKind};

/// The head of a response has arrived. Returns what to [report](report) at the end of its body, if the result is not known yet.
/// Called while the connection is still held: the result is known before the next use.
#[inline]
pub(super) fn observe_head<R: HttpBody>(
    shared: &ConnShared,
    response: &Response<R>,
) -> Option<Verdict> {
    match shared.is_observed() {
        false => None,
        true => judge_head(shared, response),
    }
}

#[cold]
fn judge_head<R: HttpBody>(shared: &ConnShared, response: &Response<R>) -> Option<Verdict> {
    let observer = shared.outcome_observer()?;
    let verdict = observer.judge_head(response.status(), response.headers());
    if verdict == Verdict::Failure || response.body().is_end_stream() {
        observer.on_response(shared.id(), verdict);
        return None;
    }
    Some(verdict)
}

/// The body of the response has ended, or its caller has dropped it.
#[cold]
pub(super) fn report(shared: &ConnShared, verdict: Verdict) {
    if let Some(observer) = shared.outcome_observer() {
        observer.on_response(shared.id(), verdict);
    }
}

/// There is no response, or its body has failed.
#[cold]
pub(super) fn observe_error(shared: &ConnShared, error: &Error) {
    if let Some(observer) = shared.outcome_observer() {
        let is_limit_of_caller = match error.timeout_kind() {
            Some(TimeoutKind::Request | TimeoutKind::Response) => !shared.limit_blames_server(),
            Some(TimeoutKind::Inactivity) => shared.activity().is_this_use_limited(),
            _ => false,
        };
        // A connection that drains is ending as well, and the exchanges that are left on it may fail one by one.
        let is_ending = shared.connection().is_some_and(|it| it.is_ending());
        let end = FailedExchange {
            error,
            is_connection_over: is_ending && !error.is_of_exchange(),
            is_limit_of_caller,
        };
        observer.on_error(shared.id(), &end);
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
