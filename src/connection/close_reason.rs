//! Why connections end.

use std::fmt;

/// The enum, the list of its variants and their texts are made of one list: none of them can lack a variant.
///
/// Each reason says of what kind it is, and so whoever adds one cannot forget to.
macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident: $kind:ident => $text:literal,)*) => {
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

            const fn kind(self) -> ReasonKind {
                match self {
                    $(Self::$name => ReasonKind::$kind,)*
                }
            }
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
    Idle: EvictedByTimer => "idle for too long",
    /// It reached its TTL.
    Age: EvictedByTimer => "reached its TTL",
    /// It served as many exchanges as it may: by its own limit, or by what the server said in `Keep-Alive`.
    Uses: Evicted => "reached its number of uses",
    /// Nothing moved on it for the active timeout while it was in use.
    Silence: Late => "silent for too long",
    /// There were enough idle connections without it.
    Surplus: Evicted => "more idle than allowed",
    /// It made room under a limit for a caller that was waiting.
    Room: Evicted => "made room under a limit",
    /// An exchange was to be its last: `Connection: close`, HTTP/1.0, `OneShot` or an agent without keep-alive.
    Final: Other => "after its last exchange",
    /// A caller dropped its exchange, or the connection's lease, before the end.
    Abandoned: ByCaller => "abandoned by its caller",
    /// The server closed it, be it to end a body.
    Peer: Other => "closed by the server",
    /// The server had closed it, or written to it unasked, before it was to be used again.
    Stale: Other => "found closed before reuse",
    /// Reading or writing failed, or the server broke the protocol.
    Error: Failed => "failed in use",
    /// It could not be made.
    Connect: NotMade => "connect failed",
    /// It was not made in time.
    ConnectTimeout: NotMadeInTime => "connect timed out",
    /// Nobody wanted it any more before it was made.
    Cancelled: Other => "connect given up",
    /// `close_idle`, `drain` or `destroy` was called, or the last clone of the service is gone.
    Shutdown: Other => "closed by the application",
    /// It left the pool with its exchange: an upgrade, a tunnel, or `ConnectionInfo::detach`.
    Detached: ByCaller => "detached",
    /// It was dropped by whoever had it, without a word.
    Dropped: ByCaller => "dropped by its holder",
    /// A caller said that it is not to be used again: `ConnectionInfo::poison`.
    Poisoned: EvictedByCaller => "poisoned by a caller",
    /// Its exchange was not over within its `request_timeout`.
    RequestTimeout: Late => "its request took too long",
    /// The head of a response did not come within its `response_timeout`.
    ResponseTimeout: Late => "its response came too late",
    /// The server said by an HTTP/2 GOAWAY that it takes no more requests on it.
    GoAway: Other => "ended by the server's GOAWAY",
}

/// What reasons have in common. By it they are counted, and events follow from it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReasonKind {
    /// The pool closed it while it was idle or given back, by a limit of its own.
    Evicted,
    /// The same, by a limit of time.
    EvictedByTimer,
    /// The same, because a caller wanted it so.
    EvictedByCaller,
    /// A limit of time ended it in the middle of an exchange.
    Late,
    /// It could not be made.
    NotMade,
    NotMadeInTime,
    /// It failed in use.
    Failed,
    /// Its caller gave up an exchange, or took it away.
    ByCaller,
    Other,
}

impl CloseReason {
    /// Whether the pool closed it while it was idle or given back ([`EventKind::Evicted`](crate::EventKind::Evicted)).
    pub(crate) fn is_eviction(self) -> bool {
        use ReasonKind::{Evicted, EvictedByCaller, EvictedByTimer};
        matches!(self.kind(), Evicted | EvictedByTimer | EvictedByCaller)
    }

    /// Whether a timer ended it (agentkeepalive's timeoutSocketCount).
    pub(crate) fn is_timeout(self) -> bool {
        use ReasonKind::{EvictedByTimer, Late, NotMadeInTime};
        matches!(self.kind(), EvictedByTimer | Late | NotMadeInTime)
    }

    /// Whether a failure ended it (agentkeepalive's errorSocketCount). A clean end of stream is none.
    pub(crate) fn is_error(self) -> bool {
        use ReasonKind::{Failed, Late};
        matches!(self.kind(), Failed | Late) || self.is_create_error()
    }

    /// Whether an exchange that it ends midway has failed: not if its caller gave it up, or its own request body failed.
    pub(crate) fn is_failure(self) -> bool {
        use ReasonKind::{ByCaller, EvictedByCaller};
        !matches!(self.kind(), ByCaller | EvictedByCaller)
    }

    /// Whether it can end a connection in the middle of the exchange that was to be its last.
    pub(crate) fn ends_midway(self) -> bool {
        self.is_error() || matches!(self, Self::Abandoned | Self::Shutdown)
    }

    /// Whether it never came to be, for a reason other than that nobody wanted it any more.
    pub(crate) fn is_create_error(self) -> bool {
        matches!(self.kind(), ReasonKind::NotMade | ReasonKind::NotMadeInTime)
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
