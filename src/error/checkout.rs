use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::error::BoxError;

/// Why `Checkout` provides no connection.
///
/// ```
/// use tower_keep_alive::{BoxError, layers::{CheckoutError, Denied}};
///
/// fn is_full(error: &BoxError) -> bool {
///     let error = error.downcast_ref::<CheckoutError>();
///     matches!(error, Some(CheckoutError::Denied(Denied::QueueFull(_))))
/// }
/// assert!(is_full(&CheckoutError::Denied(Denied::QueueFull(9)).into()));
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum CheckoutError {
    /// The connector failed. Its error is the [`source`](StdError::source).
    Connect(BoxError),
    /// The pool provides no connection.
    Denied(Denied),
}

/// Why a pool provides no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denied {
    /// The connect took longer than this.
    ConnectTimeout(Duration),
    /// The caller waited this long in the queue, and no connection became free.
    CheckoutTimeout(Duration),
    /// The queue for this key was full: this many callers were waiting, which is the limit.
    QueueFull(usize),
    /// The agent was drained or destroyed.
    ShutDown,
    /// The caller waited this long for the place of a connection that should have been closed and was not: the runtime
    /// of that connection is not driven, and its transport cannot be closed from outside. Drive that runtime, or make
    /// its transports closable by [`Probe::with_close`](crate::connect::Probe::with_close).
    CannotClose(Duration),
    /// The connection that was made for this caller was given to another one, because the caller's future was not
    /// polled for longer than [`PoolConfig::hand_over_timeout`](crate::layers::PoolConfig::hand_over_timeout). Ask again, as
    /// [`Exchange`](crate::layers::Exchange) does. The duration is how long the caller had waited in the queue before its
    /// connect began.
    NotPolled(Duration),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectTimeout(after) => write!(f, "no connection within {after:?}"),
            Self::CheckoutTimeout(after) => write!(f, "no connection came free within {after:?}"),
            Self::QueueFull(limit) => write!(f, "the queue is full: max_pending_per_host is {limit}"),
            Self::ShutDown => f.write_str("the agent is shut down"),
            Self::CannotClose(after) => write_cannot_close(f, *after),
            Self::NotPolled(_) => f.write_str(
                "the connection made for this caller went to another one, because the caller's future was not polled",
            ),
        }
    }
}

pub(super) fn write_cannot_close(f: &mut fmt::Formatter<'_>, after: Duration) -> fmt::Result {
    write!(
        f,
        "a connection whose place is needed was not closed within {after:?}: its runtime is not driven, and its transport \
         cannot be closed from outside; drive that runtime, or give the transport a way to be closed (Probe::with_close)"
    )
}

impl StdError for Denied {}

impl fmt::Display for CheckoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect(_) => f.write_str("no connection could be made"),
            Self::Denied(denied) => denied.fmt(f),
        }
    }
}

impl StdError for CheckoutError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Connect(error) => Some(&**error),
            // This error already has the text of `Denied`.
            Self::Denied(_) => None,
        }
    }
}

impl From<Denied> for CheckoutError {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}
