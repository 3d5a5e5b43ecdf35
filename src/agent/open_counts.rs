//! The numbers behind the gauges of one key.

use crate::connection::shared::ConnShared;

/// The version of HTTP on a connection, as far as metrics distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoken {
    Http1,
    Http2,
}

impl Spoken {
    #[inline]
    #[cfg_attr(
        not(feature = "http2"),
        expect(unused_variables, reason = "there is one version")
    )]
    pub(crate) fn on(connection: &ConnShared) -> Self {
        #[cfg(feature = "http2")]
        if connection.is_http2() {
            return Self::Http2;
        }
        Self::Http1
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OpenCounts {
    /// Connects under way.
    pub(super) connecting: isize,
    pub(super) http1: States,
    pub(super) http2: States,
    /// How many streams the connections can carry that do not drain.
    pub(super) capacity: isize,
}

/// Connections of one version, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct States {
    pub(super) active: isize,
    pub(super) idle: isize,
}

/// No connection can have more streams (RFC 9113 §5.1.1).
const MAX_CAPACITY: usize = 1 << 30;

impl OpenCounts {
    pub(crate) fn connects(&mut self) {
        self.connecting += 1;
    }

    pub(crate) fn connected(&mut self, spoken: Spoken) {
        self.connecting -= 1;
        self.of(spoken).active += 1;
    }

    pub(crate) fn closed(&mut self, spoken: Option<Spoken>) {
        match spoken {
            Some(spoken) => self.of(spoken).active -= 1,
            None => self.connecting -= 1,
        }
    }

    #[inline]
    pub(crate) fn taken(&mut self, spoken: Spoken) {
        let states = self.of(spoken);
        states.idle -= 1;
        states.active += 1;
    }

    #[inline]
    pub(crate) fn kept(&mut self, spoken: Spoken) {
        let states = self.of(spoken);
        states.active -= 1;
        states.idle += 1;
    }

    pub(crate) fn capacity(&mut self, before: Option<usize>, now: Option<usize>) {
        let count = |it: Option<usize>| it.unwrap_or(0).min(MAX_CAPACITY).cast_signed();
        self.capacity += count(now) - count(before);
    }

    #[inline]
    fn of(&mut self, spoken: Spoken) -> &mut States {
        match spoken {
            Spoken::Http1 => &mut self.http1,
            Spoken::Http2 => &mut self.http2,
        }
    }
}
