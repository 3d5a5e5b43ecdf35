//! What a connection's driver and a request on it exchange without hyper: how the request's body ends, and the head of
//! a request of which nothing was written.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::Version;

use crate::connection::close_reason::CloseReason;
use crate::connection::expectation::Expectation;
use crate::connection::shared::{BODY_FAILED, ConnShared, HTTP10, OMITS, RESTS};
use crate::error::request_body::RequestBodyError;
use crate::sync::atomic::Ordering;

/// The rest of a request's body, after hyper has its announced length.
pub(crate) type Rest = Pin<Box<dyn Future<Output = Result<(), RequestBodyError>> + Send>>;

impl ConnShared {
    /// Leaves out the byte that follows the next `at` bytes written.
    pub(crate) fn omit_byte_at(&self, at: usize) {
        self.close_state().extras().omitted = at;
        self.state.fetch_or(OMITS, Ordering::AcqRel);
    }

    /// How many bytes are written before the one that is left out, if one is.
    pub(crate) fn omitted(&self) -> Option<usize> {
        let omits = self.state.load(Ordering::Acquire) & OMITS != 0;
        omits.then(|| self.close_state().extras().omitted)
    }

    /// The byte was left out.
    pub(crate) fn has_omitted(&self) {
        self.state.fetch_and(!OMITS, Ordering::AcqRel);
    }

    /// The body of the next request waits until the server accepts it, for at most `timeout`.
    #[cold]
    pub(crate) fn expect_continue(&self, timeout: Duration) {
        self.close_state().extras().continue_timeout = timeout;
        self.expectation.begin();
    }

    /// How long the body of the request that begins waits for a 100, if it does.
    pub(crate) fn continue_timeout(&self) -> Option<Duration> {
        let waits = self.expectation.waits();
        waits.then(|| self.close_state().extras().continue_timeout)
    }

    /// The same, and the next request on this use does not wait.
    #[cfg(feature = "http2")]
    pub(crate) fn take_continue_timeout(&self) -> Option<Duration> {
        let timeout = self.continue_timeout()?;
        self.expectation.settle(true);
        Some(timeout)
    }

    #[inline]
    pub(crate) fn expectation(&self) -> &Expectation {
        &self.expectation
    }

    #[cold]
    pub(crate) fn set_http10(&self) {
        self.peer.fetch_or(HTTP10, Ordering::Relaxed);
    }

    pub(crate) fn is_http10(&self) -> bool {
        self.peer.load(Ordering::Relaxed) & HTTP10 != 0
    }

    #[cfg(not(feature = "http2"))]
    pub(crate) const fn is_http2(&self) -> bool {
        false
    }

    /// The version of HTTP on the connection: HTTP/1.0 once its server has answered in that.
    pub(crate) fn version(&self) -> Version {
        if self.is_http2() {
            return Version::HTTP_2;
        }
        match self.whole().is_http10() {
            false => Version::HTTP_11,
            true => Version::HTTP_10,
        }
    }

    /// Awaits the end of a request's body, of which hyper has the announced length.
    #[cold]
    pub(crate) fn watch_rest(&self, rest: Rest) {
        if let Some(exchange) = self.activity.exchange_without_head() {
            self.put_rest(exchange, rest);
        }
    }

    /// Ignored once the head of the response has arrived.
    fn put_rest(&self, exchange: u8, rest: Rest) {
        // Dropped after the lock, because it is the caller's.
        let _dropped;
        let mut close_state = self.close_state();
        if self.activity.exchange_without_head() == Some(exchange) {
            _dropped = close_state.extras().rest.replace((exchange, rest));
            self.driver_flags.fetch_or(RESTS, Ordering::AcqRel);
        } else {
            _dropped = Some((exchange, rest));
        }
    }

    /// Checks whether a request's body ends where it should. Not polled under the lock, because it runs the caller's
    /// code.
    #[cold]
    pub(crate) fn poll_rest(&self, cx: &mut Context<'_>) {
        let Some((exchange, mut rest)) = self.take_rest() else {
            return;
        };
        match rest.as_mut().poll(cx) {
            Poll::Pending => self.put_rest(exchange, rest),
            Poll::Ready(Err(error)) if self.activity.exchange_without_head() == Some(exchange) => {
                self.fail_body(error);
            }
            Poll::Ready(_) => {}
        }
    }

    fn take_rest(&self) -> Option<(u8, Rest)> {
        let mut close_state = self.close_state();
        self.driver_flags.fetch_and(!RESTS, Ordering::AcqRel);
        close_state.extras.as_mut()?.rest.take()
    }

    #[inline]
    pub(crate) fn has_rest(&self) -> bool {
        self.driver_flags.load(Ordering::Acquire) & RESTS != 0
    }

    /// The request's own body has failed, which ends the connection.
    #[cold]
    pub(crate) fn fail_body(&self, error: RequestBodyError) {
        self.set_close_reason(CloseReason::Abandoned);
        self.close_state().extras().body_error = Some(error);
        self.driver_flags.fetch_or(BODY_FAILED, Ordering::AcqRel);
    }

    pub(crate) fn has_failed_body(&self) -> bool {
        self.driver_flags.load(Ordering::Acquire) & BODY_FAILED != 0
    }

    /// Why the request's body failed, if it did. Stops awaiting the end of the body.
    #[cold]
    pub(crate) fn end_body(&self) -> Option<RequestBodyError> {
        if let Some((_, mut rest)) = self.take_rest() {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(Err(error)) = rest.as_mut().poll(&mut cx) {
                self.fail_body(error);
            }
        }
        self.close_state().extras.as_mut()?.body_error.take()
    }

    /// Nothing of the present request was written; keeps its head.
    #[cold]
    pub(crate) fn keep_unwritten(&self, head: Vec<u8>) {
        self.close_state().extras().unwritten = Some(head);
        self.activity.keeps_head();
    }

    /// The head of the present request, if nothing of it was written.
    pub(crate) fn take_unwritten(&self) -> Option<Vec<u8>> {
        let head = self.close_state().extras.as_mut()?.unwritten.take();
        head.filter(|_| self.activity.has_kept_head())
    }
}
