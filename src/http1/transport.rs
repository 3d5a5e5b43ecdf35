//! What the driver has of a transport.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::bond::Bond;

/// A transport that says what happens on it: when something moved, when something is waited for, and that the other end
/// has closed. hyper ends in the same way whether it reads the end of a stream or closes one itself.
///
/// An upgrade takes it out of the driver; it still ends with its agent then.
pub(super) struct Transport<IO> {
    /// Until the agent ends it.
    io: Option<IO>,
    bond: Arc<Bond>,
}

impl<IO: Unpin> Transport<IO> {
    pub(super) fn new(io: IO, bond: Arc<Bond>) -> Self {
        Self { io: Some(io), bond }
    }

    fn io(&mut self) -> io::Result<Pin<&mut IO>> {
        if self.bond.is_killed() {
            self.io = None;
        }
        match &mut self.io {
            Some(io) => Ok(Pin::new(io)),
            None => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the agent was destroyed",
            )),
        }
    }

    fn wrote<T>(&self, written: Poll<T>, cx: &Context<'_>) -> Poll<T> {
        self.bond.activity().written(written.is_pending());
        self.wait(written, cx)
    }

    /// A detached transport has no driver that could be aborted.
    fn wait<T>(&self, polled: Poll<T>, cx: &Context<'_>) -> Poll<T> {
        if polled.is_pending() {
            self.bond.wake_if_killed(cx.waker());
        }
        polled
    }
}

impl<IO> AsyncRead for Transport<IO>
where
    IO: AsyncRead + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.remaining();
        let read = self.io()?.poll_read(cx, buf);
        self.bond.activity().read(read.is_pending());
        if read.is_ready() && buf.remaining() == before && before > 0 {
            self.bond.peer_closed();
        }
        self.wait(read, cx)
    }
}

impl<IO> AsyncWrite for Transport<IO>
where
    IO: AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = self.io()?.poll_write(cx, buf);
        self.wrote(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.io()?.poll_write_vectored(cx, bufs);
        self.wrote(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.io()?.poll_flush(cx);
        self.wait(flushed, cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.io()?.poll_shutdown(cx);
        self.wait(shut, cx)
    }
}
