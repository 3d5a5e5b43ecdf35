//! Checks whether the server is still there.
//!
//! A use that is given up while it awaits the server, by its caller or by a time limit, puts its connection in *doubt*
//! ([`StreamShared::cancel`](crate::http2::stream::StreamShared::cancel)), whatever was read on the connection since
//! its request was sent: that says nothing about now. From then on:
//!
//! 1. No stream begins until anything is read, which ends the doubt. So a server that is gone costs at most the
//!    requests that were in progress.
//! 2. A PING is sent, so that a server that is there has something to answer; but at most [`MOST_PINGS`] until
//!    something of a response is read.
//! 3. For [`PATIENCE`], callers wait. After that they get other connections.
//! 4. After the ping timeout, the connection is closed if a PING was sent, and otherwise it drains: it gets no new
//!    uses, and each of its streams has its own limits.

use std::task::Context;
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::Instant;

use crate::connection::close_reason::CloseReason;
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

/// How many PINGs are sent in doubt until something of a response is read, or until `PAUSE` has passed. gRPC servers note
/// a strike for each PING that comes less than 5 minutes after the one before, unless they have sent something of a
/// response in between, and close the connection at the third (`max_ping_strikes`,
/// `min_recv_ping_interval_without_data`).
const MOST_PINGS: u8 = 2;
const PAUSE: Duration = Duration::from_secs(300);

/// How long callers wait for a connection in doubt before they get another one: most servers answer in less.
const PATIENCE: Duration = Duration::from_millis(100);

/// Sends PINGs, one at a time.
pub(super) struct Pings {
    /// Taken when it is first needed, because it makes every poll of the connection more expensive.
    pings: Option<PingPong>,
    settings: PingSettings,
    /// A PING was sent and not answered.
    is_out: bool,
    /// How many PINGs were sent since something of a response was read, and when the last one was.
    sent: u8,
    last: Option<Instant>,
    wait: Option<Wait>,
    /// When the next PING is due without a doubt, unless more than this number of reads has happened.
    next: Option<(Instant, u64)>,
}

/// Something has to be read.
struct Wait {
    /// How often anything had been read when the wait began.
    reads: u64,
    timeout: Duration,
    until: Option<Instant>,
    /// A PING was sent, so that the server has something to answer.
    is_asked: bool,
    is_doubt: bool,
    /// How long callers wait, too.
    patience: Option<Instant>,
}

impl Pings {
    pub(super) fn new(settings: PingSettings) -> Self {
        Self {
            pings: None,
            settings,
            is_out: false,
            sent: 0,
            last: None,
            wait: None,
            next: None,
        }
    }

    /// Whether an answer is awaited.
    pub(super) fn is_out(&self) -> bool {
        self.is_out
    }

    /// When something is due.
    pub(super) fn next(&self) -> Option<Instant> {
        let wait = self.wait.iter().flat_map(|it| [it.until, it.patience]);
        let next = self.next.map(|(at, _)| at);
        wait.flatten().chain(next).min()
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
        self.wait.take_if(|it| it.reads != shared.reads());
        if self.next.is_none() {
            self.plan(shared);
        }
        if shared.is_doubted()
            && shared.is_open()
            && !self.wait.as_ref().is_some_and(|it| it.is_doubt)
        {
            let now = Instant::now();
            if self.wait.is_none() {
                self.wait(shared, now, false, pings, cx);
            }
            if let Some(wait) = &mut self.wait {
                wait.is_doubt = true;
                wait.patience = now.checked_add(PATIENCE);
            }
        }
    }

    fn poll_pong(&mut self, cx: &mut Context<'_>) -> bool {
        self.pings
            .as_mut()
            .is_some_and(|it| it.poll_pong(cx).is_ready())
    }

    /// Waits for something to be read. `is_wanted`: a PING is sent whatever the server may think of it.
    fn wait(
        &mut self,
        shared: &Http2Shared,
        now: Instant,
        is_wanted: bool,
        pings: impl FnOnce() -> Option<PingPong>,
        cx: &mut Context<'_>,
    ) {
        if shared.take_answering() || self.last.is_some_and(|last| last + PAUSE <= now) {
            self.sent = 0;
        }
        // A PING that was sent earlier, and is still unanswered, serves as well.
        if !self.is_out && (is_wanted || self.sent < MOST_PINGS) {
            self.ask(now, pings, cx);
        }
        let quarter = || shared.conn().activity().limit().map(|limit| limit / 4);
        let timeout = self.settings.timeout.or_else(quarter);
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT);
        self.wait = Some(Wait {
            reads: shared.reads(),
            timeout,
            until: now.checked_add(timeout),
            is_asked: self.is_out,
            is_doubt: false,
            patience: None,
        });
    }

    fn ask(
        &mut self,
        now: Instant,
        pings: impl FnOnce() -> Option<PingPong>,
        cx: &mut Context<'_>,
    ) {
        if self.pings.is_none() {
            self.pings = pings();
        }
        if let Some(pings) = &mut self.pings
            && pings.send_ping(Ping::opaque()).is_ok()
        {
            self.is_out = true;
            self.sent = self.sent.saturating_add(1);
            self.last = Some(now);
            self.poll_pong(cx);
            // The connection was polled before, so it has to be polled again to send the PING.
            cx.waker().wake_by_ref();
        }
    }

    fn plan(&mut self, shared: &Http2Shared) {
        let next = self
            .settings
            .interval
            .and_then(|it| Instant::now().checked_add(it));
        self.next = next.map(|at| (at, shared.reads()));
    }

    /// Does what is due. Returns whether the server is gone: it was asked, and has not answered in time.
    pub(super) fn pass(
        &mut self,
        shared: &Http2Shared,
        now: Instant,
        pings: impl FnOnce() -> Option<PingPong>,
        cx: &mut Context<'_>,
    ) -> bool {
        let is_reached = |at: &mut Instant| *at <= now;
        self.wait.take_if(|it| it.reads != shared.reads());
        if let Some(wait) = &mut self.wait {
            if wait.until.take_if(is_reached).is_some() {
                if wait.is_asked {
                    shared.set_unanswered(wait.timeout);
                    return true;
                }
                shared.close(CloseReason::Silence);
            }
            if wait.patience.take_if(is_reached).is_some() {
                shared.set_overdue();
            }
        }
        if let Some((_, reads)) = self.next.take_if(|(at, _)| *at <= now) {
            if reads == shared.reads() && self.wait.is_none() {
                self.wait(shared, now, true, pings, cx);
            }
            self.plan(shared);
        }
        false
    }
}
