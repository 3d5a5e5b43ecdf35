//! When to send a request again.

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

/// A [`tower::retry::Policy`] for the race of HTTP/1: a server may close an idle connection just when a request is sent
/// on it.
///
/// A request is sent once more, on a brand-new connection, when its connection was [reused](Error::is_reused) and either
///
/// - nothing of it was written ([`is_unsent`](Error::is_unsent)), whatever its method,
/// - or the connection was [closed or lost](Error::is_reset) before the head of a response, and sending it twice is
///   harmless: its method is idempotent (RFC 9110 §9.2.2), or it has an `Idempotency-Key` or `X-Idempotency-Key`, or
///   [`retry_if`](Self::retry_if) says so.
///
/// What fails on the new connection is not tried again (RFC 9110: a failed automatic retry is not retried). Nor is what
/// fails by [its own body](Error::is_request_body). Most of what was not written never comes here: the agent sends it
/// again by itself.
///
/// Each request is copied before it is sent. Its body is a [`RequestBody`](crate::RequestBody), of which one that is a stream is sent once only,
/// or of any type that is `Clone`. The policy finds the agent's error in
/// the boxes of layers between.
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
    /// This request is on its second try.
    retried: bool,
}

impl ReusedReset {
    /// Idempotent requests, without a budget.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests that `harmless` is true of may be sent twice as well. It sees the request without its body, before each
    /// one that is not idempotent anyway is sent.
    #[must_use]
    pub fn retry_if(
        mut self,
        harmless: impl Fn(&Request<()>) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.retry_if = Some(Arc::new(harmless));
        self
    }

    /// Takes each second try from `budget`, and none when it is spent. Every response to a request that may be sent
    /// twice pays in.
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

    /// Whether a request is to be kept for a second try: once. Whether it may be sent twice is known from here on.
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

    /// Whether this is to be followed by a second try, which is so once.
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
            error.is_reused() && (error.is_unsent() || self.harmless && error.is_reset())
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

/// The agent's error in whatever the layers between have made of it: itself, or in a box.
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
