//! The whole stack over HTTP/2, against servers of `h2`.

mod ends;
mod interim;
mod simple;
mod time;

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Connection, SendResponse};
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::io::DuplexStream;
use tower::{Service, ServiceExt};

use crate::agent::AgentHandle;
use crate::checkin::{Checkin, CheckinLayer};
use crate::checkout::{Checkout, CheckoutLayer};
use crate::connection::lifespan::Lifespan;
use crate::error::{BoxError, Error};
use crate::exchange::{Body, Exchange, ExchangeLayer};
use crate::http2::{Http2, Http2Connection};
use crate::pool::PoolConfig;
use crate::target::Destination;

type RequestBody = BoxBody<Bytes, BoxError>;
type Serve = Arc<dyn Fn(DuplexStream) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Makes connections to a server that is a function.
#[derive(Clone)]
struct Connector {
    serve: Serve,
    settings: Http2,
    limit: fn(&mut Lifespan),
}

impl Service<Destination> for Connector {
    type Response = Http2Connection<RequestBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Destination) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let (here, there) = tokio::io::duplex(1 << 16);
            tokio::spawn((this.serve)(there));
            let mut lifespan = Lifespan::new();
            (this.limit)(&mut lifespan);
            this.settings.handshake(here, None, lifespan).await
        })
    }
}

#[derive(Clone)]
struct Client {
    service: Exchange<Checkin<Checkout<Connector, Http2Connection<RequestBody>>>>,
    agent: AgentHandle,
}

struct Setup {
    pool: PoolConfig,
    settings: Http2,
    limit: fn(&mut Lifespan),
    exchange: ExchangeLayer,
}

impl Setup {
    fn new() -> Self {
        Self {
            pool: PoolConfig::new(),
            settings: Http2::new(),
            limit: |_| {},
            exchange: ExchangeLayer::new(),
        }
    }

    fn client<F>(self, serve: impl Fn(DuplexStream) -> F + Send + Sync + 'static) -> Client
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let checkout = CheckoutLayer::new(self.pool);
        let agent = checkout.handle();
        let service = tower::ServiceBuilder::new()
            .layer(self.exchange)
            .layer(CheckinLayer::new())
            .layer(checkout)
            .service(Connector {
                serve: Arc::new(move |io| Box::pin(serve(io))),
                settings: self.settings,
                limit: self.limit,
            });
        Client { service, agent }
    }
}

fn client<F>(serve: impl Fn(DuplexStream) -> F + Send + Sync + 'static) -> Client
where
    F: Future<Output = ()> + Send + 'static,
{
    Setup::new().client(serve)
}

impl Client {
    async fn send(&self, request: Request<RequestBody>) -> Result<Response<Body>, Error> {
        self.service.clone().oneshot(request).await
    }

    async fn get(&self, path: &str) -> Result<Response<Body>, Error> {
        self.send(get(path)).await
    }

    async fn text(&self, path: &str) -> Result<String, Error> {
        let body = self.get(path).await?.into_body();
        body.text(1 << 20).await
    }

    /// The last line of every test: every connection is accounted for, and none is left when the client is gone.
    async fn at_rest(self) {
        let Self { service, agent } = self;
        drop(service);
        agent.close_idle();
        let closed = tokio::time::timeout(Duration::from_secs(5), async {
            while agent.status().open() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        closed
            .await
            .unwrap_or_else(|_| panic!("{:?}", agent.status()));
        let status = agent.status();
        assert_eq!(
            status.created,
            status.closed + status.detached,
            "{status:?}"
        );
        assert!(status.pending.is_empty(), "{status:?}");
    }
}

fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed()
}

fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

fn get(path: &str) -> Request<RequestBody> {
    Request::get(format!("http://h{path}"))
        .body(empty())
        .unwrap()
}

fn post(path: &str, body: RequestBody) -> Request<RequestBody> {
    Request::post(format!("http://h{path}")).body(body).unwrap()
}

/// A server that allows so many streams.
async fn accept(io: DuplexStream, streams: u32) -> Connection<DuplexStream, Bytes> {
    let mut builder = Builder::new();
    builder.max_concurrent_streams(streams);
    builder.handshake(io).await.unwrap()
}

/// Answers each request by `answer`, each in a task of its own, to the end of the connection.
async fn serve<F>(
    mut connection: Connection<DuplexStream, Bytes>,
    answer: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

/// Answers with the path that was asked for.
async fn path(request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let path = request.uri().path().to_string();
    answer(respond, path).await;
}

/// A body, and after a slash what its trailers say, if it has any.
async fn read(mut body: RecvStream) -> String {
    let mut all = Vec::new();
    while let Some(Ok(data)) = body.data().await {
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    if let Ok(Some(trailers)) = body.trailers().await {
        all.extend_from_slice(b"/");
        all.extend_from_slice(trailers["t"].as_bytes());
    }
    String::from_utf8(all).unwrap()
}

fn answer(mut respond: SendResponse<Bytes>, text: String) -> impl Future<Output = ()> {
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(text.into(), true).unwrap();
    ready(())
}
