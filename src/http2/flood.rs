//! Limits frames that serve no response.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

/// Counts the frames of a server that are not part of a response, and heads beyond the possible responses.
///
/// `h2` answers a PING or SETTINGS before it reads on, and keeps each interim response until the caller collects it. A
/// server could use the first to consume time, and the second to consume memory.
#[derive(Debug)]
pub(super) struct Flood {
    /// Frames that are not part of a response, without one that is in between.
    others: u32,
    /// Since when they are counted, and how much was written since.
    since: Option<Instant>,
    written: usize,
    /// Heads since the latest stream began, and how many streams had begun by then.
    heads: usize,
    begun: u32,
    max_heads: usize,
}

/// How many frames that are not part of a response may arrive in `PERIOD`; one more for every `BYTES_FOR_ONE`
/// bytes that are written, because servers that measure the network path during an upload send a PING for each of its
/// frames.
const MAX_OTHERS: u32 = 1_000;
const BYTES_FOR_ONE: usize = 64;
const PERIOD: Duration = Duration::from_secs(10);

/// How many heads may arrive without a new stream, in addition to two for each possible stream: its response and its
/// trailers.
const MAX_INTERIM: usize = 1_000;

impl Flood {
    /// For a connection with at most `max_streams` streams.
    pub(super) fn new(max_streams: usize) -> Self {
        Self {
            others: 0,
            since: None,
            written: 0,
            heads: 0,
            begun: 0,
            max_heads: max_streams.saturating_mul(2).saturating_add(MAX_INTERIM),
        }
    }

    #[inline]
    pub(super) fn wrote(&mut self, bytes: usize) {
        self.written = self.written.saturating_add(bytes);
    }

    /// A frame of a response; `begun`: how many streams have begun.
    ///
    /// # Errors
    ///
    /// If there are too many.
    #[inline]
    pub(super) fn response(&mut self, is_head: bool, begun: u32) -> io::Result<()> {
        self.others = 0;
        if !is_head {
            return Ok(());
        }
        if begun != self.begun {
            self.begun = begun;
            self.heads = 0;
        }
        self.heads += 1;
        match self.heads <= self.max_heads {
            true => Ok(()),
            false => Err(flood("heads of responses")),
        }
    }

    /// A frame that is not part of a response.
    ///
    /// # Errors
    ///
    /// If there are too many.
    #[cold]
    pub(super) fn other(&mut self) -> io::Result<()> {
        self.others += 1;
        if self.others == 1 {
            self.since = Some(Instant::now());
            self.written = 0;
        }
        let max = MAX_OTHERS as usize + self.written / BYTES_FOR_ONE;
        if self.others as usize <= max {
            return Ok(());
        }
        self.others = 0;
        match self.since {
            Some(since) if since.elapsed() < PERIOD => Err(flood("PING, SETTINGS or the like")),
            _ => Ok(()),
        }
    }
}

#[cold]
fn flood(of: &str) -> io::Error {
    let what = format!("the server floods the connection with {of}");
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many frames pass, of so many.
    fn pass(count: u32, mut frame: impl FnMut(u32) -> io::Result<()>) -> u32 {
        (0..count).take_while(|&n| frame(n).is_ok()).count() as u32
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_nobody_needs_are_a_flood_unless_they_come_slowly_or_with_others() {
        let mut flood = Flood::new(1_000);
        assert_eq!(pass(10_000, |_| flood.other()), MAX_OTHERS);
        // An answer to each is no upload.
        let answered = |flood: &mut Flood| {
            flood.wrote(17);
            flood.other()
        };
        let mut flood = Flood::new(1_000);
        assert!(pass(10_000, |_| answered(&mut flood)) < 2 * MAX_OTHERS);
        let uploading = |flood: &mut Flood| {
            flood.wrote(1_000);
            flood.other()
        };
        let mut flood = Flood::new(1_000);
        assert_eq!(pass(10_000, |_| uploading(&mut flood)), 10_000);
        let mut flood = Flood::new(1_000);
        let with_others = |n: u32| {
            if n.is_multiple_of(900) {
                flood.response(false, 1)?;
            }
            flood.other()
        };
        assert_eq!(pass(10_000, with_others), 10_000);
        let mut flood = Flood::new(1_000);
        for _ in 0..3 * MAX_OTHERS {
            tokio::time::advance(Duration::from_millis(20)).await;
            flood.other().unwrap();
        }
    }

    #[test]
    fn more_heads_than_responses_are_a_flood() {
        let mut flood = Flood::new(1_000);
        assert_eq!(pass(10_000, |_| flood.response(true, 1)), 3_000);
        let mut flood = Flood::new(1_000);
        assert_eq!(pass(10_000, |n| flood.response(true, n / 3)), 10_000);
    }
}
