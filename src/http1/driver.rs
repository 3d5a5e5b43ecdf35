//! The task that has the transport.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep};

use crate::activity::Activity;
use crate::bond::Bond;
use crate::cause::Cause;
use crate::error;

pin_project! {
    /// Runs a connection until it has closed or is handed on to an upgrade, until it has been silent for too long, or
    /// until it is aborted. Holds the transport and nothing of the pool; when it is dropped, the transport goes, unless
    /// an upgrade has it, and its slot passes on.
    pub(super) struct Driver<F> {
        // hyper's connection, which it gives no name.
        #[pin]
        connection: F,
        bond: Arc<Bond>,
        silence: Silence,
    }
}

impl<F> Driver<F> {
    pub(super) fn new(connection: F, bond: Arc<Bond>) -> Self {
        Self {
            connection,
            bond,
            silence: Silence { timer: None },
        }
    }
}

impl<F> Future for Driver<F>
where
    F: Future<Output = hyper::Result<()>>,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
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
            Poll::Pending => {
                if this.silence.poll(this.bond.activity(), cx).is_pending() {
                    return Poll::Pending;
                }
                Cause::Silence
            }
        };
        this.bond.note(cause);
        Poll::Ready(())
    }
}

/// One timer, set again only when it fires or comes too late.
struct Silence {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Silence {
    /// Ready when the connection has been silent for too long.
    fn poll(&mut self, activity: &Activity, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            // While it is idle the timer may run out unheard: the next use finds it so.
            let Some(limit) = activity.limit().filter(|_| activity.is_in_use()) else {
                return Poll::Pending;
            };
            let Some(due) = activity.due(limit) else {
                return Poll::Pending;
            };
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let now = Instant::now();
            if now < due {
                timer.as_mut().reset(due);
            } else if activity.waits() {
                return Poll::Ready(());
            } else if let Some(later) = now.checked_add(limit) {
                // It is the caller who lets the other end wait.
                timer.as_mut().reset(later);
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
        }
    }
}
