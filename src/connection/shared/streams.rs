//! What a connection reports of its streams. A connection of HTTP/1 has none.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

#[cfg(feature = "metrics")]
use metrics::Gauge;

use super::{ConnShared, HTTP2, Kind};
use crate::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// The streams of one connection.
#[derive(Default)]
pub(crate) struct Streams {
    /// How many are in progress.
    in_use: AtomicUsize,
    /// The id of the latest one, if the connection is not shared; 0 without one.
    latest: AtomicU32,
    /// Within this time the server has not answered a PING, which has ended the connection.
    unanswered: OnceLock<Duration>,
    /// Shows how many are in progress, with those of the pool's other connections.
    #[cfg(feature = "metrics")]
    gauge: OnceLock<Gauge>,
}

impl Streams {
    /// Before the first stream.
    #[cfg(feature = "metrics")]
    pub(crate) fn set_gauge(&self, gauge: Gauge) {
        let _ = self.gauge.set(gauge);
    }

    /// Not under a lock, like [`end`](Self::end): a recorder is foreign code. Seen by whoever calls [`has_any`](Self::has_any) after this.
    #[inline]
    pub(crate) fn begin(&self) {
        self.in_use.fetch_add(1, Ordering::SeqCst);
        #[cfg(feature = "metrics")]
        if let Some(gauge) = self.gauge.get() {
            gauge.increment(1.0);
        }
    }

    #[inline]
    pub(crate) fn end(&self) {
        self.in_use.fetch_sub(1, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        if let Some(gauge) = self.gauge.get() {
            gauge.decrement(1.0);
        }
    }

    /// The server has not answered a PING within this time.
    pub(crate) fn set_unanswered(&self, within: Duration) {
        let _ = self.unanswered.set(within);
    }

    pub(crate) fn has_any(&self) -> bool {
        self.in_use.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams")
            .field("in_use", &self.in_use())
            .finish_non_exhaustive()
    }
}

impl ConnShared {
    /// The connection uses HTTP/2.
    pub(crate) fn set_http2(&self) {
        self.peer.fetch_or(HTTP2, Ordering::Relaxed);
    }

    /// Whether the connection uses HTTP/2. A use knows this itself.
    #[inline]
    pub(crate) fn is_http2(&self) -> bool {
        self.peer.load(Ordering::Relaxed) & HTTP2 != 0
    }

    /// The latest exchange is this stream; 0 if it got none.
    #[inline]
    pub(crate) fn set_stream(&self, id: u32) {
        if let Some(stream) = self.latest_stream() {
            stream.store(id, Ordering::Relaxed);
        }
    }

    /// The id of the stream of the latest exchange; 0 without one.
    #[inline]
    pub(crate) fn stream(&self) -> u32 {
        if !self.is_http2() {
            return 0;
        }
        self.latest_stream()
            .map_or(0, |stream| stream.load(Ordering::Relaxed))
    }

    /// Within which time the server has not answered a PING, if the connection has ended by that and this use had not
    /// ended before.
    pub(crate) fn unanswered_ping(&self) -> Option<Duration> {
        if self.connection().is_some() && self.reason.load(Ordering::Relaxed) != 0 {
            return None;
        }
        self.streams()?.unanswered.get().copied()
    }

    /// The connection's streams, if it has any.
    pub(crate) fn streams(&self) -> Option<&Streams> {
        self.transport()?.streams.as_deref()
    }

    #[inline]
    fn latest_stream(&self) -> Option<&AtomicU32> {
        match &**self.kind.get()? {
            Kind::UseOf(one) => Some(&one.stream),
            Kind::Transport(transport) => Some(&transport.streams.as_ref()?.latest),
        }
    }
}
