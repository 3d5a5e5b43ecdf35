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
    /// Resolves to the upstream's response, or to the error of the service below.
    ///
    /// # Cancel safety
    ///
    /// That of the service below: dropping it gives up the request. Over the agent its connection is closed if it has
    /// begun to send, so that the upstream learns of a caller that has left.
    pub struct ForwardFuture<F> {
        #[pin]
        inner: F,
        // Until it is ready.
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
