//! The server's end of a transport.

use super::{memory::MemoryPeer, translated::Translated};
use std::{
    io::{self, Read},
    net::Shutdown,
};
#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::TcpStream,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

#[cfg(any(target_os = "linux", target_os = "android"))]
macro_rules! gone {
    ($socket:expr) => {{
        // Priority readiness comes with the client's FIN, but not with its bytes.
        let gone = $socket.ready(Interest::PRIORITY | Interest::ERROR);
        gone.await.ok();
    }};
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
macro_rules! gone {
    ($socket:expr) => {
        // Unread bytes make the socket ready all the time, so there is nothing to wait for but time.
        while $socket
            .ready(Interest::READABLE)
            .await
            .is_ok_and(|ready| !ready.is_read_closed())
        {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
}

pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
    Memory(MemoryPeer),
    /// HTTP/2 below, and HTTP/1.1 here.
    Translated(Translated),
    /// In the middle of a handshake.
    Gone,
}

impl Stream {
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.read_buf(buffer).await,
            #[cfg(unix)]
            Self::Unix(unix) => unix.read_buf(buffer).await,
            Self::Tls(tls) => tls.read_buf(buffer).await,
            Self::Memory(peer) => peer.io.read_buf(buffer).await,
            Self::Translated(translated) => translated.read(buffer).await,
            Self::Gone => Ok(0),
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(tcp) => tcp.write_all(bytes).await,
            #[cfg(unix)]
            Self::Unix(unix) => unix.write_all(bytes).await,
            Self::Tls(tls) => {
                tls.write_all(bytes).await?;
                tls.flush().await
            }
            Self::Memory(peer) => peer.io.write_all(bytes).await,
            Self::Translated(translated) => translated.write(bytes).await,
            Self::Gone => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    pub(super) async fn half_close(&mut self) {
        // Fails only if the client was first, and then there is nothing left to close.
        match self {
            Self::Tcp(tcp) => tcp.shutdown().await.ok(),
            #[cfg(unix)]
            Self::Unix(unix) => unix.shutdown().await.ok(),
            // With a close_notify.
            Self::Tls(tls) => tls.shutdown().await.ok(),
            Self::Memory(peer) => peer.io.shutdown().await.ok(),
            Self::Translated(translated) => translated.half_close().await.ok(),
            Self::Gone => None,
        };
    }

    pub(super) async fn fin(mut self) {
        if let Self::Translated(translated) = self {
            return translated.fin().await;
        }
        self.half_close().await;
        // A socket closed over unread bytes sends a RST after its FIN.
        match self.without_tls() {
            Self::Tcp(tcp) => {
                if let Ok(mut tcp) = tcp.into_std() {
                    while matches!(tcp.read(&mut [0; 4096]), Ok(1..)) {}
                    tcp.shutdown(Shutdown::Both).ok();
                }
            }
            #[cfg(unix)]
            Self::Unix(unix) => {
                if let Ok(mut unix) = unix.into_std() {
                    while matches!(unix.read(&mut [0; 4096]), Ok(1..)) {}
                    unix.shutdown(Shutdown::Both).ok();
                }
            }
            _ => {}
        }
    }

    /// What lies below, where there is TLS on it.
    pub(super) fn without_tls(self) -> Self {
        match self {
            Self::Tls(tls) => Self::Tcp(tls.into_inner().0),
            other => other,
        }
    }

    /// The server's side of a handshake; false if it fails.
    pub(super) async fn secure(&mut self, acceptor: &TlsAcceptor) -> bool {
        match std::mem::replace(self, Self::Gone) {
            Self::Tcp(tcp) => match acceptor.accept(tcp).await {
                Ok(tls) => *self = Self::Tls(Box::new(tls)),
                Err(_) => return false,
            },
            other => *self = other,
        }
        true
    }

    pub(super) fn rst(self) {
        match self.without_tls() {
            Self::Tcp(tcp) => tcp.set_zero_linger().expect("SO_LINGER can be set"),
            // A Unix socket knows a reset only where it is closed over unread bytes.
            #[cfg(unix)]
            Self::Unix(_) => {}
            Self::Memory(peer) => peer.rst(),
            Self::Translated(translated) => translated.rst(),
            Self::Tls(_) | Self::Gone => {}
        }
    }

    /// Resolves when the client has closed its writing side, or all; what it sent stays unread.
    pub(super) async fn gone(&mut self) {
        match self {
            Self::Tcp(tcp) => gone!(tcp),
            #[cfg(unix)]
            Self::Unix(unix) => gone!(unix),
            Self::Tls(tls) => gone!(tls.get_ref().0),
            Self::Memory(peer) => peer.client.closed().await,
            Self::Translated(translated) => translated.gone().await,
            Self::Gone => {}
        }
    }
}
