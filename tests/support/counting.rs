//! A connector that counts transports exactly, and connects when and how the test says.

use super::{gate::Gate, tally::lock};
use std::{
    fmt,
    future::Future,
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tower_service::Service;

/// Wraps a connector. A transport is alive from the call, connecting included, to its drop. Clones count together.
#[derive(Clone)]
pub struct CountingConnector<M> {
    inner: M,
    counts: Arc<Mutex<Counts>>,
    delay: Duration,
    gate: Option<Gate>,
}

#[derive(Default)]
struct Counts {
    made: usize,
    connected: usize,
    alive: usize,
    max_alive: usize,
    fail_next: usize,
}

impl<M> CountingConnector<M> {
    /// Counts what `inner` makes.
    pub fn new(inner: M) -> Self {
        Self {
            inner,
            counts: Arc::default(),
            delay: Duration::ZERO,
            gate: None,
        }
    }

    /// Each connect takes this much longer.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Each connect waits at `gate`, first come, first through. A gate that never opens hangs them all.
    #[must_use]
    pub fn gate(mut self, gate: &Gate) -> Self {
        self.gate = Some(gate.clone());
        self
    }

    /// The next `n` calls fail with `ConnectionRefused`, each after its delay and gate, without the inner connector.
    pub fn fail_next(&self, n: usize) {
        lock(&self.counts).fail_next = n;
    }

    /// Calls, ever.
    pub fn made(&self) -> usize {
        lock(&self.counts).made
    }

    /// Calls that gave a transport.
    pub fn connected(&self) -> usize {
        lock(&self.counts).connected
    }

    /// Transports connecting or not yet dropped.
    pub fn alive(&self) -> usize {
        lock(&self.counts).alive
    }

    /// The most that were alive at one moment.
    pub fn max_alive(&self) -> usize {
        lock(&self.counts).max_alive
    }

    /// Whether this call is one of the next that fail.
    fn refuses(&self) -> bool {
        let mut counts = lock(&self.counts);
        let refuses = counts.fail_next > 0;
        counts.fail_next = counts.fail_next.saturating_sub(1);
        refuses
    }
}

impl<M, T> Service<T> for CountingConnector<M>
where
    M: Service<T, Error: From<io::Error>, Future: Send> + Clone + Send + 'static,
    T: Send + 'static,
{
    type Response = Counted<M::Response>;
    type Error = M::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, M::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), M::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let alive = Alive::new(&self.counts);
        let refuses = self.refuses();
        // The one that is ready goes along, so that nothing is connected before the gate.
        let clone = self.inner.clone();
        let mut inner = mem::replace(&mut self.inner, clone);
        let delay = self.delay;
        let gate = self.gate.clone();
        Box::pin(async move {
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            if let Some(gate) = gate {
                gate.pass().await;
            }
            if refuses {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused).into());
            }
            let inner = inner.call(target).await?;
            lock(&alive.0).connected += 1;
            Ok(Counted {
                inner,
                _alive: alive,
            })
        })
    }
}

/// A transport that is counted until it is dropped.
pub struct Counted<S> {
    inner: S,
    // After `inner`: what counts as gone is gone.
    _alive: Alive,
}

impl<S> Counted<S> {
    /// The transport itself.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: fmt::Debug> fmt::Debug for Counted<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counted").field(&self.inner).finish()
    }
}

impl<S> AsyncRead for Counted<S>
where
    S: AsyncRead + Unpin,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S> AsyncWrite for Counted<S>
where
    S: AsyncWrite + Unpin,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// Counted as alive until dropped.
struct Alive(Arc<Mutex<Counts>>);

impl Alive {
    /// One more call, and so one more alive.
    fn new(shared: &Arc<Mutex<Counts>>) -> Self {
        let mut counts = lock(shared);
        counts.made += 1;
        counts.alive += 1;
        counts.max_alive = counts.max_alive.max(counts.alive);
        Self(shared.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        lock(&self.0).alive -= 1;
    }
}
