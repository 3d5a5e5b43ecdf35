//! The trait of connections that the pool can keep.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::connection::lifespan::Lifespan;
use crate::connection::shared::{ChangeHook, CloseHook};

/// A connection that the pool can keep and use again.
///
/// Three methods are required: whether the connection is open, whether its last use is over, and where its [`Lifespan`]
/// is.
///
/// ```
/// use std::task::{Context, Poll};
/// use tower_keep_alive::custom::{Lifespan, Poolable};
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
/// A protocol with streams sets [`SHARED`](Self::SHARED). The pool then keeps the connection itself and gives out uses
/// of it, as many at a time as its [`capacity`](Self::capacity).
///
/// - Limits count connections, not uses. A connection is idle while it has no uses.
/// - A connection with uses and spare capacity is preferred to an idle one. Another connection is made only for callers
///   whom neither the present connections nor the connects under way will serve.
/// - A connection that is no longer [open](Self::is_open), or has reached its limit of age or uses, drains: it gets no
///   further uses, and is closed after its last one. A draining connection counts in no limit, but no more connections
///   may drain than the limit itself allows.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
/// use std::task::{Context, Poll};
/// use tower_keep_alive::custom::{Lifespan, Poolable};
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
    note = "below them stands `HandshakeLayer` for HTTP, or a service of your own whose response implements `Poolable`"
)]
pub trait Poolable: Send + Sync + 'static {
    /// Whether several uses may share one connection, as requests share an HTTP/2 connection. If so, the pool keeps the
    /// connection itself, calls [`another`](Self::another) for each use, and reads its [`capacity`](Self::capacity).
    /// Default: `false`, one use at a time.
    const SHARED: bool = false;

    /// Whether the connection is open, as far as is known without a system call. For a [shared](Self::SHARED)
    /// connection: whether it may have further uses; present uses go on in any case. Called under the pool's lock, so
    /// it may only read, and must not panic.
    fn is_open(&self) -> bool;

    /// Ready when the connection's last use is entirely over, or when the connection has closed. It may be called again
    /// after it was ready.
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether [`poll_free`](Self::poll_free) will be ready in a moment without anybody's help: the whole response has
    /// been received, and only the task that drives the connection has to finish its turn.
    ///
    /// On a multi-thread runtime the end of a response body is held back until then, for at most one second, so that
    /// the caller's next request finds this connection. Default: `false`, nothing is held back.
    fn is_almost_free(&self) -> bool {
        false
    }

    /// Checks on the transport itself whether the server has closed it, or has sent anything on it, while it was idle.
    /// Called before every reuse, never under a lock.
    fn probe(&mut self) -> Liveness {
        Liveness::Unknown
    }

    /// How many uses the connection can carry at a time. `None` while that is not known yet; the connection then
    /// carries one. The number may change at any time, also to zero or to less than the present uses, which go on.
    /// Default: one. Called only for a [shared](Self::SHARED) connection, under the pool's lock, so it may only read, and must not
    /// panic.
    fn capacity(&self) -> Option<usize> {
        Some(1)
    }

    /// Whether the server may be gone. The pool then does not wait for a capacity of zero to rise, as it does otherwise, but
    /// makes other connections. Default: `false`. Called like [`capacity`](Self::capacity).
    fn is_doubted(&self) -> bool {
        false
    }

    /// Makes one more use of a [shared](Self::SHARED) connection, whose lifespan is made by [`Lifespan::another`];
    /// `None` if the connection cannot be shared. Dropping a use ends that use and nothing else. The transport ends
    /// when the connection and all of its uses are dropped, so it must belong to a driver, or to something else that
    /// outlives every use. Called under the pool's lock: it must neither wait nor panic.
    fn another(&mut self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Receives the hook to call whenever [`capacity`](Self::capacity) or [`is_open`](Self::is_open) has changed.
    /// Called once, for a [shared](Self::SHARED) connection.
    fn on_change(&mut self, hook: ChangeHook) {
        let _ = hook;
    }

    /// Receives the hook to run when the transport is gone. Called once, by the pool that keeps the connection.
    fn on_close(&mut self, hook: CloseHook) {
        self.lifespan_mut().on_close(hook);
    }

    /// The connection's limits.
    fn lifespan(&self) -> &Lifespan;

    /// The connection's limits, to tighten them.
    fn lifespan_mut(&mut self) -> &mut Lifespan;
}

/// One use of a connection, which returns the connection at its end: what a response body holds.
///
/// Implemented by `Lease` alone: the trait cannot be named outside of this crate.
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
    /// Erases the type. Does not allocate.
    fn into_erased(self) -> Box<dyn ErasedLease>;
}

/// A [`Leased`] whose type is erased.
#[expect(
    unnameable_types,
    reason = "sealed: it is a bound, and nobody else writes it"
)]
pub trait ErasedLease: Send + Sync + 'static {
    /// The limits of the connection.
    fn lifespan_mut(&mut self) -> &mut Lifespan;

    /// Ends the use: returns the connection to the pool, or closes it.
    fn release(self: Box<Self>);

    /// Ends the use as [`release`](Self::release) does. If the connection is not free yet but [will be in a
    /// moment](Poolable::is_almost_free), the returned future is ready once the connection is back in the pool: a
    /// caller that waits for it finds this connection again. The use ends whether or not anybody waits.
    fn release_soon(self: Box<Self>, cx: &mut Context<'_>) -> Option<Released>;
}

/// Ready when a [released](ErasedLease::release_soon) connection is back in the pool, or when that takes too long to
/// wait for.
///
/// # Cancel safety
///
/// Dropping the future ends the wait, and nothing else: the release goes on.
#[expect(unnameable_types, reason = "sealed: it is what a sealed trait returns")]
#[derive(Debug)]
pub struct Released(pub(crate) oneshot::Receiver<()>);

impl Future for Released {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        // A sender dropped without a message ends the wait as well.
        Pin::new(&mut self.0).poll(cx).map(drop)
    }
}

/// The result of probing a transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Liveness {
    /// Open, with nothing to read.
    Open,
    /// Closed, broken, or with unsolicited bytes to read.
    Dead,
    /// The transport cannot be probed.
    Unknown,
}
