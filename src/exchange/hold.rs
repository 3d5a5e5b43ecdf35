//! The end of a response, held back until its connection is free.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::connection::poolable::ErasedLease;

/// A use that is over, and whose connection will be free in a moment: its driver is at work on another thread.
///
/// A caller that has the end of its response asks for a connection again, and should find this one. So the end is held
/// back until the connection is free, or it turns out that it will not be free soon, or for [`LIMIT`] at the most.
/// Dropping it ends the use as well.
pub(super) struct Hold {
    /// Until it is released.
    held: Option<Box<dyn ErasedLease>>,
    until: Instant,
    /// Whether the connection is still about to be free: nobody wakes for it if it is not.
    next_look: Pin<Box<Sleep>>,
    pause: Duration,
}

/// As long as a lease waits for its connection. A driver that shares a runtime of several threads with whoever waits here
/// needs no more than a turn; the time is for a machine that gives it none.
const LIMIT: Duration = Duration::from_secs(1);

/// Before the first look; each pause is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(1);

impl Hold {
    /// Of a use that was not released when it was asked to be.
    #[cold]
    pub(super) fn new(held: Box<dyn ErasedLease>) -> Self {
        let now = Instant::now();
        Self {
            held: Some(held),
            until: now + LIMIT,
            next_look: Box::pin(tokio::time::sleep_until(now + PAUSE)),
            pause: PAUSE,
        }
    }

    /// Ready when the use is released.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(held) = self.held.take() {
            let Some(held) = held.release_if_free(cx) else {
                break;
            };
            self.held = Some(held);
            ready!(self.next_look.as_mut().poll(cx));
            let now = Instant::now();
            if now >= self.until {
                self.release();
                break;
            }
            self.pause *= 2;
            self.next_look.as_mut().reset(now + self.pause);
        }
        Poll::Ready(())
    }

    fn release(&mut self) {
        if let Some(held) = self.held.take() {
            held.release();
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.release();
    }
}
