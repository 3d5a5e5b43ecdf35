//! The task that has the transport.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::activity::Activity;
use crate::bond::Bond;
use crate::cause::Cause;
use crate::error;
use crate::http1::upload;

pin_project! {
    /// Runs a connection until it has closed or is handed on to an upgrade, until it has been silent for too long, or
    /// until it is aborted; and for a second at the most once nobody has the connection any more, unless it was detached.
    /// Holds the transport and nothing of the pool; when it is dropped, the transport goes, unless an upgrade has it, and
    /// its slot passes on.
    pub(super) struct Driver<F> {
        // hyper's connection, which it gives no name.
        #[pin]
        connection: F,
        bond: Arc<Bond>,
        timer: Timer,
    }
}

// Each connection has one. tokio's tasks are of so many times 128 bytes, and with 24 on top of hyper's connection most of
// ours are of as many as that alone.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Driver<()>>() <= 24);

/// How long a transport may take to shut down, and keep its slot.
const GOODBYE: Duration = Duration::from_secs(1);

impl<F> Driver<F> {
    pub(super) fn new(connection: F, bond: Arc<Bond>) -> Self {
        Self {
            connection,
            bond,
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
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        upload::begin_poll();
        let mut this = self.project();
        let mut polled = this.connection.as_mut().poll(cx);
        if polled.is_pending() && this.bond.winds_down() {
            // hyper writes out the end of an upload, and does not look again whether it is free now.
            polled = this.connection.poll(cx);
        }
        let cause = match polled {
            Poll::Ready(Ok(())) => this.bond.clean_end(),
            Poll::Ready(Err(error)) if error.is_incomplete_message() || error.is_canceled() => {
                Cause::Peer
            }
            Poll::Ready(Err(error)) if error::is_end_of_stream(&error) => Cause::Peer,
            Poll::Ready(Err(_)) => Cause::Error,
            Poll::Pending if this.bond.is_let_go() && !this.bond.is_detached() => {
                ready!(this.timer.poll_goodbye(cx));
                Cause::Dropped
            }
            Poll::Pending => {
                ready!(this.timer.poll_silence(this.bond.activity(), cx));
                Cause::Silence
            }
        };
        this.bond.note(cause);
        Poll::Ready(())
    }
}

/// In how many steps a silence is measured: it is found out at most one step late.
const STEPS: u8 = 8;

/// One timer, which runs only while the connection is in use, and once nobody has it any more.
#[derive(Default)]
struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// The limit of silence that it is set for, in milliseconds; `NONE` where it is set for the goodbye.
    limit: u32,
    /// How many steps nothing has moved.
    silent: u8,
}

/// More than a limit of silence can be.
const NONE: u32 = u32::MAX;

impl Timer {
    /// Ready when the transport has had its time to shut down.
    #[cold]
    fn poll_goodbye(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.limit != NONE {
            self.limit = NONE;
            self.sleep = None;
        }
        let goodbye = || Box::pin(tokio::time::sleep(GOODBYE));
        self.sleep.get_or_insert_with(goodbye).as_mut().poll(cx)
    }

    /// Ready when the connection has been silent for too long.
    #[inline]
    fn poll_silence(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let Some(limit) = activity.limit_in_millis().filter(|_| activity.is_in_use()) else {
            // It runs on into a use that comes soon; one that comes later sets another.
            if self.sleep.as_ref().is_some_and(|sleep| sleep.is_elapsed()) {
                self.sleep = None;
            }
            return Poll::Pending;
        };
        match &self.sleep {
            // It was polled when it was set, and this task is the only one that it wakes.
            Some(sleep) if limit == self.limit && !sleep.is_elapsed() => Poll::Pending,
            _ => self.step(limit, activity, cx),
        }
    }

    #[cold]
    fn step(&mut self, limit: u32, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        let step = Duration::from_millis(limit.into()) / u32::from(STEPS);
        if self.sleep.is_none() || limit != self.limit {
            self.limit = limit;
            self.silent = 0;
            // What has moved so far has moved before the first step.
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
            // From when it was due, so that its delays do not add up; unless it was not heard for long.
            let next = sleep.deadline() + step;
            sleep
                .as_mut()
                .reset(if next > now { next } else { now + step });
        }
        Poll::Pending
    }
}
