//! The actors of a schedule: transports, connections, drivers and callers.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake};

use super::steps::{UNHEARD, Who};
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::Poolable;
use crate::connection::shared::{ChangeHook, ConnShared, TransportGuard};
use crate::pool::{ConnPermit, PooledConn, Rejected, Waiter};
use crate::target::Reuse;

/// What the model knows about one transport, without asking the pool.
pub(super) struct Line {
    pub(super) host: usize,
    pub(super) one_shot: bool,
    pub(super) open: AtomicBool,
    pub(super) alive: AtomicBool,
    pub(super) detached: AtomicBool,
    /// The connection was dropped: the transport will follow.
    pub(super) closing: AtomicBool,
    /// An upload is in progress.
    pub(super) uploading: AtomicBool,
    /// Whether several uses share it, and how many; `UNHEARD` while it has not reported that.
    pub(super) is_split: bool,
    pub(super) capacity: AtomicUsize,
    pub(super) changed: Mutex<Option<ChangeHook>>,
    /// A probe has found it dead.
    pub(super) found_dead: AtomicBool,
    /// The pool was seen to let it drain.
    pub(super) drained: AtomicBool,
    /// Where it leads.
    pub(super) address: SocketAddr,
    /// So many answers in a row lack its address, since it was made.
    pub(super) lacking: AtomicUsize,
    /// The pool was seen to take it out of use because of an answer.
    pub(super) left: AtomicBool,
    /// How many uses it had after the last step.
    pub(super) uses_before: AtomicUsize,
    pub(super) shared: Arc<ConnShared>,
    pub(super) limits: LineLimits,
    pub(super) facts: Mutex<Facts>,
}

/// In milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct LineLimits {
    pub(super) max_idle: u64,
    pub(super) max_age: u64,
    pub(super) max_uses: u64,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) born: u64,
    pub(super) uses: u64,
    /// When its last use ended.
    pub(super) free_since: u64,
    /// The step in which it became idle, while it is idle.
    pub(super) idle_from_step: Option<usize>,
}

impl Line {
    pub(super) fn counts(&self) -> bool {
        self.alive.load(SeqCst) && !self.detached.load(SeqCst)
    }

    /// Whether it may be used once more, after a use of it is over or after it was idle until now.
    pub(super) fn may_be_used(&self, now: u64) -> bool {
        let facts = self.facts.lock().unwrap();
        self.open.load(SeqCst)
            && self.counts()
            && self.shared.excluded().is_none()
            && !self.uploading.load(SeqCst)
            && !self.found_dead.load(SeqCst)
            && facts.uses < self.limits.max_uses
            && now - facts.born < self.limits.max_age
            && now - facts.free_since < self.limits.max_idle
    }

    /// Whether a use that was given out may begin.
    pub(super) fn may_go_on(&self, now: u64) -> bool {
        self.open.load(SeqCst)
            && self.shared.excluded().is_none()
            && now - self.facts.lock().unwrap().born < self.limits.max_age
    }

    pub(super) fn carries(&self) -> usize {
        match self.capacity.load(SeqCst) {
            UNHEARD => 1,
            capacity => capacity,
        }
    }

    /// Nobody knows its capacity.
    pub(super) fn is_on_its_way(&self) -> bool {
        self.is_split && self.counts() && matches!(self.capacity.load(SeqCst), 0 | UNHEARD)
    }

    /// The driver reports a change to the pool.
    pub(super) fn tell(&self) {
        let hook = self.changed.lock().unwrap().clone();
        if let Some(hook) = hook {
            hook.run();
        }
    }
}

/// The transport itself.
pub(super) struct Wire(pub(super) Arc<Line>);

impl Drop for Wire {
    fn drop(&mut self) {
        self.0.open.store(false, SeqCst);
        self.0.alive.store(false, SeqCst);
    }
}

pub(super) struct Conn<const S: bool> {
    pub(super) line: Arc<Line>,
    /// `None` if a driver owns it.
    pub(super) _wire: Option<Wire>,
    pub(super) lifespan: Lifespan,
    /// For a shared connection without a driver: the transport ends with the last use.
    pub(super) rest: Option<Arc<Driver>>,
    pub(super) is_use: bool,
}

impl<const S: bool> Drop for Conn<S> {
    fn drop(&mut self) {
        if !self.is_use {
            self.line.closing.store(true, SeqCst);
        }
    }
}

impl<const S: bool> Poolable for Conn<S> {
    const SHARED: bool = S;

    fn is_open(&self) -> bool {
        self.line.open.load(SeqCst)
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.line.capacity.load(SeqCst)).filter(|&it| it != UNHEARD)
    }

    fn another(&mut self) -> Option<Self> {
        self.line.is_split.then(|| Self {
            line: self.line.clone(),
            _wire: None,
            lifespan: self.lifespan.another(),
            rest: self.rest.clone(),
            is_use: true,
        })
    }

    fn on_change(&mut self, hook: ChangeHook) {
        *self.line.changed.lock().unwrap() = Some(hook);
    }

    fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
        if self.line.uploading.load(SeqCst) {
            self.lifespan.end(CloseReason::Abandoned);
        }
        Poll::Ready(())
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

/// Dropped in the order of a driver: first the transport, then the guard.
pub(super) struct Driver {
    pub(super) _wire: Wire,
    pub(super) _guard: TransportGuard,
}

#[derive(Default)]
pub(super) struct Flag(pub(super) AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, SeqCst);
    }
}

pub(super) struct Caller<const S: bool> {
    /// In the order of arrival.
    pub(super) number: usize,
    pub(super) host: usize,
    pub(super) reuse: Reuse,
    pub(super) urgent: bool,
    /// Before the permit, as in a checkout.
    pub(super) waiter: Option<Waiter<Conn<S>>>,
    pub(super) permit: Option<ConnPermit<Conn<S>>>,
    pub(super) begun: bool,
    /// It was given this connection, and cannot use it.
    pub(super) rejected: Option<Rejected<Conn<S>>>,
    pub(super) flag: Arc<Flag>,
    /// It was told to wait for its waker.
    pub(super) pending: bool,
    /// Its connection was made in a task and left for it.
    pub(super) made: bool,
    /// It did not collect its delivery, and others did not wait for it.
    pub(super) missed: bool,
}

impl<const S: bool> Caller<S> {
    pub(super) fn is_blocked(&self) -> bool {
        self.waiter.is_some()
            && self.permit.is_none()
            && !self.made
            && self.rejected.is_none()
            && self.reuse != Reuse::Never
    }

    pub(super) fn is_in_order(&self) -> bool {
        self.waiter.is_some()
            && !self.made
            && !self.missed
            && self.rejected.is_none()
            && self.reuse == Reuse::Any
            && !self.urgent
    }
}

/// The steps of a schedule, printed if it fails.
pub(super) struct Trace(Vec<String>);

/// The trace of the schedule that failed last.
pub(super) static FAILED: Mutex<String> = Mutex::new(String::new());

impl Trace {
    pub(super) fn begin(what: impl Debug) -> Self {
        Self(vec![format!("{what:?}")])
    }

    pub(super) fn note(&mut self, what: impl Into<String>) {
        self.0.push(what.into());
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            *FAILED.lock().unwrap() = self.0.join("\n  ");
        }
    }
}

pub(super) fn line<const S: bool>(pooled: &PooledConn<Conn<S>>) -> &Arc<Line> {
    &pooled.connection_ref().line
}

/// Counted modulo.
pub(super) fn nth(who: Who, of: usize) -> Option<usize> {
    (of > 0).then(|| usize::from(who) % of)
}
