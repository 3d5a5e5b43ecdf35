//! When an address of a name is taken out for a while.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

use crate::error::Error;

/// When an address of a name is taken out for a while because its connections or its responses fail (Envoy: outlier detection;
/// linkerd: failure accrual); see [`KeepAliveLayer::eject`](crate::KeepAliveLayer::eject).
///
/// By default an address is ejected after five failures in a row. A failure is a connect that fails, and an exchange without a
/// complete response: reset, closed, malformed, or over the agent's `request_timeout`, `response_timeout` or `active_timeout`.
/// What the caller causes is none, nor is a request that met a connection which the server was just closing. A response is a
/// success whatever its status, unless [`server_errors`](Self::server_errors) or [`failed_if`](Self::failed_if) says otherwise.
///
/// An ejected address gets no new connections and no new requests; the requests under way finish. It is ejected for
/// [`base_time`](Self::base_time) (30 s) times the number of its ejections, [`max_time`](Self::max_time) (300 s) at the most,
/// and at random between half of that time and all of it. Then one connection carries one request there: a success readmits
/// the address, a failure ejects it again for longer. The number starts over when the address has served for `max_time`.
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
///     .eject(Ejection::new().server_errors())
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

type Classifier = dyn Fn(&Outcome<'_>) -> bool + Send + Sync;

/// So many failures of so many exchanges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FailureShare {
    pub(crate) failures: u32,
    pub(crate) of: u32,
}

/// How an exchange with an address has ended, for [`Ejection::failed_if`].
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
    Error(&'a Error),
    /// The caller dropped its request before the head of a response.
    #[non_exhaustive]
    Abandoned {
        /// How long it had its connection by then.
        after: Duration,
    },
}

/// What an outcome says of its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Success,
    Failure,
    Nothing,
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

    /// Also ejects an address if this part of `of` exchanges in a row has failed, as soon as it has. Default: off.
    ///
    /// # Panics
    ///
    /// If `part` is not greater than 0 and at most 1, or `of` is 0.
    ///
    /// ```
    /// use tower_keep_alive::Ejection;
    ///
    /// // Half of a hundred.
    /// let ejection = Ejection::new().server_errors().share(0.5, 100);
    /// # let _ = ejection;
    /// ```
    pub fn share(mut self, part: f64, of: u32) -> Self {
        assert!(
            part > 0.0 && part <= 1.0 && of > 0,
            "share({part}, {of}): the part has to be more than 0 and at most 1, of at least 1 exchange"
        );
        let failures = (part * f64::from(of)).ceil().max(1.0) as u32;
        self.share = Some(FailureShare { failures, of });
        self
    }

    /// A response with a status of 500 to 599 is a failure. Default: it is not.
    pub fn server_errors(mut self) -> Self {
        self.server_errors = true;
        self
    }

    /// Replaces what counts as a failure: true if it is one. A response that is none is a success; another outcome that is none
    /// says nothing. A failed connect always counts.
    ///
    /// It runs within each request's future, so it should be quick.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::{Ejection, Outcome};
    ///
    /// let ejection = Ejection::new().failed_if(|outcome| match outcome {
    ///     Outcome::Response { status, .. } => status.as_u16() == 503,
    ///     Outcome::Error(error) => !error.is_request_body(),
    ///     // A timeout above the agent drops its requests.
    ///     Outcome::Abandoned { after, .. } => *after >= Duration::from_secs(5),
    ///     _ => false,
    /// });
    /// # let _ = ejection;
    /// ```
    pub fn failed_if(
        mut self,
        classifier: impl Fn(&Outcome<'_>) -> bool + Send + Sync + 'static,
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
    /// 300 s (Envoy: `max_ejection_time`).
    ///
    /// # Panics
    ///
    /// If it is zero.
    pub fn max_time(mut self, time: Duration) -> Self {
        assert!(time > Duration::ZERO, "max_time must not be zero");
        self.max_time = time;
        self
    }

    /// How long an address is ejected at the most, for this time in a row.
    pub(crate) fn time(&self, times: u32) -> Duration {
        self.base_time.saturating_mul(times).min(self.max_time)
    }

    pub(crate) fn judge(&self, outcome: &Outcome<'_>) -> Verdict {
        let fails = match &self.classifier {
            Some(classifier) => classifier(outcome),
            None => fails_by_default(outcome),
        };
        match outcome {
            _ if fails || self.server_errors && is_server_error(outcome) => Verdict::Failure,
            Outcome::Response { .. } => Verdict::Success,
            Outcome::Error(_) | Outcome::Abandoned { .. } => Verdict::Nothing,
        }
    }
}

fn is_server_error(outcome: &Outcome<'_>) -> bool {
    matches!(outcome, Outcome::Response { status, .. } if status.is_server_error())
}

fn fails_by_default(outcome: &Outcome<'_>) -> bool {
    let Outcome::Error(error) = outcome else {
        return false;
    };
    let is_the_callers = error.is_request_body() || error.is_target() || error.is_shut_down();
    // A server may close a connection, or refuse a stream, at any time.
    let is_the_connections = error.is_unsent() && (error.is_reused() || is_refused(error));
    !is_the_callers && !is_the_connections
}

#[cfg(feature = "http2")]
fn is_refused(error: &Error) -> bool {
    error.is_refused()
}

#[cfg(not(feature = "http2"))]
fn is_refused(_: &Error) -> bool {
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
        serializer.collect_str(self)
    }
}

/// Why an address is ejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EjectionReason {
    /// The last connect to it has failed.
    Connect,
    /// So many failures in a row ([`Ejection::consecutive`]).
    #[non_exhaustive]
    Consecutive {
        /// How many.
        failures: u32,
    },
    /// A share of failures ([`Ejection::share`]).
    #[non_exhaustive]
    Share {
        /// How many have failed.
        failures: u32,
        /// Of how many.
        of: u32,
    },
}

impl fmt::Display for EjectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect failed"),
            Self::Consecutive { failures } => write!(f, "{failures} failures in a row"),
            Self::Share { failures, of } => write!(f, "{failures} of {of} failed"),
        }
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for EjectionReason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An address that is left out at present; see [`AddressStatus::ejected`](crate::AddressStatus::ejected).
///
/// It prints as `ejected for 12.5 s, time 2: 5 failures in a row`. In JSON, the time is in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct EjectedAddress {
    /// How long from now; zero if a connection is trying the address, or the next one will.
    #[cfg_attr(feature = "serde", serde(rename = "for", serialize_with = "as_millis"))]
    pub remaining: Duration,
    /// How many times in a row.
    pub times: u32,
    /// Why.
    pub reason: EjectionReason,
}

#[cfg(feature = "serde")]
fn as_millis<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

impl fmt::Display for EjectedAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (remaining, times) = (self.remaining.as_secs_f64(), self.times);
        let reason = self.reason;
        write!(f, "ejected for {remaining:.1} s, time {times}: {reason}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(ejection: &Ejection, status: u16) -> Verdict {
        let status = StatusCode::from_u16(status).expect("a status");
        let headers = &HeaderMap::new();
        ejection.judge(&Outcome::Response { status, headers })
    }

    #[test]
    fn a_response_is_a_success_unless_its_status_was_said_to_be_a_failure() {
        let default = Ejection::new();
        let errors = Ejection::new().server_errors();
        let own = Ejection::new()
            .failed_if(|it| matches!(it, Outcome::Response { status, .. } if *status == 429));
        for (status, expected) in [
            (200, [Verdict::Success; 3]),
            (429, [Verdict::Success, Verdict::Success, Verdict::Failure]),
            (503, [Verdict::Success, Verdict::Failure, Verdict::Success]),
        ] {
            let judged = [&default, &errors, &own].map(|it| judged(it, status));
            assert_eq!(judged, expected, "{status}");
        }
    }

    #[test]
    fn what_is_given_up_says_nothing_unless_the_classifier_says_so() {
        let late = Outcome::Abandoned {
            after: Duration::from_secs(9),
        };
        assert_eq!(Ejection::new().judge(&late), Verdict::Nothing);
        let own = Ejection::new().failed_if(
            |it| matches!(it, Outcome::Abandoned { after } if *after > Duration::from_secs(5)),
        );
        assert_eq!(own.judge(&late), Verdict::Failure);
    }

    #[test]
    fn an_ejection_prints_in_words() {
        let ejection = Ejection::new().server_errors().share(0.25, 50);
        assert_eq!(
            ejection.to_string(),
            "after 5 failures in a row or 13 of 50, 5xx included, for 30 s to 300 s"
        );
        assert_eq!(ejection.time(2), Duration::from_secs(60));
        assert_eq!(ejection.time(u32::MAX), Duration::from_secs(300));
    }
}
