use std::sync::Arc;
use std::time::Duration;

use h2::client::Builder;

use crate::connection::shared::ConnShared;
use crate::http2::interim;
use crate::http2::ping::PingSettings;
use crate::http2::shared::Http2Shared;

/// Settings for HTTP/2.
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
    max_interim: u16,
    /// How many streams count as begun on a new connection, to test connections that run out of stream ids.
    #[cfg(test)]
    pub(crate) begun: u32,
}

const MIB: u32 = 1024 * 1024;

/// The largest window (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// How many reset streams are remembered, so that frames that the server had already sent on them are no protocol
/// errors. All streams of a connection may be cancelled at once.
const RESET_STREAMS: usize = 1_024;

impl Http2 {
    /// The defaults of each setting.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stream_window: 2 * MIB,
            connection_window: 8 * MIB,
            max_header_list_size: 64 * 1024,
            max_streams: 1_000,
            pings: PingSettings {
                timeout: None,
                interval: None,
            },
            max_interim: interim::DEFAULT_MAX,
            #[cfg(test)]
            begun: 0,
        }
    }

    /// How many bytes of one response the server may send before the caller has read them. A larger window lets one
    /// response use a fast network path of long delay; if the caller does not read, as many bytes are buffered in
    /// memory. The window is fixed. At most 2³¹ − 1. Default: 2 MiB.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0: no body could be received.
    #[must_use]
    pub const fn stream_window(mut self, bytes: u32) -> Self {
        assert!(
            bytes > 0,
            "stream_window must not be 0: the largest window is 2147483647"
        );
        self.stream_window = bytes;
        self
    }

    /// The same for all responses of one connection together; at least four times the
    /// [`stream_window`](Self::stream_window), because otherwise a few callers that do not read would block all others.
    /// At least 65,535, at most 2³¹ − 1. Default: 8 MiB.
    #[must_use]
    pub const fn connection_window(mut self, bytes: u32) -> Self {
        self.connection_window = bytes;
        self
    }

    /// Limits the size of a response's header fields in bytes, decoded, each with an overhead of 32 bytes (RFC 9113
    /// §6.5.2). A response with more fails with `PROTOCOL_ERROR` ([`http2_reason`](crate::Error::http2_reason) is 1), and
    /// its connection goes on; if it has more than four times as much, the connection ends. Default: 64 KiB, as in Node.
    ///
    /// The error [`is_too_large`](crate::Error::is_too_large) if the fields take more than half of the limit as they are
    /// sent, compressed. A malformed head of that size has the same error, and a head that the server has compressed
    /// further the error of a malformed one: the library below (`h2`) does not report which of them it was. Trailers
    /// that take more than half of the limit as they are sent always fail, because `h2` leaves out what exceeds the
    /// limit without an error.
    ///
    /// # Panics
    ///
    /// If `bytes` is 0: every exchange would fail.
    #[must_use]
    pub const fn max_header_list_size(mut self, bytes: u32) -> Self {
        assert!(
            bytes > 0,
            "max_header_list_size must not be 0: use u32::MAX for no limit"
        );
        self.max_header_list_size = bytes;
        self
    }

    /// Limits how many requests may be in progress on one connection, if the server allows more. A smaller number leads
    /// to more connections, within their own limits, and so to more threads that serve them. Default: 1,000.
    ///
    /// # Panics
    ///
    /// If `max` is 0: nothing could be sent.
    #[must_use]
    pub const fn max_streams_per_connection(mut self, max: usize) -> Self {
        assert!(
            max > 0,
            "max_streams_per_connection must not be 0: use usize::MAX for the server's limit alone"
        );
        self.max_streams = max;
        self
    }

    /// How long the server may take to answer a PING. A PING is sent when a request is given up, by its caller or by a
    /// time limit, while it waits for the server, so that it is not known whether the server is still there. Until
    /// anything is read, the connection gets no new requests: for 100 ms they wait, and then they get another connection,
    /// within the limits. If nothing is read within this time, the connection is closed, and its requests fail.
    ///
    /// At most two PINGs are sent in five minutes without anything of a response between them, because gRPC servers
    /// count them. If a third one were needed, the connection gets no new requests after this time, and its requests go
    /// on. While a server reads nothing, so that nothing more can be written, its GOAWAY may not be heard: the limits of the
    /// requests, and then this one, end the use of such a connection, too.
    ///
    /// Default: a quarter of the [active timeout](crate::KeepAliveLayer::active_timeout); 5 s without one.
    #[must_use]
    pub const fn ping_timeout(mut self, timeout: Duration) -> Self {
        self.pings.timeout = Some(timeout);
        self
    }

    /// Sends a PING whenever nothing was read on a connection for this time, whether or not it carries requests: for
    /// load balancers that drop connections without traffic. Some servers close connections for too many PINGs; gRPC
    /// servers by default if PINGs come more often than every 5 minutes. Default: none.
    #[must_use]
    pub const fn ping_interval(mut self, interval: Duration) -> Self {
        self.pings.interval = Some(interval);
        self
    }

    /// Limits the interim responses to one request, as it does over HTTP/1.
    pub(crate) fn max_interim_responses(mut self, max: usize) -> Self {
        self.max_interim = u16::try_from(max).unwrap_or(u16::MAX);
        self
    }

    pub(super) fn max_fields(&self) -> u32 {
        self.max_header_list_size
    }

    pub(super) fn pings(&self) -> PingSettings {
        self.pings
    }

    /// The shared state of a connection with these settings.
    pub(super) fn shared(&self, conn: Arc<ConnShared>) -> Http2Shared {
        #[cfg(test)]
        let begun = self.begun;
        #[cfg(not(test))]
        let begun = 0;
        Http2Shared::new(conn, self.max_streams, self.max_interim, begun)
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
            // Until the server has announced its limit.
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
