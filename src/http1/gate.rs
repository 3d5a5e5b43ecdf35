//! Holds a request's body back until a 100.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use crate::connection::shared::ConnShared;

/// Holds a body back until the server sends a 100, or for a limited time. After a final response it stays closed: the
/// connection cannot be reused, because the server would read whatever follows as the body.
///
/// It needs no waker: the task that sends the body has read the 100 just before it asks for the body.
pub(super) struct Gate {
    timeout: Duration,
    /// Set when the head is being written.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            sleep: None,
        }
    }

    /// Ready when the body may be sent.
    #[cold]
    pub(super) fn poll_open(&mut self, shared: &ConnShared, cx: &mut Context<'_>) -> Poll<()> {
        match shared.expectation().wants_body() {
            Some(true) => Poll::Ready(()),
            Some(false) => Poll::Pending,
            None => {
                let timeout = self.timeout;
                let sleep = || Box::pin(tokio::time::sleep(timeout));
                let polled = self.sleep.get_or_insert_with(sleep).as_mut().poll(cx);
                if polled.is_ready() {
                    shared.expectation().settle(true);
                }
                polled
            }
        }
    }
}
