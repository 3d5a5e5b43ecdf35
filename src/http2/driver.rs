//! The task that owns the transport.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::time::{Instant, Sleep};

use crate::connection::close_reason::CloseReason;
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
    connection: Connection<Wire<IO>, Bytes>,
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
        connection: Connection<Wire<IO>, Bytes>,
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
        }
    }

    /// Whether other tasks are polled first. A runtime of several threads polls the driver directly after the first
    /// caller that sends a request. If others are about to send, one write serves all of them: with 500 callers on 4
    /// connections and two threads, a request takes four fifths of the processor time. A single stream does not wait.
    #[inline]
    fn yields(&mut self) -> bool {
        let is_first = !self.has_yielded && self.shared.has_several_streams();
        self.has_yielded = is_first;
        is_first
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
        if self.shared.take_settings() {
            let limit = self.connection.max_concurrent_send_streams();
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
        let _ = shared.take_deadline();
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
        for stream in late {
            if let Some(reason) = stream.conn().is_late(now) {
                stream.fail(reason);
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
