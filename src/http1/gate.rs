//! The wait of a request's body for a 100.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use crate::connection::shared::ConnShared;

/// Holds a body back until the server says 100, or for a time. After another answer it stays closed: its connection is
/// then of no use any more, because the server still reads what comes as the body.
///
/// Nobody has to wake it: the 100 is read by the task that sends the body, just before it asks for the body.
pub(super) struct Gate {
    timeout: Duration,
    /// From when the head is on its way.
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
