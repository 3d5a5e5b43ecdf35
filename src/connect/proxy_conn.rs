//! The transport to a proxy, until the proxy has answered.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The longest answer of a proxy, in bytes, including interim responses (1xx). hyper-util's tunnel accepts 8 KiB, but
/// challenges (`Proxy-Authenticate: Negotiate`) can be longer.
const MOST_BYTES: usize = 64 * 1024;

/// The transport to a proxy until the proxy has answered. It limits the length of the answer, and keeps the first I/O
/// error, which hyper-util's SOCKS errors drop.
pub(super) struct ProxyConn<C> {
    transport: C,
    left: usize,
    failure: Failure,
}

/// The I/O error of a [`ProxyConn`], for code that no longer owns it.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<io::Error>>>);

impl Failure {
    pub(super) fn take(&self) -> Option<io::Error> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.take()
    }

    fn keep(&self, error: io::Error) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get_or_insert(error);
    }

    /// Keeps the error, and returns another one of the same kind.
    fn keep_error<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        polled.map_err(|error| {
            let kind = error.kind();
            self.keep(error);
            kind.into()
        })
    }
}

impl<C> ProxyConn<C> {
    pub(super) fn new(transport: C) -> Self {
        Self {
            transport,
            left: MOST_BYTES,
            failure: Failure::default(),
        }
    }

    pub(super) fn failure(&self) -> Failure {
        self.failure.clone()
    }

    pub(super) fn into_inner(self) -> C {
        self.transport
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for ProxyConn<C> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buf.remaining();
        if room > 0 && this.left == 0 {
            let what = format!("the proxy's answer is longer than {MOST_BYTES} bytes");
            let error = io::Error::new(io::ErrorKind::InvalidData, what);
            return this.failure.keep_error(Poll::Ready(Err(error)));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut this.transport).poll_read(cx, buf);
        if let Poll::Ready(Ok(())) = read {
            let length = buf.filled().len() - before;
            if length == 0 && room > 0 {
                let what = "the proxy closed the connection before it had answered";
                let end = io::Error::new(io::ErrorKind::UnexpectedEof, what);
                this.failure.keep(end);
            }
            this.left = this.left.saturating_sub(length);
        }
        this.failure.keep_error(read)
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for ProxyConn<C> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.transport).poll_write(cx, buf);
        this.failure.keep_error(written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.transport).poll_flush(cx);
        this.failure.keep_error(flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.transport).poll_shutdown(cx);
        this.failure.keep_error(shut)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn the_end_of_what_a_proxy_says_is_a_failure_and_a_part_of_it_is_none() {
        let (here, mut there) = tokio::io::duplex(64);
        let mut conn = ProxyConn::new(here);
        let failure = conn.failure();
        there.write_all(b"HTTP/1.1").await.unwrap();
        assert_eq!(conn.read(&mut [0; 64]).await.unwrap(), 8);
        assert!(failure.take().is_none());
        drop(there);
        assert_eq!(conn.read(&mut [0; 64]).await.unwrap(), 0);
        let kind = failure.take().map(|error| error.kind());
        assert_eq!(kind, Some(io::ErrorKind::UnexpectedEof));
    }
}
