//! The driver's side of a transport.

use std::future::Future;
use std::io::{self, IoSlice};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::thread;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::connection::close_reason::CloseReason;
use crate::connection::shared::{ConnShared, TransportGuard};
use crate::error::{self, PartlyWritten};
use crate::http1::interim::Interim;
use crate::http1::unwritten;

/// A transport that records what happens on it: activity, what is awaited, and how it ended. hyper ends in the same way
/// whether it reads the end of the stream, fails to read while a response is awaited, or closes after the last
/// exchange.
///
/// It stays with its I/O, also in an upgrade, and so it owns the guard. An upgraded transport still ends with its
/// agent.
pub(super) struct Transport<IO> {
    io: State<IO>,
    interim: Interim,
    // Declared after `io`: the permit passes on when the I/O is dropped.
    guard: TransportGuard,
}

// Every connection has one, in its driver.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Transport<u64>>() <= 40);

enum State<IO> {
    Open(IO),
    /// Writing has failed, and hyper does not know it yet.
    Unwritable(Box<Unwritable<IO>>),
    /// The agent has ended it.
    Gone,
}

/// A server that rejects an upload responds and resets the connection. The response may be unread, and hyper would not
/// read it after a failed write. So the read side is drained before hyper learns of the failure.
struct Unwritable<IO> {
    io: IO,
    error: io::Error,
    /// Limits the wait for a transport whose reads do not end with its writes.
    read_grace: Pin<Box<Sleep>>,
}

/// The most data in a TLS record (RFC 8446 §5.1). If a write of at most this size fails, the server has read nothing of
/// it.
pub(super) const ONE_RECORD: usize = 1 << 14;

/// Data that arrived before the error can be read as soon as the runtime has polled the socket; a busy runtime polls
/// late.
const READ_GRACE: Duration = Duration::from_millis(50);

impl<IO> Unwritable<IO> {
    fn new(io: IO, error: io::Error) -> Self {
        Self {
            io,
            error,
            read_grace: Box::pin(tokio::time::sleep(READ_GRACE)),
        }
    }
}

impl<IO: Unpin> Transport<IO> {
    pub(super) fn new(io: IO, guard: TransportGuard, max_interim_responses: usize) -> Self {
        Self {
            io: State::Open(io),
            interim: Interim::new(max_interim_responses),
            guard,
        }
    }

    #[inline]
    fn shared(&self) -> &ConnShared {
        self.guard.shared()
    }

    /// The I/O, if it needs no special care.
    #[inline]
    fn open(&mut self) -> Option<Pin<&mut IO>> {
        match &mut self.io {
            State::Open(io) if self.guard.shared().has_no_flags() => Some(Pin::new(io)),
            _ => None,
        }
    }

    /// The I/O to read from.
    fn io(&mut self) -> io::Result<Pin<&mut IO>> {
        self.leave_if_killed();
        match &mut self.io {
            State::Open(io) => Ok(Pin::new(io)),
            State::Unwritable(it) => Ok(Pin::new(&mut it.io)),
            State::Gone => Err(destroyed()),
        }
    }

    /// The I/O to write to.
    #[inline]
    fn poll_writable(&mut self) -> Poll<io::Result<Pin<&mut IO>>> {
        self.leave_if_killed();
        match &mut self.io {
            State::Open(io) => Poll::Ready(Ok(Pin::new(io))),
            State::Unwritable(_) => Poll::Pending,
            State::Gone => Poll::Ready(Err(destroyed())),
        }
    }

    #[inline]
    fn leave_if_killed(&mut self) {
        if !self.shared().has_no_flags() {
            self.leave();
        }
    }

    #[cold]
    fn leave(&mut self) {
        if self.shared().is_killed() {
            self.io = State::Gone;
        }
    }

    // Not inlined: most reads return nothing, and should not pay for this.
    #[inline(never)]
    fn has_read(&mut self, buf: &ReadBuf<'_>, before: usize) -> io::Result<()> {
        let bytes = &buf.filled()[before..];
        self.shared().activity().received(bytes.len());
        if bytes.is_empty() && buf.remaining() > 0 {
            self.has_ended()?;
        }
        let shared = self.guard.shared();
        match shared.activity().exchange_without_head() {
            Some(exchange) => {
                if shared.expectation().watches() {
                    return self.watch(exchange, bytes);
                }
                self.interim.read(exchange, bytes)
            }
            None => Ok(()),
        }
    }

    /// Examines incoming bytes while something is awaited in them.
    #[cold]
    fn watch(&mut self, exchange: u8, bytes: &[u8]) -> io::Result<()> {
        let expectation = self.guard.shared().expectation();
        let read = match expectation.wants_head() {
            true => self.interim.read_head(exchange, bytes),
            false => self.interim.read(exchange, bytes).map(|()| false),
        };
        if let Some(wants_body) = self.interim.wants_body() {
            expectation.settle(wants_body);
        }
        if read? {
            expectation.head_is_here();
        }
        Ok(())
    }

    #[cold]
    fn has_ended(&mut self) -> io::Result<()> {
        if let Some(error) = self.take_write_error() {
            // Not an orderly end: this may be the middle of a body that ends with its connection.
            return Err(error);
        }
        self.shared().peer_closed();
        Ok(())
    }

    /// Reads from a transport that is ending, or has left its pool.
    #[cold]
    fn poll_read_with_care(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>>
    where
        IO: AsyncRead,
    {
        let before = buf.filled().len();
        let read = self.io()?.poll_read(cx, buf);
        if read.is_pending() {
            self.shared().activity().read(true);
        }
        let read = match read {
            Poll::Ready(Ok(())) => Poll::Ready(self.has_read(buf, before)),
            Poll::Pending if matches!(self.io, State::Unwritable(_)) => self.poll_unwritable(cx),
            read => read,
        };
        self.observe(read, cx)
    }

    /// Writes to a transport that is ending, or has left its pool, or that leaves a byte out.
    #[cold]
    fn poll_write_with_care(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>>
    where
        IO: AsyncWrite,
    {
        let omitted = self.shared().omitted();
        let io = ready!(self.poll_writable())?;
        match omitted {
            None => io.poll_write(cx, buf),
            Some(0) if !buf.is_empty() => {
                self.shared().has_omitted();
                Poll::Ready(Ok(1))
            }
            Some(at) => {
                let written = ready!(io.poll_write(cx, &buf[..buf.len().min(at)]))?;
                self.shared().omit_byte_at(at - written);
                Poll::Ready(Ok(written))
            }
        }
    }

    /// There is nothing to read.
    #[cold]
    fn poll_unwritable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Unwritable(it) = &mut self.io {
            ready!(it.read_grace.as_mut().poll(cx));
        }
        match self.take_write_error() {
            Some(error) => Poll::Ready(Err(error)),
            None => Poll::Pending,
        }
    }

    #[cold]
    fn set_unwritable(&mut self, error: io::Error) {
        self.io = match mem::replace(&mut self.io, State::Gone) {
            State::Open(io) => State::Unwritable(Box::new(Unwritable::new(io, error))),
            unchanged => unchanged,
        };
    }

    /// Why writing has failed, if hyper does not know it yet.
    fn take_write_error(&mut self) -> Option<io::Error> {
        match mem::replace(&mut self.io, State::Gone) {
            State::Unwritable(it) => {
                self.io = State::Open(it.io);
                Some(it.error)
            }
            unchanged => {
                self.io = unchanged;
                None
            }
        }
    }

    #[inline]
    fn wrote(
        &mut self,
        written: Poll<io::Result<usize>>,
        bufs: &[IoSlice<'_>],
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.shared().activity().wrote(bytes);
            return written;
        }
        self.wrote_nothing(written, bufs, cx)
    }

    #[cold]
    fn wrote_nothing(
        &mut self,
        written: Poll<io::Result<usize>>,
        bufs: &[IoSlice<'_>],
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if !self.shared().activity().has_written() {
            self.keep_unwritten(&written, bufs);
        }
        let result = self.defer_write_error(written, cx);
        self.shared().activity().written(result.is_pending());
        result
    }

    /// The first write of a request wrote nothing. If the connection fails now, the request can be sent again from its
    /// head.
    fn keep_unwritten(&self, written: &Poll<io::Result<usize>>, bufs: &[IoSlice<'_>]) {
        let head = bufs.iter().find(|buf| !buf.is_empty());
        let Some(head) = head.map(|buf| &buf[..unwritten::head_length(buf)]) else {
            return;
        };
        let all: usize = bufs.iter().map(|buf| buf.len()).sum();
        if let Poll::Ready(Err(error)) = written
            && (PartlyWritten::is(error) || all > head.len().max(ONE_RECORD))
        {
            // A transport that encrypts may have sent a part before it failed.
            self.shared().activity().took();
            return;
        }
        self.shared().keep_unwritten(head.to_vec());
    }

    /// The result of a write, as hyper gets it: if the write failed because the server has closed, only after
    /// everything was read.
    #[inline]
    fn defer_write_error<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<T>> {
        match self.observe(written, cx) {
            Poll::Ready(Err(error))
                if error::is_gone(error.kind(), true)
                    && !self.shared().is_detached()
                    && !self.answers_nothing() =>
            {
                self.set_unwritable(error);
                self.shared().set_uploading(true);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            observed => observed,
        }
    }

    /// Whether incoming bytes cannot be a response to the request: nothing of it was written, and an earlier request
    /// was answered.
    fn answers_nothing(&self) -> bool {
        let activity = self.shared().activity();
        activity.uses() > 1 && !activity.has_written()
    }

    /// Records an error of the transport, and has a detached transport woken when it is killed.
    #[inline]
    fn observe<T>(&self, polled: Poll<io::Result<T>>, cx: &Context<'_>) -> Poll<io::Result<T>> {
        match &polled {
            Poll::Pending if self.shared().has_no_flags() => {}
            // A detached transport has no driver that could be aborted.
            Poll::Pending => self.shared().wake_if_killed(cx.waker()),
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => self.failed(error),
        }
        polled
    }

    /// Records an I/O error before the connection ends with it.
    #[cold]
    fn failed(&self, error: &io::Error) {
        self.guard.set_close_reason(match error.kind() {
            io::ErrorKind::UnexpectedEof => CloseReason::Peer,
            _ => CloseReason::Error,
        });
    }
}

#[cold]
fn destroyed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "the agent was destroyed")
}

impl<IO> Drop for Transport<IO> {
    fn drop(&mut self) {
        if thread::panicking() {
            // Nobody knows how much was written where it panicked.
            self.guard.shared().activity().took();
        }
    }
}

impl<IO> AsyncRead for Transport<IO>
where
    IO: AsyncRead + Unpin,
{
    #[inline]
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let this = &mut *self;
        let Some(io) = this.open() else {
            return this.poll_read_with_care(cx, buf);
        };
        match io.poll_read(cx, buf) {
            Poll::Pending => {
                this.shared().activity().read(true);
                Poll::Pending
            }
            Poll::Ready(Ok(())) => {
                let read = this.has_read(buf, before);
                this.observe(Poll::Ready(read), cx)
            }
            read => this.observe(read, cx),
        }
    }
}

impl<IO> AsyncWrite for Transport<IO>
where
    IO: AsyncWrite + Unpin,
{
    #[inline]
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match this.open() {
            Some(io) => io.poll_write(cx, buf),
            None => this.poll_write_with_care(cx, buf),
        };
        this.wrote(written, &[IoSlice::new(buf)], cx)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let written = match this.open() {
            Some(io) => io.poll_write_vectored(cx, bufs),
            None => {
                let first = bufs.iter().find(|it| !it.is_empty());
                this.poll_write_with_care(cx, first.map_or(&[], |it| it))
            }
        };
        this.wrote(written, bufs, cx)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            State::Open(io) => io.is_write_vectored(),
            State::Unwritable(_) | State::Gone => false,
        }
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS writes here what the transport had no room for before.
        let this = &mut *self;
        let flushed = match this.open() {
            Some(io) => io.poll_flush(cx),
            None => ready!(this.poll_writable())?.poll_flush(cx),
        };
        match flushed {
            Poll::Ready(Ok(())) => flushed,
            flushed => this.defer_write_error(flushed, cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = self.io()?.poll_shutdown(cx);
        self.observe(shut, cx)
    }
}
