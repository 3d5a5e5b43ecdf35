//! The client's end of a connection: counted, and known to the servers, which may send strays while it is idle.
//!
//! Between the last look at an idle socket and the request that follows lies a moment in which nobody can tell a stray
//! answer from a real one. So that each stray that is taken for an answer is the agent's fault, a server sends them only on
//! a connection that has not been looked at since its last answer.

use std::collections::HashMap;
use std::future::{Future, ready};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::Uri;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_keep_alive::connect::rustls::ClientConfig;
use tower_keep_alive::connect::{MaybeTls, Probe, Tcp, TlsLayer};
use tower_keep_alive::{BoxError, connect::Destination};

use crate::ledger::lock;

/// Whether the agent has looked at a connection since its last answer.
pub(crate) struct Looked(Mutex<bool>);

/// The client's end of a connection and the server's: a port of the client's may have a connection to each server.
pub(crate) type Ends = (SocketAddr, SocketAddr);

/// The open connections.
#[derive(Default)]
pub(crate) struct Wires(Mutex<HashMap<Ends, Arc<Looked>>>);

impl Wires {
    /// The last answer is about to be sent.
    pub(crate) fn answered(&self, ends: Ends) {
        if let Some(looked) = self.find(ends) {
            *lock(&looked.0) = false;
        }
    }

    /// Runs `send` unless the agent has looked at the connection, and may be using it; no look comes between.
    pub(crate) fn unless_looked_at(&self, ends: Ends, send: impl FnOnce()) -> bool {
        let Some(looked) = self.find(ends) else {
            return false;
        };
        let looked = lock(&looked.0);
        if !*looked {
            send();
        }
        !*looked
    }

    fn find(&self, ends: Ends) -> Option<Arc<Looked>> {
        lock(&self.0).get(&ends).cloned()
    }
}

/// Transports of one agent: alive from the call to the drop.
#[derive(Default)]
pub(crate) struct Alive {
    by_host: Mutex<HashMap<String, usize>>,
    pub(crate) all: AtomicUsize,
    pub(crate) most: AtomicUsize,
    pub(crate) most_per_host: AtomicUsize,
}

/// Connects to `127.0.0.1`, whatever the host's name.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) wires: Arc<Wires>,
    pub(crate) alive: Arc<Alive>,
    pub(crate) config: Arc<ClientConfig>,
}

impl Service<Destination> for Connector {
    type Response = Wire;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Wire, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Destination) -> Self::Future {
        let uri = Uri::from(destination.clone());
        let Self { wires, config, .. } = self.clone();
        let port = uri.port_u16().unwrap_or(80);
        let host = uri.authority().map(ToString::to_string);
        let counted = Counted::new(self.alive.clone(), host.unwrap_or_default());
        Box::pin(async move {
            let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
            tcp.set_nodelay(true)?;
            let ends = (tcp.local_addr()?, tcp.peer_addr()?);
            let looked = Arc::new(Looked(Mutex::new(true)));
            lock(&wires.0).insert(ends, looked.clone());
            let listed = Listed { wires, ends };
            let mut tcp = Some(Tcp::new(tcp));
            let tcp = service_fn(move |_: Destination| {
                ready(tcp.take().ok_or_else(|| io::Error::other("once only")))
            });
            let inner = TlsLayer::with_config(config).layer(tcp);
            let inner = inner.oneshot(destination).await?;
            Ok(Wire {
                inner,
                looked,
                _listed: listed,
                _counted: counted,
            })
        })
    }
}

/// A transport, and who counts it.
pub(crate) struct Wire {
    inner: MaybeTls<Tcp>,
    looked: Arc<Looked>,
    _listed: Listed,
    // After `inner`: what counts as gone is gone.
    _counted: Counted,
}

impl Wire {
    /// The crate's own look, noted.
    pub(crate) fn probe(&self) -> Probe {
        let (probe, looked) = (self.inner.probe(), self.looked.clone());
        Probe::new(move || {
            *lock(&looked.0) = true;
            probe.check()
        })
    }
}

struct Listed {
    wires: Arc<Wires>,
    ends: Ends,
}

impl Drop for Listed {
    fn drop(&mut self) {
        lock(&self.wires.0).remove(&self.ends);
    }
}

struct Counted {
    alive: Arc<Alive>,
    host: String,
}

impl Counted {
    fn new(alive: Arc<Alive>, host: String) -> Self {
        {
            let mut by_host = lock(&alive.by_host);
            let of_host = by_host.entry(host.clone()).or_default();
            *of_host += 1;
            alive.most_per_host.fetch_max(*of_host, Ordering::Relaxed);
            let all = alive.all.fetch_add(1, Ordering::Relaxed) + 1;
            alive.most.fetch_max(all, Ordering::Relaxed);
        }
        Self { alive, host }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut by_host = lock(&self.alive.by_host);
        *by_host.entry(std::mem::take(&mut self.host)).or_default() -= 1;
        self.alive.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
