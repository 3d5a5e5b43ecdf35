use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Method, Request, Response, StatusCode};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::cause::Cause;
use crate::error::{BoxError, Error, Kind, SendError, TargetError};
use crate::exchange::hint::{self, Hint};
use crate::exchange::layer::Settings;
use crate::exchange::{Body, request};
use crate::info::ConnectionInfo;
use crate::poolable::Poolable;
use crate::target::{Destination, Target};

pin_project! {
    /// Resolves to the response.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it is ready gives up the request: a place in line is lost, a connection that has begun to
    /// send is closed. Whether the server acts on the request cannot be known then.
    pub struct ExchangeFuture<M, C, B>
    where
        M: Service<Destination>,
        C: Service<Request<B>>,
        C: Poolable,
    {
        service: M,
        settings: Settings,
        // Asked for again where a connection did not take the request; none where the request cannot be sent.
        destination: Option<Destination>,
        // Until it is sent, and again when it comes back unsent.
        request: Option<Request<B>>,
        connects: bool,
        // The connection is not to be used after it.
        is_last: bool,
        #[pin]
        state: State<M::Future, C, C::Future>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, C, S>
    where
        C: Poolable,
    {
        // It cannot be sent.
        Refused { fault: Option<TargetError> },
        // Asking for a connection, for the first time or again; `service` may not be ready.
        Ask,
        Checkout { #[pin] future: F },
        // Without its connection once it is answered.
        Exchange { conn: InUse<C>, #[pin] future: S },
    }
}

/// A connection with a request on it: if it is dropped like this, it is not to be used again.
struct InUse<C: Poolable>(Option<C>);

impl<C: Poolable> Drop for InUse<C> {
    fn drop(&mut self) {
        if let Some(conn) = &mut self.0 {
            conn.lifespan_mut().end(Cause::Abandoned);
        }
    }
}

impl<M, C, B> ExchangeFuture<M, C, B>
where
    M: Service<Destination>,
    C: Service<Request<B>> + Poolable,
    B: HttpBody,
{
    #[inline]
    pub(super) fn new(service: M, mut request: Request<B>, settings: Settings) -> Self {
        let is_last = hint::says_close(request.headers());
        let connects = request.method() == Method::CONNECT;
        let (destination, state) = match request::aim(&mut request, &settings) {
            Ok(destination) => (Some(destination), State::Ask),
            Err(fault) => (None, State::Refused { fault: Some(fault) }),
        };
        Self {
            service,
            settings,
            destination,
            request: Some(request),
            connects,
            is_last,
            state,
        }
    }
}

impl<M, C, B, R> Future for ExchangeFuture<M, C, B>
where
    M: Service<Destination, Response = C>,
    M::Error: Into<BoxError>,
    C: Poolable + Service<Request<B>, Response = Response<R>, Error = SendError<B>>,
    R: HttpBody + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Error>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Refused { fault } => {
                    let fault = fault.take().expect("not polled after it is ready");
                    return Poll::Ready(Err(Error::new(Kind::Target(fault))));
                }
                StateProjection::Ask => {
                    ready!(this.service.poll_ready(cx)).map_err(refused)?;
                    let destination = this.destination.clone();
                    let destination = destination.expect("kept where it can be sent");
                    let future = this.service.call(destination);
                    this.state.set(State::Checkout { future });
                }
                StateProjection::Checkout { future } => {
                    let mut conn = ready!(future.poll(cx)).map_err(refused)?;
                    if let (Some(destination), Some(request)) =
                        (&*this.destination, &mut *this.request)
                    {
                        let bond = conn.lifespan().bond();
                        request::add_host(request, bond.key(), destination);
                        if let Some(max) = destination.connect_timeout() {
                            bond.activity().limit_this_use(max);
                        }
                    }
                    if *this.is_last {
                        // Before it is sent: its driver may be done before the answer is looked at.
                        conn.lifespan().bond().note(Cause::Final);
                    }
                    let future = conn.call(this.request.take().expect("kept until sent"));
                    let conn = InUse(Some(conn));
                    this.state.set(State::Exchange { conn, future });
                }
                StateProjection::Exchange { conn, future } => {
                    let answer = ready!(future.poll(cx));
                    let conn = conn.0.take().expect("not polled after it is ready");
                    match answer {
                        Ok(response) => {
                            let response = answered(conn, response, this.settings, *this.connects);
                            return Poll::Ready(Ok(response));
                        }
                        Err(SendError { error, unsent }) => {
                            let is_unsent = unsent.is_some();
                            let error = unanswered(conn, error, is_unsent);
                            let (Some(destination), Some(request), true) =
                                (&mut *this.destination, unsent, error.is_reused())
                            else {
                                return Poll::Ready(Err(error));
                            };
                            destination.return_to_line();
                            *this.request = Some(*request);
                            this.state.set(State::Ask);
                        }
                    }
                }
            }
        }
    }
}

fn refused(error: impl Into<BoxError>) -> Error {
    Error::from_checkout(error.into())
}

/// The head of a response is here; the connection goes with the body, or back if there is none.
#[inline]
fn answered<C, R>(
    mut conn: C,
    mut response: Response<R>,
    settings: &Settings,
    connects: bool,
) -> Response<Body>
where
    C: Poolable,
    R: HttpBody + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    let lifespan = conn.lifespan_mut();
    let Hint { word, is_last } = hint::read(&response, settings.server_hint_margin);
    lifespan.hear(word);
    if is_last {
        lifespan.bond().note(Cause::Final);
    }
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS || connects && status.is_success() {
        lifespan.bond().upgrade();
    }
    lifespan.bond().activity().set_caller_waits(false);
    let info = ConnectionInfo::of(lifespan);
    if settings.info_in_extensions {
        response.extensions_mut().insert(info.clone());
    }
    let held = conn.into_use();
    let held = if response.body().is_end_stream() {
        held.release();
        None
    } else {
        Some(held)
    };
    response.map(|body| Body::new(body, held, info, settings.drain_unread))
}

/// There will be no response. The connection is of no use any more.
fn unanswered<C: Poolable>(mut conn: C, error: BoxError, unsent: bool) -> Error {
    let lifespan = conn.lifespan_mut();
    let mut failed = Error::new(Kind::Exchange).caused_by(error);
    if unsent {
        failed = failed.unsent();
    }
    lifespan.end(if failed.is_reset() {
        Cause::Peer
    } else {
        Cause::Error
    });
    failed.on(ConnectionInfo::of(lifespan))
}

impl<M, C, B> fmt::Debug for ExchangeFuture<M, C, B>
where
    M: Service<Destination>,
    C: Service<Request<B>> + Poolable,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeFuture")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}
