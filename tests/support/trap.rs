//! Transports that break at an exact byte, without a word to anybody before that.

use super::tally::lock;
use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

/// What happens to a transport.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// So many bytes more are written.
    pub accepts: usize,
    /// How writing fails after them; `None`: it waits for ever.
    pub write: Option<io::ErrorKind>,
    /// What is read from then on: these bytes, and then the error, or the end of the stream. `None`: as before.
    pub read: Option<(&'static [u8], Option<io::ErrorKind>)>,
}

/// Wraps a connector. The first transport that it makes has a trap; nobody is woken when that is set. Clones have the
/// same trap.
#[derive(Clone)]
pub struct TrapConnector<M> {
    inner: M,
    made: Arc<AtomicUsize>,
    trap: Arc<Mutex<Trap>>,
}

#[derive(Default)]
struct Trap {
    fault: Option<Fault>,
    reader: Option<Waker>,
}

impl<M> TrapConnector<M> {
    /// Traps the first that `inner` makes.
    pub fn new(inner: M) -> Self {
        Self {
            inner,
            made: Arc::default(),
            trap: Arc::default(),
        }
    }

    /// From now on, whether it is made already or not.
    pub fn set(&self, fault: Fault) {
        lock(&self.trap).fault = Some(fault);
    }

    /// Calls, ever.
    pub fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

impl<M, T> Service<T> for TrapConnector<M>
where
    M: Service<T>,
    M::Future: Send + 'static,
{
    type Response = Trapped<M::Response>;
    type Error = M::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, M::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let first = self.made.fetch_add(1, Ordering::SeqCst) == 0;
        let trap = if first {
            self.trap.clone()
        } else {
            Arc::default()
        };
        let connecting = self.inner.call(target);
        Box::pin(async move {
            let inner = connecting.await?;
            Ok(Trapped { inner, trap })
        })
    }
}

/// A transport that may have a trap.
pub struct Trapped<S> {
    inner: S,
    trap: Arc<Mutex<Trap>>,
}

impl<S> AsyncRead for Trapped<S>
where
    S: AsyncRead + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut trap = lock(&this.trap);
        trap.reader = Some(cx.waker().clone());
        if let Some(fault) = &mut trap.fault
            && fault.accepts == 0
            && let Some((bytes, end)) = &mut fault.read
        {
            let (now, later) = bytes.split_at(bytes.len().min(buf.remaining()));
            *bytes = later;
            if now.is_empty() {
                return Poll::Ready(end.map_or(Ok(()), |kind| Err(kind.into())));
            }
            buf.put_slice(now);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.inner).poll_read(cx, buf)
    }
}

impl<S> AsyncWrite for Trapped<S>
where
    S: AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let mut trap = lock(&this.trap);
        let Some(fault) = &mut trap.fault else {
            return Pin::new(&mut this.inner).poll_write(cx, buf);
        };
        if fault.accepts == 0 {
            return match fault.write {
                Some(kind) => Poll::Ready(Err(kind.into())),
                None => Poll::Pending,
            };
        }
        let part = &buf[..buf.len().min(fault.accepts)];
        let written = ready!(Pin::new(&mut this.inner).poll_write(cx, part))?;
        fault.accepts -= written;
        if fault.accepts == 0
            && let Some(reader) = trap.reader.take()
        {
            reader.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
