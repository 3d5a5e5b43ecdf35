use std::fmt;
use std::sync::Arc;

use crate::connection::poolable::Liveness;
use crate::connection::shared::Close;

/// A look at a transport that is in use elsewhere: whether it was closed, or written to unasked, while it was idle.
///
/// tokio remembers what it last heard about a socket, and a busy runtime hears late. So a connection that a server has
/// closed, or has sent a stray response on, can look open for as long as the runtime's threads have other things to do.
/// A look asks the socket itself, and takes nothing from it.
///
/// It may also [close](Self::with_close) the transport: a pool asks for that where a caller waits for a connection's place
/// and the runtime that has the transport is not driven. Where there is no way to, such a caller gets an error whose
/// [`timeout_kind`](crate::Error::timeout_kind) is [`Close`](crate::TimeoutKind::Close).
#[derive(Clone)]
pub struct Probe(Arc<dyn Look>);

/// A transport that others have.
pub(super) trait Look: Close {
    fn look(&self) -> Liveness;

    /// The same, where bytes may come in at any time. It takes nothing of what is there to be read, and does not call that
    /// dead: `Unknown` is for whoever reads it to find out about.
    #[cfg(feature = "http2")]
    fn peek(&self) -> Liveness {
        match self.look() {
            Liveness::Dead => Liveness::Unknown,
            other => other,
        }
    }

    /// Whether there is a way to close it.
    fn closes(&self) -> bool {
        true
    }
}

/// By a function, and without a way to close it.
struct LookOnly<L>(L);

/// With another way to close it.
struct WithClose<C> {
    looks: Probe,
    close: C,
}

impl Probe {
    /// A probe that looks by `look`, which must not block.
    pub fn new(look: impl Fn() -> Liveness + Send + Sync + 'static) -> Self {
        Self(Arc::new(LookOnly(look)))
    }

    /// The same, and `close` closes the transport for both directions, at once and from whatever thread: as
    /// [`shutdown`](std::net::TcpStream::shutdown) does it for a socket. It must not block.
    ///
    /// ```
    /// use std::net::{Shutdown, TcpStream};
    /// use std::sync::Arc;
    /// use tower_keep_alive::Liveness;
    /// use tower_keep_alive::connect::Probe;
    ///
    /// fn probe(socket: Arc<TcpStream>) -> Probe {
    ///     let shared = socket.clone();
    ///     let look = move || match shared.peek(&mut [0]) {
    ///         Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Liveness::Open,
    ///         _ => Liveness::Dead,
    ///     };
    ///     Probe::new(look).with_close(move || drop(socket.shutdown(Shutdown::Both)))
    /// }
    /// # let _ = probe;
    /// ```
    #[must_use]
    pub fn with_close(self, close: impl Fn() + Send + Sync + 'static) -> Self {
        Self::of(WithClose { looks: self, close })
    }

    /// Of what can be closed.
    pub(super) fn of(look: impl Look + 'static) -> Self {
        Self(Arc::new(look))
    }

    /// Looks for the end of a transport on which bytes may come in at any time.
    #[cfg(feature = "http2")]
    pub(crate) fn peek(&self) -> Liveness {
        self.0.peek()
    }

    /// What closes the transport, if there is a way to.
    pub(crate) fn closer(&self) -> Option<Arc<dyn Close>> {
        self.0.closes().then(|| self.0.clone() as Arc<dyn Close>)
    }

    /// Looks now.
    #[must_use]
    #[inline]
    pub fn look(&self) -> Liveness {
        self.0.look()
    }
}

impl<L> Look for LookOnly<L>
where
    L: Fn() -> Liveness + Send + Sync,
{
    fn look(&self) -> Liveness {
        self.0()
    }

    fn closes(&self) -> bool {
        false
    }
}

impl<L: Send + Sync> Close for LookOnly<L> {
    fn close(&self) {}
}

impl<C> Look for WithClose<C>
where
    C: Fn() + Send + Sync,
{
    fn look(&self) -> Liveness {
        self.looks.look()
    }

    #[cfg(feature = "http2")]
    fn peek(&self) -> Liveness {
        self.looks.peek()
    }
}

impl<C> Close for WithClose<C>
where
    C: Fn() + Send + Sync,
{
    fn close(&self) {
        (self.close)();
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_only_looks_closes_nothing() {
        let looks = Probe::new(|| Liveness::Open);
        assert!(looks.closer().is_none());
        assert!(looks.with_close(|| {}).closer().is_some());
    }
}
