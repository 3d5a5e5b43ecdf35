//! The deadlines of exchanges with time limits on one connection.

use std::sync::{Arc, Weak};

use tokio::time::Instant;

use crate::http2::stream::StreamShared;

/// Deadlines, each with its exchange. Most exchanges end long before; their entries are removed from time to time.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    list: Vec<Deadline>,
    /// No later than the earliest deadline.
    next: Option<Instant>,
    /// How long the list may become before it is cleaned up.
    room: usize,
}

#[derive(Debug)]
struct Deadline {
    at: Instant,
    exchange: Exchange,
}

/// An exchange, whether or not it is over.
#[derive(Debug)]
pub(super) struct Exchange {
    stream: Weak<StreamShared>,
    /// The number of the use.
    number: u64,
}

/// A list of at most this length is not cleaned up.
const LEAST_ROOM: usize = 64;

impl Deadlines {
    /// Returns whether it is the earliest.
    pub(super) fn add(&mut self, at: Instant, stream: &Arc<StreamShared>) -> bool {
        if self.list.len() >= self.room {
            self.list.retain(|it| it.exchange.in_progress().is_some());
            // Twice the present length, so that each entry is checked twice on average.
            self.room = (2 * self.list.len()).max(LEAST_ROOM);
        }
        self.list.push(Deadline {
            at,
            exchange: Exchange::of(stream),
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

    /// The exchanges whose deadline has passed and that are not over, each with the number of its use.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(Arc<StreamShared>, u64)> {
        let mut due = Vec::new();
        self.list.retain(|it| {
            let exchange = it.exchange.in_progress();
            if it.at <= now {
                due.extend(exchange.map(|stream| (stream, it.exchange.number)));
                return false;
            }
            exchange.is_some()
        });
        self.next = self.list.iter().map(|it| it.at).min();
        due
    }
}

impl Exchange {
    /// The present exchange of this use.
    pub(super) fn of(stream: &Arc<StreamShared>) -> Self {
        Self {
            stream: Arc::downgrade(stream),
            number: stream.conn().activity().uses(),
        }
    }

    /// The use, if this exchange is still in progress.
    pub(super) fn in_progress(&self) -> Option<Arc<StreamShared>> {
        let stream = self.stream.upgrade()?;
        let is_it = stream.is_busy() && stream.conn().activity().is_use(self.number);
        is_it.then_some(stream)
    }
}
