//! Where a server listens.

#[cfg(unix)]
use super::over::{Over, hold, over, unix_path};
use super::stream::Stream;
use std::{io, net::SocketAddr, path::PathBuf};
use tokio::net::TcpListener;

pub(super) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(tokio::net::UnixListener),
}

/// The address is that of the URLs, whatever is listened on.
pub(super) struct Place {
    pub(super) addr: SocketAddr,
    #[cfg(unix)]
    pub(super) unix: Option<UnixPlace>,
}

#[cfg(unix)]
pub(super) struct UnixPlace {
    pub(super) path: PathBuf,
    _port: tokio::net::TcpSocket,
}

#[cfg(unix)]
impl Drop for UnixPlace {
    fn drop(&mut self) {
        std::fs::remove_file(&self.path).ok();
    }
}

impl Listener {
    /// On what the run is over.
    pub(super) async fn bind(addr: &str) -> (Self, Place) {
        #[cfg(unix)]
        if over() == Over::Unix {
            return Self::unix(addr);
        }
        Self::tcp(addr).await
    }

    pub(super) async fn tcp(addr: &str) -> (Self, Place) {
        let listener = TcpListener::bind(addr)
            .await
            .expect("loopback can be bound");
        let place = Place {
            addr: listener.local_addr().expect("bound above"),
            #[cfg(unix)]
            unix: None,
        };
        (Self::Tcp(listener), place)
    }

    #[cfg(unix)]
    pub(super) fn unix(addr: &str) -> (Self, Place) {
        let (addr, port) = hold(addr.parse().expect("an address"));
        let path = unix_path(addr.port());
        // Of a run that was killed.
        std::fs::remove_file(&path).ok();
        let listener = tokio::net::UnixListener::bind(&path).expect("a new Unix socket");
        let unix = Some(UnixPlace { path, _port: port });
        (Self::Unix(listener), Place { addr, unix })
    }

    pub(super) async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // Pieces that a script sends one by one must leave one by one.
                stream.set_nodelay(true).ok();
                Ok(Stream::Tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(listener) => Ok(Stream::Unix(listener.accept().await?.0)),
        }
    }
}
