//! When the exchanges of a connection have to be over that have limits of time.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::http2::stream::StreamShared;

/// The moments, and which exchanges they are of. Most of these are over long before; they are forgotten by and by.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    list: Vec<Deadline>,
    /// No later than the earliest.
    next: Option<Instant>,
    /// How long the list may become before it is looked through.
    room: usize,
}

#[derive(Debug)]
struct Deadline {
    at: Instant,
    stream: Weak<StreamShared>,
    /// The number of the use.
    number: u64,
}

/// So many that are over are not worth a look.
const LEAST_ROOM: usize = 64;

impl Deadlines {
    /// Says whether it is the earliest.
    pub(super) fn add(&mut self, at: Instant, stream: &Arc<StreamShared>) -> bool {
        if self.list.len() >= self.room {
            self.list.retain(|it| it.exchange().is_some());
            // Twice as many as there are, so that each is looked at twice on average.
            self.room = (2 * self.list.len()).max(LEAST_ROOM);
        }
        self.list.push(Deadline {
            at,
            stream: Arc::downgrade(stream),
            number: stream.conn().activity().uses(),
        });
        let is_next = self.next.is_none_or(|next| at < next);
        if is_next {
            self.next = Some(at);
        }
        is_next
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Those whose time has come, of exchanges that are not over.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Arc<StreamShared>> {
        let mut due = Vec::new();
        self.list.retain(|it| {
            let exchange = it.exchange();
            if it.at <= now {
                due.extend(exchange);
                return false;
            }
            exchange.is_some()
        });
        self.next = self.list.iter().map(|it| it.at).min();
        due
    }
}

impl Deadline {
    /// The exchange that it is of, if that is under way.
    fn exchange(&self) -> Option<Arc<StreamShared>> {
        let stream = self.stream.upgrade()?;
        let is_it = stream.is_busy() && stream.conn().activity().is_use(self.number);
        is_it.then_some(stream)
    }
}
