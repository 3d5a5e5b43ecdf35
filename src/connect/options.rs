//! What is set on a TCP socket before it is connected.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    pub(super) nodelay: bool,
    pub(super) keepalive: Option<Duration>,
    pub(super) keepalive_interval: Option<Duration>,
    pub(super) keepalive_retries: Option<u32>,
    pub(super) local_address: Option<IpAddr>,
}

/// As Node's `http.Agent` sets them: its `keepAliveMsecs`, and what libuv's `uv_tcp_keepalive` sets beside it.
impl Default for Options {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Duration::from_secs(1)),
            keepalive_interval: Some(Duration::from_secs(1)),
            keepalive_retries: Some(10),
            local_address: None,
        }
    }
}

/// Systems count keep-alive in seconds, and Linux in no more than these. What is outside would be refused, and the system's
/// own two hours would stay.
pub(super) fn in_seconds(time: Duration) -> Duration {
    time.clamp(Duration::from_secs(1), Duration::from_secs(32_767))
}

/// Linux counts so far.
pub(super) fn in_probes(retries: u32) -> u32 {
    retries.clamp(1, 127)
}

impl Options {
    pub(super) fn with_local_address(mut self, local_address: Option<IpAddr>) -> Self {
        self.local_address = local_address;
        self
    }

    /// A new socket, connected.
    pub(super) async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // Where a system does not know an option, a connection without it is better than none.
        socket.set_nodelay(self.nodelay).ok();
        if let Some(keepalive) = self.tcp_keepalive() {
            SockRef::from(&socket).set_tcp_keepalive(&keepalive).ok();
        }
        if let Some(local) = self.local_address {
            socket.bind(SocketAddr::new(local, 0))?;
        }
        socket.connect(address).await
    }

    fn tcp_keepalive(self) -> Option<TcpKeepalive> {
        let keepalive = TcpKeepalive::new().with_time(self.keepalive?);
        // Those of which socket2 knows how. The others (OpenBSD, Solaris) have their own two numbers.
        #[cfg(any(
            target_os = "android",
            target_os = "cygwin",
            target_os = "dragonfly",
            target_os = "freebsd",
            target_os = "fuchsia",
            target_os = "illumos",
            target_os = "ios",
            target_os = "linux",
            target_os = "macos",
            target_os = "netbsd",
            target_os = "tvos",
            target_os = "visionos",
            target_os = "watchos",
            target_os = "windows",
        ))]
        let keepalive = {
            let keepalive = match self.keepalive_interval {
                Some(interval) => keepalive.with_interval(interval),
                None => keepalive,
            };
            match self.keepalive_retries {
                Some(retries) => keepalive.with_retries(retries),
                None => keepalive,
            }
        };
        Some(keepalive)
    }
}
