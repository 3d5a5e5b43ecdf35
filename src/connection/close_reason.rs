//! Why connections end.

use std::fmt;

/// Why a connection ended, or will.
///
/// [`Status::closes`](crate::Status::closes) counts connections by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
#[non_exhaustive]
pub enum CloseReason {
    /// It was idle for as long as it may be: by its own limit, or by what the server said in `Keep-Alive`.
    Idle,
    /// It reached its TTL.
    Age,
    /// It served as many exchanges as it may: by its own limit, or by what the server said in `Keep-Alive`.
    Uses,
    /// Nothing moved on it for the active timeout while it was in use.
    Silence,
    /// There were enough idle connections without it.
    Surplus,
    /// It made room under a limit for a caller that was waiting.
    Room,
    /// An exchange was to be its last: `Connection: close`, HTTP/1.0, `OneShot` or an agent without keep-alive.
    Final,
    /// A caller dropped its exchange, or the connection's lease, before the end.
    Abandoned,
    /// The server closed it, be it to end a body.
    Peer,
    /// The server had closed it, or written to it unasked, before it was to be used again.
    Stale,
    /// Reading or writing failed, or the server broke the protocol.
    Error,
    /// It could not be made.
    Connect,
    /// It was not made in time.
    ConnectTimeout,
    /// Nobody wanted it any more before it was made.
    Cancelled,
    /// `close_idle`, `drain` or `destroy` was called, or the last clone of the service is gone.
    Shutdown,
    /// It left the pool with its exchange: an upgrade, a tunnel, or `ConnectionInfo::detach`.
    Detached,
    /// It was dropped by whoever had it, without a word.
    Dropped,
    /// A caller said that it is not to be used again: `ConnectionInfo::poison`.
    Poisoned,
    /// Its exchange was not over within its `request_timeout`.
    RequestTimeout,
    /// The head of a response did not come within its `response_timeout`.
    ResponseTimeout,
}

impl CloseReason {
    pub(crate) const ALL: [Self; 20] = [
        Self::Idle,
        Self::Age,
        Self::Uses,
        Self::Silence,
        Self::Surplus,
        Self::Room,
        Self::Final,
        Self::Abandoned,
        Self::Peer,
        Self::Stale,
        Self::Error,
        Self::Connect,
        Self::ConnectTimeout,
        Self::Cancelled,
        Self::Shutdown,
        Self::Detached,
        Self::Dropped,
        Self::Poisoned,
        Self::RequestTimeout,
        Self::ResponseTimeout,
    ];

    /// Whether a timer ended it (agentkeepalive's timeoutSocketCount).
    pub(crate) fn is_timeout(self) -> bool {
        matches!(self, Self::Idle | Self::Age | Self::ConnectTimeout) || self.is_late()
    }

    /// Whether a limit of time ended it in the middle of an exchange.
    fn is_late(self) -> bool {
        matches!(
            self,
            Self::Silence | Self::RequestTimeout | Self::ResponseTimeout
        )
    }

    /// Whether a failure ended it (agentkeepalive's errorSocketCount). A clean end of stream is none.
    pub(crate) fn is_error(self) -> bool {
        self == Self::Error || self.is_late() || self.is_create_error()
    }

    /// Whether an exchange that it ends midway has failed: not if its caller gave it up, or its own request body failed.
    pub(crate) fn is_failure(self) -> bool {
        !matches!(
            self,
            Self::Abandoned | Self::Dropped | Self::Poisoned | Self::Detached
        )
    }

    /// Whether it can end a connection in the middle of the exchange that was to be its last.
    pub(crate) fn ends_midway(self) -> bool {
        self.is_error() || matches!(self, Self::Abandoned | Self::Shutdown)
    }

    /// Whether it never came to be, for a reason other than that nobody wanted it any more.
    pub(crate) fn is_create_error(self) -> bool {
        matches!(self, Self::Connect | Self::ConnectTimeout)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Idle => "idle for too long",
            Self::Age => "reached its TTL",
            Self::Uses => "reached its number of uses",
            Self::Silence => "silent for too long",
            Self::Surplus => "more idle than allowed",
            Self::Room => "made room under a limit",
            Self::Final => "after its last exchange",
            Self::Abandoned => "abandoned by its caller",
            Self::Peer => "closed by the server",
            Self::Stale => "found closed before reuse",
            Self::Error => "failed in use",
            Self::Connect => "connect failed",
            Self::ConnectTimeout => "connect timed out",
            Self::Cancelled => "connect given up",
            Self::Shutdown => "closed by the application",
            Self::Detached => "detached",
            Self::Dropped => "dropped by its holder",
            Self::Poisoned => "poisoned by a caller",
            Self::RequestTimeout => "its request took too long",
            Self::ResponseTimeout => "its response came too late",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_has_its_place() {
        for (place, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place);
        }
    }
}
