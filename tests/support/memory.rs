//! A transport in memory that can do what a socket can: FIN, RST, and tell a close from unread bytes.

use super::{
    leaks::{Tag, What},
    tiny::Tiny,
};
use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::oneshot,
};

/// As much as a direction holds before its writer has to wait.
const CAPACITY: usize = 64 * 1024;

/// The client's end of a connection to an in-memory server.
#[derive(Debug)]
pub struct MemoryStream {
    io: Tiny<DuplexStream>,
    /// Closed by a shutdown, or the drop.
    here: oneshot::Receiver<()>,
    was_reset: Arc<AtomicBool>,
    _tag: Tag,
}

/// The server's end.
pub(super) struct MemoryPeer {
    pub(super) io: DuplexStream,
    /// Nothing is ever sent: it is closed when the client closes.
    pub(super) client: oneshot::Sender<()>,
    was_reset: Arc<AtomicBool>,
}

pub(super) fn pair() -> (MemoryStream, MemoryPeer) {
    let (client_io, server_io) = tokio::io::duplex(CAPACITY);
    let (client, here) = oneshot::channel();
    let was_reset = Arc::new(AtomicBool::new(false));
    let stream = MemoryStream {
        io: Tiny::new(client_io),
        here,
        was_reset: was_reset.clone(),
        _tag: Tag::new(What::Transport),
    };
    let peer = MemoryPeer {
        io: server_io,
        client,
        was_reset,
    };
    (stream, peer)
}

impl MemoryPeer {
    pub(super) fn rst(self) {
        self.was_reset.store(true, Ordering::Release);
    }
}

impl MemoryStream {
    /// A RST makes an error of what would be the end, or a broken pipe.
    fn check_reset<V>(&self, is_over: bool, outcome: io::Result<V>) -> io::Result<V> {
        if is_over && self.was_reset.load(Ordering::Acquire) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        outcome
    }
}

impl AsyncRead for MemoryStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = std::task::ready!(Pin::new(&mut self.io).poll_read(cx, buf));
        let is_over = buf.filled().len() == before && buf.remaining() > 0;
        Poll::Ready(self.check_reset(is_over, outcome))
    }
}

impl AsyncWrite for MemoryStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = std::task::ready!(Pin::new(&mut self.io).poll_write(cx, buf));
        Poll::Ready(self.check_reset(outcome.is_err(), outcome))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = std::task::ready!(Pin::new(&mut self.io).poll_write_vectored(cx, bufs));
        Poll::Ready(self.check_reset(outcome.is_err(), outcome))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.here.close();
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
