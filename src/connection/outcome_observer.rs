//! Who is told how the exchanges of a connection end.

use std::error::Error as StdError;
use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// Told how each exchange of a connection ends. `connection` is the connection's number.
pub(crate) trait OutcomeObserver: Send + Sync {
    /// The head of a response has arrived.
    fn on_response(&self, connection: u64, status: StatusCode, headers: &HeaderMap);

    /// There was no response, or its body failed. `connection_over`: others on the same connection have failed with it.
    fn on_error(&self, connection: u64, connection_over: bool, error: &(dyn StdError + 'static));

    /// The caller dropped its request before the head of a response, so long after it got its connection.
    fn on_abandoned(&self, connection: u64, after: Duration);
}
