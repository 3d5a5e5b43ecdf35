//! What servers do that many tests need.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::conn::{Conn, Io};
use super::frame::{NO_LAST_STREAM, code, setting};

/// A server that answers each request with its path, and what goes wrong meanwhile.
///
/// Streams beyond the limit are refused; a lower limit counts when it is sent.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// How long it takes over an answer.
    pub delay: Duration,
    /// How many streams a connection may have.
    pub limit: Option<u32>,
    /// How long after the preface its SETTINGS come.
    pub settings_after: Duration,
    /// After so many requests in all, the limit of each connection is this.
    pub limit_after: Option<(usize, u32)>,
    /// After so many streams of a connection, it is sent away.
    pub go_away: Option<(usize, GoAway)>,
    /// Every so many streams of a connection, one is refused.
    pub refuse_every: Option<usize>,
    /// After so many streams of the first connection, it is read and nothing is sent any more.
    pub silent_after: Option<usize>,
    /// After so many streams of a connection, it is closed without a word.
    pub cut_after: Option<usize>,
}

/// How GOAWAY comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoAway {
    /// It names the latest stream.
    Named,
    /// It names a stream so many back; those after it are not looked at.
    Back(u32),
    /// It announces itself, and names the latest stream after so long.
    Announced(Duration),
}

/// One connection of such a server.
struct Served<'a, S> {
    behaviour: &'a Behaviour,
    conn: Conn<S>,
    /// What has to be answered, and when.
    waiting: VecDeque<(Instant, u32, String)>,
    /// When GOAWAY's second part is sent.
    last_at: Option<Instant>,
    limit: Option<u32>,
    streams: usize,
}

impl Behaviour {
    /// Serves one connection, until the client closes it.
    pub async fn serve<S: Io>(&self, mut conn: Conn<S>) {
        if !conn.preface().await {
            return;
        }
        if let Some(limit) = self.limit {
            conn.count_beyond(limit);
        }
        // A server's first frame is SETTINGS: until then it says nothing.
        sleep(self.settings_after).await;
        let limit = self.later_limit(&conn).or(self.limit);
        conn.push_settings(limit.map(|it| (setting::MAX_CONCURRENT_STREAMS, it)));
        let mut served = Served {
            behaviour: self,
            conn,
            waiting: VecDeque::new(),
            last_at: None,
            limit,
            streams: 0,
        };
        served.run().await;
    }
}

impl Behaviour {
    /// The limit that comes later, once it counts.
    fn later_limit<S: Io>(&self, conn: &Conn<S>) -> Option<u32> {
        let (after, limit) = self.limit_after?;
        (conn.log().seen(|it| it.requests.len()) >= after).then_some(limit)
    }
}

impl<S: Io> Served<'_, S> {
    async fn run(&mut self) {
        loop {
            self.do_what_is_due().await;
            let answer = self.waiting.front().map(|it| it.0);
            let next = [answer, self.last_at];
            let next = next.into_iter().flatten().min();
            let latest = self.conn.latest;
            tokio::select! {
                frame = self.conn.next() => {
                    if frame.is_none() {
                        return;
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
            }
            if self.conn.latest > latest {
                self.streams += 1;
                if self.is_time_for(self.behaviour.cut_after) {
                    return;
                }
                if self.conn.index == 0 && self.is_time_for(self.behaviour.silent_after) {
                    return self.conn.silence().await;
                }
                self.begun(self.conn.latest);
            }
            self.take_requests();
        }
    }

    /// Sends what it is time for.
    async fn do_what_is_due(&mut self) {
        let now = Instant::now();
        let is_due = |at: &mut Instant| *at <= now;
        if self.last_at.take_if(is_due).is_some() {
            self.go_away(self.conn.latest);
        }
        while self.waiting.front().is_some_and(|it| it.0 <= now)
            && let Some((_, stream, path)) = self.waiting.pop_front()
        {
            self.conn.push_response(stream, 200, path.as_bytes());
        }
        self.conn.flush().await;
    }

    /// A stream has come.
    fn begun(&mut self, stream: u32) {
        if let Some(limit) = self.behaviour.later_limit(&self.conn)
            && self.limit != Some(limit)
        {
            self.limit = Some(limit);
            let setting = (setting::MAX_CONCURRENT_STREAMS, limit);
            self.conn.push_settings([setting]);
        }
        let is_beyond = |limit| self.conn.open_streams() > limit as usize;
        let is_unlucky = |every| self.streams.is_multiple_of(every);
        if self.limit.is_some_and(is_beyond) || self.behaviour.refuse_every.is_some_and(is_unlucky)
        {
            self.conn.push_reset(stream, code::REFUSED_STREAM);
        }
        match self.behaviour.go_away {
            Some((after, how)) if self.streams == after => match how {
                GoAway::Named => self.go_away(stream),
                GoAway::Back(streams) => self.go_away(stream.saturating_sub(2 * streams)),
                GoAway::Announced(before) => {
                    self.go_away(NO_LAST_STREAM);
                    self.last_at = Some(Instant::now() + before);
                }
            },
            _ => {}
        }
    }

    fn go_away(&mut self, last: u32) {
        self.conn.push_go_away(last, code::NO_ERROR, b"");
        self.waiting.retain(|it| it.1 <= last);
    }

    fn take_requests(&mut self) {
        let answer_at = Instant::now() + self.behaviour.delay;
        while let Some(request) = self.conn.take_request() {
            let path = request.path().to_owned();
            self.waiting.push_back((answer_at, request.stream, path));
        }
    }

    fn is_time_for(&self, after: Option<usize>) -> bool {
        after.is_some_and(|it| self.streams >= it)
    }
}
