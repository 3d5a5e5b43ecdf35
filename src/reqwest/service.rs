use std::fmt;
use std::future::Future;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use reqwest::{ResponseBuilderExt, Url};
use tower_service::Service;

use crate::error::{BoxError, Error};
use crate::target::extensions::RequestTimeout;
use crate::target::invalid::TargetError;

/// Sends reqwest's requests over `S`; the service that [`ReqwestLayer`](crate::reqwest::ReqwestLayer) makes.
///
/// The extensions of a request that was made from an `http::Request` are sent with it, so
/// [`Partition`](crate::extensions::Partition), [`OneShot`](crate::extensions::OneShot) and [`InactivityTimeout`](crate::extensions::InactivityTimeout)
/// work. The `reqwest::Response` has the extensions of the inner response, such as
/// [`ConnectionInfo`](crate::ConnectionInfo). Its URL is the request's, unless a layer below has set another one by
/// reqwest's `ResponseBuilderExt`, for example after a redirect.
///
/// The request's own `timeout` is honoured as a [`RequestTimeout`](crate::extensions::RequestTimeout): it limits the whole
/// exchange, to the end of the response body. The `timeout` of a `reqwest::Client` is not visible here; set
/// [`request_timeout`](crate::KeepAliveLayer::request_timeout) instead.
///
/// # Errors
///
/// The errors of `S`. For a URL that is not a URI, an [`Error`] for which [`is_target`](Error::is_target) is true.
#[derive(Clone, Debug)]
pub struct Reqwest<S> {
    inner: S,
}

impl<S> Reqwest<S> {
    pub(super) const fn new(inner: S) -> Self {
        Self { inner }
    }
}

impl<S, R> Service<reqwest::Request> for Reqwest<S>
where
    S: Service<http::Request<reqwest::Body>, Response = http::Response<R>>,
    S::Error: From<Error>,
    R: HttpBody + Send + Sync + 'static,
    R::Data: Into<Bytes>,
    R::Error: Into<BoxError>,
{
    type Response = reqwest::Response;
    type Error = S::Error;
    type Future = ReqwestFuture<S::Future, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: reqwest::Request) -> Self::Future {
        let url = request.url().clone();
        let (answer, refused) = match outbound(request) {
            Ok(request) => (Some(self.inner.call(request)), None),
            Err(error) => (None, Some(error.into())),
        };
        ReqwestFuture {
            answer,
            url: Some(url),
            refused,
        }
    }
}

pin_project! {
    /// Resolves to a response of reqwest.
    ///
    /// # Cancel safety
    ///
    /// Dropping it drops the future of the inner service, and nothing else.
    pub struct ReqwestFuture<F, E> {
        // `None` if the request was not passed to the inner service.
        #[pin]
        answer: Option<F>,
        url: Option<Url>,
        refused: Option<E>,
    }
}

impl<F, R, E> Future for ReqwestFuture<F, E>
where
    F: Future<Output = Result<http::Response<R>, E>>,
    R: HttpBody + Send + Sync + 'static,
    R::Data: Into<Bytes>,
    R::Error: Into<BoxError>,
{
    type Output = Result<reqwest::Response, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Some(answer) = this.answer.as_pin_mut() else {
            let error = this.refused.take();
            return Poll::Ready(Err(error.expect("not polled after its end")));
        };
        let response = ready!(answer.poll(cx))?;
        let url = this.url.take().expect("not polled after its end");
        Poll::Ready(Ok(inbound(response, url)))
    }
}

impl<F, E> fmt::Debug for ReqwestFuture<F, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReqwestFuture")
    }
}

/// Sets the request's own timeout as the agent's extension, unless the request has that extension already.
pub(super) fn outbound(request: reqwest::Request) -> Result<http::Request<reqwest::Body>, Error> {
    let timeout = request.timeout().copied();
    let mut request = http::Request::try_from(request)
        .map_err(|error| Error::target(TargetError::Url).caused_by(error))?;
    if let Some(timeout) = timeout {
        let extensions = request.extensions_mut();
        extensions.get_or_insert_with(|| RequestTimeout(timeout));
    }
    Ok(request)
}

pub(super) fn inbound<R>(mut response: http::Response<R>, url: Url) -> reqwest::Response
where
    R: HttpBody + Send + Sync + 'static,
    R::Data: Into<Bytes>,
    R::Error: Into<BoxError>,
{
    // reqwest has no public name for the extension that carries the URL.
    let mut extensions = http::Response::builder().url(url);
    if let Some(extensions) = extensions.extensions_mut() {
        // Extensions of the layers below are added last, so that they take precedence.
        extensions.extend(mem::take(response.extensions_mut()));
        mem::swap(extensions, response.extensions_mut());
    }
    response.map(reqwest::Body::wrap).into()
}
