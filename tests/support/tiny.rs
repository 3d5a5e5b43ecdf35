//! A stream in tiny pieces: with `TEST_IO=tiny` a read or a write is of 1 to 10 bytes, and one in four waits first.

use fastrand::Rng;
use std::{
    io,
    pin::Pin,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// So many bytes each way are in tiny pieces. Then pieces have up to 4 KiB: long bodies would take minutes, and are no
/// harder than their first bytes.
const TINY: usize = 16 * 1024;

/// The seed of a run that is tiny: `TEST_IO=tiny`, or `TEST_IO=tiny:7`.
///
/// # Panics
///
/// If `TEST_IO` says what there is not.
fn seed() -> Option<u64> {
    static SEED: OnceLock<Option<u64>> = OnceLock::new();
    *SEED.get_or_init(|| {
        let said = std::env::var("TEST_IO").unwrap_or_default();
        match said.split_once(':').unwrap_or((&said, "0")) {
            ("", _) => None,
            ("tiny", seed) => Some(seed.parse().expect("TEST_IO=tiny:SEED, a number")),
            _ => panic!("TEST_IO={said}: there is tiny, and tiny:SEED"),
        }
    })
}

/// Whether a test that is about what comes or goes in one piece, or within its time, has nothing to say in this run; it
/// returns then, and the run says why.
#[must_use]
pub fn not_tiny(why: &str) -> bool {
    let skips = seed().is_some();
    if skips {
        println!("not in tiny pieces: {why}");
    }
    skips
}

/// The client's end of a connection, in tiny pieces where the run says so. It keeps nothing back: what it has not read is
/// in the stream below.
#[derive(Debug)]
pub struct Tiny<S> {
    inner: S,
    /// There in a run that is tiny.
    dice: Option<Rng>,
    reads: Pieces,
    writes: Pieces,
}

/// One direction of it.
#[derive(Debug, Default)]
struct Pieces {
    passed: usize,
    /// Waits not twice for the same.
    waited: bool,
}

impl Pieces {
    /// How much may pass now, after a wait that ends by itself.
    fn poll_next(&mut self, dice: &mut Rng, cx: &Context<'_>) -> Poll<usize> {
        self.waited = !self.waited && dice.u8(..4) == 0;
        if self.waited {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let most = if self.passed < TINY { 10 } else { 4096 };
        Poll::Ready(dice.usize(1..=most))
    }
}

impl<S> Tiny<S> {
    pub(super) fn new(inner: S) -> Self {
        static NTH: AtomicU64 = AtomicU64::new(0);
        let dice = seed().map(|seed| {
            let nth = NTH.fetch_add(1, Ordering::Relaxed);
            Rng::with_seed(seed.wrapping_mul(1_000_003).wrapping_add(nth))
        });
        Self {
            inner,
            dice,
            reads: Pieces::default(),
            writes: Pieces::default(),
        }
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// How much may be written now.
    fn poll_write_next(&mut self, cx: &Context<'_>) -> Poll<usize> {
        match &mut self.dice {
            Some(dice) => self.writes.poll_next(dice, cx),
            None => Poll::Ready(usize::MAX),
        }
    }
}

impl<S> AsyncRead for Tiny<S>
where
    S: AsyncRead + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(dice) = &mut this.dice else {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        };
        let most = ready!(this.reads.poll_next(dice, cx)).min(buf.remaining());
        let mut bytes = vec![0; most];
        let mut piece = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut this.inner).poll_read(cx, &mut piece))?;
        this.reads.passed += piece.filled().len();
        buf.put_slice(piece.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S> AsyncWrite for Tiny<S>
where
    S: AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let most = ready!(self.poll_write_next(cx)).min(buf.len());
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &buf[..most]))?;
        self.writes.passed += written;
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.dice.is_none() {
            return Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        }
        let first = bufs.iter().find(|it| !it.is_empty());
        self.poll_write(cx, first.map_or(&[], |it| it))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_next(cx));
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_next(cx));
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
