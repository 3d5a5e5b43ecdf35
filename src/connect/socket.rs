use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use socket2::{SockRef, Socket as Socket2};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::bond::Addresses;
use crate::connect::Probe;
use crate::poolable::Liveness;

/// A stream that its pool can look at while a connection's driver has it: [`Tcp`](crate::connect::Tcp), and
/// [`Unix`](crate::connect::Unix).
#[derive(Debug)]
pub struct Socket<S> {
    /// One descriptor, shared: a second one would keep the socket open after the first is closed.
    stream: Arc<Mutex<S>>,
    addresses: Addresses,
    vectored: bool,
}

impl<S: AsyncWrite> Socket<S> {
    pub(super) fn of(stream: S, addresses: Addresses) -> Self {
        Self {
            addresses,
            vectored: stream.is_write_vectored(),
            stream: Arc::new(Mutex::new(stream)),
        }
    }
}

impl<S> Socket<S> {
    pub(super) fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// A look at the socket itself, for [`HandshakeLayer::probe_with`](crate::HandshakeLayer::probe_with) where the
    /// socket is inside of a transport of your own..
    #[must_use]
    pub fn probe(&self) -> Probe
    where
        S: Send + 'static,
        for<'s> SockRef<'s>: From<&'s S>,
    {
        // Weak: the socket closes with its connection.
        let stream = Arc::downgrade(&self.stream);
        Probe::new(move || match stream.upgrade() {
            Some(stream) => look(&SockRef::from(&*lock(&stream))),
            None => Liveness::Dead,
        })
    }

    #[cfg(feature = "tls")]
    pub(super) fn look(&self) -> Liveness
    where
        for<'s> SockRef<'s>: From<&'s S>,
    {
        self.with_socket(look)
    }

    /// The socket itself, past what tokio remembers of it.
    #[cfg(feature = "tls")]
    pub(super) fn with_socket<R>(&self, with: impl FnOnce(&Socket2) -> R) -> R
    where
        for<'s> SockRef<'s>: From<&'s S>,
    {
        with(&SockRef::from(&*lock(&self.stream)))
    }

    #[cfg(test)]
    pub(super) fn stream(&self) -> MutexGuard<'_, S> {
        lock(&self.stream)
    }
}

/// `recv` with `MSG_PEEK` on a socket that does not block: nothing to read is what an idle connection should say.
#[inline]
fn look(socket: &Socket2) -> Liveness {
    let mut byte = [MaybeUninit::uninit()];
    match socket.peek(&mut byte) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Liveness::Open,
        _ => Liveness::Dead,
    }
}

#[inline]
fn lock<S>(stream: &Mutex<S>) -> MutexGuard<'_, S> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S> AsyncRead for Socket<S>
where
    S: AsyncRead + Unpin,
{
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.stream)).poll_read(cx, buf)
    }
}

impl<S> AsyncWrite for Socket<S>
where
    S: AsyncWrite + Unpin,
{
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.stream)).poll_write(cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *lock(&self.stream)).poll_write_vectored(cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        self.vectored
    }

    /// A socket has nothing of its own to flush, nor has tokio.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *lock(&self.stream)).poll_shutdown(cx)
    }
}
