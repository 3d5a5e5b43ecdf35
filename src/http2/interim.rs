//! What a server sends before its response: 1xx, and among them what a request's body may wait for.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::client::ResponseFuture;
use http::StatusCode;
use tokio::time::Sleep;

/// The most interim responses to one request that are looked at, as over HTTP/1 by default.
const MAX: u8 = 100;

/// Counts the interim responses to one request, and keeps its body back where that waits for a 100.
///
/// `h2` passes over what nobody asks for, and asking costs something. So a request whose body does not wait asks only when it
/// was woken as often as it may have interim responses.
#[derive(Debug)]
pub(super) struct Interim {
    polls: u8,
    responses: u8,
    gate: Option<Box<Gate>>,
}

/// Until a 100 comes, or this time is over.
#[derive(Debug)]
struct Gate {
    timeout: Duration,
    /// From when the head is on its way.
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

    /// Ready when the response is to be asked for: almost always. Pending where only interim responses have come.
    ///
    /// # Errors
    ///
    /// That there are too many.
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
                // The response, or why there is none, is there to be asked for.
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    if let Some(gate) = &mut self.gate {
                        let timeout = gate.timeout;
                        let sleep = || Box::pin(tokio::time::sleep(timeout));
                        ready!(gate.sleep.get_or_insert_with(sleep).as_mut().poll(cx));
                        // The body goes now, and the response is still awaited.
                        self.gate = None;
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
