use std::future::Future;
use std::pin::Pin;

use http::{Request, Uri};
use http_body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::client::pool::cache;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tower::{Service, ServiceExt};
use tower_keep_alive::BoxError;

use super::{Peer, length};

/// hyper-util's `pool::cache`, the list of idle connections that its composable pools are made of. It has one host.
#[derive(Debug)]
pub struct Cache<S, L, B> {
    cache: S,
    uri: Uri,
    /// The type of what the cache gives out has no name.
    sender: fn(&mut L) -> &mut SendRequest<B>,
}

type Connecting<B> = Pin<Box<dyn Future<Output = Result<SendRequest<B>, BoxError>> + Send>>;

/// The cache over a connector, for `uri`.
pub fn cache<M, B>(connector: M, uri: Uri) -> impl Peer<B> + Clone + Send
where
    M: Service<Uri> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let connect = tower::service_fn(move |uri: Uri| -> Connecting<B> {
        let connector = connector.clone();
        Box::pin(async move {
            let stream = connector.oneshot(uri).await.map_err(Into::into)?;
            let (sender, connection) = handshake(TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            Ok(sender)
        })
    });
    let executor = TokioExecutor::new();
    Cache::new(
        cache::builder().executor(executor).build(connect),
        uri,
        |lent| lent.inner_mut(),
    )
}

impl<S, L, B> Cache<S, L, B>
where
    S: Service<Uri, Response = L>,
{
    fn new(cache: S, uri: Uri, sender: fn(&mut L) -> &mut SendRequest<B>) -> Self {
        Self { cache, uri, sender }
    }
}

impl<S: Clone, L, B> Clone for Cache<S, L, B> {
    fn clone(&self) -> Self {
        Self {
            cache: self.cache.clone(),
            uri: self.uri.clone(),
            sender: self.sender,
        }
    }
}

impl<S, L, B> Peer<B> for Cache<S, L, B>
where
    S: Service<Uri, Response = L, Error = BoxError> + Send,
    S::Future: Send,
    L: Send,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const NAME: &'static str = "hyper-util pool::cache";
    const WANTS_HOST: bool = true;

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        let uri = self.uri.clone();
        let mut lent = self.cache.ready().await?.call(uri).await?;
        let sender = (self.sender)(&mut lent);
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        length(response.into_body()).await
    }
}
