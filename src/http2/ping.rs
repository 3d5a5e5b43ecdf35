//! Whether the server is still there.

use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use crate::http2::shared::Http2Shared;

/// When the server is asked, and how long it may take to answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct PingSettings {
    /// `None`: a quarter of the limit of silence.
    pub(super) timeout: Option<Duration>,
    /// After so long without anything read it is asked, in doubt or not.
    pub(super) interval: Option<Duration>,
}

/// Where nothing limits the silence.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Servers of gRPC count the PINGs that come without anything of a response between them, and close a connection for the third
/// one that comes too soon.
const PAUSE: Duration = Duration::from_secs(30);

/// Asks the server by a PING, one at a time.
pub(super) struct Pings {
    pings: PingPong,
    settings: PingSettings,
    /// One is out that has not been answered.
    is_out: bool,
    /// When something has to have been read, after so many reads.
    due: Option<(Instant, u64)>,
    last: Option<Instant>,
    /// When the server is asked without a doubt, if nothing is read after so many reads.
    next: Option<(Instant, u64)>,
}

impl Pings {
    pub(super) fn new(pings: PingPong, settings: PingSettings) -> Self {
        Self {
            pings,
            settings,
            is_out: false,
            due: None,
            last: None,
            next: None,
        }
    }

    /// Whether there is an answer to be looked for.
    pub(super) fn is_out(&self) -> bool {
        self.is_out
    }

    /// When something is to be done.
    pub(super) fn next(&self) -> Option<Instant> {
        let due = self.due.map(|(at, _)| at);
        due.into_iter().chain(self.next.map(|(at, _)| at)).min()
    }

    /// Asks where that is in doubt, and looks for the answer.
    pub(super) fn poll(&mut self, shared: &Http2Shared, cx: &mut Context<'_>) {
        if self.is_out && self.pings.poll_pong(cx).is_ready() {
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
            self.ask(shared, now, cx);
        }
    }

    fn ask(&mut self, shared: &Http2Shared, now: Instant, cx: &mut Context<'_>) {
        let _ = shared.take_answering();
        // One that is still out, of a time when something else was read, is as good.
        if !self.is_out && self.pings.send_ping(Ping::opaque()).is_ok() {
            self.is_out = true;
            self.last = Some(now);
            let _ = self.pings.poll_pong(cx);
            // The connection was polled before.
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

    /// Whether the server has not answered in time. Asks it where it is time for that.
    pub(super) fn is_dead(
        &mut self,
        shared: &Http2Shared,
        now: Instant,
        cx: &mut Context<'_>,
    ) -> bool {
        if let Some((_, reads)) = self.due.take_if(|(at, _)| *at <= now)
            && reads == shared.reads()
        {
            return true;
        }
        if let Some((_, reads)) = self.next.take_if(|(at, _)| *at <= now) {
            if reads == shared.reads() && self.due.is_none() {
                self.ask(shared, now, cx);
            }
            self.plan(shared);
        }
        false
    }
}
