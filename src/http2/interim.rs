//! Interim responses (1xx), including the 100 that a request's body may wait for.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::client::ResponseFuture;
use http::StatusCode;
use tokio::time::Sleep;

/// How many interim responses to one request are accepted, as over HTTP/1 by default.
const MAX: u8 = 100;

/// Counts the interim responses to one request, and holds its body back while that waits for a 100.
///
/// `h2` skips interim responses unless it is asked for them, and asking costs something. So a request whose body does
/// not wait asks only after it was woken as often as it may have interim responses.
#[derive(Debug)]
pub(super) struct Interim {
    polls: u8,
    responses: u8,
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
    /// `expects`: how long the body waits for a 100, if it does.
    pub(super) fn new(expects: Option<Duration>) -> Self {
        Self {
            polls: 0,
            responses: 0,
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
        if self.gate.is_none() && self.polls < MAX {
            self.polls += 1;
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
                    if self.responses == MAX {
                        let what =
                            format!("the server sent more than {MAX} interim (1xx) responses");
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
