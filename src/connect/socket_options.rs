//! Rarely needed settings of [`TcpConnector`]: options of its sockets.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::connect::TcpConnector;
use crate::connect::local_ports::LocalPorts;

/// Options of the sockets.
impl<R> TcpConnector<R> {
    /// How long sent data may stay unacknowledged before the system ends the connection (TCP_USER_TIMEOUT; RFC 5482),
    /// in milliseconds; `None` for the system's default, which on Linux is about 15 minutes. Default: `None`.
    ///
    /// It detects a peer that vanishes in the middle of a request. [`keepalive`](Self::keepalive) alone does not,
    /// because TCP sends no probes while data is unacknowledged. Linux, Android and Fuchsia support the option;
    /// elsewhere this setting has no effect.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_keep_alive::connect::TcpConnector;
    ///
    /// let connector = TcpConnector::new().user_timeout(Some(Duration::from_secs(20)));
    /// # let _ = connector;
    /// ```
    #[doc(alias = "TCP_USER_TIMEOUT")]
    #[must_use]
    pub fn user_timeout(mut self, timeout: Option<Duration>) -> Self {
        // A number of milliseconds in 31 bits; 0 would mean the system's default.
        let (least, most) = (
            Duration::from_millis(1),
            Duration::from_millis(i32::MAX as u64),
        );
        self.options.user_timeout = timeout.map(|timeout| timeout.clamp(least, most));
        self
    }

    /// The size of the system's send buffer in bytes (SO_SNDBUF); `None` for the system's default, which Linux adapts
    /// to the connection. Default: `None`. Linux doubles the number for its bookkeeping, and limits it to
    /// `net.core.wmem_max`.
    ///
    /// ```
    /// use tower_keep_alive::connect::TcpConnector;
    ///
    /// let connector = TcpConnector::new()
    ///     .send_buffer_size(Some(256 * 1024))
    ///     .recv_buffer_size(Some(1024 * 1024));
    /// # let _ = connector;
    /// ```
    #[doc(alias = "SO_SNDBUF")]
    #[must_use]
    pub fn send_buffer_size(mut self, bytes: Option<u32>) -> Self {
        self.options.send_buffer_size = bytes;
        self
    }

    /// The size of the system's receive buffer in bytes (SO_RCVBUF); `None` for the system's default, which Linux
    /// adapts to the connection. Default: `None`. It is set before the connect, because TCP negotiates its window then.
    #[doc(alias = "SO_RCVBUF")]
    #[must_use]
    pub fn recv_buffer_size(mut self, bytes: Option<u32>) -> Self {
        self.options.recv_buffer_size = bytes;
        self
    }

    /// The network interface for outgoing connections, for example `eth1` (SO_BINDTODEVICE; curl: `--interface`);
    /// `None` to leave the choice to the system's routes. Default: `None`.
    ///
    /// Linux, Android and Fuchsia support this. Elsewhere, or if the interface does not exist, every connect fails with
    /// an error that names the interface; no connection uses another one.
    ///
    /// ```
    /// use tower_keep_alive::connect::TcpConnector;
    ///
    /// let connector = TcpConnector::new().interface(Some("eth1"));
    /// # let _ = connector;
    /// ```
    #[doc(alias = "SO_BINDTODEVICE")]
    #[must_use]
    pub fn interface(mut self, name: Option<&str>) -> Self {
        self.options.interface = name.map(Into::into);
        self
    }

    /// The local ports of connections, for example because a firewall requires it (curl: `--local-port`); `None` for
    /// the system's choice. Default: `None`.
    ///
    /// Each connect tries all of the ports, beginning after the first one that the previous connect tried. Two
    /// connections to different addresses can use the same port. If every port is in use, the connect fails with an
    /// error that says so.
    ///
    /// ```
    /// use tower_keep_alive::connect::TcpConnector;
    ///
    /// let connector = TcpConnector::new().local_ports(Some(40_000..=40_999));
    /// # let _ = connector;
    /// ```
    ///
    /// # Panics
    ///
    /// If the range is empty, or contains the port 0.
    #[must_use]
    pub fn local_ports(mut self, ports: Option<RangeInclusive<u16>>) -> Self {
        self.options.local_ports = ports.map(LocalPorts::new);
        self
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;
    use socket2::SockRef;
    use tokio::net::TcpListener;
    use tower_service::Service;

    use super::*;

    async fn listen() -> (TcpListener, Uri) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/", listener.local_addr().unwrap());
        (listener, uri.parse().unwrap())
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn data_without_an_answer_ends_the_connection_after_the_user_timeout_that_is_set() {
        let (_listener, uri) = listen().await;
        for (set, kept) in [
            (None, None),
            (Some(Duration::from_millis(2500)), Some(2500)),
            (Some(Duration::ZERO), Some(1)),
            (Some(Duration::MAX), Some(i32::MAX as u64)),
        ] {
            let mut connector = TcpConnector::new().user_timeout(set);
            let tcp = connector.call(uri.clone()).await.unwrap();
            let timeout = SockRef::from(tcp.stream()).tcp_user_timeout().unwrap();
            assert_eq!(timeout, kept.map(Duration::from_millis), "{set:?}");
        }
    }

    #[tokio::test]
    async fn buffers_have_the_sizes_that_are_set() {
        let (_listener, uri) = listen().await;
        let mut systems = TcpConnector::new();
        let systems = systems.call(uri.clone()).await.unwrap();
        let systems = SockRef::from(systems.stream()).recv_buffer_size().unwrap();
        let mut connector = TcpConnector::new()
            .send_buffer_size(Some(16_384))
            .recv_buffer_size(Some(8_192));
        let tcp = connector.call(uri).await.unwrap();
        let socket = SockRef::from(tcp.stream());
        // Linux says twice as much.
        assert!([16_384, 32_768].contains(&socket.send_buffer_size().unwrap()));
        assert!([8_192, 16_384].contains(&socket.recv_buffer_size().unwrap()));
        assert!(systems > 16_384);
    }

    #[tokio::test]
    async fn an_interface_that_is_not_there_is_named() {
        let (_listener, uri) = listen().await;
        let mut connector = TcpConnector::new().interface(Some("none0"));
        let error = connector.call(uri).await.unwrap_err().to_string();
        assert!(error.contains("the interface none0"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn connections_leave_by_the_interface_that_is_set() {
        let (_listener, uri) = listen().await;
        let mut connector = TcpConnector::new().interface(Some("lo"));
        let tcp = connector.call(uri).await.unwrap();
        let device = SockRef::from(tcp.stream()).device().unwrap();
        assert_eq!(device.as_deref(), Some(&b"lo"[..]));
    }

    /// A port that nobody has, and then the one after it, which a listener has.
    async fn two_ports() -> (u16, TcpListener) {
        loop {
            let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = taken.local_addr().unwrap().port() - 1;
            if TcpListener::bind(("127.0.0.1", port)).await.is_ok() {
                return (port, taken);
            }
        }
    }

    #[tokio::test]
    async fn connections_come_from_the_ports_that_are_allowed_and_none_other() {
        let (here, first) = listen().await;
        let (_there, second) = listen().await;
        let (free, taken) = two_ports().await;
        let mut connector = TcpConnector::new().local_ports(Some(free..=free + 1));
        let connected = connector.call(first.clone()).await.unwrap();
        let (_server, from) = here.accept().await.unwrap();
        assert_eq!(from.port(), free);
        // The other port is a listener's; this one leads to another address as well.
        let other = connector.call(second).await.unwrap();
        assert_eq!(other.stream().local_addr().unwrap().port(), free);
        let error = connector.call(first.clone()).await.unwrap_err().to_string();
        let why = format!("every port from {free} to {} is in use", free + 1);
        assert!(error.contains(&why), "{error}");
        drop(taken);
        let next = connector.call(first).await.unwrap();
        assert_eq!(next.stream().local_addr().unwrap().port(), free + 1);
        drop(connected);
    }

    #[tokio::test]
    async fn ports_go_with_the_local_address() {
        let (listener, uri) = listen().await;
        let (free, _taken) = two_ports().await;
        let mut connector = TcpConnector::new()
            .local_address(Some([127, 0, 0, 1].into()))
            .local_ports(Some(free..=free));
        let _connected = connector.call(uri.clone()).await.unwrap();
        let (_server, from) = listener.accept().await.unwrap();
        assert_eq!(from, ([127, 0, 0, 1], free).into());
        // An address that this machine does not have is reported as such.
        let mut connector = TcpConnector::new()
            .local_address(Some([192, 0, 2, 1].into()))
            .local_ports(Some(free..=free));
        let error = connector.call(uri).await.unwrap_err().to_string();
        assert!(!error.contains("in use"), "{error}");
    }

    #[test]
    #[should_panic(expected = "local_ports must be a range of ports from 1 to 65535")]
    fn the_port_0_is_no_port_to_connect_from() {
        let _ = TcpConnector::new().local_ports(Some(0..=9));
    }

    #[test]
    #[should_panic(expected = "local_ports must be a range of ports from 1 to 65535")]
    fn an_empty_range_of_ports_cannot_be_set() {
        #[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
        let _ = TcpConnector::new().local_ports(Some(9..=7));
    }
}
