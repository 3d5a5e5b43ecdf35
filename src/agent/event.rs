//! What an agent tells those who listen.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[cfg(feature = "tracing")]
use crate::agent::trace;
use crate::agent::{AgentHandle, AgentState};
use crate::connection::close_reason::CloseReason;
use crate::target::key::Key;

/// Something that happened to a connection of an agent; see [`AgentHandle::on_event`].
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// What the connection is pooled under.
    pub key: &'a Key,
    /// The connection's number ([`ConnectionInfo::id`](crate::ConnectionInfo::id)); `None` while there is none yet.
    pub connection: Option<u64>,
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
    /// The connection was handed to a caller in line, without becoming idle: another caller's exchange on it had ended, or
    /// it was made for a caller who had found another one.
    #[non_exhaustive]
    HandedOver {
        /// How long that caller waited.
        waited: Duration,
    },
    /// The connection was found dead before it was used again. `Closed` follows.
    Stale,
    /// The pool closes a connection that is idle or was given back: for a limit of its own ([`CloseReason::Idle`],
    /// [`Age`](CloseReason::Age), [`Uses`](CloseReason::Uses)), because there are enough idle ones without it
    /// ([`Surplus`](CloseReason::Surplus)), to make room for others ([`Room`](CloseReason::Room)), or because a caller poisoned
    /// it ([`Poisoned`](CloseReason::Poisoned)). `Closed` follows.
    #[non_exhaustive]
    Evicted {
        /// Which of these.
        reason: CloseReason,
    },
    /// The pool has learned from closes by the server for how long connections of this key may be idle. It is of no one
    /// connection.
    #[non_exhaustive]
    IdleLimitLearned {
        /// For how long, from now on.
        limit: Duration,
    },
    /// The connection left the agent, and stays open: it was upgraded, or its caller detached it. No event follows.
    Detached,
    /// The transport is gone, or the connect ended without one. No event follows.
    #[non_exhaustive]
    Closed {
        /// Why.
        reason: CloseReason,
        /// How old the connection was; zero if it was never connected.
        age: Duration,
    },
}

type Hook = dyn Fn(&AgentHandle, &Event<'_>) + Send + Sync;

/// Those who listen. Nobody, as a rule: then an event costs one look.
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

    /// Not under the lock: a hook may add another one.
    fn now(&self) -> Arc<[Arc<Hook>]> {
        let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.clone()
    }
}

impl AgentState {
    /// Tells whoever listens. Never under a lock: what listens is not ours.
    #[inline]
    pub(crate) fn tell(
        self: &Arc<Self>,
        key: &Key,
        connection: Option<u64>,
        kind: impl FnOnce() -> EventKind,
    ) {
        if self.is_heard() {
            self.tell_all(key, connection, kind());
        }
    }

    #[inline]
    fn is_heard(&self) -> bool {
        #[cfg(feature = "tracing")]
        if trace::is_wanted() {
            return true;
        }
        self.listeners.any.load(Ordering::Acquire)
    }

    #[cold]
    fn tell_all(self: &Arc<Self>, key: &Key, connection: Option<u64>, kind: EventKind) {
        #[cfg(feature = "tracing")]
        trace::event(self.name().as_deref(), key, connection, kind);
        if !self.listeners.any.load(Ordering::Acquire) {
            return;
        }
        let event = &Event {
            key,
            connection,
            kind,
        };
        let agent = AgentHandle::new(self.clone());
        for hook in &*self.listeners.now() {
            // A permit may be passing on behind this: it must, whatever a hook does.
            let _ = catch_unwind(AssertUnwindSafe(|| hook(&agent, event)));
        }
    }
}

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Listeners")
    }
}
