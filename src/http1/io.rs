//! A transport that can be closed from outside of its driver.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::bond::Close;

/// A transport of its driver's own where it has a way to be closed from outside, as sockets have; another is behind a lock,
/// and whoever wants it closed drops it.
pub(super) enum Io<T> {
    Own(T),
    Shared(Arc<Shared<T>>),
}

pub(super) struct Shared<T> {
    /// Until it is closed.
    transport: Mutex<Option<T>>,
    vectored: bool,
}

impl<T: AsyncWrite> Io<T> {
    pub(super) fn shared(transport: T) -> (Self, Arc<Shared<T>>) {
        let shared = Arc::new(Shared {
            vectored: transport.is_write_vectored(),
            transport: Mutex::new(Some(transport)),
        });
        (Self::Shared(shared.clone()), shared)
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Option<T>> {
        self.transport
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send> Close for Shared<T> {
    fn close(&self) -> bool {
        // Dropped after the lock: it is not ours.
        let transport = self.lock().take();
        drop(transport);
        true
    }
}

/// The transport goes with its driver, whoever else knows of it.
impl<T> Drop for Io<T> {
    fn drop(&mut self) {
        if let Self::Shared(shared) = self {
            let transport = shared.lock().take();
            drop(transport);
        }
    }
}

/// The same call, on whichever it is.
macro_rules! either {
    ($io:expr, $it:ident => $call:expr) => {
        match &mut *$io {
            Io::Own($it) => $call,
            Io::Shared(shared) => match &mut *shared.lock() {
                Some($it) => $call,
                None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            },
        }
    };
}

impl<T: AsyncRead + Unpin> AsyncRead for Io<T> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_read(cx, buf))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Io<T> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        either!(self, it => Pin::new(it).poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, it => Pin::new(it).poll_write_vectored(cx, bufs))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Own(transport) => transport.is_write_vectored(),
            Self::Shared(shared) => shared.vectored,
        }
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_flush(cx))
    }

    #[inline]
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_shutdown(cx))
    }
}
