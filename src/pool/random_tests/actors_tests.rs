//! Who acts in a random schedule: transports, connections, drivers and callers, and the dice.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::task::{Context, Poll, Wake};

use crate::bond::TransportGuard;
use crate::lifespan::Lifespan;
use crate::pool::{Berth, Slot, Waiter};
use crate::poolable::Poolable;
use crate::target::Reuse;

/// What the model knows of one transport.
pub(super) struct Line {
    pub(super) host: usize,
    pub(super) one_shot: bool,
    pub(super) open: AtomicBool,
    pub(super) alive: AtomicBool,
    pub(super) detached: AtomicBool,
    /// The connection was dropped: the transport will go.
    pub(super) closing: AtomicBool,
}

impl Line {
    pub(super) fn counts(&self) -> bool {
        self.alive.load(SeqCst) && !self.detached.load(SeqCst)
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

pub(super) struct Conn {
    pub(super) line: Arc<Line>,
    /// Nothing where a driver has it.
    pub(super) _wire: Option<Wire>,
    pub(super) lifespan: Lifespan,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.line.closing.store(true, SeqCst);
    }
}

impl Poolable for Conn {
    fn is_open(&self) -> bool {
        self.line.open.load(SeqCst)
    }

    fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

/// The order is that of a driver: first the transport, then what says so.
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

pub(super) struct Caller {
    pub(super) host: usize,
    pub(super) reuse: Reuse,
    pub(super) urgent: bool,
    /// Before the slot, as in a checkout.
    pub(super) waiter: Option<Waiter<Conn>>,
    pub(super) slot: Option<Slot<Conn>>,
    pub(super) begun: bool,
    /// It was given this, and has found it dead.
    pub(super) stale: Option<Box<Berth<Conn>>>,
    pub(super) flag: Arc<Flag>,
    /// It was told to wait for its waker.
    pub(super) pending: bool,
}

impl Caller {
    pub(super) fn is_blocked(&self) -> bool {
        self.waiter.is_some() && self.slot.is_none() && self.reuse != Reuse::Never
    }

    pub(super) fn is_in_order(&self) -> bool {
        self.waiter.is_some() && self.reuse == Reuse::Any && !self.urgent
    }
}

/// The same numbers for the same seed.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, range: Range<usize>) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        range.start + (self.0 >> 11) as usize % range.len()
    }

    pub(super) fn one_in(&mut self, sides: usize) -> bool {
        self.roll(0..sides) == 0
    }
}

/// What is told if a run fails.
pub(super) struct Trace(pub(super) Vec<String>);

impl Trace {
    pub(super) fn note(&mut self, what: impl Debug) {
        self.0.push(format!("{what:?}"));
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.0.join("\n"));
        }
    }
}
