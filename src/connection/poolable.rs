//! What a connection must be to be kept.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::connection::lifespan::Lifespan;
use crate::connection::shared::{ChangeHook, CloseHook};

/// A connection that can be kept and used again.
///
/// Only three things have to be said: whether it is open, whether its last use is over, and where its [`Lifespan`] is.
///
/// ```
/// use std::task::{Context, Poll};
/// use tower_keep_alive::{Lifespan, Poolable};
///
/// /// A line-based protocol: an answer read is a use that is over.
/// struct Line {
///     stream: tokio::io::DuplexStream,
///     waiting_for_answer: bool,
///     broken: bool,
///     // After the transport, so that it is dropped after it.
///     lifespan: Lifespan,
/// }
///
/// impl Poolable for Line {
///     fn is_open(&self) -> bool {
///         !self.broken
///     }
///     fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
///         // A use that was given up in the middle leaves an answer behind that is nobody's.
///         self.broken |= self.waiting_for_answer;
///         Poll::Ready(())
///     }
///     fn lifespan(&self) -> &Lifespan {
///         &self.lifespan
///     }
///     fn lifespan_mut(&mut self) -> &mut Lifespan {
///         &mut self.lifespan
///     }
/// }
/// # let (stream, _peer) = tokio::io::duplex(64);
/// # let line = Line { stream, waiting_for_answer: false, broken: false, lifespan: Lifespan::new() };
/// # assert!(line.is_open());
/// ```
///
/// # Connections that several uses share
///
/// A protocol with streams says that its connections are [`SHARED`](Self::SHARED). The pool keeps such a connection and gives
/// out uses of it, as many at a time as its [`capacity`](Self::capacity) says. Limits count connections, not uses; a
/// connection is idle while it has no uses; one with uses and room for more is taken before an idle one, and another one is
/// made only for callers whom nothing that is there or on its way will serve. When a connection is no longer
/// [open](Self::is_open), or its age or its uses are at their limit, it gets no further uses and is closed after the last of
/// those that it has; until then it counts in no limit, but there are at most as many of these as the limit itself allows.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
/// use std::task::{Context, Poll};
/// use tower_keep_alive::{Lifespan, Poolable};
///
/// /// One stream of a connection, or the connection itself, of which the pool makes streams.
/// struct Stream {
///     connection: Arc<Connection>,
///     lifespan: Lifespan,
/// }
///
/// /// What its driver tells: how many streams the server allows, and whether it wants any more.
/// struct Connection {
///     streams: AtomicUsize,
///     goes_away: AtomicBool,
/// }
///
/// impl Poolable for Stream {
///     const SHARED: bool = true;
///
///     fn is_open(&self) -> bool {
///         !self.connection.goes_away.load(Ordering::Acquire)
///     }
///     fn capacity(&self) -> Option<usize> {
///         Some(self.connection.streams.load(Ordering::Acquire))
///     }
///     fn another(&mut self) -> Option<Self> {
///         Some(Self { connection: self.connection.clone(), lifespan: self.lifespan.another() })
///     }
///     fn poll_free(&mut self, _: &mut Context<'_>) -> Poll<()> {
///         Poll::Ready(())
///     }
///     fn lifespan(&self) -> &Lifespan {
///         &self.lifespan
///     }
///     fn lifespan_mut(&mut self) -> &mut Lifespan {
///         &mut self.lifespan
///     }
/// }
/// # let connection = Arc::new(Connection { streams: AtomicUsize::new(100), goes_away: AtomicBool::new(false) });
/// # let mut stream = Stream { connection, lifespan: Lifespan::new() };
/// # assert!(stream.another().is_some_and(|it| it.is_open() && it.capacity() == Some(100)));
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connection that can be pooled",
    label = "`Poolable` is missing here",
    note = "below them stands `HandshakeLayer` for HTTP/1, or a service of your own whose response implements `Poolable`"
)]
pub trait Poolable: Send + Sync + 'static {
    /// Whether several uses may share one connection, as requests share a connection of HTTP/2. Then the pool keeps the
    /// connection itself, gives out [`another`](Self::another) for each use, and asks for its [`capacity`](Self::capacity).
    /// Default: `false`; a connection is for one use at a time.
    const SHARED: bool = false;

    /// Whether it is open, as far as is known without looking. Asked under the pool's lock: it must only read, and must
    /// not panic. Of a [shared](Self::SHARED) connection: whether it may have further uses; those that have begun go on.
    fn is_open(&self) -> bool;

    /// Ready when its last use is entirely over, or when it has closed. Once ready it may be called again.
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether [`poll_free`](Self::poll_free) will be ready by itself in a moment: all of the last use's response is here,
    /// nothing is awaited of anybody, and the task that drives the connection has only to come to the end of its turn.
    ///
    /// On a runtime of several threads the end of a response is held back until then, for a second at the most, so that
    /// the caller's next request finds this connection. Default: `false`; nothing is held back.
    fn is_almost_free(&self) -> bool {
        false
    }

    /// Looks at the transport itself, before every reuse and never under a lock: whether the server has closed it or
    /// has written to it while it was idle.
    fn probe(&mut self) -> Liveness {
        Liveness::Unknown
    }

    /// How many uses it can carry at the same time; `None` while that is not known yet, and then it carries one. It may
    /// change at any time, to less than what is in use and to none at all: those that have begun go on. Asked of a
    /// [shared](Self::SHARED) connection only, and under the pool's lock: it must only read, and must not panic.
    fn capacity(&self) -> Option<usize> {
        Some(1)
    }

    /// One more use of a [shared](Self::SHARED) connection, with [`Lifespan::another`] of its own; `None` if this connection
    /// cannot be shared. It is a use's part alone: dropping it gives up its use and nothing else. The transport goes when the
    /// connection and all of its uses are dropped, and has a driver, or something else that outlives each of them. Called
    /// under the pool's lock: it must not wait, and must not panic.
    fn another(&mut self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Takes what is to be done whenever [`capacity`](Self::capacity) or [`is_open`](Self::is_open) has changed. Called once,
    /// for a [shared](Self::SHARED) connection.
    fn on_change(&mut self, hook: ChangeHook) {
        let _ = hook;
    }

    /// Takes what is to be done when the transport is gone. Called once, by the pool that keeps the connection.
    fn on_close(&mut self, hook: CloseHook) {
        self.lifespan_mut().on_close(hook);
    }

    /// Its limits.
    fn lifespan(&self) -> &Lifespan;

    /// Its limits, to tighten them.
    fn lifespan_mut(&mut self) -> &mut Lifespan;
}

/// The use of one connection, and the way to give it back: what a response body holds on to.
///
/// `Lease` alone is one: the trait cannot be named outside of this crate.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a lease: nothing would give the connection back",
    label = "`CheckinLayer` is missing below `ExchangeLayer`",
    note = "the order is `ExchangeLayer`, `CheckinLayer`, `CheckoutLayer`, and below them what makes connections"
)]
#[expect(
    unnameable_types,
    reason = "sealed: it is a bound, and nobody else writes it"
)]
pub trait Leased: Poolable {
    /// Itself, its type forgotten. Does not allocate.
    fn into_erased(self) -> Box<dyn ErasedLease>;
}

/// A [`Leased`] whose type is forgotten.
#[expect(
    unnameable_types,
    reason = "sealed: it is a bound, and nobody else writes it"
)]
pub trait ErasedLease: Send + Sync + 'static {
    /// The limits of the connection.
    fn lifespan_mut(&mut self) -> &mut Lifespan;

    /// Ends the use: gives the connection back, or closes it.
    fn release(self: Box<Self>);

    /// Ends the use as [`release`](Self::release) does. Where its connection is not free yet and
    /// [will be in a moment](Poolable::is_almost_free), what is returned is ready when it is: whoever waits for that finds
    /// this connection. The use ends by itself, whether or not anybody waits.
    fn release_soon(self: Box<Self>, cx: &mut Context<'_>) -> Option<Released>;
}

/// Ready when a use that [is over](ErasedLease::release_soon) has given its connection back, or when that takes longer than it
/// is worth waiting for.
///
/// # Cancel safety
///
/// Dropping it ends the waiting, and nothing else.
#[expect(unnameable_types, reason = "sealed: it is what a sealed trait returns")]
#[derive(Debug)]
pub struct Released(pub(crate) oneshot::Receiver<()>);

impl Future for Released {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever says nothing and is gone has nothing more to say.
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// What a look at a transport tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Liveness {
    /// Open, and nothing has come in.
    Open,
    /// Closed, broken, or with bytes on it that nobody asked for.
    Dead,
    /// It cannot be looked at.
    Unknown,
}
