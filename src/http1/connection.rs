use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use tower_service::Service;

use crate::cause::Cause;
use crate::connect::Probe;
use crate::error::SendError;
use crate::lifespan::Lifespan;
use crate::poolable::{Liveness, Poolable};

/// An HTTP/1 connection: a `Service` for one request at a time.
///
/// It sends a request as it is. What a request to an origin needs, the target form and `Host`, is
/// [`Exchange`](crate::Exchange)'s to give.
///
/// It has to be kept until the response body has ended. Dropping it closes the transport: in good order if its last
/// exchange is over, at once if not.
pub struct Http1Connection<B> {
    sender: SendRequest<B>,
    probe: Option<Probe>,
    lifespan: Lifespan,
}

impl<B> Http1Connection<B> {
    pub(super) fn new(sender: SendRequest<B>, probe: Option<Probe>, lifespan: Lifespan) -> Self {
        Self {
            sender,
            probe,
            lifespan,
        }
    }
}

impl<B> Poolable for Http1Connection<B>
where
    B: Send + 'static,
{
    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }

    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // An error says that it is closed.
        self.sender.poll_ready(cx).map(|_| ())
    }

    fn probe(&mut self) -> Liveness {
        self.probe.as_ref().map_or(Liveness::Unknown, Probe::look)
    }

    fn lifespan(&self) -> &Lifespan {
        &self.lifespan
    }

    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.lifespan
    }
}

impl<B> Service<Request<B>> for Http1Connection<B>
where
    B: Body + Send + 'static,
{
    type Response = Response<Incoming>;
    type Error = SendError<B>;
    type Future = Http1Future<B>;

    /// Always: a new connection takes a request before its driver has run, and a used one is taken from its pool only
    /// when it is free.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), SendError<B>>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Http1Future<B> {
        let sent = self.sender.try_send_request(request);
        Http1Future(Box::pin(async move {
            sent.await.map_err(|mut error| SendError {
                unsent: error.take_message(),
                error: error.into_error().into(),
            })
        }))
    }
}

impl<B> Drop for Http1Connection<B> {
    fn drop(&mut self) {
        let bond = self.lifespan.bond();
        bond.note(Cause::Dropped);
        let over = self
            .sender
            .poll_ready(&mut Context::from_waker(Waker::noop()));
        // A driver with nothing to do ends by itself when the sender is gone, and says goodbye. One that is in the
        // middle of something might wait for it for ever (hyper#4176). One that was detached is not ours any more.
        if over.is_pending() && !bond.is_detached() {
            bond.kill(Cause::Dropped);
        }
    }
}

impl<B> fmt::Debug for Http1Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1Connection")
            .field("lifespan", &self.lifespan)
            .finish_non_exhaustive()
    }
}

/// Resolves to the head of the response. Boxed: hyper gives its future no name.
///
/// # Cancel safety
///
/// Dropping it before it is ready closes the connection: HTTP/1 has no other way to give up a request.
pub struct Http1Future<B>(
    Pin<Box<dyn Future<Output = Result<Response<Incoming>, SendError<B>>> + Send>>,
);

impl<B> Future for Http1Future<B> {
    type Output = Result<Response<Incoming>, SendError<B>>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<B> fmt::Debug for Http1Future<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Http1Future")
    }
}
