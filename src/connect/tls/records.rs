use std::io::{self, Read};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A transport below TLS that tracks record boundaries: whether the bytes that were read end with a complete record. A
/// partial record is in no buffer that can be inspected, because it is neither on the socket nor decrypted. It also
/// tracks whether a write of TLS has reached the transport.
pub(super) struct Records<IO> {
    transport: IO,
    framing: Framing,
    has_written: bool,
}

/// The reader's position in a record: a header of five bytes (type, version and length), then a body of that length.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Framing {
    /// Bytes read of the header.
    read: u8,
    /// The length, as far as it is known.
    length: u16,
    /// Bytes of the body that are still to come.
    left: u16,
}

const HEADER: u8 = 5;

impl Framing {
    fn follow(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.left > 0 {
                let body = bytes.len().min(usize::from(self.left));
                // Never more than `left`, which is a `u16`.
                self.left -= u16::try_from(body).unwrap_or(self.left);
                bytes = &bytes[body..];
                continue;
            }
            self.length = self.length << 8 | u16::from(*first);
            self.read += 1;
            if self.read == HEADER {
                // The last two bytes of the header; the bytes before are shifted out.
                self.left = self.length;
                self.read = 0;
            }
            bytes = rest;
        }
    }

    fn is_whole(self) -> bool {
        self.read == 0 && self.left == 0
    }
}

impl<IO> Records<IO> {
    pub(super) fn new(transport: IO) -> Self {
        Self {
            transport,
            framing: Framing::default(),
            has_written: false,
        }
    }

    /// Whether the transport has accepted any bytes since the last call.
    #[inline]
    pub(super) fn take_has_written(&mut self) -> bool {
        mem::take(&mut self.has_written)
    }

    pub(super) fn get_ref(&self) -> &IO {
        &self.transport
    }

    /// Whether the bytes that were read, if any, are complete records.
    pub(super) fn is_whole(&self) -> bool {
        self.framing.is_whole()
    }

    /// Reads by `read` instead of the transport's own `poll_read`.
    pub(super) fn read_by<'a, F>(&'a mut self, read: F) -> impl Read + 'a
    where
        F: FnMut(&IO, &mut [u8]) -> io::Result<usize> + 'a,
    {
        ReadBy {
            records: self,
            read,
        }
    }
}

struct ReadBy<'a, IO, F> {
    records: &'a mut Records<IO>,
    read: F,
}

impl<IO, F> Read for ReadBy<'_, IO, F>
where
    F: FnMut(&IO, &mut [u8]) -> io::Result<usize>,
{
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = (self.read)(&self.records.transport, buf)?;
        self.records.framing.follow(&buf[..read]);
        Ok(read)
    }
}

impl<IO> AsyncRead for Records<IO>
where
    IO: AsyncRead + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.transport).poll_read(cx, buf);
        self.framing.follow(&buf.filled()[before..]);
        read
    }
}

impl<IO> AsyncWrite for Records<IO>
where
    IO: AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write(cx, buf);
        self.has_written |= matches!(written, Poll::Ready(Ok(_)));
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.transport).poll_write_vectored(cx, bufs);
        self.has_written |= matches!(written, Poll::Ready(Ok(_)));
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.transport).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_followed_however_they_are_cut() {
        let record = |length: u16| {
            let mut record = vec![0x17, 3, 3];
            record.extend(length.to_be_bytes());
            record.resize(5 + usize::from(length), 0x17);
            record
        };
        let stream = [record(1), record(0), record(0x4100), record(300)].concat();
        let ends = [6, 11, 11 + 5 + 0x4100, stream.len()];
        for piece in [1, 2, 3, 5, 7, 4096, stream.len()] {
            let mut framing = Framing::default();
            assert!(framing.is_whole());
            let mut at = 0;
            for bytes in stream.chunks(piece) {
                framing.follow(bytes);
                at += bytes.len();
                assert_eq!(framing.is_whole(), ends.contains(&at), "{piece}, {at}");
            }
        }
    }
}
