use std::fmt;
use std::sync::Arc;

use crate::connection::poolable::Liveness;
use crate::connection::shared::Close;

/// Checks a transport that its driver owns: whether the server has closed it, or sent anything on it, while it was
/// idle.
///
/// tokio remembers the last state of a socket, and learns of changes late when the runtime is busy. So a connection
/// that the server has closed, or has sent a stray response on, looks open for as long as the runtime's threads are
/// busy. A probe asks the socket itself, and reads nothing from it.
///
/// A probe can also [close](Self::with_close) the transport. A pool needs that if a caller waits for the place of a
/// connection whose runtime is not driven. If the transport cannot be closed, such a caller gets an error whose
/// [`timeout_kind`](crate::Error::timeout_kind) is [`Close`](crate::TimeoutKind::Close).
#[derive(Clone)]
pub struct Probe(Arc<dyn Check>);

/// A transport that a driver owns.
pub(super) trait Check: Close {
    fn check(&self) -> Liveness;

    /// Probes a transport on which bytes may arrive at any time. It reads nothing, and waiting bytes do not make the
    /// transport dead: the result is `Unknown`, and the driver finds out when it reads them.
    #[cfg(feature = "http2")]
    fn peek(&self) -> Liveness {
        match self.check() {
            Liveness::Dead => Liveness::Unknown,
            other => other,
        }
    }

    /// Whether it can be closed from outside.
    fn closes(&self) -> bool {
        true
    }
}

/// Probes by a function; cannot close.
struct CheckOnly<L>(L);

/// Replaces how the transport is closed.
struct WithClose<C> {
    below: Probe,
    close: C,
}

impl Probe {
    /// A probe that calls `check`, which must not block.
    pub fn new(check: impl Fn() -> Liveness + Send + Sync + 'static) -> Self {
        Self(Arc::new(CheckOnly(check)))
    }

    /// Adds `close`, which closes the transport in both directions at once, from any thread, as
    /// [`shutdown`](std::net::TcpStream::shutdown) does for a socket. It must not block.
    ///
    /// ```
    /// use std::net::{Shutdown, TcpStream};
    /// use std::sync::Arc;
    /// use tower_keep_alive::custom::Liveness;
    /// use tower_keep_alive::connect::Probe;
    ///
    /// fn probe(socket: Arc<TcpStream>) -> Probe {
    ///     let shared = socket.clone();
    ///     let check = move || match shared.peek(&mut [0]) {
    ///         Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Liveness::Open,
    ///         _ => Liveness::Dead,
    ///     };
    ///     Probe::new(check).with_close(move || drop(socket.shutdown(Shutdown::Both)))
    /// }
    /// # let _ = probe;
    /// ```
    #[must_use]
    pub fn with_close(self, close: impl Fn() + Send + Sync + 'static) -> Self {
        Self::of(WithClose { below: self, close })
    }

    /// A probe that can close.
    pub(super) fn of(check: impl Check + 'static) -> Self {
        Self(Arc::new(check))
    }

    /// Probes a transport on which bytes may arrive at any time.
    #[cfg(feature = "http2")]
    pub(crate) fn peek(&self) -> Liveness {
        self.0.peek()
    }

    /// Closes the transport, if that is possible.
    pub(crate) fn closer(&self) -> Option<Arc<dyn Close>> {
        self.0.closes().then(|| self.0.clone() as Arc<dyn Close>)
    }

    /// Probes the transport now.
    #[must_use]
    #[inline]
    pub fn check(&self) -> Liveness {
        self.0.check()
    }
}

impl<L> Check for CheckOnly<L>
where
    L: Fn() -> Liveness + Send + Sync,
{
    fn check(&self) -> Liveness {
        self.0()
    }

    fn closes(&self) -> bool {
        false
    }
}

impl<L: Send + Sync> Close for CheckOnly<L> {
    fn close(&self) {}
}

impl<C> Check for WithClose<C>
where
    C: Fn() + Send + Sync,
{
    fn check(&self) -> Liveness {
        self.below.check()
    }

    #[cfg(feature = "http2")]
    fn peek(&self) -> Liveness {
        self.below.peek()
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
        let probe = Probe::new(|| Liveness::Open);
        assert!(probe.closer().is_none());
        assert!(probe.with_close(|| {}).closer().is_some());
    }
}
