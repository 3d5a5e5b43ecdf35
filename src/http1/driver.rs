//! The task that owns the transport.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::connection::activity::Activity;
use crate::connection::close_reason::CloseReason;
use crate::connection::shared::ConnShared;

pin_project! {
    /// Runs a connection until it has closed or is passed on to an upgrade, until it is silent for too long or its
    /// exchange exceeds a time limit, or until it is aborted; and for at most one second once the connection has no
    /// owner, unless it was detached. The task owns the transport and nothing of the pool. When it is dropped, the
    /// transport is dropped, unless an upgrade has it, and its permit passes on.
    pub(super) struct Driver<F> {
        // hyper's connection, whose type has no name.
        #[pin]
        connection: F,
        shared: Arc<ConnShared>,
        timer: Timer,
    }
}

// Every connection has one. tokio allocates tasks in multiples of 128 bytes; with 24 bytes in addition to hyper's
// connection, most tasks need no more than with hyper's connection alone.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Driver<()>>() <= 24);

/// How long a transport may take to shut down while it keeps its permit.
const GOODBYE: Duration = Duration::from_secs(1);

impl<F> Driver<F> {
    pub(super) fn new(connection: F, shared: Arc<ConnShared>) -> Self {
        Self {
            connection,
            shared,
            timer: Timer::default(),
        }
    }
}

impl<F> Future for Driver<F>
where
    F: Future<Output = hyper::Result<()>>,
{
    type Output = ();

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.as_mut().project();
        let polled = this.connection.as_mut().poll(cx);
        if polled.is_pending()
            && this.shared.has_no_driver_flags()
            && this.timer.is_set(this.shared.activity())
        {
            return Poll::Pending;
        }
        self.poll_on(polled, cx)
    }
}

impl<F> Driver<F>
where
    F: Future<Output = hyper::Result<()>>,
{
    /// The driver's own work, after hyper was polled.
    #[inline(never)]
    fn poll_on(
        self: Pin<&mut Self>,
        mut polled: Poll<hyper::Result<()>>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let this = self.project();
        let shared = this.shared;
        if polled.is_pending() && shared.is_finishing() {
            // hyper writes the end of an upload, and does not check again whether it is free.
            polled = this.connection.poll(cx);
        }
        if polled.is_pending() && shared.has_rest() {
            shared.poll_rest(cx);
        }
        // After hyper was polled: a response that came in time counts.
        let late = match polled.is_pending() && shared.is_timed() {
            true => shared.poll_timeouts(cx),
            false => Poll::Pending,
        };
        let reason = match polled {
            Poll::Ready(Ok(())) => shared.clean_end(),
            Poll::Ready(Err(error)) if error.is_incomplete_message() || error.is_canceled() => {
                CloseReason::Peer
            }
            // An I/O error, or an end without an orderly shutdown, was recorded by the transport before.
            Poll::Ready(Err(_)) => CloseReason::Error,
            // hyper had the announced length, and the body gave more after that.
            Poll::Pending if shared.has_failed_body() => CloseReason::Abandoned,
            Poll::Pending => match late {
                Poll::Ready(late) => late,
                Poll::Pending if shared.is_orphaned() && !shared.is_detached() => {
                    ready!(this.timer.poll_goodbye(cx));
                    CloseReason::Dropped
                }
                Poll::Pending => {
                    ready!(this.timer.poll_silence(shared.activity(), cx));
                    CloseReason::Silence
                }
            },
        };
        shared.set_close_reason(reason);
        Poll::Ready(())
    }
}

/// In how many steps a silence is measured: it is detected at most one step late.
const STEPS: u8 = 8;

/// One timer, which runs only while the connection is in use, and once it has no owner any more.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The limit of silence that it measures, in milliseconds; `NONE` if it measures the shutdown.
    limit: u32,
    /// For how many steps there was no activity.
    silent: u8,
}

/// More than any limit of silence.
const NONE: u32 = u32::MAX;

impl Timer {
    /// Ready when the time for the transport's shutdown is over.
    #[cold]
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.limit != NONE {
            self.limit = NONE;
            self.sleep = None;
        }
        let goodbye = || Box::pin(tokio::time::sleep(GOODBYE));
        self.sleep.get_or_insert_with(goodbye).as_mut().poll(cx)
    }

    /// Whether it measures the present limit, and has not fired yet.
    #[inline]
    fn is_set(&self, activity: &Activity) -> bool {
        let limit = activity.limit_in_millis();
        match &self.sleep {
            None => limit.is_none() || !activity.is_in_use(),
            // A timer that runs on into the next use measures the limit of that use.
            Some(sleep) => {
                (limit == Some(self.limit) || !activity.is_in_use()) && !sleep.is_elapsed()
            }
        }
    }

    /// Ready when the connection has been silent for too long.
    fn poll_silence(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = activity.limit_in_millis().filter(|_| activity.is_in_use()) else {
            // The timer is kept for a use that begins soon; a later use sets a new one.
            if self.sleep.as_ref().is_some_and(|sleep| sleep.is_elapsed()) {
                self.sleep = None;
            }
            return Poll::Pending;
        };
        // It was polled when it was set, and nothing else wakes this task for it.
        if self.is_set(activity) {
            return Poll::Pending;
        }
        self.step(limit, activity, cx)
    }

    #[cold]
    fn step(&mut self, limit: u32, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let step = Duration::from_millis(limit.into()) / u32::from(STEPS);
        if self.sleep.is_none() || limit != self.limit {
            self.limit = limit;
            self.silent = 0;
            // Activity so far belongs to the time before the first step.
            activity.is_silent();
            let due = Instant::now().checked_add(step);
            self.sleep = due.map(|due| Box::pin(tokio::time::sleep_until(due)));
        }
        let Some(sleep) = &mut self.sleep else {
            return Poll::Pending;
        };
        while sleep.as_mut().poll(cx).is_ready() {
            self.silent = if activity.is_silent() {
                self.silent + 1
            } else {
                0
            };
            if self.silent == STEPS {
                return Poll::Ready(());
            }
            let now = Instant::now();
            // Counted from when the timer was due, so that delays do not add up, unless it fired very late.
            let next = sleep.deadline() + step;
            sleep
                .as_mut()
                .reset(if next > now { next } else { now + step });
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::task::Waker;

    use bytes::Bytes;
    use http::Request;
    use http_body::{Body, Frame};
    use hyper::client::conn::http1::handshake;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::connection::shared::TransportGuard;
    use crate::connection::taken::Taken;
    use crate::http1::transport::Transport;
    use crate::http1::upload::{Framing, Upload};

    /// Not there at first, and then all of it; it does not say that it is at its end before it is asked.
    struct Late {
        waits: usize,
        pieces: Vec<Bytes>,
    }

    impl Body for Late {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.waits > 0 {
                self.waits -= 1;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            Poll::Ready(self.pieces.pop().map(|it| Ok(Frame::data(it))))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_transport_has_one_second_to_shut_down_whatever_was_measured_before() {
        for limit in [None, Some(80), Some(800_000)] {
            let activity = Activity::new();
            if let Some(limit) = limit {
                activity.tighten(Duration::from_millis(limit));
            }
            activity.begin_use(1);
            let mut timer = Timer::default();
            let silence = poll_fn(|cx| Poll::Ready(timer.poll_silence(&activity, cx))).await;
            assert!(silence.is_pending());
            activity.end_use();
            let begun = Instant::now();
            poll_fn(|cx| timer.poll_goodbye(cx)).await;
            let taken = begun.elapsed();
            let most = GOODBYE + Duration::from_millis(1);
            assert!(
                taken >= GOODBYE && taken <= most,
                "{taken:?} with {limit:?}"
            );
        }
    }

    /// The runtime was held up for two steps, and nobody knows whether something has moved in the second one.
    #[tokio::test(start_paused = true)]
    async fn two_steps_that_are_measured_at_once_are_one_step_of_silence() {
        let step = Duration::from_secs(1);
        let activity = Activity::new();
        activity.tighten(step * u32::from(STEPS));
        activity.begin_use(1);
        activity.written(false);
        activity.read(true);
        let mut timer = Timer::default();
        let mut is_over = || {
            let cx = &mut Context::from_waker(Waker::noop());
            timer.poll_silence(&activity, cx).is_ready()
        };
        assert!(!is_over());
        tokio::time::advance(2 * step).await;
        assert!(!is_over());
        for measured in 2..=STEPS {
            tokio::time::advance(step).await;
            assert_eq!(is_over(), measured == STEPS, "{measured}");
        }
    }

    /// hyper drops a body before it flushes or, where its buffer was full, after that and writes nothing more.
    #[tokio::test]
    async fn the_end_of_an_upload_is_heard_of_when_hyper_is_free() {
        for (waits, piece, count) in [
            (0, 500_000, 1),
            (1, 500_000, 1),
            (1, 8_192, 15),
            (1, 8_192, 16),
            (2, 8_192, 16),
            (1, 8_192, 32),
        ] {
            let (here, mut there) = tokio::io::duplex(1 << 20);
            let shared = Arc::new(ConnShared::new());
            let transport = Transport::new(here, TransportGuard::new(shared.clone()), 0);
            let (mut sender, connection) = handshake(TokioIo::new(transport)).await.unwrap();
            tokio::spawn(Driver::new(connection.with_upgrades(), shared.clone()));
            let length = piece * count;
            tokio::spawn(async move {
                let mut request = Vec::new();
                let head = |it: &[u8]| it.windows(4).position(|it| it == b"\r\n\r\n");
                while head(&request).is_none_or(|end| request.len() < end + 4 + length) {
                    assert!(there.read_buf(&mut request).await.unwrap() > 0);
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
                there.write_all(answer).await.unwrap();
                // To the end of the connection.
                let _ = there.read(&mut [0]).await;
            });
            let pieces = vec![Bytes::from(vec![b'x'; piece]); count];
            let body = Late { waits, pieces };
            let framing = Framing::Length(length as u64);
            let (upload, _) = Upload::begin(body, Taken::default(), framing, &shared);
            let request = Request::post("/").header("content-length", length);
            let sent = sender.send_request(request.body(upload).unwrap());
            assert!(shared.is_uploading());
            sent.await.unwrap();
            sender.ready().await.unwrap();
            assert!(!shared.is_uploading(), "{waits}, {count} of {piece}");
        }
    }
}
