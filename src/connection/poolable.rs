//! What a connection must be to be kept.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::connection::lifespan::Lifespan;
use crate::connection::shared::CloseHook;

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
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a connection that can be pooled",
    label = "`Poolable` is missing here",
    note = "below them stands `HandshakeLayer` for HTTP/1, or a service of your own whose response implements `Poolable`"
)]
pub trait Poolable: Send + Sync + 'static {
    /// Whether it is open, as far as is known without looking. Asked under the pool's lock: it must only read, and must
    /// not panic.
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
