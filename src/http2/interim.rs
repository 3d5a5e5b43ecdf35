//! Interim responses (1xx), including the 100 that a request's body may wait for.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::client::ResponseFuture;
use http::StatusCode;
use tokio::time::Sleep;

/// How many interim responses to one request are accepted by default.
pub(super) const DEFAULT_MAX: u16 = 100;

/// How often a request is polled at first without asking for interim responses, if at least `DEFAULT_MAX` are accepted.
const UNASKED: u8 = 2;

/// Counts the interim responses to one request, and holds its body back while that waits for a 100.
///
/// `h2` skips interim responses unless it is asked for them, and asking costs something. Most responses are here at the
/// second poll. So a request that accepts many, and whose body does not wait, asks from the third poll on, and what has
/// come before is not counted.
#[derive(Debug)]
pub(super) struct Interim {
    /// How often it is still polled without asking.
    unasked: u8,
    responses: u16,
    max: u16,
    gate: Option<Box<Gate>>,
}

/// Closed until a 100 arrives, or until this time is over.
#[derive(Debug)]
struct Gate {
    timeout: Duration,
    /// Set when the head is being written.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Interim {
    /// Accepts `max` interim responses. `expects`: how long the body waits for a 100, if it does.
    #[inline]
    pub(super) fn new(max: u16, expects: Option<Duration>) -> Self {
        Self {
            unasked: if max < DEFAULT_MAX { 0 } else { UNASKED },
            responses: 0,
            max,
            gate: expects.map(|timeout| {
                let sleep = None;
                Box::new(Gate { timeout, sleep })
            }),
        }
    }

    /// Whether the body of the request may be sent.
    #[inline]
    pub(super) fn lets_body_through(&self) -> bool {
        self.gate.is_none()
    }

    /// Ready when the response can be asked for, which is almost always. Pending if only interim responses have
    /// arrived.
    ///
    /// # Errors
    ///
    /// If there are too many.
    #[inline]
    pub(super) fn poll(
        &mut self,
        response: &mut ResponseFuture,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.gate.is_none() && self.unasked > 0 {
            self.unasked -= 1;
            return Poll::Ready(Ok(()));
        }
        self.poll_each(response, cx)
    }

    #[cold]
    fn poll_each(
        &mut self,
        response: &mut ResponseFuture,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match response.poll_informational(cx) {
                Poll::Ready(Some(Ok(interim))) => {
                    let max = self.max;
                    if self.responses == max {
                        let what =
                            format!("the server sent more than {max} interim (1xx) responses");
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, what)));
                    }
                    self.responses += 1;
                    if interim.status() == StatusCode::CONTINUE {
                        self.gate = None;
                    }
                }
                // The response, or the error, can be asked for.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if let Some(gate) = &mut self.gate {
                        let timeout = gate.timeout;
                        let sleep = || Box::pin(tokio::time::sleep(timeout));
                        ready!(gate.sleep.get_or_insert_with(sleep).as_mut().poll(cx));
                        // The body is sent now, and the response is still awaited.
                        self.gate = None;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
