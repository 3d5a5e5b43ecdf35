use reqwest::Response;
use reqwest_middleware::Error as MiddlewareError;
use reqwest_retry::{Retryable, RetryableStrategy, default_on_request_success};

use crate::error::Error;
use crate::reqwest::middleware::Sent;

/// Tells reqwest-retry which requests of an [`AgentMiddleware`](crate::reqwest::AgentMiddleware) may be sent again.
///
/// | what happened | a request that may be sent twice | any other, such as a POST |
/// |---|---|---|
/// | nothing was sent: no connection, a full queue, a connection that was closing | retried | retried |
/// | a proxy refused a tunnel with 5xx, 408 or 429 | retried | retried |
/// | a proxy refused a tunnel with another status | not retried | not retried |
/// | no response: the connection was closed, or a time limit ended the request, including a `tower::timeout` between the middleware and the agent | retried | not retried |
/// | 5xx, 408, 429 | retried | not retried |
/// | another response; a request that cannot be sent, or whose own body failed; a server whose certificate is not valid; an agent that is shut down ([`is_permanent`](Error::is_permanent)) | not retried | not retried |
///
/// A request may be sent twice if its method is idempotent (RFC 9110 §9.2.2), or if it has an `Idempotency-Key` or
/// `X-Idempotency-Key`. After a reused connection was closed, the next attempt has a new connection. reqwest-retry's
/// default strategy treats every error of a middleware as fatal, and over a `reqwest::Client` it sends a POST again
/// that may have been executed.
#[derive(Clone, Copy, Debug, Default)]
pub struct AgentStrategy;

impl RetryableStrategy for AgentStrategy {
    fn handle(&self, result: &Result<Response, MiddlewareError>) -> Option<Retryable> {
        match result {
            Ok(response) => {
                let verdict = default_on_request_success(response)?;
                let sent = response.extensions().get::<Sent>();
                Some(if sent.is_some_and(|sent| sent.repeatable) {
                    verdict
                } else {
                    Retryable::Fatal
                })
            }
            Err(error) => Some(if may_follow(error) {
                Retryable::Transient
            } else {
                Retryable::Fatal
            }),
        }
    }
}

/// Whether an attempt that failed with this error may be followed by another.
fn may_follow(error: &MiddlewareError) -> bool {
    let MiddlewareError::Middleware(whole) = error else {
        return false;
    };
    let sent = whole.downcast_ref::<Sent>();
    let Some(error) = Error::find(whole.as_ref()) else {
        return false;
    };
    if error.is_permanent() {
        return false;
    }
    let unanswered = error.is_reset() || error.is_timeout();
    error.is_untouched() || unanswered && sent.is_some_and(|sent| sent.repeatable)
}

#[cfg(test)]
mod tests {
    use std::error::Error as StdError;
    use std::fmt;
    use std::sync::Arc;

    use http::Method;

    use super::*;
    use crate::error::request_body::RequestBodyError;
    use crate::error::{BoxError, Denied};

    /// As a layer between holds it.
    #[derive(Debug)]
    struct Held(Arc<Error>);

    impl fmt::Display for Held {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("held")
        }
    }

    impl StdError for Held {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&*self.0)
        }
    }

    fn reset() -> BoxError {
        std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()
    }

    #[test]
    fn only_what_the_server_did_not_see_or_may_see_twice_is_sent_again() {
        let body = || RequestBodyError::failed(reset()).into();
        for (error, repeatable, other) in [
            (Error::from_send(reset(), false), true, false),
            (Error::from_send(reset(), true), true, true),
            // Whatever the body's own error is.
            (Error::from_send(body(), false), false, false),
            (
                Error::from_checkout(Denied::QueueFull(1).into()),
                true,
                true,
            ),
            (Error::from_checkout(Denied::ShutDown.into()), false, false),
            (Error::from_checkout(reset()), true, true),
        ] {
            let text = format!("{error:?}");
            let error = Arc::new(error);
            for (is_repeatable, expected) in [(true, repeatable), (false, other)] {
                let sent = Sent {
                    method: Method::PUT,
                    repeatable: is_repeatable,
                };
                let whole = anyhow::Error::new(Held(error.clone())).context(sent);
                let failed = MiddlewareError::Middleware(whole);
                assert_eq!(may_follow(&failed), expected, "{is_repeatable}: {text}");
            }
        }
    }
}
