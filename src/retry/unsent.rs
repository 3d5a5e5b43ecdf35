use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use tokio::time::Sleep;
use tower::retry::Policy;
use tower::retry::backoff::{
    Backoff, ExponentialBackoff, ExponentialBackoffMaker, InvalidBackoff, MakeBackoff,
};
use tower::retry::budget::Budget;
use tower::util::rng::HasherRng;

use crate::error::{Error, TimeoutKind};
use crate::retry::agent_error;
use crate::target::extensions::OnFreshConnection;

/// A [`tower::retry::Policy`] for requests that never reached a server: the connect was refused, failed or timed out,
/// or a reused connection had closed before any of the request was written. They are sent again whatever their method,
/// since no server has seen them.
///
/// A request has three attempts in all, unless [`attempts`](Self::attempts) is set. A pause precedes each further
/// attempt: between 50 ms and 100 ms at first, twice as long each time, and never longer than 2 s; see
/// [`backoff`](Self::backoff).
///
/// Requests are not sent again if another attempt would not help ([`Error::is_permanent`]), or if they waited for too
/// long or found the queue full ([`checkout_timeout`](crate::layers::PoolConfig::checkout_timeout),
/// [`request_timeout`](crate::layers::ExchangeLayer::request_timeout), [`is_queue_full`](Error::is_queue_full)): retries would
/// only add to the load of an overloaded agent.
///
/// # Order
///
/// Above the layer that chooses the server, such as tower's `Balance`, so that the next attempt may choose another
/// server. Beside [`ReusedReset`](crate::retry::ReusedReset), which is for requests that a server may have seen.
///
/// Each request is cloned before it is sent. Its body has to be a [`RequestBody`](crate::RequestBody), which cannot be
/// cloned if it is a stream, and is then sent only once; or of any type that is `Clone`. The policy finds the agent's
/// error even if layers in between have boxed it.
///
/// ```
/// use std::sync::Arc;
/// use bytes::Bytes;
/// use http_body_util::Full;
/// use tower::ServiceBuilder;
/// use tower::retry::RetryLayer;
/// use tower::retry::budget::TpsBudget;
/// use tower_keep_alive::KeepAliveLayer;
/// use tower_keep_alive::connect::TcpConnector;
/// use tower_keep_alive::retry::{ReusedReset, Unsent};
///
/// let unsent = Unsent::new().attempts(4).budget(Arc::new(TpsBudget::default()));
/// let client = ServiceBuilder::new()
///     .layer(RetryLayer::new(unsent))
///     .layer(RetryLayer::new(ReusedReset::new()))
///     .layer(KeepAliveLayer::new())
///     .service(TcpConnector::new());
/// # fn sends<S: tower::Service<http::Request<Full<Bytes>>>>(_: S) {}
/// # sends(client);
/// ```
#[derive(Clone)]
pub struct Unsent {
    /// How many attempts this request has left.
    attempts: usize,
    min: Duration,
    max: Duration,
    jitter: f64,
    /// Set once this request has had its first pause.
    backoff: Option<ExponentialBackoff>,
    budget: Option<Arc<dyn Budget + Send + Sync>>,
}

impl Unsent {
    /// The defaults above, without a budget.
    #[must_use]
    pub fn new() -> Self {
        Self {
            attempts: 3,
            min: Duration::from_millis(50),
            max: Duration::from_secs(2),
            jitter: 1.0,
            backoff: None,
            budget: None,
        }
    }

    /// How many attempts a request has, including the first. Default: 3.
    ///
    /// # Panics
    ///
    /// If `attempts` is 0.
    #[must_use]
    pub const fn attempts(mut self, attempts: usize) -> Self {
        assert!(attempts > 0, "attempts must not be 0");
        self.attempts = attempts;
        self
    }

    /// The pause before the second attempt, and the longest pause; each pause is twice as long as the one before. A
    /// random part of up to `jitter` times the pause is added for each request. Default: 50 ms, 2 s and 1.0.
    ///
    /// # Errors
    ///
    /// If `min` is longer than `max`, `max` is zero, or `jitter` is not between 0 and 100.
    pub fn backoff(
        mut self,
        min: Duration,
        max: Duration,
        jitter: f64,
    ) -> Result<Self, InvalidBackoff> {
        ExponentialBackoffMaker::new(min, max, jitter, HasherRng::new())?;
        (self.min, self.max, self.jitter) = (min, max, jitter);
        Ok(self)
    }

    /// Withdraws each attempt after the first from `budget`, and makes none when the budget is exhausted. Every
    /// response deposits into it.
    #[must_use]
    pub fn budget(mut self, budget: Arc<dyn Budget + Send + Sync>) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Whether to keep a copy of the request for another attempt.
    pub(crate) fn wants(&self) -> bool {
        self.attempts > 1
    }

    /// The pause before the next attempt, if there is one, and whether that attempt needs a new connection.
    pub(crate) fn follows<R, E: 'static>(
        &mut self,
        result: &Result<R, E>,
    ) -> Option<(Sleep, bool)> {
        let Err(error) = result else {
            if let Some(budget) = &self.budget {
                budget.deposit();
            }
            return None;
        };
        let error = agent_error(error).filter(|error| may_help(error))?;
        if !self.wants() || self.budget.as_ref().is_some_and(|it| !it.withdraw()) {
            return None;
        }
        self.attempts -= 1;
        Some((self.pause()?, error.is_reused()))
    }

    fn pause(&mut self) -> Option<Sleep> {
        if self.backoff.is_none() {
            // A random generator for each request, so that requests that failed together do not return together.
            let maker =
                ExponentialBackoffMaker::new(self.min, self.max, self.jitter, HasherRng::new());
            self.backoff = maker.ok().map(|mut maker| maker.make_backoff());
        }
        self.backoff.as_mut().map(Backoff::next_backoff)
    }
}

/// Whether another attempt may succeed without adding load to an overloaded agent.
fn may_help(error: &Error) -> bool {
    let took_too_long = matches!(
        error.timeout_kind(),
        Some(TimeoutKind::Checkout | TimeoutKind::Close | TimeoutKind::Request)
    );
    error.is_untouched() && !error.is_permanent() && !error.is_queue_full() && !took_too_long
}

impl<B, R, E> Policy<Request<B>, R, E> for Unsent
where
    B: Clone,
    E: 'static,
{
    type Future = Sleep;

    fn retry(&mut self, request: &mut Request<B>, result: &mut Result<R, E>) -> Option<Sleep> {
        let (pause, needs_fresh) = self.follows(result)?;
        if needs_fresh {
            request.extensions_mut().insert(OnFreshConnection);
        }
        Some(pause)
    }

    fn clone_request(&mut self, request: &Request<B>) -> Option<Request<B>> {
        self.wants().then(|| request.clone())
    }
}

impl Default for Unsent {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent")
            .field("attempts", &self.attempts)
            .field("min", &self.min)
            .field("max", &self.max)
            .field("jitter", &self.jitter)
            .field("budget", &self.budget.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{BoxError, Denied, Kind};
    use crate::target::invalid::TargetError;

    #[test]
    fn only_what_another_attempt_may_help_is_sent_again() {
        let refused =
            || BoxError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused));
        let second = Duration::from_secs(1);
        let denied = |denied: Denied| Error::from_checkout(denied.into());
        let late = Error::new(Kind::Timeout(TimeoutKind::Request, second)).unsent();
        for (error, expected) in [
            (Error::from_checkout(refused()), true),
            (denied(Denied::ConnectTimeout(second)), true),
            (Error::from_send(refused(), true), true),
            (Error::from_send(refused(), false), false),
            (denied(Denied::CheckoutTimeout(second)), false),
            (denied(Denied::QueueFull(1)), false),
            (denied(Denied::ShutDown), false),
            (Error::target(TargetError::NoHost), false),
            (late, false),
        ] {
            assert_eq!(may_help(&error), expected, "{error:?}");
            // The number of attempts is limited, and boxing the error changes nothing.
            let mut policy = Unsent::new();
            let boxed: Result<(), BoxError> = Err(error.into());
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_time().build().unwrap();
            let _entered = runtime.enter();
            let again = std::iter::from_fn(|| policy.follows(&boxed)).count();
            assert_eq!(again, if expected { 2 } else { 0 });
        }
    }
}
