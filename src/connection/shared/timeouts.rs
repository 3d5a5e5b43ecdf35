//! The time limits of one exchange. The connection's driver enforces them, so they apply whether or not the caller
//! polls.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::connection::activity::Activity;
use crate::connection::close_reason::CloseReason;
use crate::connection::shared::{ConnShared, TIMED};
use crate::error::timeout_kind::TimeoutKind;
use crate::sync::atomic::Ordering;

/// The time limits of the present exchange of a connection, if it has any. One timer serves both limits, and is reused
/// by the next exchange with limits.
pub(crate) struct ExchangeTimeouts {
    /// The number of the use.
    number: u64,
    /// When the whole exchange has to be over, and its limit.
    request: Option<(Instant, Duration)>,
    /// The limit for the head of the response, counted from the end of the request.
    response: Option<Duration>,
    /// When that limit is reached; known once the request is sent.
    response_at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
    /// The limit that ended the exchange.
    over: Option<(TimeoutKind, Duration)>,
    blame: Blame,
    /// That limit says something of the server.
    blames_server: bool,
}

/// Which limits of an exchange say something of its server when they are reached, unless the caller was awaited then.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blame {
    pub(crate) request: bool,
    pub(crate) response: bool,
}

impl ExchangeTimeouts {
    fn poll(
        &mut self,
        activity: &Activity,
        has_head: bool,
        is_uploading: bool,
        cx: &mut Context<'_>,
    ) -> Poll<CloseReason> {
        loop {
            let is_sent = !is_uploading && !activity.write_waits();
            if let Some(limit) = self.response.filter(|_| is_sent && !has_head)
                && self.response_at.is_none()
            {
                self.response_at = Instant::now().checked_add(limit);
            }
            let Some(due) = self.due(has_head) else {
                return Poll::Pending;
            };
            let sleep = self
                .sleep
                .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
            if sleep.deadline() != due {
                sleep.as_mut().reset(due);
            }
            ready!(sleep.as_mut().poll(cx));
            if let Some(reason) = self.end(due, activity) {
                return Poll::Ready(reason);
            }
        }
    }

    /// When the first of the limits is reached, as far as that is known.
    fn due(&self, has_head: bool) -> Option<Instant> {
        let response = self.response_at.filter(|_| !has_head);
        let request = self.request.map(|(at, _)| at);
        response.into_iter().chain(request).min()
    }

    /// Notes which limit was reached at that moment.
    fn end(&mut self, due: Instant, activity: &Activity) -> Option<CloseReason> {
        match (self.request, self.response) {
            (Some((at, limit)), _) if at == due => Some(self.end_request(limit, activity)),
            (_, Some(limit)) => Some(self.end_response(limit)),
            _ => None,
        }
    }

    fn end_request(&mut self, limit: Duration, activity: &Activity) -> CloseReason {
        self.over = Some((TimeoutKind::Request, limit));
        self.blames_server = self.blame.request && !activity.is_caller_awaited();
        CloseReason::RequestTimeout
    }

    fn end_response(&mut self, limit: Duration) -> CloseReason {
        self.over = Some((TimeoutKind::Response, limit));
        self.blames_server = self.blame.response;
        CloseReason::ResponseTimeout
    }
}

impl ConnShared {
    /// Sets the limits of the present use: when the whole exchange has to end, and how long the head of its response
    /// may take. Called before the request is sent, which wakes the driver.
    #[cold]
    pub(crate) fn limit_exchange(
        &self,
        request: Option<(Instant, Duration)>,
        response: Option<Duration>,
        blame: Blame,
    ) {
        if response.is_some() {
            self.expectation.want_head();
        }
        let number = self.activity.uses();
        let mut close_state = self.close_state();
        let before = close_state.extras().timeouts.take();
        close_state.extras().timeouts = Some(Box::new(ExchangeTimeouts {
            number,
            request,
            response,
            response_at: None,
            sleep: before.and_then(|it| it.sleep),
            over: None,
            blame,
            blames_server: false,
        }));
        self.driver_flags.fetch_or(TIMED, Ordering::AcqRel);
    }

    #[inline]
    pub(crate) fn is_timed(&self) -> bool {
        self.driver_flags.load(Ordering::Acquire) & TIMED != 0
    }

    /// Ready when the present exchange has reached a limit. Polled by the driver.
    #[cold]
    pub(crate) fn poll_timeouts(&self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        let taken = {
            let mut close_state = self.close_state();
            self.driver_flags.fetch_and(!TIMED, Ordering::AcqRel);
            close_state
                .extras
                .as_mut()
                .and_then(|extras| extras.timeouts.take())
        };
        // The limits of an exchange that is over are dropped here.
        let Some(mut timeouts) = taken.filter(|it| self.activity.is_use(it.number)) else {
            return Poll::Pending;
        };
        let has_head = self.expectation.has_head();
        let polled = timeouts.poll(&self.activity, has_head, self.is_uploading(), cx);
        let mut close_state = self.close_state();
        // The next exchange, with limits of its own, may have begun meanwhile.
        if close_state.extras().timeouts.is_none() {
            close_state.extras().timeouts = Some(timeouts);
            self.driver_flags.fetch_or(TIMED, Ordering::AcqRel);
        }
        polled
    }

    /// When the exchange that begins has to end, if it has a limit. If several uses share a connection, its driver
    /// enforces these limits itself.
    #[cfg(feature = "http2")]
    #[cold]
    pub(crate) fn request_deadline(&self) -> Option<Instant> {
        self.with_timeouts(|timeouts| timeouts.request.map(|(at, _)| at))
    }

    /// The request was sent: when the head of its response has to arrive, if there is a limit.
    #[cfg(feature = "http2")]
    #[cold]
    pub(crate) fn response_deadline(&self) -> Option<Instant> {
        self.with_timeouts(|timeouts| {
            timeouts.response_at = Instant::now().checked_add(timeouts.response?);
            timeouts.response_at
        })
    }

    /// Whether the present exchange has exceeded a limit.
    #[cfg(feature = "http2")]
    #[cold]
    pub(crate) fn is_late(&self, now: Instant) -> Option<CloseReason> {
        let has_head = self.activity.exchange_without_head().is_none();
        self.with_timeouts(|timeouts| {
            if let Some((at, limit)) = timeouts.request
                && at <= now
            {
                return Some(timeouts.end_request(limit, &self.activity));
            }
            let limit = timeouts.response?;
            if has_head || timeouts.response_at? > now {
                return None;
            }
            Some(timeouts.end_response(limit))
        })
    }

    /// The limits of the present exchange, if it has any.
    #[cfg(feature = "http2")]
    fn with_timeouts<R>(&self, f: impl FnOnce(&mut ExchangeTimeouts) -> Option<R>) -> Option<R> {
        let mut close_state = self.close_state();
        let timeouts = close_state.extras.as_mut()?.timeouts.as_mut()?;
        match self.activity.is_use(timeouts.number) {
            true => f(timeouts),
            false => None,
        }
    }

    /// Why the exchange under way should have ended by `now`, if one of its limits is reached: for a look from outside of
    /// the driver. `note`: it ends because of that.
    #[cold]
    pub(crate) fn overdue(&self, now: Instant, note: bool) -> Option<CloseReason> {
        if !self.is_timed() {
            return None;
        }
        // Over HTTP/2 nobody looks for the end of the head.
        let has_head =
            self.expectation.has_head() || self.activity.exchange_without_head().is_none();
        let mut close_state = self.close_state();
        let timeouts = close_state.extras.as_mut()?.timeouts.as_mut()?;
        if !self.activity.is_use(timeouts.number) {
            return None;
        }
        let due = timeouts.due(has_head).filter(|&due| due <= now)?;
        let before = timeouts.over;
        let reason = timeouts.end(due, &self.activity);
        if !note {
            timeouts.over = before;
        }
        reason
    }

    /// The limit that ended the use with this number, if one did.
    #[cold]
    pub(crate) fn timed_out(&self, number: u64) -> Option<(TimeoutKind, Duration)> {
        let close_state = self.close_state();
        let timeouts = close_state.extras.as_ref()?.timeouts.as_ref()?;
        timeouts.over.filter(|_| timeouts.number == number)
    }

    /// Whether the limit that ended the latest use says something of the server.
    #[cold]
    pub(crate) fn limit_blames_server(&self) -> bool {
        let close_state = self.close_state();
        let extras = close_state.extras.as_ref();
        let timeouts = extras.and_then(|extras| extras.timeouts.as_ref());
        timeouts.is_some_and(|it| it.number == self.activity.uses() && it.blames_server)
    }
}
