use std::error::Error as StdError;
use std::fmt;

use crate::connection::shared::ConnShared;
use crate::error::BoxError;

/// The task that drives a connection has ended with a request under way, and the body of the request has not failed.
///
/// hyper reports this in the same way as a body that failed, and says the same of each cause.
#[derive(Debug)]
pub(crate) struct DriverGone {
    /// The agent has ended it, and recorded why.
    by_agent: bool,
}

impl DriverGone {
    /// For those of hyper's errors about a request whose body has not failed that mean this.
    pub(crate) fn or(error: hyper::Error, connection: &ConnShared) -> BoxError {
        let by_agent = connection.reason().is_some();
        match error.is_user() && error.source().is_some() {
            true => Self { by_agent }.into(),
            false => error.into(),
        }
    }
}

impl fmt::Display for DriverGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.by_agent {
            true => "the agent has closed the connection",
            false => {
                "the task that drives the connection has ended: its runtime was shut down, or its transport panicked"
            }
        })
    }
}

impl StdError for DriverGone {}
