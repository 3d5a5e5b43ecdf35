//! The time limits of one exchange until its request is sent, and the record of its times. After that, the connection's
//! driver enforces the limits.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::connection::info::ConnectionInfo;
use crate::connection::shared::{Blame, ConnShared};
use crate::connection::timings::Recorder;
use crate::error::{Error, Kind, TimeoutKind};
use crate::exchange::layer::Timeouts;

/// Boxed, because most exchanges have neither limits nor a record.
#[derive(Debug)]
pub(super) struct TimeLimits {
    timeouts: Timeouts,
    /// When the whole exchange has to be over, if that is limited.
    until: Option<Instant>,
    /// Set when the exchange first waits.
    sleep: Option<Pin<Box<Sleep>>>,
    recorder: Option<Arc<Recorder>>,
}

impl TimeLimits {
    /// For an exchange that begins now.
    #[cold]
    pub(super) fn begin(timeouts: Timeouts, recorder: Option<Arc<Recorder>>) -> Box<Self> {
        let limited = timeouts.request != Duration::MAX;
        Box::new(Self {
            timeouts,
            until: limited
                .then(|| Instant::now().checked_add(timeouts.request))
                .flatten(),
            sleep: None,
            recorder,
        })
    }

    /// Adds the record of this exchange, if there is one.
    #[cold]
    pub(super) fn recorded(&self, info: ConnectionInfo) -> ConnectionInfo {
        match &self.recorder {
            Some(recorder) => info.with_recorder(recorder.clone()),
            None => info,
        }
    }

    /// The head of the response has arrived.
    #[cold]
    pub(super) fn answered(&self) {
        if let Some(recorder) = &self.recorder {
            recorder.head();
        }
    }

    /// Ready with the error if the time of an exchange is over before its request was sent.
    #[cold]
    pub(super) fn poll_unsent(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let Some(until) = self.until else {
            return Poll::Pending;
        };
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(self.error())
    }

    /// Whether there is time left; checked before a connection is requested.
    #[cold]
    pub(super) fn check(&self) -> Result<(), Error> {
        match self.until {
            Some(until) if until <= Instant::now() => Err(self.error()),
            _ => Ok(()),
        }
    }

    fn error(&self) -> Error {
        Error::new(Kind::Timeout(TimeoutKind::Request, self.timeouts.request)).unsent()
    }

    /// A limit of the whole exchange says something of a server that has had most of that time.
    fn blame(&self, connection: &ConnShared) -> Blame {
        if !connection.is_observed() {
            return Blame::default();
        }
        let mut blame = self.timeouts.blame;
        if let Some(until) = self.until.filter(|_| blame.request) {
            let left = until.saturating_duration_since(Instant::now());
            blame.request = left >= self.timeouts.request / 2;
        }
        blame
    }

    /// The request is about to be sent on this connection, whose driver enforces the limits from here on.
    #[cold]
    pub(super) fn hand_to(&mut self, connection: &ConnShared) {
        self.sleep = None;
        if let Some(recorder) = &self.recorder {
            recorder.sent();
        }
        if !self.timeouts.are_wanted() {
            return;
        }
        let request = self.until.map(|until| (until, self.timeouts.request));
        let response = self.timeouts.response;
        let response = (response != Duration::MAX).then_some(response);
        connection.limit_exchange(request, response, self.blame(connection));
    }
}
