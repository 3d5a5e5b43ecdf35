use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use socket2::{SockRef, Socket as Socket2};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connect::Probe;
use crate::connect::probe::Look;
use crate::connection::poolable::Liveness;
use crate::connection::shared::Close;

/// A stream of tokio's that can be had in two halves, of which each has the socket.
#[expect(
    unnameable_types,
    reason = "there are two of them, `Tcp` and `Unix`, and nobody makes another"
)]
pub trait Halves: Sized + 'static {
    type Reader: AsyncRead + AsRef<Self> + fmt::Debug + Send + Sync + Unpin;
    type Writer: AsyncWrite + AsRef<Self> + fmt::Debug + Send + Unpin;

    fn into_halves(self) -> (Self::Reader, Self::Writer);

    /// Lets go of a half without an end of the stream: the socket closes with the other one.
    fn forget(writer: Self::Writer);

    fn socket(&self) -> SockRef<'_>;
}

/// A stream that its pool can look at while a connection's driver has it: [`Tcp`](crate::connect::Tcp), and
/// [`Unix`](crate::connect::Unix).
#[derive(Debug)]
pub struct Socket<S: Halves> {
    /// A connection reads more often than it does anything else: without a lock.
    reader: S::Reader,
    /// One descriptor, shared: a second one would keep the socket open after the first is closed. Nothing when this is gone.
    writer: Shared<S>,
    vectored: bool,
}

type Shared<S> = Arc<Mutex<Option<<S as Halves>::Writer>>>;

impl<S: Halves> Socket<S> {
    pub(super) fn of(stream: S) -> Self {
        let (reader, writer) = stream.into_halves();
        Self {
            reader,
            vectored: writer.is_write_vectored(),
            writer: Arc::new(Mutex::new(Some(writer))),
        }
    }

    /// A look at the socket itself, for [`HandshakeLayer::probe_with`](crate::HandshakeLayer::probe_with) where the
    /// socket is inside of a transport of your own.
    #[must_use]
    pub fn probe(&self) -> Probe {
        Probe::of(Looks::<S>(self.writer.clone()))
    }

    #[cfg(feature = "tls")]
    pub(super) fn look(&self) -> Liveness {
        self.with_socket(look)
    }

    #[cfg(all(feature = "http2", feature = "tls"))]
    pub(super) fn peek(&self) -> Liveness {
        self.with_socket(peek)
    }

    /// The socket itself, past what tokio remembers of it.
    #[cfg(feature = "tls")]
    pub(super) fn with_socket<R>(&self, with: impl FnOnce(&Socket2) -> R) -> R {
        with(&self.stream().socket())
    }

    pub(super) fn stream(&self) -> &S {
        self.reader.as_ref()
    }

    /// By the half that writes, which is here for as long as this is.
    #[inline]
    fn write<R>(
        &self,
        write: impl FnOnce(Pin<&mut S::Writer>) -> Poll<io::Result<R>>,
    ) -> Poll<io::Result<R>> {
        match &mut *lock::<S>(&self.writer) {
            Some(writer) => write(Pin::new(writer)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

/// The socket, for whoever looks at it.
struct Looks<S: Halves>(Shared<S>);

impl<S: Halves> Look for Looks<S> {
    #[inline]
    fn look(&self) -> Liveness {
        match &*lock::<S>(&self.0) {
            Some(writer) => look(&writer.as_ref().socket()),
            None => Liveness::Dead,
        }
    }

    #[cfg(feature = "http2")]
    #[inline]
    fn peek(&self) -> Liveness {
        match &*lock::<S>(&self.0) {
            Some(writer) => peek(&writer.as_ref().socket()),
            None => Liveness::Dead,
        }
    }
}

impl<S: Halves> Close for Looks<S> {
    fn close(&self) {
        if let Some(writer) = &*lock::<S>(&self.0) {
            shut(&writer.as_ref().socket());
        }
    }
}

/// Ends the connection in the network, whoever has the socket. One that cannot be shut down has no connection any more.
pub(super) fn shut(socket: &Socket2) {
    let _ = socket.shutdown(Shutdown::Both);
}

/// `recv` with `MSG_PEEK` on a socket that does not block: nothing to read is what an idle connection should say.
#[inline]
fn look(socket: &Socket2) -> Liveness {
    match peek(socket) {
        Liveness::Unknown => Liveness::Dead,
        other => other,
    }
}

/// The same, where bytes that wait say nothing of the end.
#[inline]
fn peek(socket: &Socket2) -> Liveness {
    let mut byte = [MaybeUninit::uninit()];
    match socket.peek(&mut byte) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Liveness::Open,
        Ok(1..) => Liveness::Unknown,
        _ => Liveness::Dead,
    }
}

#[inline]
fn lock<S: Halves>(writer: &Shared<S>) -> MutexGuard<'_, Option<S::Writer>> {
    writer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<S: Halves> Drop for Socket<S> {
    /// The socket closes now, whoever looks at it.
    fn drop(&mut self) {
        if let Some(writer) = lock::<S>(&self.writer).take() {
            S::forget(writer);
        }
    }
}

impl<S: Halves> AsyncRead for Socket<S> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(cx, buf)
    }
}

impl<S: Halves> AsyncWrite for Socket<S> {
    #[inline]
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(|writer| writer.poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(|writer| writer.poll_write_vectored(cx, bufs))
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
        self.write(|writer| writer.poll_shutdown(cx))
    }
}
