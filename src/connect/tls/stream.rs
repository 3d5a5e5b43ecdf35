use std::fmt;
use std::io::{self, BufRead};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConnection;

use crate::connect::Probe;
use crate::poolable::Liveness;

/// A transport with TLS on it, or without.
pub struct MaybeTls<IO>(Inner<IO>);

enum Inner<IO> {
    Plain(IO),
    /// Boxed: it is ten times as large.
    Tls(Box<Secured<IO>>),
}

struct Secured<IO> {
    stream: TlsStream<IO>,
    unread: Unread,
}

/// Whether there is something decrypted that nobody has read: a look at the transport below does not see it.
#[derive(Clone, Default)]
struct Unread(Arc<AtomicBool>);

impl<IO> MaybeTls<IO> {
    pub(super) fn plain(transport: IO) -> Self {
        Self(Inner::Plain(transport))
    }

    pub(super) fn tls(stream: TlsStream<IO>) -> Self {
        Self(Inner::Tls(Box::new(Secured {
            stream,
            unread: Unread::default(),
        })))
    }

    /// The transport below.
    #[must_use]
    pub fn get_ref(&self) -> &IO {
        match &self.0 {
            Inner::Plain(transport) => transport,
            Inner::Tls(tls) => tls.stream.get_ref().0,
        }
    }

    /// What was agreed on with the server, and who it is; nothing without TLS.
    #[must_use]
    pub fn tls_connection(&self) -> Option<&ClientConnection> {
        match &self.0 {
            Inner::Plain(_) => None,
            Inner::Tls(tls) => Some(tls.stream.get_ref().1),
        }
    }

    /// Looks by `below`, the probe of the transport below, and at what has come out of it already: for
    /// [`HandshakeLayer::probe_with`](crate::HandshakeLayer::probe_with).
    ///
    /// Whatever is there to be read counts as unexpected, what belongs to TLS alone included. A look that comes before
    /// the driver's then costs a connection that was good, and never takes what is not the answer for it.
    #[must_use]
    pub fn probe(&self, below: Probe) -> Probe {
        let Inner::Tls(tls) = &self.0 else {
            return below;
        };
        let unread = tls.unread.clone();
        Probe::new(move || match unread.0.load(Ordering::Acquire) {
            true => Liveness::Dead,
            false => below.look(),
        })
    }
}

impl<IO> Secured<IO> {
    /// After a read. Only one that has filled its buffer can have left something.
    fn has_read(&mut self, is_full: bool) {
        let is_left = is_full
            && (self.stream.get_mut().1.reader())
                .fill_buf()
                .is_ok_and(|bytes| !bytes.is_empty());
        self.unread.0.store(is_left, Ordering::Release);
    }
}

impl<IO> AsyncRead for MaybeTls<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Plain(transport) => Pin::new(transport).poll_read(cx, buf),
            Inner::Tls(tls) => {
                ready!(Pin::new(&mut tls.stream).poll_read(cx, buf))?;
                tls.has_read(buf.remaining() == 0);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl<IO> AsyncWrite for MaybeTls<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Plain(transport) => Pin::new(transport).poll_write(cx, buf),
            Inner::Tls(tls) => Pin::new(&mut tls.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Plain(transport) => Pin::new(transport).poll_write_vectored(cx, bufs),
            Inner::Tls(tls) => Pin::new(&mut tls.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Plain(transport) => transport.is_write_vectored(),
            Inner::Tls(tls) => tls.stream.is_write_vectored(),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Plain(transport) => Pin::new(transport).poll_flush(cx),
            Inner::Tls(tls) => Pin::new(&mut tls.stream).poll_flush(cx),
        }
    }

    /// With TLS, says that nothing more comes (`close_notify`) before it closes.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Inner::Plain(transport) => Pin::new(transport).poll_shutdown(cx),
            Inner::Tls(tls) => Pin::new(&mut tls.stream).poll_shutdown(cx),
        }
    }
}

/// Without what was agreed on: there are keys in it.
impl<IO: fmt::Debug> fmt::Debug for MaybeTls<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MaybeTls")
            .field("tls", &self.tls_connection().is_some())
            .field("transport", self.get_ref())
            .finish()
    }
}
