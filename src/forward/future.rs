use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http::Response;
use pin_project_lite::pin_project;

use crate::forward::layer::Settings;
use crate::forward::message::{Asked, inbound};

pin_project! {
    /// Resolves to the upstream's response, or to the error of the inner service.
    ///
    /// # Cancel safety
    ///
    /// As for the inner service: dropping the future cancels the request. If the inner service is the agent and the
    /// request has been sent in part, its connection is closed, and so the upstream notices that the caller has left.
    pub struct ForwardFuture<F> {
        #[pin]
        inner: F,
        // Taken when the response is ready.
        asked: Option<Asked>,
        settings: Arc<Settings>,
    }
}

impl<F> ForwardFuture<F> {
    pub(super) fn new(inner: F, asked: Asked, settings: Arc<Settings>) -> Self {
        Self {
            inner,
            asked: Some(asked),
            settings,
        }
    }
}

impl<F, R, E> Future for ForwardFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let mut response = ready!(this.inner.poll(cx))?;
        if let Some(asked) = this.asked.take() {
            inbound(&mut response, asked, this.settings);
        }
        Poll::Ready(Ok(response))
    }
}

impl<F> fmt::Debug for ForwardFuture<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ForwardFuture")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}
