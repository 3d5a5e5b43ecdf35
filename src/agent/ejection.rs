//! When an address of a name is taken out for a while.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::connection::outcome_observer::Verdict;
use crate::error::Error;

/// As good as for ever: a century.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// When an address of a name is taken out for a while because its connections or its responses fail (Envoy: outlier detection;
/// linkerd: failure accrual); see [`KeepAliveLayer::eject`](crate::KeepAliveLayer::eject).
///
/// By default an address is ejected after five failures in a row. What counts:
///
/// | outcome | counts as |
/// |---|---|
/// | a connect that fails | a failure; those that are under way at the same time count as one |
/// | a complete response, whatever its status; with [`server_errors`](Self::server_errors), all but 5xx | a success |
/// | a response whose body the caller drops before its end | the same |
/// | no response, or one whose body breaks off: reset, closed, malformed, or over the agent's `response_timeout` or `active_timeout` | a failure |
/// | over the agent's `request_timeout`, if the connection had the request for half of that time, and the server was awaited at its end | a failure; otherwise nothing |
/// | over a limit that the request itself sets, such as [`RequestTimeout`](crate::extensions::RequestTimeout) | nothing |
/// | the request's own body fails, or the caller drops the request | nothing |
/// | a request that met a connection which the server was just closing, or that the server refuses over HTTP/2, or wants over HTTP/1.1 | nothing |
///
/// Each exchange counts once, and those that end together with their HTTP/2 connection count as one failure.
/// [`classify`](Self::classify) changes what an outcome counts as.
///
/// An ejected address gets no new connections and no new requests; the requests under way finish. It is ejected for
/// [`base_time`](Self::base_time) (30 s) times the number of its ejections, [`max_time`](Self::max_time) (300 s) at the most,
/// and at random between half of that time and all of it. Then one connection carries one request there: a success readmits
/// the address, a failure ejects it again for longer. The number starts over when the address has served for `max_time`.
///
/// At a limit of connections one is closed to make room for the trial, but never the last one to an address that serves: with
/// `max_connections_per_host(1)` the address is tried again when that connection has ended.
///
/// No more than half of a name's addresses are ejected at a time, so a name with one address has none ejected.
///
/// ```
/// use std::time::Duration;
/// use tower_keep_alive::{Ejection, KeepAlive, Spread};
///
/// let agent = KeepAlive::builder()
///     .spread(Spread::FewestOpenFirst)
///     .response_timeout(Duration::from_secs(5))
///     .eject(Ejection::new().server_errors(true))
///     .build();
/// # let _ = agent;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Ejection {
    pub(crate) consecutive: u32,
    pub(crate) share: Option<FailureShare>,
    server_errors: bool,
    classifier: Option<Arc<Classifier>>,
    pub(crate) base_time: Duration,
    pub(crate) max_time: Duration,
}

type Classifier = dyn Fn(&Outcome<'_>, Verdict) -> Verdict + Send + Sync;

/// So many failures of so many exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub(crate) struct FailureShare {
    pub(crate) failures: u32,
    pub(crate) of: u32,
}

/// How an exchange with an address has ended, for [`Ejection::classify`].
///
/// ```
/// use http::{HeaderMap, StatusCode};
/// use tower_keep_alive::{Outcome, Verdict};
///
/// fn classify(outcome: &Outcome<'_>, by_default: Verdict) -> Verdict {
///     match outcome {
///         Outcome::Response { status, .. } if status.as_u16() == 503 => Verdict::Failure,
///         _ => by_default,
///     }
/// }
///
/// let headers = HeaderMap::new();
/// let unavailable = Outcome::response(StatusCode::SERVICE_UNAVAILABLE, &headers);
/// assert_eq!(classify(&unavailable, Verdict::Success), Verdict::Failure);
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// The head of a response has arrived.
    #[non_exhaustive]
    Response {
        /// Its status.
        status: StatusCode,
        /// Its fields.
        headers: &'a HeaderMap,
    },
    /// There was no response, or its body failed.
    #[non_exhaustive]
    Error {
        /// What the caller gets, unless the request is sent again.
        error: &'a Error,
    },
    /// The caller dropped its request before the head of a response.
    #[non_exhaustive]
    Abandoned {
        /// How long it had its connection by then.
        after: Duration,
    },
}

impl<'a> Outcome<'a> {
    /// The head of a response: for a test of your own classifier.
    #[must_use]
    pub const fn response(status: StatusCode, headers: &'a HeaderMap) -> Self {
        Self::Response { status, headers }
    }

    /// An error: for a test of your own classifier.
    #[must_use]
    pub const fn error(error: &'a Error) -> Self {
        Self::Error { error }
    }

    /// A request that its caller dropped: for a test of your own classifier.
    #[must_use]
    pub const fn abandoned(after: Duration) -> Self {
        Self::Abandoned { after }
    }
}

impl Ejection {
    /// After five failures in a row, for 30 s times the number of ejections, up to 300 s.
    pub fn new() -> Self {
        Self {
            consecutive: 5,
            share: None,
            server_errors: false,
            classifier: None,
            base_time: Duration::from_secs(30),
            max_time: Duration::from_secs(300),
        }
    }

    /// Ejects an address after so many failures in a row (Envoy: `consecutive_5xx`). Default: 5, as in Envoy.
    ///
    /// # Panics
    ///
    /// If `failures` is 0.
    pub fn consecutive(mut self, failures: u32) -> Self {
        assert!(failures > 0, "consecutive must not be 0");
        self.consecutive = failures;
        self
    }

    /// Also ejects an address if this part of `of` exchanges has failed, as soon as it has (Envoy: `failure_percentage`).
    /// The exchanges of an address are counted in blocks of `of`, one block after the other: failures of two blocks are not
    /// added up. Default: off.
    ///
    /// # Panics
    ///
    /// If `part` is not greater than 0 and at most 1, or `of` is 0.
    ///
    /// ```
    /// use tower_keep_alive::Ejection;
    ///
    /// // Half of a hundred.
    /// let ejection = Ejection::new().server_errors(true).failure_share(0.5, 100);
    /// # let _ = ejection;
    /// ```
    pub fn failure_share(mut self, part: f64, of: u32) -> Self {
        assert!(
            part > 0.0 && part <= 1.0 && of > 0,
            "failure_share({part}, {of}): the part has to be more than 0 and at most 1, of at least 1 exchange"
        );
        let exact = part * f64::from(of);
        // 0.07 of 100 is 7.000000000000001 in floating point, and 7 failures are meant.
        let failures = (exact - exact * 1e-12).ceil().max(1.0) as u32;
        self.share = Some(FailureShare { failures, of });
        self
    }

    /// Whether a response with a status of 500 to 599 is a failure. Default: false.
    pub fn server_errors(mut self, count: bool) -> Self {
        self.server_errors = count;
        self
    }

    /// Decides what each exchange counts as: the closure gets its outcome, and what the outcome counts as without the closure
    /// ([`server_errors`](Self::server_errors) included), and returns what it is to count as. A failed connect always counts.
    ///
    /// A response is judged by its head. A failure counts at once; anything else counts when its body has ended, and if the
    /// body fails, that [error](Outcome::Error) is judged in its place.
    ///
    /// The closure runs within each request's future, so it should be quick.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::{Ejection, Outcome, Verdict};
    ///
    /// let ejection = Ejection::new().classify(|outcome, by_default| match outcome {
    ///     Outcome::Response { status, .. } if status.as_u16() == 503 => Verdict::Failure,
    ///     // Too many requests: the server lives.
    ///     Outcome::Response { status, .. } if status.as_u16() == 429 => Verdict::Ignore,
    ///     // A timeout above the agent drops its requests.
    ///     Outcome::Abandoned { after, .. } if *after >= Duration::from_secs(5) => Verdict::Failure,
    ///     _ => by_default,
    /// });
    /// # let _ = ejection;
    /// ```
    pub fn classify(
        mut self,
        classifier: impl Fn(&Outcome<'_>, Verdict) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        self.classifier = Some(Arc::new(classifier));
        self
    }

    /// How long the first ejection of an address takes at the most; the second takes twice as long, and so on. Default: 30 s
    /// (Envoy: `base_ejection_time`).
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn base_time(mut self, time: Duration) -> Self {
        assert!(time > Duration::ZERO, "base_time must not be zero");
        self.base_time = time;
        self
    }

    /// How long an ejection takes at the most, and after how long without one the number of ejections starts over. Default:
    /// 300 s (Envoy: `max_ejection_time`). With `Duration::MAX` here and as [`base_time`](Self::base_time), an address that is
    /// ejected stays so for as long as the key has connections.
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_time(mut self, time: Duration) -> Self {
        assert!(time > Duration::ZERO, "max_time must not be zero");
        self.max_time = time;
        self
    }

    /// How long an address is ejected at the most, for this time in a row. No longer than a clock can represent.
    pub(crate) fn time(&self, times: u32) -> Duration {
        let time = self.base_time.saturating_mul(times);
        time.min(self.max_time).min(LONGEST)
    }

    /// `is_limit_of_caller`: the exchange has reached a time limit that says nothing of the server.
    pub(crate) fn judge(&self, outcome: &Outcome<'_>, is_limit_of_caller: bool) -> Verdict {
        let by_default = match outcome {
            Outcome::Response { status, .. } if self.server_errors && status.is_server_error() => {
                Verdict::Failure
            }
            Outcome::Response { .. } => Verdict::Success,
            Outcome::Error { error } if !is_limit_of_caller && blames_server(error) => {
                Verdict::Failure
            }
            Outcome::Error { .. } | Outcome::Abandoned { .. } => Verdict::Ignore,
        };
        match &self.classifier {
            Some(classifier) => classify(&**classifier, outcome, by_default),
            None => by_default,
        }
    }
}

/// The classifier is foreign code, so it runs without a lock. If it panics, the outcome says nothing: the exchange has to be
/// accounted for all the same, and may end in a drop.
#[cold]
fn classify(classifier: &Classifier, outcome: &Outcome<'_>, by_default: Verdict) -> Verdict {
    let classify = || classifier(outcome, by_default);
    catch_unwind(AssertUnwindSafe(classify)).unwrap_or(Verdict::Ignore)
}

fn blames_server(error: &Error) -> bool {
    let is_the_callers = error.is_request_body() || error.is_target() || error.is_shut_down();
    // A server may close a connection, or refuse a stream, at any time.
    let is_the_connections = error.is_unsent() && (error.is_reused() || is_refused(error));
    !is_the_callers && !is_the_connections && !wants_http1(error)
}

#[cfg(feature = "http2")]
fn is_refused(error: &Error) -> bool {
    error.is_refused()
}

#[cfg(not(feature = "http2"))]
fn is_refused(_: &Error) -> bool {
    false
}

/// HTTP_1_1_REQUIRED is an answer (RFC 9113 §7).
#[cfg(feature = "http2")]
fn wants_http1(error: &Error) -> bool {
    error.wants_http1()
}

#[cfg(not(feature = "http2"))]
fn wants_http1(_: &Error) -> bool {
    false
}

impl Default for Ejection {
    fn default() -> Self {
        Self::new()
    }
}

/// Two classifiers are equal if they are clones of one.
impl PartialEq for Ejection {
    fn eq(&self, other: &Self) -> bool {
        let classifiers = (&self.classifier, &other.classifier);
        let same = match classifiers {
            (Some(one), Some(another)) => Arc::ptr_eq(one, another),
            (one, another) => one.is_none() && another.is_none(),
        };
        same && self.consecutive == other.consecutive
            && self.share == other.share
            && self.server_errors == other.server_errors
            && self.base_time == other.base_time
            && self.max_time == other.max_time
    }
}

impl Eq for Ejection {}

impl fmt::Debug for Ejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ejection({self})")
    }
}

/// In words: `after 5 failures in a row, for 30 s to 300 s`.
impl fmt::Display for Ejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} failures in a row", self.consecutive)?;
        if let Some(FailureShare { failures, of }) = self.share {
            write!(f, " or {failures} of {of}")?;
        }
        if self.server_errors {
            f.write_str(", 5xx included")?;
        }
        if self.classifier.is_some() {
            f.write_str(", by a classifier")?;
        }
        let (base, max) = (self.base_time.as_secs_f64(), self.max_time.as_secs_f64());
        write!(f, ", for {base} s to {max} s")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Ejection {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;

        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let mut fields = serializer.serialize_struct("Ejection", 6)?;
        fields.serialize_field("consecutive", &self.consecutive)?;
        fields.serialize_field("failureShare", &self.share)?;
        fields.serialize_field("serverErrors", &self.server_errors)?;
        fields.serialize_field("hasClassifier", &self.classifier.is_some())?;
        fields.serialize_field("baseTime", &millis(self.base_time))?;
        fields.serialize_field("maxTime", &millis(self.max_time))?;
        fields.end()
    }
}

/// Why an address is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EjectionReason {
    /// So many failures in a row ([`Ejection::consecutive`]).
    #[non_exhaustive]
    Consecutive {
        /// How many.
        failures: u32,
    },
    /// A share of failures ([`Ejection::failure_share`]).
    #[non_exhaustive]
    FailureShare {
        /// How many have failed.
        failures: u32,
        /// Of how many.
        of: u32,
    },
}

impl fmt::Display for EjectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Consecutive { failures } => write!(f, "{failures} failures in a row"),
            Self::FailureShare { failures, of } => write!(f, "{failures} of {of} failed"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for EjectionReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests;
