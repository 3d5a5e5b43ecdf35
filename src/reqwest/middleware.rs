use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Extensions, Method};
use http_body::Body as HttpBody;
use reqwest::{Body, Request, Response};
use reqwest_middleware::{Middleware, Next, Result};
use tower::ServiceExt;
use tower::timeout::error::Elapsed;
use tower_service::Service;

use crate::connection::info::ConnectionInfo;
use crate::error::{BoxError, Error};
use crate::reqwest::service::{inbound, outbound};
use crate::target::extensions::{OnFreshConnection, is_repeatable};

/// The last middleware of a `ClientWithMiddleware`: it sends requests over a service such as
/// [`KeepAlive`](crate::KeepAlive), and never over the client's own `reqwest::Client`.
///
/// # Order
///
/// Last: middleware that is added after it never runs. Middleware that is added before it works unchanged.
///
/// # Extensions
///
/// The middleware's extensions are copied to the request, so `with_extension` works with [`OneShot`](crate::extensions::OneShot),
/// [`Partition`](crate::extensions::Partition) and [`InactivityTimeout`](crate::extensions::InactivityTimeout). Afterwards both they and the
/// response's extensions contain the [`ConnectionInfo`] of the last attempt, if it had a connection.
///
/// # Errors
///
/// `reqwest_middleware::Error::Middleware`, in which [`Error::find`] finds the agent's error.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_keep_alive::BoxError> {
/// use reqwest_middleware::ClientBuilder;
/// use reqwest_retry::RetryTransientMiddleware;
/// use reqwest_retry::policies::ExponentialBackoff;
/// use tower::ServiceBuilder;
/// use tower_keep_alive::KeepAliveLayer;
/// use tower_keep_alive::connect::TcpConnector;
/// use tower_keep_alive::reqwest::{AgentMiddleware, AgentStrategy};
///
/// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(async { axum::serve(listener, app).await });
/// let layer = KeepAliveLayer::new();
/// let agent = layer.handle();
/// let service = ServiceBuilder::new().layer(layer).service(TcpConnector::new());
///
/// let backoff = ExponentialBackoff::builder().build_with_max_retries(3);
/// let client = ClientBuilder::new(reqwest::Client::new())
///     .with(RetryTransientMiddleware::new_with_policy_and_strategy(backoff, AgentStrategy))
///     .with(AgentMiddleware::new(service))
///     .build();
///
/// assert_eq!(client.get(&url).send().await?.text().await?, "hello");
/// assert_eq!(agent.status().completed, 1);
/// # Ok(())
/// # }
/// ```
pub struct AgentMiddleware<S> {
    service: S,
}

impl<S> AgentMiddleware<S> {
    /// Sends requests over `service`.
    pub const fn new(service: S) -> Self {
        Self { service }
    }
}

#[async_trait]
impl<S, R> Middleware for AgentMiddleware<S>
where
    S: Service<http::Request<Body>, Response = http::Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send,
    R: HttpBody + Send + Sync + 'static,
    R::Data: Into<Bytes>,
    R::Error: Into<BoxError>,
{
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        _: Next<'_>,
    ) -> Result<Response> {
        let mut sent = Sent {
            method: request.method().clone(),
            repeatable: false,
        };
        let url = request.url().clone();
        let mut request = match outbound(request) {
            Ok(request) => request,
            Err(error) => return Err(unanswered(error.into(), sent, extensions)),
        };
        sent.repeatable = is_repeatable(&request);
        extensions.remove::<ConnectionInfo>();
        request.extensions_mut().extend(extensions.clone());
        extensions.remove::<OnFreshConnection>();
        match self.service.clone().oneshot(request).await {
            Ok(mut response) => {
                if let Some(info) = response.extensions().get::<ConnectionInfo>() {
                    extensions.insert(info.clone());
                }
                response.extensions_mut().insert(sent);
                Ok(inbound(response, url))
            }
            Err(error) => Err(unanswered(error.into(), sent, extensions)),
        }
    }
}

/// Describes the request that was sent. It is kept with its response and its error, for
/// [`AgentStrategy`](crate::reqwest::AgentStrategy).
#[derive(Clone, Debug)]
pub(super) struct Sent {
    pub(super) method: Method,
    /// It is safe to send the request twice.
    pub(super) repeatable: bool,
}

/// The first words of an error.
impl fmt::Display for Sent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} request failed", self.method)
    }
}

fn unanswered(
    error: BoxError,
    sent: Sent,
    extensions: &mut Extensions,
) -> reqwest_middleware::Error {
    if let Some(error) = Error::find(&*error) {
        if let Some(info) = error.connection() {
            extensions.insert(info.clone());
        }
        // RFC 9110 §9.2.2: a retry gets a new connection, which cannot be closed for the same reason.
        if error.is_reused() && (error.is_reset() || error.is_untouched()) {
            extensions.insert(OnFreshConnection);
        }
    }
    unboxed(error).context(sent).into()
}

/// Unboxes the types that have to be found later: anyhow cannot downcast to a type that it was given in a box.
fn unboxed(error: BoxError) -> anyhow::Error {
    let error = match error.downcast::<Error>() {
        Ok(error) => return anyhow::Error::new(*error),
        Err(error) => error,
    };
    match error.downcast::<Elapsed>() {
        Ok(elapsed) => anyhow::Error::new(*elapsed),
        Err(error) => anyhow::Error::from_boxed(error),
    }
}

impl<S> fmt::Debug for AgentMiddleware<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentMiddleware").finish_non_exhaustive()
    }
}
