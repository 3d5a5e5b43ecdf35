use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::forward::ForwardFuture;
use crate::forward::layer::Settings;
use crate::forward::message::outbound;

/// Forwards each request to an upstream through `S`; the service that [`ForwardLayer`](crate::forward::ForwardLayer)
/// makes.
///
/// It has the body types and the error of `S`, and is ready when `S` is.
///
/// # Clone
///
/// Clones share whatever clones of `S` share.
#[derive(Clone, Debug)]
pub struct Forward<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S> Forward<S> {
    pub(super) fn new(inner: S, settings: Arc<Settings>) -> Self {
        Self { inner, settings }
    }

    /// The service that sends the requests.
    pub const fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The service that sends the requests.
    pub const fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The service that sends the requests.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, B, R> Service<Request<B>> for Forward<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    B: Body,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = ForwardFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (request, asked) = outbound(request, &self.settings);
        ForwardFuture::new(self.inner.call(request), asked, self.settings.clone())
    }
}
