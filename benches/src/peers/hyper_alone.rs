use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::Request;
use http_body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tower_keep_alive::BoxError;

use super::{Peer, length};

/// One connection of hyper's, and nothing around it: what no client can be cheaper than.
#[derive(Debug)]
pub struct HyperAlone<B>(SendRequest<B>);

impl<B> HyperAlone<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    pub async fn on<S>(stream: S) -> Result<Self, BoxError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    pub async fn connect(addr: SocketAddr) -> Result<Self, BoxError> {
        let stream = TcpStream::connect(addr).await?;
        stream.set_nodelay(true)?;
        Self::on(stream).await
    }
}

impl<B> Peer<B> for HyperAlone<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const NAME: &'static str = "hyper alone";
    const WANTS_HOST: bool = true;

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        self.0.ready().await?;
        let response = self.0.send_request(request).await?;
        length(response.into_body()).await
    }
}

/// Connections of hyper's to one address in a `Vec` under a lock: no limit, no clock, no look at the socket.
#[derive(Debug)]
pub struct HandPool<B> {
    addr: SocketAddr,
    idle: Arc<Mutex<Vec<HyperAlone<B>>>>,
}

impl<B> HandPool<B> {
    pub fn new(addr: SocketAddr) -> Self {
        Self {
            addr,
            idle: Arc::default(),
        }
    }
}

impl<B> Clone for HandPool<B> {
    fn clone(&self) -> Self {
        Self {
            addr: self.addr,
            idle: self.idle.clone(),
        }
    }
}

impl<B> Peer<B> for HandPool<B>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const NAME: &'static str = "hyper, pool by hand";
    const WANTS_HOST: bool = true;

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        let taken = self.idle.lock().expect("nobody panics with it").pop();
        let mut conn = match taken {
            Some(conn) => conn,
            None => HyperAlone::connect(self.addr).await?,
        };
        let length = conn.send(request).await?;
        self.idle.lock().expect("nobody panics with it").push(conn);
        Ok(length)
    }
}
