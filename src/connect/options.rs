//! Options that are set on a TCP socket before it is connected.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::connect::local_ports::LocalPorts;

#[derive(Clone, Debug)]
pub(super) struct Options {
    pub(super) nodelay: bool,
    pub(super) keepalive: Option<Duration>,
    pub(super) keepalive_interval: Option<Duration>,
    pub(super) keepalive_retries: Option<u32>,
    pub(super) user_timeout: Option<Duration>,
    pub(super) send_buffer_size: Option<u32>,
    pub(super) recv_buffer_size: Option<u32>,
    pub(super) interface: Option<Arc<str>>,
    pub(super) local_address: Option<IpAddr>,
    pub(super) local_ports: Option<LocalPorts>,
}

/// The values of Node's `http.Agent`: its `keepAliveMsecs`, and what libuv's `uv_tcp_keepalive` sets besides.
impl Default for Options {
    fn default() -> Self {
        Self {
            nodelay: true,
            keepalive: Some(Duration::from_secs(1)),
            keepalive_interval: Some(Duration::from_secs(1)),
            keepalive_retries: Some(10),
            user_timeout: None,
            send_buffer_size: None,
            recv_buffer_size: None,
            interface: None,
            local_address: None,
            local_ports: None,
        }
    }
}

/// Systems measure keep-alive in seconds, and Linux accepts at most 32,767. A value outside of the range would be
/// refused, and the system's default of two hours would remain.
pub(super) fn in_seconds(time: Duration) -> Duration {
    time.clamp(Duration::from_secs(1), Duration::from_secs(32_767))
}

/// The largest number that Linux accepts.
pub(super) fn in_probes(retries: u32) -> u32 {
    retries.clamp(1, 127)
}

impl Options {
    pub(super) fn with_local_address(mut self, local_address: Option<IpAddr>) -> Self {
        self.local_address = local_address;
        self
    }

    /// Connects a new socket.
    pub(super) async fn connect(self, address: SocketAddr) -> io::Result<TcpStream> {
        let Some(ports) = &self.local_ports else {
            let socket = self.socket(address)?;
            if let Some(local) = self.local_address {
                socket.bind(SocketAddr::new(local, 0))?;
            }
            return socket.connect(address).await;
        };
        let local = self.local_address.unwrap_or(match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
        for port in ports.in_turn() {
            let socket = self.socket(address)?;
            // Otherwise a port could not be bound that is used by a connection to another address, or was until a
            // minute ago.
            #[cfg(not(windows))]
            socket.set_reuseaddr(true)?;
            match socket.bind(SocketAddr::new(local, port)) {
                // A listener uses the port.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                bound => bound?,
            }
            match socket.connect(address).await {
                // A connection to the same address uses the port.
                Err(error) if is_taken(&error) => {}
                connected => return connected,
            }
        }
        Err(ports.all_taken())
    }

    /// A socket with the options that precede `bind`.
    fn socket(&self, address: SocketAddr) -> io::Result<TcpSocket> {
        let socket = match address {
            SocketAddr::V4(_) => TcpSocket::new_v4()?,
            SocketAddr::V6(_) => TcpSocket::new_v6()?,
        };
        // If a system does not support an option, a connection without it is better than none.
        socket.set_nodelay(self.nodelay).ok();
        if let Some(keepalive) = self.tcp_keepalive() {
            SockRef::from(&socket).set_tcp_keepalive(&keepalive).ok();
        }
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        if let Some(timeout) = self.user_timeout {
            SockRef::from(&socket)
                .set_tcp_user_timeout(Some(timeout))
                .ok();
        }
        // Set before the connect, because the handshake negotiates the window scale (RFC 7323 §2.2).
        if let Some(size) = self.send_buffer_size {
            socket.set_send_buffer_size(size).ok();
        }
        if let Some(size) = self.recv_buffer_size {
            socket.set_recv_buffer_size(size).ok();
        }
        if let Some(interface) = &self.interface {
            bind_to_interface(&socket, interface)?;
        }
        Ok(socket)
    }

    fn tcp_keepalive(&self) -> Option<TcpKeepalive> {
        let keepalive = TcpKeepalive::new().with_time(self.keepalive?);
        // The systems that socket2 supports. Others (OpenBSD, Solaris) use different options.
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

/// The two errors by which systems report that a connection between the two addresses exists.
fn is_taken(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable};
    matches!(error.kind(), AddrInUse | AddrNotAvailable)
}

/// Fails if it is not supported, because a connection over another interface would be wrong.
fn bind_to_interface(socket: &TcpSocket, interface: &str) -> io::Result<()> {
    #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
    let bound = SockRef::from(socket).bind_device(Some(interface.as_bytes()));
    #[cfg(not(any(target_os = "android", target_os = "fuchsia", target_os = "linux")))]
    let bound = {
        let _ = socket;
        Err(io::Error::from(io::ErrorKind::Unsupported))
    };
    bound.map_err(|error: io::Error| {
        let why = format!("the socket cannot be bound to the interface {interface}: {error}");
        io::Error::new(error.kind(), why)
    })
}
