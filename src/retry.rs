//! Policies for sending requests again.

mod unsent;

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Ready, ready};
use std::sync::Arc;

use http::Request;
use tower::retry::Policy;
use tower::retry::budget::Budget;

use crate::error::{BoxError, Error, find};
use crate::target::extensions::{OnFreshConnection, is_repeatable};

pub use unsent::Unsent;

/// A [`tower::retry::Policy`] for the reuse race of HTTP/1: a server may close an idle connection at the moment when a
/// request is sent on it.
///
/// A request is sent once more, on a new connection, if its connection was [reused](Error::is_reused) and either
///
/// - nothing of it was written ([`is_unsent`](Error::is_unsent)), or the server refused it over HTTP/2, whatever its method,
/// - or the connection was [closed or lost](Error::is_reset) before the head of a response, and it is safe to send the
///   request twice: its method is idempotent (RFC 9110 §9.2.2), it has an `Idempotency-Key` or `X-Idempotency-Key`, or
///   [`retry_if`](Self::retry_if) allows it.
///
/// A request that fails on the new connection is not sent a third time (RFC 9110 §9.2.2: a client should not retry a
/// failed automatic retry), and neither is a request that failed by [its own body](Error::is_request_body). Requests of
/// which nothing was written rarely reach this policy: the agent sends most of them again by itself.
///
/// Each request is cloned before it is sent. Its body has to be a [`RequestBody`](crate::RequestBody), which cannot be
/// cloned if it is a stream, and is then sent only once; or of any type that is `Clone`. The policy finds the agent's
/// error even if layers in between have boxed it.
///
/// ```
/// use tower::ServiceBuilder;
/// use tower::retry::RetryLayer;
/// use tower_keep_alive::KeepAlive;
/// use tower_keep_alive::retry::ReusedReset;
///
/// let client = ServiceBuilder::new()
///     .layer(RetryLayer::new(ReusedReset::new()))
///     .service(KeepAlive::new());
/// # fn sends<S: tower::Service<http::Request<tower_keep_alive::RequestBody>>>(_: S) {}
/// # sends(client);
/// ```
#[derive(Clone, Default)]
pub struct ReusedReset {
    retry_if: Option<Arc<dyn Fn(&Request<()>) -> bool + Send + Sync>>,
    budget: Option<Arc<dyn Budget + Send + Sync>>,
    /// This request may be sent twice.
    harmless: bool,
    /// This request has been sent twice.
    retried: bool,
}

impl ReusedReset {
    /// A policy for idempotent requests, without a budget.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Also allows requests for which `harmless` returns true to be sent twice. `harmless` is called with each
    /// non-idempotent request before it is sent; the request has no body then.
    #[must_use]
    pub fn retry_if(
        mut self,
        harmless: impl Fn(&Request<()>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.retry_if = Some(Arc::new(harmless));
        self
    }

    /// Withdraws each retry from `budget`, and does not retry when the budget is exhausted. Every response to a request
    /// that may be sent twice deposits into it.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower::retry::budget::TpsBudget;
    /// use tower_keep_alive::retry::ReusedReset;
    ///
    /// let policy = ReusedReset::new().budget(Arc::new(TpsBudget::default()));
    /// # let _ = policy;
    /// ```
    #[must_use]
    pub fn budget(mut self, budget: Arc<dyn Budget + Send + Sync>) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Whether to keep a copy of the request for a retry, which is so once. Also finds out whether the request may be
    /// sent twice.
    pub(crate) fn wants<B>(&mut self, request: &Request<B>) -> bool {
        if self.retried {
            return false;
        }
        let allowed = |harmless: &Arc<dyn Fn(&Request<()>) -> bool + Send + Sync>| {
            harmless(&without_body(request))
        };
        self.harmless = is_repeatable(request) || self.retry_if.as_ref().is_some_and(allowed);
        true
    }

    /// Whether a retry follows this result, which is so once.
    pub(crate) fn follows<R, E: 'static>(&mut self, result: &Result<R, E>) -> bool {
        let error = match result {
            Ok(_) => {
                if let Some(budget) = self.budget.as_ref().filter(|_| self.harmless) {
                    budget.deposit();
                }
                return false;
            }
            Err(error) => agent_error(error),
        };
        let may_follow = |error: &Error| {
            error.is_reused() && (error.is_untouched() || self.harmless && error.is_reset())
        };
        let again = error.is_some_and(may_follow) && !self.retried && self.may_withdraw();
        self.retried |= again;
        again
    }

    fn may_withdraw(&self) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.withdraw())
    }
}

impl<B, R, E> Policy<Request<B>, R, E> for ReusedReset
where
    B: Clone,
    E: 'static,
{
    type Future = Ready<()>;

    fn retry(&mut self, request: &mut Request<B>, result: &mut Result<R, E>) -> Option<Ready<()>> {
        self.follows(result).then(|| on_fresh_connection(request))
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        self.wants(request).then(|| request.clone())
    }
}

pub(crate) fn on_fresh_connection<B>(request: &mut Request<B>) -> Ready<()> {
    request.extensions_mut().insert(OnFreshConnection);
    ready(())
}

impl fmt::Debug for ReusedReset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReusedReset")
            .field("retry_if", &self.retry_if.is_some())
            .field("budget", &self.budget.is_some())
            .field("retried", &self.retried)
            .finish()
    }
}

/// The agent's error, as it is or in a box of a layer in between.
fn agent_error<E: 'static>(error: &E) -> Option<&Error> {
    let error: &dyn Any = error;
    if let Some(error) = error.downcast_ref::<Error>() {
        return Some(error);
    }
    let boxed = error
        .downcast_ref::<BoxError>()
        .map(|it| &**it as &(dyn StdError + 'static));
    let boxed = boxed.or_else(|| {
        let local = error.downcast_ref::<Box<dyn StdError>>();
        local.map(|it| &**it)
    });
    find(boxed?)
}

pub(crate) fn without_body<B>(request: &Request<B>) -> Request<()> {
    let mut bare = Request::new(());
    *bare.method_mut() = request.method().clone();
    *bare.uri_mut() = request.uri().clone();
    *bare.version_mut() = request.version();
    *bare.headers_mut() = request.headers().clone();
    *bare.extensions_mut() = request.extensions().clone();
    bare
}
