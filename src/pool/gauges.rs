//! The gauges of one key for the `metrics` facade; empty without the feature.

use std::time::Duration;

use crate::agent::{AgentState, EventKind};
#[cfg(feature = "metrics")]
use crate::agent::{KeyMetrics, OpenCounts, Spoken};
use crate::connection::poolable::Poolable;
use crate::connection::shared::ConnShared;
use crate::pool::pooled_conn::PooledConn;
use crate::target::key::Key;

pub(super) struct Gauges {
    #[cfg(feature = "metrics")]
    key: KeyMetrics,
}

/// The numbers that the gauges of a key show.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    #[cfg(feature = "metrics")]
    open: OpenCounts,
}

/// A connection that is about to become idle.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    #[cfg(feature = "metrics")]
    spoken: Spoken,
}

#[cfg_attr(
    not(feature = "metrics"),
    expect(unused_variables, reason = "nobody counts")
)]
impl Gauges {
    pub(super) fn new(key: &Key, agent: &AgentState) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            key: KeyMetrics::new(key, agent),
        }
    }

    /// Not under the lock, like all that follow: the recorder is foreign code.
    #[inline]
    pub(super) fn change(&self, before: Counts, now: Counts) {
        #[cfg(feature = "metrics")]
        self.key.change(&before.open, &now.open);
    }

    /// An idle connection was taken, and nothing else has changed.
    #[inline]
    pub(super) fn taken<C: Poolable>(&self, pooled: &PooledConn<C>) {
        #[cfg(feature = "metrics")]
        self.key.taken(spoken(pooled));
    }

    /// A connection has become idle, and nothing else has changed.
    #[inline]
    pub(super) fn kept(&self, kept: Kept) {
        #[cfg(feature = "metrics")]
        self.key.kept(kept.spoken);
    }

    #[inline]
    pub(super) fn event(&self, connection: Option<&ConnShared>, kind: impl FnOnce() -> EventKind) {
        #[cfg(feature = "metrics")]
        self.key.event(connection, kind());
    }

    /// As many addresses are left out now as `count` says.
    pub(super) fn left_out(&self, count: impl FnOnce() -> usize) {
        #[cfg(feature = "metrics")]
        self.key.left_out(count);
    }

    #[inline]
    pub(super) fn reused(&self) {
        #[cfg(feature = "metrics")]
        self.key.reused();
    }

    #[inline]
    pub(super) fn waited<C: Poolable>(&self, time: Duration, pooled: &PooledConn<C>) {
        #[cfg(feature = "metrics")]
        self.key.waited(time, spoken(pooled));
    }

    /// The streams of a new connection are counted from now on.
    #[cfg_attr(
        not(feature = "http2"),
        expect(unused_variables, reason = "there are no streams")
    )]
    pub(super) fn count_streams(&self, connection: &ConnShared) {
        #[cfg(all(feature = "metrics", feature = "http2"))]
        if let Some(streams) = connection.streams() {
            streams.set_gauge(self.key.streams());
        }
    }
}

#[cfg_attr(
    not(feature = "metrics"),
    expect(
        unused_variables,
        clippy::needless_pass_by_ref_mut,
        clippy::unused_self,
        reason = "nobody counts"
    )
)]
impl Counts {
    /// A connect begins.
    pub(super) fn connects(&mut self) {
        #[cfg(feature = "metrics")]
        self.open.connects();
    }

    /// It has made this connection, which is in use.
    pub(super) fn connected(&mut self, connection: &ConnShared) {
        #[cfg(feature = "metrics")]
        self.open.connected(Spoken::on(connection));
    }

    /// A connection in use has closed, or a connect has ended without one.
    pub(super) fn closed(&mut self, connection: Option<&ConnShared>) {
        #[cfg(feature = "metrics")]
        self.open.closed(connection.map(Spoken::on));
    }

    /// An idle connection is in use.
    #[inline]
    pub(super) fn taken<C: Poolable>(&mut self, pooled: &PooledConn<C>) {
        #[cfg(feature = "metrics")]
        self.open.taken(spoken(pooled));
    }

    /// A connection in use is idle.
    #[inline]
    pub(super) fn kept<C: Poolable>(&mut self, pooled: &PooledConn<C>) {
        #[cfg(feature = "metrics")]
        self.open.kept(spoken(pooled));
    }

    /// The capacity of a shared connection has changed; `None` if it is not known or does not count.
    pub(super) fn capacity(&mut self, before: Option<usize>, now: Option<usize>) {
        #[cfg(feature = "metrics")]
        self.open.capacity(before, now);
    }
}

impl Kept {
    #[cfg_attr(
        not(feature = "metrics"),
        expect(unused_variables, reason = "nobody counts")
    )]
    #[inline]
    pub(super) fn new<C: Poolable>(pooled: &PooledConn<C>) -> Self {
        Self {
            #[cfg(feature = "metrics")]
            spoken: spoken(pooled),
        }
    }
}

#[cfg(feature = "metrics")]
#[inline]
fn spoken<C: Poolable>(pooled: &PooledConn<C>) -> Spoken {
    Spoken::on(pooled.connection_ref().lifespan().shared())
}
