//! The transport as `h2` uses it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::connection::close_reason::CloseReason;
use crate::connection::shared::TransportGuard;
use crate::error::{self, PartlyWritten};
use crate::http2::flood::Flood;
use crate::http2::frames::{FrameEvent, Frames};
use crate::http2::preface::Preface;
use crate::http2::shared::Http2Shared;

/// A transport that reports to the driver and the uses of its connection: that something was read or written, what the
/// frames contain, and how the connection ended.
pub(super) struct Wire<IO> {
    io: IO,
    preface: Preface,
    frames: Frames,
    flood: Flood,
    /// A longer block of fields is a reason to suspect that they are larger than allowed.
    suspect_block: usize,
    shared: Arc<Http2Shared>,
    unwritable: Option<Box<Unwritable>>,
    // Declared after `io`: the permit passes on when the I/O is dropped.
    guard: TransportGuard,
}

/// Writing has failed. Frames that the server had sent before, in particular a GOAWAY, may be unread, and `h2` would
/// not read them after a failed write. So the read side is drained first, and written bytes are discarded.
struct Unwritable {
    error: io::Error,
    /// Limits the wait for a transport whose reads do not end with its writes.
    read_grace: Pin<Box<Sleep>>,
}

/// Data that arrived before the error can be read as soon as the runtime has polled the socket; a busy runtime polls
/// late.
const READ_GRACE: Duration = Duration::from_millis(50);

/// The most data in a TLS record (RFC 8446 §5.1). If a write of at most this size fails, the server has read nothing of
/// it.
const ONE_RECORD: usize = 1 << 14;

impl<IO> Wire<IO> {
    /// `max_fields`: how large the fields of a response may be, as `h2` counts them.
    pub(super) fn new(
        io: IO,
        guard: TransportGuard,
        shared: Arc<Http2Shared>,
        max_fields: u32,
    ) -> Self {
        Self {
            io,
            preface: Preface::default(),
            frames: Frames::default(),
            flood: Flood::new(shared.own_limit()),
            // Huffman's code saves at most three eighths, and each field counts 32 bytes that are not sent.
            suspect_block: max_fields as usize / 2,
            shared,
            unwritable: None,
            guard,
        }
    }

    fn has_read(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        if bytes.is_empty() {
            return self.has_ended();
        }
        self.preface
            .read(bytes)
            .inspect_err(|error| self.failed(error))?;
        let shared = &self.shared;
        if let Some(stream) = self.frames.continued() {
            shared.watched().moved(stream);
        }
        let length = bytes.len();
        let (mut of_response, mut read, mut push) = (false, Ok(()), None);
        let mut rest = &*bytes;
        while let Some(event) = self.frames.next(&mut rest) {
            let checked = match event {
                FrameEvent::Response { stream, is_head } => {
                    of_response = true;
                    shared.watched().moved(stream);
                    if is_head && self.frames.block() > self.suspect_block {
                        shared.has_large_fields(stream, self.frames.is_last());
                    }
                    self.flood.response(is_head, shared.begun())
                }
                FrameEvent::Continuation(stream) => {
                    shared.watched().moved(stream);
                    if self.frames.block() > self.suspect_block {
                        shared.has_large_fields(stream, self.frames.is_last());
                    }
                    Ok(())
                }
                FrameEvent::Stream(stream) => {
                    shared.watched().moved(stream);
                    Ok(())
                }
                FrameEvent::Other(stream) => {
                    shared.watched().moved(stream);
                    self.flood.other()
                }
                FrameEvent::Settings(max_streams) => {
                    shared.has_settings(max_streams);
                    self.flood.other()
                }
                FrameEvent::PushPromise => {
                    push.get_or_insert(length - rest.len());
                    Ok(())
                }
                FrameEvent::GoAway(go_away) => {
                    shared.goes_away(go_away);
                    Ok(())
                }
            };
            if let Err(error) = checked {
                read = Err(error);
            }
        }
        shared.read(of_response);
        if let Some(end) = push {
            self.decline(&mut bytes[..end]);
        }
        if let Err(error) = &read {
            self.failed(error);
        }
        read
    }

    /// A PUSH_PROMISE, whose head ends these bytes, is an error of the connection, because the SETTINGS decline it (RFC
    /// 9113 §6.6). `h2` 0.4.20 ignores it on a stream that was reset here, and panics in a debug build
    /// (`debug_assert_eq!` in `handle_poll2_result`); on a stream that was never begun it is that error. So it gets the
    /// number of such a stream: 0, or a multiple of 256 if a part of the head was read before; requests have odd ones.
    #[cold]
    fn decline(&self, bytes: &mut [u8]) {
        let number = bytes.len().saturating_sub(size_of::<u32>());
        bytes[number..].fill(0);
        self.shared.close(CloseReason::Error);
    }

    #[cold]
    fn has_ended(&mut self) -> io::Result<()> {
        if let Some(it) = self.unwritable.take() {
            self.failed(&it.error);
            return Err(it.error);
        }
        self.guard.shared().peer_closed();
        self.shared.close(CloseReason::Peer);
        Ok(())
    }

    #[cold]
    fn failed(&self, error: &io::Error) {
        self.shared.close(match error.kind() {
            io::ErrorKind::UnexpectedEof => CloseReason::Peer,
            _ => CloseReason::Error,
        });
    }

    /// There is nothing to read, and writing has failed.
    #[cold]
    fn poll_grace(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(it) = &mut self.unwritable {
            ready!(it.read_grace.as_mut().poll(cx));
        }
        Poll::Ready(self.has_ended())
    }

    /// The result of a write for `h2`.
    #[inline]
    fn wrote(
        &mut self,
        written: Poll<io::Result<usize>>,
        length: usize,
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.shared.wrote();
                self.flood.wrote(bytes);
                written
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                if PartlyWritten::is(&error) || length > ONE_RECORD {
                    // A transport that encrypts may have sent a part before it failed.
                    self.shared.wrote();
                }
                self.cannot_write(error, cx).map_ok(|()| length)
            }
        }
    }

    #[cold]
    fn cannot_write(&mut self, error: io::Error, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if !error::is_gone(error.kind(), true) {
            self.failed(&error);
            return Poll::Ready(Err(error));
        }
        self.shared.close(CloseReason::Peer);
        let read_grace = Box::pin(tokio::time::sleep(READ_GRACE));
        self.unwritable = Some(Box::new(Unwritable { error, read_grace }));
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Wire<IO> {
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => Poll::Ready(this.has_read(&mut buf.filled_mut()[before..])),
            Poll::Pending if this.unwritable.is_some() => this.poll_grace(cx),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Err(error)) => {
                this.failed(&error);
                Poll::Ready(Err(error))
            }
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Wire<IO> {
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.unwritable.is_some() {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut this.io).poll_write(cx, buf);
        this.wrote(written, buf.len(), cx)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let length = bufs.iter().map(|buf| buf.len()).sum();
        if this.unwritable.is_some() {
            return Poll::Ready(Ok(length));
        }
        let written = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.wrote(written, length, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.unwritable.is_some() {
            return Poll::Ready(Ok(()));
        }
        match Pin::new(&mut this.io).poll_flush(cx) {
            // TLS writes here what the transport had no room for before.
            Poll::Ready(Err(error)) => this.cannot_write(error, cx),
            flushed => flushed,
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unwritable.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::connection::shared::ConnShared;

    /// A request of which nothing was sent goes elsewhere.
    #[tokio::test]
    async fn a_write_of_one_record_that_fails_has_sent_nothing() {
        for (length, may_have_sent) in [(1, false), (ONE_RECORD, false), (ONE_RECORD + 1, true)] {
            let (io, _) = tokio::io::duplex(1);
            let conn = Arc::new(ConnShared::new());
            let guard = TransportGuard::new(conn.clone());
            let shared = Arc::new(Http2Shared::new(conn, 100, 100, 0));
            let mut wire = Wire::new(io, guard, shared.clone(), 1 << 14);
            let before = shared.writes();
            assert_eq!(wire.write(&vec![0; length]).await.unwrap(), length);
            assert_eq!(shared.writes() != before, may_have_sent, "{length}");
        }
    }
}
