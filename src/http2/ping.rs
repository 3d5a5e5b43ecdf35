//! Checks by PINGs whether the server is still there.

use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use crate::http2::shared::Http2Shared;

/// When a PING is sent, and how long the answer may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct PingSettings {
    /// `None`: a quarter of the limit of silence.
    pub(super) timeout: Option<Duration>,
    /// A PING is sent whenever nothing was read for this time, even without a doubt.
    pub(super) interval: Option<Duration>,
}

/// Used if there is no limit of silence.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// gRPC servers count PINGs between which they have sent nothing of a response, and close the connection after the
/// third one that comes too soon.
const PAUSE: Duration = Duration::from_secs(30);

/// Sends PINGs, one at a time.
pub(super) struct Pings {
    /// Taken when it is first needed, because it makes every poll of the connection more expensive.
    pings: Option<PingPong>,
    settings: PingSettings,
    /// A PING was sent and not answered.
    is_out: bool,
    /// When something has to have been read, compared with this number of reads.
    due: Option<(Instant, u64)>,
    last: Option<Instant>,
    /// When the next PING is due without a doubt, unless more than this number of reads has happened.
    next: Option<(Instant, u64)>,
}

impl Pings {
    pub(super) fn new(settings: PingSettings) -> Self {
        Self {
            pings: None,
            settings,
            is_out: false,
            due: None,
            last: None,
            next: None,
        }
    }

    /// Whether an answer is awaited.
    pub(super) fn is_out(&self) -> bool {
        self.is_out
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let due = self.due.map(|(at, _)| at);
        due.into_iter().chain(self.next.map(|(at, _)| at)).min()
    }

    /// Sends a PING if there is a doubt, and checks for the answer.
    pub(super) fn poll(
        &mut self,
        shared: &Http2Shared,
        pings: impl FnOnce() -> Option<PingPong>,
        cx: &mut Context<'_>,
    ) {
        if self.is_out && self.poll_pong(cx) {
            self.is_out = false;
        }
        if let Some((_, reads)) = self.due
            && reads != shared.reads()
        {
            self.due = None;
        }
        if self.next.is_none() {
            self.plan(shared);
        }
        if shared.is_doubted() && self.due.is_none() {
            let now = Instant::now();
            let is_soon = self.last.is_some_and(|last| now < last + PAUSE);
            if is_soon && !shared.take_answering() {
                shared.end_doubt();
                return;
            }
            self.ask(shared, now, pings, cx);
        }
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) -> bool {
        self.pings
            .as_mut()
            .is_some_and(|it| it.poll_pong(cx).is_ready())
    }

    fn ask(
        &mut self,
        shared: &Http2Shared,
        now: Instant,
        pings: impl FnOnce() -> Option<PingPong>,
        cx: &mut Context<'_>,
    ) {
        let _ = shared.take_answering();
        if self.pings.is_none() {
            self.pings = pings();
        }
        // A PING that was sent earlier, and is still unanswered, serves as well.
        if !self.is_out
            && let Some(pings) = &mut self.pings
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            self.is_out = true;
            self.last = Some(now);
            self.poll_pong(cx);
            // The connection was polled before, so it has to be polled again to send the PING.
            cx.waker().wake_by_ref();
        }
        let quarter = || shared.conn().activity().limit().map(|limit| limit / 4);
        let timeout = self.settings.timeout.or_else(quarter);
        let due = now.checked_add(timeout.unwrap_or(DEFAULT_TIMEOUT));
        self.due = due.map(|at| (at, shared.reads()));
    }

    fn plan(&mut self, shared: &Http2Shared) {
        let next = self
            .settings
            .interval
            .and_then(|it| Instant::now().checked_add(it));
        self.next = next.map(|at| (at, shared.reads()));
    }

    /// Whether the server has not answered in time. Sends a PING if one is due.
    pub(super) fn is_dead(
        &mut self,
        shared: &Http2Shared,
        now: Instant,
        pings: impl FnOnce() -> Option<PingPong>,
        cx: &mut Context<'_>,
    ) -> bool {
        if let Some((_, reads)) = self.due.take_if(|(at, _)| *at <= now)
            && reads == shared.reads()
        {
            return true;
        }
        if let Some((_, reads)) = self.next.take_if(|(at, _)| *at <= now) {
            if reads == shared.reads() && self.due.is_none() {
                self.ask(shared, now, pings, cx);
            }
            self.plan(shared);
        }
        false
    }
}
