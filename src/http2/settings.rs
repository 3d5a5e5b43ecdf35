use std::sync::Arc;
use std::time::Duration;

use h2::client::Builder;

use crate::connection::shared::ConnShared;
use crate::http2::ping::PingSettings;
use crate::http2::shared::Http2Shared;

/// Settings of HTTP/2.
///
/// ```
/// use tower_keep_alive::Http2;
///
/// let http2 = Http2::new().stream_window(1024 * 1024).max_streams_per_connection(100);
/// # let _ = http2;
/// ```
#[derive(Clone, Debug)]
pub struct Http2 {
    stream_window: u32,
    connection_window: u32,
    max_header_list_size: u32,
    max_streams: usize,
    pings: PingSettings,
    /// How many streams count as begun on a new connection, for tests of what happens when there are no more.
    #[cfg(test)]
    pub(crate) begun: u32,
}

const MIB: u32 = 1024 * 1024;

/// The most that a window can be (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// How many streams that were reset are remembered, so that what the server had sent on them already is no error of its. All
/// of a connection's streams may be given up at once.
const RESET_STREAMS: usize = 1_024;

impl Http2 {
    /// The defaults, as each setting says.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stream_window: 2 * MIB,
            connection_window: 8 * MIB,
            max_header_list_size: 16 * 1024,
            max_streams: 1_000,
            pings: PingSettings {
                timeout: None,
                interval: None,
            },
            #[cfg(test)]
            begun: 0,
        }
    }

    /// How many bytes of one response the server may send before the caller has read them. A larger window lets one response
    /// use a line that is fast and far away; the caller that does not read has as many bytes in memory. It is fixed: it does
    /// not adapt to the line. At most 2³¹ − 1. Default: 2 MiB.
    #[must_use]
    pub const fn stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = bytes;
        self
    }

    /// The same for all responses of one connection together, and no less than four times the
    /// [`stream_window`](Self::stream_window): else a few callers who do not read would hold up all others. At least 65,535,
    /// at most 2³¹ − 1. Default: 8 MiB.
    #[must_use]
    pub const fn connection_window(mut self, bytes: u32) -> Self {
        self.connection_window = bytes;
        self
    }

    /// The most bytes that the fields of one response may have, unpacked, each with 32 more (RFC 9113 §6.5.2). A response
    /// with more is an error. Default: 16 KiB.
    #[must_use]
    pub const fn max_header_list_size(mut self, bytes: u32) -> Self {
        self.max_header_list_size = bytes;
        self
    }

    /// How many requests may be under way on one connection, whatever more its server allows. With fewer there are more
    /// connections, as far as their own limits allow, which are served by more threads. At least 1. Default: 1,000.
    #[must_use]
    pub const fn max_streams_per_connection(mut self, max: usize) -> Self {
        self.max_streams = if max == 0 { 1 } else { max };
        self
    }

    /// How long the server may take to answer a PING. One is sent when a request is given up, by its caller or by a limit of
    /// time, and nothing at all was read on its connection since it was sent: then nobody knows whether the server is still
    /// there. The connection has no new requests until something is read, and is closed if nothing is for so long. Default: a
    /// quarter of the [active timeout](crate::KeepAliveLayer::active_timeout); 5 s without one.
    #[must_use]
    pub const fn ping_timeout(mut self, timeout: Duration) -> Self {
        self.pings.timeout = Some(timeout);
        self
    }

    /// Sends a PING whenever nothing was read on a connection for so long, whether or not there are requests on it. For
    /// balancers that drop a connection without traffic. Some servers close connections for PINGs that they think too many;
    /// gRPC's by default for those that come more often than every 5 minutes. Default: none.
    #[must_use]
    pub const fn keep_alive(mut self, interval: Duration) -> Self {
        self.pings.interval = Some(interval);
        self
    }

    pub(super) fn pings(&self) -> PingSettings {
        self.pings
    }

    /// What is shared of a connection with these settings.
    pub(super) fn shared(&self, conn: Arc<ConnShared>) -> Http2Shared {
        #[cfg(test)]
        let begun = self.begun;
        #[cfg(not(test))]
        let begun = 0;
        Http2Shared::new(conn, self.max_streams, begun)
    }

    fn windows(&self) -> (u32, u32) {
        let stream = self.stream_window.min(MAX_WINDOW);
        let connection = self.connection_window.max(stream.saturating_mul(4));
        (stream, connection.min(MAX_WINDOW))
    }

    pub(super) fn builder(&self) -> Builder {
        let (stream, connection) = self.windows();
        let mut builder = Builder::new();
        builder
            .initial_window_size(stream)
            .initial_connection_window_size(connection)
            .max_header_list_size(self.max_header_list_size)
            // Until the server has said how many it allows.
            .initial_max_send_streams(1)
            .max_concurrent_reset_streams(RESET_STREAMS)
            .enable_push(false);
        builder
    }
}

impl Default for Http2 {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_of_a_connection_has_room_for_four_streams() {
        let windows = |stream, connection| {
            let settings = Http2::new().stream_window(stream);
            settings.connection_window(connection).windows()
        };
        assert_eq!(Http2::new().windows(), (2 * MIB, 8 * MIB));
        assert_eq!(windows(MIB, 1), (MIB, 4 * MIB));
        assert_eq!(windows(1, MIB), (1, MIB));
        assert_eq!(windows(u32::MAX, 1), (MAX_WINDOW, MAX_WINDOW));
    }
}
