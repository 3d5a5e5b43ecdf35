//! Who is told how the exchanges of a connection end.

use std::error::Error as StdError;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// What the end of an exchange says of its address, for [`Ejection::classify`](crate::Ejection::classify).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The address serves.
    Success,
    /// The address has failed.
    Failure,
    /// The exchange says nothing of its address, and is not counted.
    Ignore,
}

/// Told how each exchange of one connection ends, once for each. `connection` is the connection's number.
pub(crate) trait OutcomeObserver: Send + Sync {
    /// What the head of a response says, for [`on_response`](Self::on_response).
    fn judge_head(&self, status: StatusCode, headers: &HeaderMap) -> Verdict;

    /// The response is complete, was given up by its caller, or has failed with its head.
    fn on_response(&self, connection: u64, verdict: Verdict);

    /// There was no response, or its body failed.
    fn on_error(&self, connection: u64, end: &FailedExchange<'_>);

    /// The caller dropped its request before the head of a response, so long after it got its connection.
    fn on_abandoned(&self, connection: u64, after: Duration);
}

/// How an exchange has failed.
pub(crate) struct FailedExchange<'a> {
    pub(crate) error: &'a (dyn StdError + 'static),
    /// Others on the same connection have failed with it.
    pub(crate) is_connection_over: bool,
    /// It has reached a time limit that says nothing of the server.
    pub(crate) is_limit_of_caller: bool,
}
