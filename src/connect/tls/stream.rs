use std::fmt;
use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConnection, HandshakeKind, ProtocolVersion};

use crate::connect::probe::Look;
use crate::connect::socket::Halves;
use crate::connect::tls::records::Records;
use crate::connect::{Probe, Socket};
use crate::connection::poolable::Liveness;
use crate::connection::shared::Close;
use crate::connection::tls_info::{TlsFacts, TlsInfo};
use crate::error::PartlyWritten;

/// A transport with TLS on it, or without.
pub struct MaybeTls<IO>(Inner<IO>);

enum Inner<IO> {
    Plain(IO),
    /// Shared with the probe, which reads what the driver has not read yet.
    Tls(Arc<Mutex<Stream<IO>>>),
}

type Stream<IO> = TlsStream<Records<IO>>;

impl<IO> MaybeTls<IO> {
    pub(super) fn plain(transport: IO) -> Self {
        Self(Inner::Plain(transport))
    }

    pub(super) fn tls(stream: Stream<IO>) -> Self {
        Self(Inner::Tls(Arc::new(Mutex::new(stream))))
    }

    /// What was agreed on with the server, and who it is; nothing without TLS.
    #[must_use]
    pub fn tls_connection(&self) -> Option<TlsConnection<'_, IO>> {
        match &self.0 {
            Inner::Plain(_) => None,
            Inner::Tls(stream) => Some(TlsConnection(lock(stream))),
        }
    }

    /// Looks at a transport whose own probe is what `below` gives: for
    /// [`HandshakeLayer::probe_with`](crate::HandshakeLayer::probe_with), where that is not one of
    /// [`connect`](crate::connect)'s.
    ///
    /// Whatever is there to be read counts as unexpected, what belongs to TLS alone included: it can cost a connection
    /// that was good, and never takes what is no answer for one.
    #[must_use]
    pub fn probe_with(&self, below: impl FnOnce(&IO) -> Probe) -> Probe
    where
        IO: Send + 'static,
    {
        let stream = match &self.0 {
            Inner::Plain(transport) => return below(transport),
            Inner::Tls(stream) => stream,
        };
        let below = below(lock(stream).get_ref().0.get_ref());
        Probe::of(LooksAbove {
            stream: Arc::downgrade(stream),
            below,
        })
    }

    pub(in crate::connect) fn tls_info(&self) -> Option<TlsInfo> {
        let tls = self.tls_connection()?;
        let cipher = tls.negotiated_cipher_suite()?;
        let name = cipher.suite().as_str().unwrap_or("unknown");
        let (protocol, cipher) = match tls.protocol_version()? {
            ProtocolVersion::TLSv1_2 => ("TLSv1.2", name.to_owned()),
            // rustls puts the version into the names of these.
            _ => ("TLSv1.3", name.replacen("TLS13_", "TLS_", 1)),
        };
        let certificates = tls.peer_certificates().unwrap_or_default();
        Some(TlsInfo::new(TlsFacts {
            protocol,
            cipher,
            alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
            resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
            certificates: certificates.iter().map(|it| Box::from(&**it)).collect(),
        }))
    }

    pub(in crate::connect) fn with_transport<R>(&self, look: impl FnOnce(&IO) -> R) -> R {
        match &self.0 {
            Inner::Plain(transport) => look(transport),
            Inner::Tls(stream) => look(lock(stream).get_ref().0.get_ref()),
        }
    }
}

impl<S: Halves> MaybeTls<Socket<S>> {
    /// A look at the socket itself; see [`Socket::probe`].
    ///
    /// A server may send what belongs to TLS alone whenever it likes; with TLS 1.3 it sends tickets for later sessions
    /// just after the handshake. That is read here, if the driver has not read it yet, and ends nothing.
    #[must_use]
    pub fn probe(&self) -> Probe {
        let stream = match &self.0 {
            Inner::Plain(socket) => return socket.probe(),
            Inner::Tls(stream) => stream,
        };
        let below = lock(stream).get_ref().0.get_ref().probe();
        Probe::of(Looks {
            stream: Arc::downgrade(stream),
            below,
        })
    }
}

/// A stream on a transport that has a probe of its own, for whoever looks at it.
struct LooksAbove<IO> {
    /// Weak: the transport closes with its connection.
    stream: Weak<Mutex<Stream<IO>>>,
    below: Probe,
}

impl<IO: Send + 'static> Look for LooksAbove<IO> {
    fn look(&self) -> Liveness {
        match self.stream.upgrade() {
            Some(stream) if !has_unread(&mut lock(&stream)) => self.below.look(),
            _ => Liveness::Dead,
        }
    }

    #[cfg(feature = "http2")]
    fn peek(&self) -> Liveness {
        match self.stream.strong_count() {
            0 => Liveness::Dead,
            _ => self.below.peek(),
        }
    }

    fn closes(&self) -> bool {
        self.below.closer().is_some()
    }
}

impl<IO: Send + 'static> Close for LooksAbove<IO> {
    fn close(&self) {
        if let Some(closer) = self.below.closer() {
            closer.close();
        }
    }
}

/// A stream on a socket, for whoever looks at it.
struct Looks<S: Halves> {
    /// Weak: the transport closes with its connection.
    stream: Weak<Mutex<Stream<Socket<S>>>>,
    below: Probe,
}

impl<S: Halves> Look for Looks<S> {
    fn look(&self) -> Liveness {
        match self.stream.upgrade() {
            Some(stream) => look(&mut lock(&stream)),
            None => Liveness::Dead,
        }
    }

    /// Of the socket alone: what is taken from it here nobody would be woken for.
    #[cfg(feature = "http2")]
    fn peek(&self) -> Liveness {
        match self.stream.upgrade() {
            Some(stream) => lock(&stream).get_ref().0.get_ref().peek(),
            None => Liveness::Dead,
        }
    }

    fn closes(&self) -> bool {
        self.below.closer().is_some()
    }
}

impl<S: Halves> Close for Looks<S> {
    /// Past the stream, which may be in use: what was to be said has had its time.
    fn close(&self) {
        if let Some(closer) = self.below.closer() {
            closer.close();
        }
    }
}

/// Whether there is something that the transport below does not show any more, and that nobody has read: decrypted, or
/// half of a record.
fn has_unread<IO>(stream: &mut Stream<IO>) -> bool {
    let (records, tls) = stream.get_mut();
    let is_left = |bytes: &[u8]| !bytes.is_empty();
    !records.is_whole() || tls.reader().fill_buf().is_ok_and(is_left)
}

fn look<S: Halves>(stream: &mut Stream<Socket<S>>) -> Liveness {
    if has_unread(stream) {
        return Liveness::Dead;
    }
    let (records, tls) = stream.get_mut();
    // Almost always there is nothing, and rustls would set a buffer aside to hear so.
    if records.get_ref().look() == Liveness::Open {
        return Liveness::Open;
    }
    loop {
        let socket = |socket: &Socket<S>, buf: &mut [u8]| socket.with_socket(|mut it| it.read(buf));
        let read = tls.read_tls(&mut records.read_by(socket));
        match read {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && records.is_whole() => {
                return Liveness::Open;
            }
            Err(_) | Ok(0) => return Liveness::Dead,
            Ok(_) => match tls.process_new_packets() {
                Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
                _ => return Liveness::Dead,
            },
        }
    }
}

fn lock<IO>(stream: &Mutex<Stream<IO>>) -> MutexGuard<'_, Stream<IO>> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A write that may fail between two records: then it is not as if nothing had been written.
#[inline]
fn write<IO: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut Stream<IO>,
    write: impl FnOnce(Pin<&mut Stream<IO>>) -> Poll<io::Result<usize>>,
) -> Poll<io::Result<usize>> {
    stream.get_mut().0.take_has_written();
    match write(Pin::new(stream)) {
        Poll::Ready(Err(error)) if stream.get_mut().0.take_has_written() => {
            Poll::Ready(Err(PartlyWritten::wrap(error)))
        }
        written => written,
    }
}

/// The same call, on whichever it is.
macro_rules! either {
    ($maybe:expr, $it:ident => $call:expr) => {
        match &mut $maybe.0 {
            Inner::Plain($it) => $call,
            Inner::Tls(stream) => {
                let $it = &mut *lock(stream);
                $call
            }
        }
    };
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
        either!(self, it => Pin::new(it).poll_read(cx, buf))
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
            Inner::Tls(stream) => write(&mut lock(stream), |it| it.poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Inner::Plain(transport) => Pin::new(transport).poll_write_vectored(cx, bufs),
            Inner::Tls(stream) => write(&mut lock(stream), |it| it.poll_write_vectored(cx, bufs)),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.0 {
            Inner::Plain(transport) => transport.is_write_vectored(),
            // rustls puts the pieces together.
            Inner::Tls(_) => true,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_flush(cx))
    }

    /// With TLS, says that nothing more comes (`close_notify`) before it closes.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_shutdown(cx))
    }
}

/// Without what was agreed on: there are keys in it.
impl<IO: fmt::Debug> fmt::Debug for MaybeTls<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("MaybeTls");
        debug.field("tls", &matches!(self.0, Inner::Tls(_)));
        self.with_transport(|transport| debug.field("transport", transport).finish())
    }
}

/// What was agreed on with a server, and who it is: a `ClientConnection` of rustls, as long as this is kept.
///
/// Not across an `.await`: nothing is read or written meanwhile.
pub struct TlsConnection<'a, IO>(MutexGuard<'a, Stream<IO>>);

impl<IO> Deref for TlsConnection<'_, IO> {
    type Target = ClientConnection;

    fn deref(&self) -> &ClientConnection {
        self.0.get_ref().1
    }
}

impl<IO> fmt::Debug for TlsConnection<'_, IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnection")
    }
}
