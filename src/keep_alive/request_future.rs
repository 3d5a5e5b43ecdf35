use std::fmt;
use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::connect::DefaultConnector;
use crate::error::{BoxError, Error};
use crate::exchange::Body;
use crate::keep_alive::{KeepAliveFuture, RequestBody};
use crate::target::Destination;

pin_project! {
    /// Resolves to the response of [`KeepAlive::get`](crate::KeepAlive::get), `head` or `post`.
    ///
    /// # Cancel safety
    ///
    /// As for [`KeepAliveFuture`].
    pub struct RequestFuture<M = DefaultConnector> {
        #[pin]
        state: State<M>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<M> {
        // There is no request, because its URI cannot be parsed.
        Failed { #[pin] error: Ready<Error> },
        Sent { #[pin] exchange: KeepAliveFuture<M, RequestBody> },
    }
}

impl<M> RequestFuture<M> {
    pub(super) fn new(started: Result<KeepAliveFuture<M, RequestBody>, Error>) -> Self {
        let state = match started {
            Ok(exchange) => State::Sent { exchange },
            Err(error) => State::Failed {
                error: ready(error),
            },
        };
        Self { state }
    }
}

impl<M> Future for RequestFuture<M>
where
    M: Service<Destination> + Clone + Send + Sync + 'static,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProjection::Failed { error } => error.poll(cx).map(Err),
            StateProjection::Sent { exchange } => exchange.poll(cx),
        }
    }
}

impl<M> fmt::Debug for RequestFuture<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RequestFuture")
    }
}
