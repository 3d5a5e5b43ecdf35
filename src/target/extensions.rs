//! Request extensions about the request's connection and its time limits.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http::header::HeaderName;

/// A request extension: the request shares connections only with requests of the same partition.
///
/// ```
/// use tower_keep_alive::extensions::Partition;
///
/// let request = http::Request::get("http://localhost/")
///     .extension(Partition::new("tenant-7"))
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<Partition>().is_some());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Partition(Arc<str>);

impl Partition {
    /// The partition with this name.
    #[inline]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    pub(crate) fn name(&self) -> &str {
        &self.0
    }
}

/// A request extension: the request gets a connection of its own, outside of all limits, which is closed afterwards.
/// `Connection: close` is sent with the request (Node: `agent: false`).
///
/// ```
/// let request = http::Request::get("http://localhost/")
///     .extension(tower_keep_alive::extensions::OneShot)
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<tower_keep_alive::extensions::OneShot>().is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct OneShot;

/// A request extension: how long nothing may be read or written while the request is in progress, and how long a
/// connect for it may take; instead of the agent's [`active_timeout`](crate::KeepAliveLayer::active_timeout) (Node: the
/// request's `timeout`). `Duration::MAX`, like anything above 49 days, means no limit; zero means the shortest, a few ticks
/// of tokio's timer of a millisecond each. The next request on the connection has the agent's limit again.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::extensions::InactivityTimeout;
///
/// let request = http::Request::get("http://localhost/long-poll")
///     .extension(InactivityTimeout(Duration::from_secs(120)))
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<InactivityTimeout>().is_some());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InactivityTimeout(pub Duration);

/// A request extension: how long the whole exchange may take, instead of the agent's
/// [`request_timeout`](crate::layers::ExchangeLayer::request_timeout). `Duration::MAX` means no limit; zero fails at once.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::extensions::RequestTimeout;
///
/// let request = http::Request::get("http://localhost/report")
///     .extension(RequestTimeout(Duration::from_secs(300)))
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<RequestTimeout>().is_some());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestTimeout(pub Duration);

/// A request extension: how long the head of the response may take after the request was sent, instead of the agent's
/// [`response_timeout`](crate::layers::ExchangeLayer::response_timeout). `Duration::MAX` means no limit; zero means the
/// shortest, until the next tick of tokio's timer, which is a millisecond at most.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::extensions::ResponseTimeout;
///
/// let request = http::Request::get("http://localhost/search")
///     .extension(ResponseTimeout(Duration::from_secs(2)))
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<ResponseTimeout>().is_some());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResponseTimeout(pub Duration);

/// A request extension: records how long the parts of this exchange take.
/// [`ConnectionInfo::timings`](crate::ConnectionInfo::timings) of the response or of the error returns them.
/// [`timings`](crate::layers::ExchangeLayer::timings) records them for every request.
///
/// ```
/// let request = http::Request::get("http://localhost/")
///     .extension(tower_keep_alive::extensions::RecordTimings)
///     .body(())
///     .unwrap();
/// # assert!(request.extensions().get::<tower_keep_alive::extensions::RecordTimings>().is_some());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RecordTimings;

/// A request extension: this is a retry, which needs a new connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnFreshConnection;

/// From draft-ietf-httpapi-idempotency-key-header, and its older name; Go's `net/http` recognises both.
const IDEMPOTENCY_KEYS: [HeaderName; 2] = [
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-idempotency-key"),
];

/// Whether it is safe to send this request twice.
pub(crate) fn is_repeatable<B>(request: &Request<B>) -> bool {
    let is_there = |name: &HeaderName| request.headers().contains_key(name);
    request.method().is_idempotent() || IDEMPOTENCY_KEYS.iter().any(is_there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_makes_a_request_repeatable_by_either_name() {
        for (method, name, expected) in [
            ("GET", "x-other", true),
            ("PUT", "x-other", true),
            ("POST", "x-other", false),
            ("POST", "Idempotency-Key", true),
            ("POST", "X-Idempotency-Key", true),
            ("PATCH", "X-Idempotency-Key", true),
        ] {
            let request = Request::builder().method(method).header(name, "1");
            let request = request.body(()).unwrap();
            assert_eq!(is_repeatable(&request), expected, "{method} {name}");
        }
    }
}
