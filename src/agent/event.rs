//! Events of an agent.

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Version;

#[cfg(feature = "tracing")]
use crate::agent::trace;
use crate::agent::{AgentHandle, AgentState, EjectionReason};
use crate::connection::close_reason::CloseReason;
use crate::connection::shared::ConnShared;
use crate::target::key::Key;

/// Something that happened to a connection of an agent; see [`AgentHandle::on_event`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The key under which the connection is pooled.
    pub key: &'a Key,
    /// The connection's number ([`ConnectionInfo::id`](crate::ConnectionInfo::id)); `None` while there is none yet.
    pub connection: Option<u64>,
    /// The version of HTTP on the connection ([`ConnectionInfo::version`](crate::ConnectionInfo::version)); `None` while there
    /// is no connection yet.
    pub version: Option<Version>,
    /// What happened.
    pub kind: EventKind,
}

/// What happened to a connection.
///
/// Each connection begins with `Created` and ends with `Detached` or `Closed`. Variants and fields may be added: match with
/// `..` and a wildcard arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventKind {
    /// The connect begins. From here on the connection counts as created.
    Created,
    /// The connect succeeded, and the connection can be used.
    #[non_exhaustive]
    Connected {
        /// How long the connect took, DNS and TLS included.
        took: Duration,
    },
    /// A caller took the connection from the idle list.
    #[non_exhaustive]
    Reused {
        /// How long the connection was idle.
        idle_for: Duration,
    },
    /// The connection was handed to a waiting caller without becoming idle: another caller's exchange on it had ended,
    /// or it was made for a caller that was served otherwise.
    #[non_exhaustive]
    HandedOver {
        /// How long the caller that got it had waited.
        waited: Duration,
    },
    /// The connection was found dead before it was used again. `Closed` follows.
    Stale,
    /// The pool closes a connection that is idle or being returned: because of one of its limits
    /// ([`CloseReason::Idle`], [`Age`](CloseReason::Age), [`Uses`](CloseReason::Uses)), because there are enough idle
    /// connections ([`Surplus`](CloseReason::Surplus)), to make room for another one ([`Room`](CloseReason::Room)), or
    /// because a caller poisoned it ([`Poisoned`](CloseReason::Poisoned)). `Closed` follows.
    #[non_exhaustive]
    Evicted {
        /// The reason.
        reason: CloseReason,
    },
    /// The connection gets no further exchanges, and is closed after those under way: its server has sent GOAWAY over HTTP/2
    /// ([`CloseReason::GoAway`]), it has reached a limit ([`Age`](CloseReason::Age), [`Uses`](CloseReason::Uses)), a caller has
    /// poisoned it ([`Poisoned`](CloseReason::Poisoned)), its place is needed ([`Room`](CloseReason::Room)), or its address is
    /// used no more ([`Moved`](CloseReason::Moved)). A connection without exchanges is closed at once instead, and [`AgentHandle::drain`] alone causes no such event, because the callers
    /// in the queue are still served.
    #[non_exhaustive]
    Draining {
        /// The reason.
        reason: CloseReason,
        /// How many exchanges are under way on it.
        streams: usize,
    },
    /// How many exchanges the connection can carry at the same time is another number now, or is known for the first time.
    /// Over HTTP/2, the server has announced or changed its limit of streams (SETTINGS), has refused a stream or asked for a
    /// pause; or it is in doubt whether the server still answers, and the number is 0 until it does. Exchanges under way go
    /// on, also if there are more of them.
    #[non_exhaustive]
    CapacityChanged {
        /// The new number, of which our own limit is a part.
        capacity: usize,
        /// The number before; `None` if it was not known.
        before: Option<usize>,
    },
    /// The pool has learned, from connections that the server has closed, how long connections of this key may be idle.
    /// It concerns no single connection.
    #[non_exhaustive]
    IdleLimitLearned {
        /// The new limit.
        limit: Duration,
    },
    /// A lookup of the name failed, took too long, or found no address
    /// ([`KeepAliveLayer::follow_dns`](crate::KeepAliveLayer::follow_dns)). The reason is in
    /// [`Status::lookups`](crate::status::Status::lookups). It concerns no single connection.
    #[non_exhaustive]
    LookupFailed {
        /// The age of the last answer, which is used instead; `None` if there is none, or if it is too old.
        answer_age: Option<Duration>,
    },
    /// An address of the key's name gets no new connections and no new requests for a while, because too much failed there
    /// ([`KeepAliveLayer::eject`](crate::KeepAliveLayer::eject)). It concerns no single connection.
    #[non_exhaustive]
    AddressEjected {
        /// The address.
        address: SocketAddr,
        /// For how long. Then one connection tries it again.
        time: Duration,
        /// How many times in a row it was ejected.
        times: u32,
        /// Why.
        reason: EjectionReason,
    },
    /// An address that was ejected serves again.
    #[non_exhaustive]
    AddressReadmitted {
        /// The address.
        address: SocketAddr,
    },
    /// The connection left the agent and stays open: it was upgraded, or its caller detached it. No event follows.
    Detached,
    /// The transport is gone, or the connect ended without one. No event follows.
    #[non_exhaustive]
    Closed {
        /// The reason.
        reason: CloseReason,
        /// How old the connection was; zero if it was never connected.
        age: Duration,
    },
}

type Hook = dyn Fn(&AgentHandle, &Event<'_>) + Send + Sync;

/// The hooks. Usually there are none; then an event costs one check.
#[derive(Default)]
pub(super) struct Listeners {
    any: AtomicBool,
    hooks: Mutex<Arc<[Arc<Hook>]>>,
}

impl Listeners {
    pub(super) fn add(&self, hook: impl Fn(&AgentHandle, &Event<'_>) + Send + Sync + 'static) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut more = hooks.to_vec();
        more.push(Arc::new(hook));
        *hooks = more.into();
        self.any.store(true, Ordering::Release);
    }

    /// Called without the lock, because a hook may add another one.
    fn now(&self) -> Arc<[Arc<Hook>]> {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.clone()
    }
}

impl AgentState {
    /// Calls the hooks. Never called under a lock: hooks are foreign code.
    #[inline]
    pub(crate) fn emit(
        self: &Arc<Self>,
        key: &Key,
        connection: Option<&ConnShared>,
        kind: impl FnOnce() -> EventKind,
    ) {
        if self.has_listeners() {
            self.notify_hooks(key, connection, kind());
        }
    }

    #[inline]
    fn has_listeners(&self) -> bool {
        #[cfg(feature = "tracing")]
        if trace::is_wanted() {
            return true;
        }
        self.listeners.any.load(Ordering::Acquire)
    }

    #[cold]
    fn notify_hooks(self: &Arc<Self>, key: &Key, connection: Option<&ConnShared>, kind: EventKind) {
        let event = &Event {
            key,
            connection: connection.map(ConnShared::id),
            version: connection.map(ConnShared::version),
            kind,
        };
        #[cfg(feature = "tracing")]
        trace::event(self.name().as_deref(), event);
        if !self.listeners.any.load(Ordering::Acquire) {
            return;
        }
        let agent = AgentHandle::new(self.clone());
        for hook in &*self.listeners.now() {
            // A permit may be passing on at this moment, which a panic of the hook must not prevent.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(&agent, event)));
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listeners")
    }
}
