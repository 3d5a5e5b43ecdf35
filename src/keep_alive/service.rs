use std::fmt;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body as HttpBody;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::agent::AgentHandle;
use crate::checkin::{Checkin, CheckinFuture, Lease};
use crate::checkout::Checkout;
use crate::connect::DefaultConnector;
use crate::error::{BoxError, Error};
use crate::exchange::{Acquired, Body, Exchange};
use crate::expiry::Limited;
use crate::handshake::{Handshake, HttpConnection};
use crate::keep_alive::into_body::IntoBody;
use crate::keep_alive::{KeepAliveFuture, RequestBody};
use crate::target::Destination;

/// Limits of idle time, age, uses and silence.
pub(super) type Expiring<M> = Limited<Limited<Limited<Limited<M>>>>;
pub(super) type Connections<M, B> = Expiring<Handshake<M, B>>;
pub(super) type Leases<M, B> = Checkin<Checkout<Connections<M, B>, HttpConnection<B>>>;

/// The service that [`KeepAliveLayer`](crate::KeepAliveLayer) makes: it takes requests and returns responses.
///
/// It is always ready. Callers wait in the future of `call`, in the order in which they are first polled.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let app = axum::Router::new().route("/", axum::routing::get(|| async { "hello" }));
/// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
/// # let url = format!("http://{}/", listener.local_addr()?);
/// # tokio::spawn(async { axum::serve(listener, app).await });
/// use tower_keep_alive::KeepAlive;
///
/// /// The state of a service: clones of it share the pool.
/// #[derive(Clone)]
/// struct App {
///     upstream: KeepAlive,
/// }
///
/// let app = App { upstream: KeepAlive::new() };
/// let response = app.upstream.get(&url).await?;
/// assert_eq!(response.into_body().text(100).await?, "hello");
/// assert_eq!(app.upstream.handle().status().completed, 1);
/// # Ok(())
/// # }
/// ```
///
/// # Request bodies
///
/// A body whose [`size_hint`](http_body::Body::size_hint) is exact is sent with a `Content-Length`, any other in
/// chunks. With GET, HEAD and CONNECT, a body of unknown length is not sent at all, unless the request has a
/// `Transfer-Encoding: chunked` or a `Content-Length`: this is hyper's rule, because such a body is almost always
/// empty.
///
/// # Clone
///
/// Clones share the pool. When the last one is dropped, idle connections are closed, connections in use are closed
/// after their use, and every task ends.
///
/// # Cancel safety
///
/// Dropping its future cancels the request; see [`KeepAliveFuture`].
pub struct KeepAlive<M = DefaultConnector, B = RequestBody>
where
    B: Send + 'static,
{
    stack: Exchange<Leases<M, B>>,
}

impl<M, B> KeepAlive<M, B>
where
    B: Send + 'static,
{
    pub(super) fn from_stack(stack: Exchange<Leases<M, B>>) -> Self {
        Self { stack }
    }

    /// The handle: status and control of this service and of all others that its layer has made.
    #[must_use]
    pub fn handle(&self) -> AgentHandle {
        self.stack.get_ref().get_ref().pool().handle()
    }
}

impl<M, B> KeepAlive<M, B>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: HttpBody + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    /// Sends a request. Its body is a `B` or converts into one (`T: Into<B>`): into a [`RequestBody`], text, bytes, and `()`
    /// for no body. Any other [`http_body::Body`], such as axum's, becomes one by `request.map(RequestBody::new)`. The future
    /// resolves to the response when its head has arrived. Read the body to its end, so that the connection can be reused.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let app = axum::Router::new().route("/", axum::routing::put(|body: String| async { body }));
    /// # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// # let url = format!("http://{}/", listener.local_addr()?);
    /// # tokio::spawn(async { axum::serve(listener, app).await });
    /// use tower_keep_alive::KeepAlive;
    /// use tower_keep_alive::http::Request;
    ///
    /// let agent = KeepAlive::new();
    /// let request = Request::put(&url)
    ///     .header("content-type", "application/json")
    ///     .body(r#"{"name": "value"}"#)?;
    /// let response = agent.request(request).await?;
    /// assert!(response.status().is_success());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// See [`Error`].
    #[inline]
    pub fn request<T>(&self, request: Request<T>) -> KeepAliveFuture<M, B>
    where
        T: IntoBody<B>,
    {
        self.exchange(request.map(IntoBody::into_body))
    }

    #[inline]
    fn exchange(&self, request: Request<B>) -> KeepAliveFuture<M, B> {
        KeepAliveFuture::new(self.stack.exchange(
            |leases, destination| match leases.get_ref().try_checkout(destination) {
                Ok(pooled) => Acquired::Ready(Lease::from_pooled(pooled)),
                Err(future) => Acquired::Pending(CheckinFuture::new(future)),
            },
            request,
        ))
    }
}

impl<M, B> Service<Request<B>> for KeepAlive<M, B>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    B: HttpBody + Send + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = KeepAliveFuture<M, B>;

    #[inline]
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.exchange(request)
    }
}

impl<M, B: Send + 'static> Clone for KeepAlive<M, B> {
    fn clone(&self) -> Self {
        Self {
            stack: self.stack.clone(),
        }
    }
}

impl<M, B: Send + 'static> fmt::Debug for KeepAlive<M, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeepAlive").finish_non_exhaustive()
    }
}
