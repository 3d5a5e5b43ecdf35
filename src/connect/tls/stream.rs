use std::fmt;
use std::io::{self, BufRead, Read};
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::{ClientConnection, HandshakeKind, ProtocolVersion};

use crate::connect::probe::Check;
use crate::connect::socket::Halves;
use crate::connect::tls::records::Records;
use crate::connect::{Probe, Socket};
use crate::connection::poolable::Liveness;
use crate::connection::shared::Close;
use crate::connection::tls_info::{TlsFacts, TlsInfo};
use crate::error::PartlyWritten;

/// A transport with or without TLS.
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

    /// The rustls connection: what was negotiated with the server, and its certificates. `None` without TLS.
    #[must_use]
    pub fn tls_connection(&self) -> Option<TlsConnection<'_, IO>> {
        match &self.0 {
            Inner::Plain(_) => None,
            Inner::Tls(stream) => Some(TlsConnection(lock(stream))),
        }
    }

    /// A probe for a transport of your own, made from the transport's own probe, which `below` returns. Use it for
    /// [`HandshakeLayer::probe_with`](crate::layers::HandshakeLayer::probe_with).
    ///
    /// Any bytes to read count as unexpected, including TLS messages without data. So a good connection may be closed,
    /// but a stray response is never taken for an answer.
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
        Probe::of(ProbedTlsCheck {
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
            // rustls adds the version to the names of the suites of TLS 1.3.
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

    pub(in crate::connect) fn with_transport<R>(&self, with: impl FnOnce(&IO) -> R) -> R {
        match &self.0 {
            Inner::Plain(transport) => with(transport),
            Inner::Tls(stream) => with(lock(stream).get_ref().0.get_ref()),
        }
    }
}

impl<S: Halves> MaybeTls<Socket<S>> {
    /// A probe of the socket itself; see [`Socket::probe`].
    ///
    /// A server may send TLS messages without data at any time; with TLS 1.3 it sends session tickets after the
    /// handshake. The probe reads those that the driver has not read yet, and they do not end the connection.
    #[must_use]
    pub fn probe(&self) -> Probe {
        let stream = match &self.0 {
            Inner::Plain(socket) => return socket.probe(),
            Inner::Tls(stream) => stream,
        };
        let below = lock(stream).get_ref().0.get_ref().probe();
        Probe::of(TlsCheck {
            stream: Arc::downgrade(stream),
            below,
        })
    }
}

/// A stream on a transport that has a probe of its own, for a probe.
struct ProbedTlsCheck<IO> {
    /// Weak: the transport closes with its connection.
    stream: Weak<Mutex<Stream<IO>>>,
    below: Probe,
}

impl<IO: Send + 'static> Check for ProbedTlsCheck<IO> {
    fn check(&self) -> Liveness {
        match self.stream.upgrade() {
            Some(stream) if !has_unread(&mut lock(&stream)) => self.below.check(),
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

impl<IO: Send + 'static> Close for ProbedTlsCheck<IO> {
    fn close(&self) {
        if let Some(closer) = self.below.closer() {
            closer.close();
        }
    }
}

/// A stream on a socket, for a probe.
struct TlsCheck<S: Halves> {
    /// Weak: the transport closes with its connection, even while a probe exists.
    stream: Weak<Mutex<Stream<Socket<S>>>>,
    below: Probe,
}

impl<S: Halves> Check for TlsCheck<S> {
    fn check(&self) -> Liveness {
        match self.stream.upgrade() {
            Some(stream) => check(&mut lock(&stream)),
            None => Liveness::Dead,
        }
    }

    /// Probes the socket only: if bytes were read here, the driver would not be woken for them.
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

impl<S: Halves> Close for TlsCheck<S> {
    /// Closes the socket below the stream, which may be locked; there is no time left for `close_notify`.
    fn close(&self) {
        if let Some(closer) = self.below.closer() {
            closer.close();
        }
    }
}

/// Whether there are unread bytes that the transport below no longer has: decrypted data, or a part of a record.
fn has_unread<IO>(stream: &mut Stream<IO>) -> bool {
    let (records, tls) = stream.get_mut();
    let is_left = |bytes: &[u8]| !bytes.is_empty();
    !records.is_whole() || tls.reader().fill_buf().is_ok_and(is_left)
}

fn check<S: Halves>(stream: &mut Stream<Socket<S>>) -> Liveness {
    if has_unread(stream) {
        return Liveness::Dead;
    }
    let (records, tls) = stream.get_mut();
    // Checked first, because it almost always holds, and `read_tls` would allocate a buffer to find out.
    if records.get_ref().check() == Liveness::Open {
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

/// A write that may fail between two records; the error then says that a part was written.
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

/// Calls the same method on either variant.
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
            // rustls combines the slices.
            Inner::Tls(_) => true,
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_flush(cx))
    }

    /// With TLS, sends `close_notify` before it closes.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, it => Pin::new(it).poll_shutdown(cx))
    }
}

/// Shows nothing of the TLS state, which contains keys.
impl<IO: fmt::Debug> fmt::Debug for MaybeTls<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("MaybeTls");
        debug.field("tls", &matches!(self.0, Inner::Tls(_)));
        self.with_transport(|transport| debug.field("transport", transport).finish())
    }
}

/// Access to the `ClientConnection` of rustls: what was negotiated with the server, and its certificates.
///
/// Do not hold it across an `.await`: it locks the transport, which neither reads nor writes meanwhile.
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
