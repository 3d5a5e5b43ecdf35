use http::{Request, Uri};
use http_body::Body;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower::util::MapResponse;
use tower::{Service, ServiceExt};
use tower_keep_alive::BoxError;

use super::{Peer, length};
use crate::memory_stream::{InMemory, MemoryStream};

/// hyper-util's legacy client over sockets.
pub type LegacyTcp<B> = Legacy<HttpConnector, B>;

/// hyper-util's legacy client over streams in memory.
pub type LegacyInMemory<B> =
    Legacy<MapResponse<InMemory, fn(MemoryStream) -> TokioIo<MemoryStream>>, B>;

/// hyper-util's legacy client, which is reqwest's too.
#[derive(Clone, Debug)]
pub struct Legacy<C, B>(Client<C, B>);

impl<B> LegacyTcp<B>
where
    B: Body + Send,
    B::Data: Send,
{
    pub fn over_sockets() -> Self {
        Self::over(Self::sockets(), false)
    }

    /// By HTTP/2, with prior knowledge.
    pub fn over_http2() -> Self {
        Self::over(Self::sockets(), true)
    }

    fn sockets() -> HttpConnector {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector
    }
}

impl<R, B> Legacy<HttpConnector<R>, B>
where
    HttpConnector<R>: Connect + Clone + Service<Uri>,
    B: Body + Send,
    B::Data: Send,
{
    /// Over sockets, to the addresses that this resolver finds.
    pub fn with_resolver(resolver: R) -> Self {
        let mut connector = HttpConnector::new_with_resolver(resolver);
        connector.set_nodelay(true);
        Self::over(connector, false)
    }
}

impl<B> LegacyInMemory<B>
where
    B: Body + Send,
    B::Data: Send,
{
    pub fn in_memory(connector: InMemory) -> Self {
        let connector = ServiceExt::<Uri>::map_response(connector, TokioIo::new as _);
        Self::over(connector, false)
    }
}

impl<C, B> Legacy<C, B>
where
    C: Service<Uri> + Clone,
    B: Body + Send,
    B::Data: Send,
{
    fn over(connector: C, http2: bool) -> Self
    where
        C: Connect + Clone,
    {
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_timer(TokioTimer::new()).http2_only(http2);
        Self(builder.build(connector))
    }
}

impl<C, B> Peer<B> for Legacy<C, B>
where
    C: Connect + Clone + Send + Sync + 'static,
    B: Body + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    const NAME: &'static str = "hyper-util legacy";

    async fn send(&mut self, request: Request<B>) -> Result<usize, BoxError> {
        let response = self.0.request(request).await?;
        length(response.into_body()).await
    }
}
