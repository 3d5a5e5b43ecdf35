//! The task that owns the transport.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, Sleep};

use crate::connection::close_reason::CloseReason;
use crate::http2::piece::Piece;
use crate::http2::ping::{PingSettings, Pings};
use crate::http2::shared::Http2Shared;
use crate::http2::silence::Silence;
use crate::http2::wire::Wire;

/// Runs a connection until it has closed, until its server does not answer any more, or until it is aborted; and for at
/// most one second once the connection has no owner. The task owns the transport and nothing of the pool. When it is
/// dropped, the transport is dropped and its permit passes on.
pub(super) struct Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    connection: Connection<Wire<IO>, Piece>,
    shared: Arc<Http2Shared>,
    pings: Pings,
    silence: Silence,
    /// Until when no requests are sent, because the server has asked for that.
    paused_until: Option<Instant>,
    goodbye_until: Option<Instant>,
    /// Set to the earliest moment at which something is due.
    sleep: Option<Pin<Box<Sleep>>>,
    is_polled: bool,
    /// It runs on a runtime of several threads.
    gathers: bool,
    /// Other tasks were polled first, and this one is next.
    has_yielded: bool,
    /// How many streams had begun when `h2` was polled last.
    begun: u32,
}

/// How long a transport may take to shut down while it keeps its permit.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long no requests are sent to a server that answers with ENHANCE_YOUR_CALM.
const CALM: Duration = Duration::from_secs(1);

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    pub(super) fn new(
        connection: Connection<Wire<IO>, Piece>,
        shared: Arc<Http2Shared>,
        pings: PingSettings,
    ) -> Self {
        Self {
            connection,
            shared,
            pings: Pings::new(pings),
            silence: Silence::default(),
            paused_until: None,
            goodbye_until: None,
            sleep: None,
            is_polled: false,
            gathers: Handle::try_current().is_ok_and(|runtime| {
                // A runtime of one thread polls a task that was woken after those that were ready before.
                runtime.runtime_flavor() == RuntimeFlavor::MultiThread
            }),
            has_yielded: false,
            begun: 0,
        }
    }

    /// Whether other tasks are polled first. A runtime of several threads polls the driver directly after the first
    /// caller that sends a request. If others are about to send, one write serves all of them: with 500 callers on 4
    /// connections and two threads, a request takes four fifths of the processor time. A single stream does not wait,
    /// nor does what the server has sent, unless a stream has begun as well.
    #[inline]
    fn yields(&mut self) -> bool {
        let begun = self.shared.begun();
        let is_new = begun != self.begun && self.shared.has_several_streams();
        self.has_yielded = is_new && !self.has_yielded;
        if !self.has_yielded {
            self.begun = begun;
        }
        self.has_yielded
    }

    /// Whether there is nothing to do except to poll `h2`.
    #[inline]
    fn is_quiet(&self) -> bool {
        let is_due = self.sleep.as_ref().is_some_and(|it| it.is_elapsed());
        self.is_polled
            && !is_due
            && !self.pings.is_out()
            && !self.shared.has_work()
            && self.shared.conn().has_no_driver_flags()
    }
}

impl<IO> Future for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.gathers && this.yields() {
            // Woken by itself, a task is polled after all others.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = Pin::new(&mut this.connection).poll(cx);
        if polled.is_pending() && this.is_quiet() {
            return Poll::Pending;
        }
        let reason = ready!(this.poll_on(polled, cx));
        this.shared.close(reason);
        this.shared.notify_pool();
        Poll::Ready(())
    }
}

impl<IO> Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    /// The driver's own work, after `h2` was polled.
    #[inline(never)]
    fn poll_on(
        &mut self,
        polled: Poll<Result<(), h2::Error>>,
        cx: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        if !self.is_polled {
            self.is_polled = true;
            self.shared.set_driver(cx.waker());
        }
        if let Some(limit) = self.shared.take_settings() {
            self.shared.set_peer_limit(limit);
        }
        match polled {
            Poll::Ready(Ok(())) => return Poll::Ready(self.shared.conn().clean_end()),
            // An I/O error, or an end without an orderly shutdown, was recorded by the transport before.
            Poll::Ready(Err(_)) => return Poll::Ready(CloseReason::Error),
            Poll::Pending => {}
        }
        self.pings
            .poll(&self.shared, || self.connection.ping_pong(), cx);
        let over = self.poll_timers(cx);
        self.shared.notify_pool();
        over
    }

    fn poll_timers(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let shared = self.shared.clone();
        if let Some(limit) = shared.take_limit() {
            self.silence.limit(limit, Instant::now());
        }
        if shared.is_paused() && self.paused_until.is_none() {
            self.paused_until = Instant::now().checked_add(CALM);
        }
        let is_orphaned = shared.conn().is_orphaned() && !shared.conn().is_detached();
        if is_orphaned && self.goodbye_until.is_none() {
            self.goodbye_until = Instant::now().checked_add(GOODBYE);
        }
        shared.read_deadlines();
        shared.check_sending();
        loop {
            let moments = [
                self.pings.next(),
                self.silence.next(),
                self.paused_until,
                self.goodbye_until,
                shared.uses().deadlines.next(),
            ];
            let Some(due) = moments.into_iter().flatten().min() else {
                self.sleep = None;
                return Poll::Pending;
            };
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
            if let Some(reason) = self.pass(Instant::now(), cx) {
                return Poll::Ready(reason);
            }
        }
    }

    /// Does what is due. Returns the reason if the connection has to end.
    fn pass(&mut self, now: Instant, cx: &mut Context<'_>) -> Option<CloseReason> {
        let shared = &self.shared;
        let is_over = |moment: &mut Option<Instant>| moment.take_if(|at| *at <= now).is_some();
        if is_over(&mut self.goodbye_until) {
            return Some(CloseReason::Dropped);
        }
        let pings = || self.connection.ping_pong();
        if self.pings.pass(shared, now, pings, cx) {
            return Some(CloseReason::Silence);
        }
        if is_over(&mut self.paused_until) {
            shared.end_pause();
        }
        if self.silence.next().is_some_and(|at| at <= now) {
            self.silence.step(shared, now);
        }
        let late = shared.uses().deadlines.due(now);
        for (stream, number) in late {
            if let Some(reason) = stream.conn().is_late(now) {
                stream.fail(number, reason);
            }
        }
        // The end of an exchange may have raised a doubt.
        self.pings.poll(shared, || self.connection.ping_pong(), cx);
        None
    }
}

impl<IO> Drop for Driver<IO>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    fn drop(&mut self) {
        self.shared.close(CloseReason::Dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::task::noop_waker_ref;
    use tokio::io::{AsyncWriteExt, DuplexStream, ReadBuf};

    use super::*;
    use crate::connection::shared::{ConnShared, TransportGuard};
    use crate::http2::Http2;

    /// Counts how often it is read.
    struct Reads {
        io: DuplexStream,
        count: Arc<AtomicUsize>,
    }

    impl AsyncRead for Reads {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.count.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Reads {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.io).poll_write(cx, buf)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.io).poll_shutdown(cx)
        }
    }

    /// A PING with its acknowledgement, which needs no answer.
    const PONG: [u8; 17] = [0, 0, 8, 6, 1, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn only_a_new_request_waits_for_others_and_what_is_read_does_not() {
        let (here, mut there) = tokio::io::duplex(1 << 16);
        let reads = Arc::new(AtomicUsize::new(0));
        let io = Reads {
            io: here,
            count: reads.clone(),
        };
        let conn = Arc::new(ConnShared::new());
        let shared = Arc::new(Http2Shared::new(conn.clone(), 100, 100, 0));
        let guard = TransportGuard::new(conn);
        let wire = Wire::new(io, guard, shared.clone(), u32::MAX);
        let http2 = Http2::new();
        let (_sender, connection) = http2.builder().handshake::<_, Piece>(wire).await.unwrap();
        let mut driver = Driver::new(connection, shared.clone(), http2.pings());
        // Whether the transport is read when the driver is polled once.
        let mut reads_at_once = || {
            let before = reads.load(Ordering::Relaxed);
            let mut cx = Context::from_waker(noop_waker_ref());
            assert!(Pin::new(&mut driver).poll(&mut cx).is_pending());
            reads.load(Ordering::Relaxed) > before
        };
        let begin = || {
            assert!(shared.has_id());
            shared.stream_begins(None);
        };
        // The server's SETTINGS.
        there.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        begin();
        assert!(reads_at_once(), "a single stream does not wait");
        begin();
        assert!(!reads_at_once(), "the new request waits for others");
        assert!(reads_at_once(), "once");
        for _ in 0..10 {
            there.write_all(&PONG).await.unwrap();
            assert!(reads_at_once(), "nothing has begun");
        }
        begin();
        begin();
        assert!(!reads_at_once(), "two that begin together wait together");
        begin();
        assert!(reads_at_once(), "not again for one that has come meanwhile");
        assert!(reads_at_once());
    }
}
