//! Why connections end.

use std::fmt;

/// The enum, the list of its variants, their kinds and their texts are generated from one list, so none of them can lack
/// a variant.
macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident: $kind:ident => $text:literal,)*) => {
        /// Why a connection has ended or will end.
        ///
        /// [`Status::closes`](crate::status::Status::closes) counts closed connections by reason.
        ///
        /// ```
        /// use tower_keep_alive::CloseReason;
        ///
        /// // Its text is for people.
        /// assert_eq!(CloseReason::Idle.to_string(), "idle for too long");
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[cfg_attr(feature = "serde", serde(rename_all = "camelCase"))]
        #[non_exhaustive]
        pub enum CloseReason {
            $($(#[$doc])* $name,)*
        }

        impl CloseReason {
            /// Each variant at the index of its discriminant.
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
    /// It was idle for as long as allowed: by a limit of its own, by the server's `Keep-Alive` header, or by the limit that
    /// was learned from the server.
    Idle: EvictedByTimer => "idle for too long",
    /// It reached its maximum age (TTL).
    Age: EvictedByTimer => "reached its TTL",
    /// It served as many exchanges as allowed, by a limit of its own or by the server's `Keep-Alive` header.
    Uses: Evicted => "reached its number of uses",
    /// Nothing was read or written for the active timeout while it was in use.
    Silence: Late => "silent for too long",
    /// The pool already had as many idle connections as allowed.
    Surplus: Evicted => "more idle than allowed",
    /// It was closed to make room, under a limit, for a caller that was waiting.
    Room: Evicted => "made room under a limit",
    /// Its last exchange is over: `Connection: close`, HTTP/1.0, `OneShot`, or an agent without keep-alive.
    Final: Other => "after its last exchange",
    /// A caller dropped its exchange, or the connection's lease, before the end.
    Abandoned: ByCaller => "abandoned by its caller",
    /// The server closed it, possibly to end a body.
    Peer: Other => "closed by the server",
    /// A probe before its reuse found that the server had closed it, or had sent bytes unasked.
    Stale: Other => "found closed before reuse",
    /// Reading or writing failed, or the server violated the protocol.
    Error: Failed => "failed in use",
    /// It could not be established.
    Connect: NotMade => "connect failed",
    /// It was not established within the connect timeout.
    ConnectTimeout: NotMadeInTime => "connect timed out",
    /// Its connect was cancelled, because no caller needed it any more.
    Cancelled: Other => "connect given up",
    /// `close_idle`, `drain` or `destroy` was called, or the last clone of the service was dropped.
    Shutdown: Other => "closed by the application",
    /// It left the pool during its exchange: by an upgrade, a tunnel, or `ConnectionInfo::detach`.
    Detached: ByCaller => "detached",
    /// Its owner dropped it without a reason.
    Dropped: ByCaller => "dropped by its holder",
    /// A caller marked it as unusable (`ConnectionInfo::poison`).
    Poisoned: EvictedByCaller => "poisoned by a caller",
    /// Its exchange did not end within its `request_timeout`.
    RequestTimeout: Late => "its request took too long",
    /// The head of a response did not arrive within its `response_timeout`.
    ResponseTimeout: Late => "its response came too late",
    /// An HTTP/2 GOAWAY of the server's: the connection takes no further requests.
    GoAway: Other => "ended by the server's GOAWAY",
    /// Its address is no longer one of its name's, has more than its share, or was ejected; or an ejected address is tried again
    /// in its place.
    Moved: Evicted => "its address was left",
}

/// The kind of a reason: the counters and events depend on it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReasonKind {
    /// The pool closed the connection while it was idle or being returned, by a limit of the pool.
    Evicted,
    /// The same, by a time limit.
    EvictedByTimer,
    /// The same, at the request of a caller.
    EvictedByCaller,
    /// A time limit ended it in the middle of an exchange.
    Late,
    /// The connect failed.
    NotMade,
    NotMadeInTime,
    /// It failed in use.
    Failed,
    /// A caller gave up its exchange, or detached the connection.
    ByCaller,
    Other,
}

impl CloseReason {
    /// Whether the pool closed the connection while it was idle or being returned ([`EventKind::Evicted`](crate::EventKind::Evicted)).
    pub(crate) fn is_eviction(self) -> bool {
        use ReasonKind::{Evicted, EvictedByCaller, EvictedByTimer};
        matches!(self.kind(), Evicted | EvictedByTimer | EvictedByCaller)
    }

    /// Whether a timer ended the connection (agentkeepalive's timeoutSocketCount).
    pub(crate) fn is_timeout(self) -> bool {
        use ReasonKind::{EvictedByTimer, Late, NotMadeInTime};
        matches!(self.kind(), EvictedByTimer | Late | NotMadeInTime)
    }

    /// Whether a failure ended the connection (agentkeepalive's errorSocketCount). A clean end of the stream is not a
    /// failure.
    pub(crate) fn is_error(self) -> bool {
        use ReasonKind::{Failed, Late};
        matches!(self.kind(), Failed | Late) || self.is_create_error()
    }

    /// Whether an exchange that is cut short for this reason has failed. It has not if the caller gave it up, or if its
    /// own request body failed.
    pub(crate) fn is_failure(self) -> bool {
        use ReasonKind::{ByCaller, EvictedByCaller};
        !matches!(self.kind(), ByCaller | EvictedByCaller)
    }

    /// Whether this reason can end a connection in the middle of the exchange that was to be its last.
    pub(crate) fn ends_midway(self) -> bool {
        self.is_error() || matches!(self, Self::Abandoned | Self::Shutdown)
    }

    /// Whether the server ended the connection, or its silence or a failure did; not a limit or a caller of ours.
    pub(crate) fn is_of_server(self) -> bool {
        use CloseReason::{Error, GoAway, Peer, ResponseTimeout, Silence, Stale};
        matches!(
            self,
            Peer | Stale | Error | Silence | ResponseTimeout | GoAway
        )
    }

    /// Whether the connect failed, rather than being cancelled because no caller needed it.
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
