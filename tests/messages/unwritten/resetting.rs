//! Sockets that are reset in the very moment in which the second request on them is written.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::Uri;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tower::Service;
use tower_keep_alive::{BoxError, connect::Destination};

use crate::support::Server;

/// Connects to a server of its own at first, which answers one request and resets at the second, and to `elsewhere` after
/// that.
#[derive(Clone)]
pub(crate) struct Resetting {
    elsewhere: SocketAddr,
    is_vectored: bool,
    made: Arc<AtomicUsize>,
}

impl Resetting {
    /// `is_vectored`: hyper writes the head and the body as they are, without copying them into one piece.
    pub(crate) fn then(elsewhere: &Server, is_vectored: bool) -> Self {
        Self {
            elsewhere: elsewhere.addr(),
            is_vectored,
            made: Arc::default(),
        }
    }

    pub(crate) fn made(&self) -> usize {
        self.made.load(Ordering::SeqCst)
    }
}

impl Service<Destination> for Resetting {
    type Response = Doomed;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Doomed, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Destination) -> Self::Future {
        let Self {
            elsewhere,
            is_vectored,
            ..
        } = *self;
        let is_first = self.made.fetch_add(1, Ordering::SeqCst) == 0;
        assert!(Uri::from(destination).host().is_some());
        Box::pin(async move {
            let peer = Arc::default();
            let stream = match is_first {
                true => {
                    let listener = TcpListener::bind("127.0.0.1:0").await?;
                    let stream = TcpStream::connect(listener.local_addr()?).await?;
                    let (accepted, _) = listener.accept().await?;
                    tokio::spawn(answers_once(accepted, Arc::clone(&peer)));
                    stream
                }
                false => TcpStream::connect(elsewhere).await?,
            };
            Ok(Doomed {
                stream,
                is_vectored,
                peer,
            })
        })
    }
}

/// The other end of a connection that has answered.
type Peer = Arc<Mutex<Option<TcpStream>>>;

async fn answers_once(mut stream: TcpStream, peer: Peer) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0);
    }
    // It is there when the client has read the answer.
    let mut peer = peer.lock().unwrap();
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nwarm";
    assert_eq!(stream.try_write(answer).unwrap(), answer.len());
    *peer = Some(stream);
}

/// The client's end.
pub(crate) struct Doomed {
    stream: TcpStream,
    is_vectored: bool,
    peer: Peer,
}

impl Doomed {
    /// On loopback the reset has arrived when this returns.
    fn reset(&self) {
        if let Some(peer) = self.peer.lock().unwrap().take() {
            peer.set_zero_linger().unwrap();
        }
    }
}

impl AsyncRead for Doomed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Doomed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.reset();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.reset();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.is_vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
