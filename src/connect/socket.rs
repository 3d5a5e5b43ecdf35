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
use crate::connect::probe::Check;
use crate::connection::poolable::Liveness;
use crate::connection::shared::Close;

/// A tokio stream that can be split into two halves, each of which shares the socket.
#[expect(
    unnameable_types,
    reason = "there are two of them, `Tcp` and `Unix`, and nobody makes another"
)]
pub trait Halves: Sized + 'static {
    type Reader: AsyncRead + AsRef<Self> + fmt::Debug + Send + Sync + Unpin;
    type Writer: AsyncWrite + AsRef<Self> + fmt::Debug + Send + Unpin;

    fn into_halves(self) -> (Self::Reader, Self::Writer);

    /// Drops the write half without shutting down the stream: the socket closes with the other half.
    fn forget(writer: Self::Writer);

    fn socket(&self) -> SockRef<'_>;
}

/// A stream that can be probed while a connection's driver owns it: [`Tcp`](crate::connect::Tcp) or
/// [`Unix`](crate::connect::Unix).
#[derive(Debug)]
pub struct Socket<S: Halves> {
    /// Not behind the lock, because reads are the most frequent operation.
    reader: S::Reader,
    /// The only descriptor, shared with the probes: a second descriptor would keep the socket open. `None` once the
    /// socket is dropped.
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

    /// A probe of the socket. Use it for [`HandshakeLayer::probe_with`](crate::layers::HandshakeLayer::probe_with) if the
    /// socket is inside of a transport of your own.
    #[must_use]
    pub fn probe(&self) -> Probe {
        Probe::of(SocketCheck::<S>(self.writer.clone()))
    }

    #[cfg(feature = "tls")]
    pub(super) fn check(&self) -> Liveness {
        self.with_socket(check)
    }

    #[cfg(all(feature = "http2", feature = "tls"))]
    pub(super) fn peek(&self) -> Liveness {
        self.with_socket(peek)
    }

    /// Accesses the socket itself, without tokio's cached readiness.
    #[cfg(feature = "tls")]
    pub(super) fn with_socket<R>(&self, with: impl FnOnce(&Socket2) -> R) -> R {
        with(&self.stream().socket())
    }

    pub(super) fn stream(&self) -> &S {
        self.reader.as_ref()
    }

    /// Writes by the write half, which exists for as long as `self` does.
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

/// The socket, for a probe.
struct SocketCheck<S: Halves>(Shared<S>);

impl<S: Halves> Check for SocketCheck<S> {
    #[inline]
    fn check(&self) -> Liveness {
        match &*lock::<S>(&self.0) {
            Some(writer) => check(&writer.as_ref().socket()),
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

impl<S: Halves> Close for SocketCheck<S> {
    fn close(&self) {
        if let Some(writer) = &*lock::<S>(&self.0) {
            shut(&writer.as_ref().socket());
        }
    }
}

/// Shuts the connection down, whoever owns the socket. An error means that there is no connection any more.
pub(super) fn shut(socket: &Socket2) {
    let _ = socket.shutdown(Shutdown::Both);
}

/// `recv` with `MSG_PEEK` on a non-blocking socket: an idle connection should have nothing to read.
#[inline]
fn check(socket: &Socket2) -> Liveness {
    match peek(socket) {
        Liveness::Unknown => Liveness::Dead,
        other => other,
    }
}

/// The same, except that waiting bytes give the result `Unknown`.
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
    /// Closes the socket at once, even while a probe exists.
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

    /// Neither the socket nor tokio buffers writes.
    #[inline]
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.write(|writer| writer.poll_shutdown(cx))
    }
}
