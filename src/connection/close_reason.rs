//! Why connections end.

use std::fmt;

/// The enum, the list of its variants and their texts are made of one list: none of them can lack a variant.
macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// Why a connection ended, or will.
        ///
        /// [`Status::closes`](crate::Status::closes) counts connections by it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
        #[non_exhaustive]
        pub enum CloseReason {
            $($(#[$doc])* $name,)*
        }

        impl CloseReason {
            /// Each at the index that is its discriminant.
            pub(crate) const ALL: [Self; [$($text),*].len()] = [$(Self::$name),*];
        }

        impl fmt::Display for CloseReason {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$name => $text,)*
                })
            }
        }
    };
}

close_reasons! {
    /// It was idle for as long as it may be: by its own limit, or by what the server said in `Keep-Alive`.
    Idle => "idle for too long",
    /// It reached its TTL.
    Age => "reached its TTL",
    /// It served as many exchanges as it may: by its own limit, or by what the server said in `Keep-Alive`.
    Uses => "reached its number of uses",
    /// Nothing moved on it for the active timeout while it was in use.
    Silence => "silent for too long",
    /// There were enough idle connections without it.
    Surplus => "more idle than allowed",
    /// It made room under a limit for a caller that was waiting.
    Room => "made room under a limit",
    /// An exchange was to be its last: `Connection: close`, HTTP/1.0, `OneShot` or an agent without keep-alive.
    Final => "after its last exchange",
    /// A caller dropped its exchange, or the connection's lease, before the end.
    Abandoned => "abandoned by its caller",
    /// The server closed it, be it to end a body.
    Peer => "closed by the server",
    /// The server had closed it, or written to it unasked, before it was to be used again.
    Stale => "found closed before reuse",
    /// Reading or writing failed, or the server broke the protocol.
    Error => "failed in use",
    /// It could not be made.
    Connect => "connect failed",
    /// It was not made in time.
    ConnectTimeout => "connect timed out",
    /// Nobody wanted it any more before it was made.
    Cancelled => "connect given up",
    /// `close_idle`, `drain` or `destroy` was called, or the last clone of the service is gone.
    Shutdown => "closed by the application",
    /// It left the pool with its exchange: an upgrade, a tunnel, or `ConnectionInfo::detach`.
    Detached => "detached",
    /// It was dropped by whoever had it, without a word.
    Dropped => "dropped by its holder",
    /// A caller said that it is not to be used again: `ConnectionInfo::poison`.
    Poisoned => "poisoned by a caller",
    /// Its exchange was not over within its `request_timeout`.
    RequestTimeout => "its request took too long",
    /// The head of a response did not come within its `response_timeout`.
    ResponseTimeout => "its response came too late",
    /// The server said by an HTTP/2 GOAWAY that it takes no more requests on it.
    GoAway => "ended by the server's GOAWAY",
}

impl CloseReason {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_at_its_index_and_has_a_text_of_its_own() {
        let mut texts = Vec::new();
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            let text = reason.to_string();
            assert!(!text.is_empty() && !texts.contains(&text), "{text}");
            texts.push(text);
        }
    }
}
