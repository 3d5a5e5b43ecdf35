//! The server's end of a transport.

use super::memory::MemoryPeer;
use std::{
    io::{self, Read},
    net::Shutdown,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
};

pub(super) enum Stream {
    Tcp(TcpStream),
    Memory(MemoryPeer),
}

impl Stream {
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read_buf(buffer).await,
            Self::Memory(peer) => peer.io.read_buf(buffer).await,
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.write_all(bytes).await,
            Self::Memory(peer) => peer.io.write_all(bytes).await,
        }
    }

    pub(super) async fn half_close(&mut self) {
        // Fails only if the client was first, and then there is nothing left to close.
        match self {
            Self::Tcp(tcp) => tcp.shutdown().await.ok(),
            Self::Memory(peer) => peer.io.shutdown().await.ok(),
        };
    }

    pub(super) async fn fin(mut self) {
        self.half_close().await;
        if let Self::Tcp(tcp) = self
            && let Ok(mut tcp) = tcp.into_std()
        {
            // A socket closed over unread bytes sends a RST after its FIN.
            while matches!(tcp.read(&mut [0; 4096]), Ok(1..)) {}
            tcp.shutdown(Shutdown::Both).ok();
        }
    }

    pub(super) fn rst(self) {
        match self {
            Self::Tcp(tcp) => tcp.set_zero_linger().expect("SO_LINGER can be set"),
            Self::Memory(peer) => peer.rst(),
        }
    }

    /// Resolves when the client has closed its writing side, or all; what it sent stays unread.
    pub(super) async fn gone(&mut self) {
        match self {
            Self::Tcp(tcp) => tcp_gone(tcp).await,
            Self::Memory(peer) => peer.client.closed().await,
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
async fn tcp_gone(tcp: &TcpStream) {
    // Priority readiness comes with the client's FIN, but not with its bytes.
    tcp.ready(Interest::PRIORITY | Interest::ERROR).await.ok();
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
async fn tcp_gone(tcp: &TcpStream) {
    // Unread bytes make the socket ready all the time, so there is nothing to wait for but time.
    while tcp
        .ready(Interest::READABLE)
        .await
        .is_ok_and(|ready| !ready.is_read_closed())
    {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}
