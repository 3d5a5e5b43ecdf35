use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response, StatusCode, Version};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;
use tower_service::Service;

use crate::connection::close_reason::CloseReason;
use crate::connection::info::ConnectionInfo;
use crate::connection::poolable::{ErasedLease, Leased, Poolable, Released};
use crate::error::{BoxError, Error, SendError};
use crate::exchange::body::BodyEnd;
use crate::exchange::extras::{self, Extras};
use crate::exchange::hint::{self, ResponseHint};
use crate::exchange::layer::{Drain, Settings};
use crate::exchange::outcomes;
use crate::exchange::timed;
use crate::exchange::{Body, fields};
use crate::target::invalid::TargetError;
#[cfg(feature = "http2")]
use crate::target::protocol::Protocol;
use crate::target::{Destination, Target};

pin_project! {
    /// Resolves to the response.
    ///
    /// # Cancel safety
    ///
    /// Dropping it before it is ready cancels the request: a place in the queue is lost, and a connection on which the
    /// request was begun is closed. Then it is not known whether the server acts on the request.
    ///
    /// `F` is the future of `M`, which provides the connection, and `S` that of the connection `C`, which provides the
    /// response. They are type parameters so that the compiler can see that the future is `Send`, also for bodies that
    /// contain `dyn Error`.
    pub struct ExchangeFuture<M, F, C, S, B>
    where
        C: Poolable,
    {
        parts: Parts<M, F, C, B>,
        // Read from the request at the first poll, and asked for again if a connection did not accept the request.
        destination: Option<Destination>,
        extras: Option<Box<Extras>>,
        // How often in a row the server has refused the request.
        refusals: Refusals,
        #[pin]
        state: State<F, C, S>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<F, C, S>
    where
        C: Poolable,
    {
        // A connection has to be requested, for the first time or again; `service` may not be ready.
        Ask,
        Checkout { #[pin] future: F },
        // `conn` is taken when the response arrives.
        Exchange { conn: AbandonOnDrop<C>, #[pin] future: S },
        // The response has no body, and its connection will be free in a moment.
        Held { answer: Box<Answer> },
    }
}

/// A response that is held back.
struct Answer {
    /// Taken when it is returned to the caller.
    response: Option<Response<Body>>,
    released: Released,
}

/// The parts that are there from the beginning. Together, so that the future is moved without the space of its later
/// states.
struct Parts<M, F, C, B> {
    service: M,
    acquire: AcquireFn<M, C, F>,
    settings: Settings,
    /// Taken when it is sent, and put back if it is returned unsent.
    request: Option<Request<B>>,
}

/// How a connection is requested.
pub(super) type AcquireFn<M, C, F> = fn(&mut M, &Destination) -> Acquired<C, F>;

/// The result of requesting a connection.
pub(crate) enum Acquired<C, F> {
    Ready(C),
    Pending(F),
}

/// A connection with a request in progress: it may not be used again if it is dropped in this state.
struct AbandonOnDrop<C: Poolable>(Option<C>);

impl<C: Poolable> Drop for AbandonOnDrop<C> {
    fn drop(&mut self) {
        if let Some(conn) = &mut self.0 {
            outcomes::observe_abandoned(conn.lifespan());
            conn.lifespan_mut().end_use(CloseReason::Abandoned);
        }
    }
}

impl<M, F, C, S, B> ExchangeFuture<M, F, C, S, B>
where
    C: Poolable,
{
    #[inline]
    pub(super) fn new(
        service: M,
        acquire: AcquireFn<M, C, F>,
        request: Request<B>,
        settings: Settings,
    ) -> Self {
        let request = Some(request);
        Self {
            parts: Parts {
                service,
                acquire,
                settings,
                request,
            },
            destination: None,
            extras: None,
            refusals: Refusals::default(),
            state: State::Ask,
        }
    }
}

impl<M, F, C, S, B, R> Future for ExchangeFuture<M, F, C, S, B>
where
    M: Service<Destination, Response = C, Future = F>,
    M::Error: Into<BoxError>,
    F: Future<Output = Result<C, M::Error>>,
    C: Leased + Service<Request<B>, Response = Response<R>, Error = SendError<B>, Future = S>,
    S: Future<Output = Result<Response<R>, SendError<B>>>,
    B: HttpBody,
    R: HttpBody + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if !matches!(self.state, State::Exchange { .. }) {
            if matches!(self.state, State::Held { .. }) {
                return self.poll_held(cx);
            }
            ready!(self.as_mut().poll_send(cx))?;
        }
        self.poll_answer(cx)
    }
}

impl<M, F, C, S, B, R> ExchangeFuture<M, F, C, S, B>
where
    M: Service<Destination, Response = C, Future = F>,
    M::Error: Into<BoxError>,
    F: Future<Output = Result<C, M::Error>>,
    C: Leased + Service<Request<B>, Response = Response<R>, Error = SendError<B>, Future = S>,
    S: Future<Output = Result<Response<R>, SendError<B>>>,
    B: HttpBody,
    R: HttpBody + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    /// Ready when the request was sent.
    // Not inlined, and neither is the other half: each has its own variables, and a compiler that sees both prepares
    // for both.
    #[inline(never)]
    fn poll_send(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let mut this = self.project();
        if this.destination.is_none() {
            let request = this.parts.request.as_mut().expect("kept until sent");
            let settings = &this.parts.settings;
            if let Err(fault) = extras::begin(request, settings, this.destination, this.extras) {
                // Not sent a second time, because its route may have been taken already.
                this.parts.request = None;
                return Poll::Ready(Err(Error::target(fault)));
            }
        }
        let mut conn = loop {
            if let StateProjection::Checkout { future } = this.state.as_mut().project() {
                let Poll::Ready(checked_out) = future.poll(cx) else {
                    let destination = this.destination.as_mut();
                    destination.expect("read from the request").start_waiting();
                    let late = ready!(poll_late(this.extras, cx));
                    // Leaves the queue, because this future may not be polled or dropped for long.
                    this.state.set(State::Ask);
                    return Poll::Ready(Err(late));
                };
                match checked_out {
                    Ok(conn) => break conn,
                    Err(error) => {
                        let destination = this.destination.as_mut();
                        again(error.into(), destination.expect("read from the request"))?;
                        this.state.set(State::Ask);
                    }
                }
            }
            if let Some(extras) = this.extras {
                extras.check()?;
            }
            let Poll::Ready(ready) = this.parts.service.poll_ready(cx) else {
                return poll_late(this.extras, cx).map(Err);
            };
            ready.map_err(refused)?;
            let destination = this.destination.as_ref();
            let destination = destination.expect("read from the request");
            match (this.parts.acquire)(&mut this.parts.service, destination) {
                Acquired::Ready(conn) => break conn,
                Acquired::Pending(future) => this.state.set(State::Checkout { future }),
            }
        };
        if let Some(extras) = this.extras {
            // The connection may have been delivered too late, while this future was not polled.
            extras.check().inspect_err(|_| this.state.set(State::Ask))?;
        }
        let destination = this.destination.as_ref();
        let destination = destination.expect("read from the request");
        if destination.wants_http2() && !conn.lifespan().shared().is_http2() {
            // The connection is returned unused.
            conn.lifespan_mut().leave_unused();
            drop(conn);
            this.state.set(State::Ask);
            let fault = TargetError::Version(Version::HTTP_2);
            return Poll::Ready(Err(Error::target(fault)));
        }
        if let Some(extras) = this.extras {
            extras.set_on(conn.lifespan().shared(), this.parts.settings.options());
        }
        let exchange = send(conn, &mut this.parts.request, destination);
        this.state.set(exchange);
        Poll::Ready(Ok(()))
    }

    /// Awaits the response. A request that is returned unsent is sent again at the next poll, which comes at once.
    // Without a loop, because a compiler prepares for all of a loop before it, at each poll: 45 instructions for each request.
    #[inline(never)]
    fn poll_answer(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, Error>> {
        let mut this = self.as_mut().project();
        let StateProjection::Exchange { conn, future } = this.state.as_mut().project() else {
            unreachable!("it is sent");
        };
        let mut answer = future.poll(cx);
        if let Poll::Ready(Ok(response)) = &mut answer {
            // Inspected in place and moved once, because it is large.
            let conn = conn.0.take().expect("not polled after it is ready");
            let rare = this.parts.settings.rare_options();
            let end = BodyEnd::new(
                rare.map_or(Drain::NONE, |options| options.drain_unread),
                outcomes::observe_head(conn.lifespan().shared(), response),
            );
            let extras = this.extras.as_deref();
            let (held, info) = answered(conn, response, &this.parts.settings, extras);
            // The use goes on with the body; without a body it is over.
            let (held, busy) = match response.body().is_end_stream() {
                true => (None, held.release_soon(cx)),
                false => (Some(held), None),
            };
            let Poll::Ready(Ok(response)) = answer else {
                unreachable!("it is an answer");
            };
            if info.recorder().is_some() {
                let response = response.map(|it| Body::timed(it, held, info, end));
                return self.finish(response, busy, cx);
            }
            if busy.is_some() {
                let response = response.map(|it| Body::holding(it, held, info, end));
                return self.finish(response, busy, cx);
            }
            return Poll::Ready(Ok(response.map(|it| Body::holding(it, held, info, end))));
        }
        match ready!(answer) {
            Ok(_) => unreachable!("it is no answer"),
            Err(failed) => match self.failed(failed) {
                Some(error) => Poll::Ready(Err(error)),
                None => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
            },
        }
    }

    /// There will be no response. `None`: the request was returned unsent, and asks for another connection.
    #[cold]
    #[inline(never)]
    fn failed(self: Pin<&mut Self>, failed: SendError<B>) -> Option<Error> {
        let mut this = self.project();
        let StateProjection::Exchange { conn, .. } = this.state.as_mut().project() else {
            unreachable!("it is sent");
        };
        let conn = conn.0.take().expect("not polled after it is ready");
        let (error, nothing_written, request) = failed.into_parts();
        let resend = |error: &Error| request.is_some() && this.refusals.let_go_on(error);
        let extras = this.extras.as_deref();
        let (error, is_resent) = unanswered(conn, error, nothing_written, extras, resend);
        let (Some(destination), Some(request), true) = (&mut *this.destination, request, is_resent)
        else {
            if let Some(info) = error.connection() {
                timed::end(info);
            }
            #[cfg(feature = "http2")]
            let error = extras::explained(this.extras, error);
            return Some(error);
        };
        #[cfg(feature = "http2")]
        if error.wants_http1() {
            // Happens once, because no server asks for this over HTTP/1.
            destination.set_protocol(Protocol::Http1);
            extras::http1_is_required(this.extras, error);
        }
        destination.return_to_queue();
        this.parts.request = Some(request);
        this.state.set(State::Ask);
        None
    }
}

impl<M, F, C, S, B> ExchangeFuture<M, F, C, S, B>
where
    C: Poolable,
{
    /// Returns the response; one without a body is held back until its connection is free.
    #[cold]
    fn finish(
        mut self: Pin<&mut Self>,
        response: Response<Body>,
        busy: Option<Released>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, Error>> {
        let Some(released) = busy else {
            return Poll::Ready(Ok(response));
        };
        let answer = Box::new(Answer {
            response: Some(response),
            released,
        });
        self.as_mut().project().state.set(State::Held { answer });
        self.poll_held(cx)
    }

    #[cold]
    fn poll_held(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, Error>> {
        let StateProjection::Held { answer } = self.project().state.project() else {
            unreachable!("it is held back");
        };
        ready!(Pin::new(&mut answer.released).poll(cx));
        let response = answer.response.take();
        Poll::Ready(Ok(response.expect("not polled after it is ready")))
    }
}

/// Ready when an exchange that waits for a connection has reached its time limit.
#[cold]
fn poll_late(extras: &mut Option<Box<Extras>>, cx: &mut Context<'_>) -> Poll<Error> {
    match extras.as_mut().and_then(|it| it.limits.as_mut()) {
        Some(limits) => limits.poll_unsent(cx),
        None => Poll::Pending,
    }
}

/// A caller that lost the connection made for it asks again, at the head of the queue.
#[cold]
fn again(error: BoxError, destination: &mut Destination) -> Result<(), Error> {
    let error = Error::from_checkout(error).to(destination.authority());
    match error.not_polled() {
        Some(waited) if destination.asks_again(waited) => Ok(()),
        _ => Err(error),
    }
}

/// Sends the request on this connection.
#[inline]
fn send<F, C, B>(
    mut conn: C,
    request: &mut Option<Request<B>>,
    destination: &Destination,
) -> State<F, C, C::Future>
where
    C: Poolable + Service<Request<B>>,
    B: HttpBody,
{
    let shared = conn.lifespan().shared();
    if let Some(request) = request {
        // HTTP/2 has no such field; a connection that has a key says the same by itself.
        let needs_host =
            !shared.is_http2() || shared.key().is_none() || destination.is_read_by_proxy();
        if needs_host {
            fields::add_host(request.headers_mut(), shared.key(), destination);
        }
        fields::add_length(request);
    }
    if let Some(max) = destination.connect_timeout() {
        shared.activity().limit_this_use(max);
    }
    let future = conn.call(request.take().expect("kept until sent"));
    State::Exchange {
        conn: AbandonOnDrop(Some(conn)),
        future,
    }
}

fn refused(error: impl Into<BoxError>) -> Error {
    Error::from_checkout(error.into())
}

/// The head of a response has arrived; applies what it says about its connection.
#[inline]
fn answered<C, R>(
    mut conn: C,
    response: &mut Response<R>,
    settings: &Settings,
    extras: Option<&Extras>,
) -> (Box<dyn ErasedLease>, ConnectionInfo)
where
    C: Leased,
    R: HttpBody,
{
    let lifespan = conn.lifespan_mut();
    let ResponseHint {
        mut server_hint,
        is_last,
    } = hint::read(response, settings.server_hint_margin);
    if is_last || extras.is_some_and(|it| it.end_with(response)) {
        lifespan.shared().set_close_reason(CloseReason::Final);
        // hyper ends the connection for most of these reasons, but not for all.
        server_hint.uses = 0;
    }
    lifespan.set_server_hint(server_hint);
    let status = response.status();
    if status == StatusCode::SWITCHING_PROTOCOLS
        || extras.is_some_and(|it| it.connects) && status.is_success()
    {
        lifespan.shared().upgrade();
    }
    if status == StatusCode::MISDIRECTED_REQUEST && response.version() == Version::HTTP_2 {
        // RFC 9110 §15.5.20: the connection does not serve this origin.
        lifespan.shared().poison();
    }
    lifespan.shared().activity().set_caller_waits(false);
    let mut info = ConnectionInfo::of(lifespan);
    if let Some(limits) = extras.and_then(|it| it.limits.as_ref()) {
        limits.answered();
        info = limits.recorded(info);
    }
    if settings.info_in_extensions {
        response.extensions_mut().insert(info.clone());
    }
    (conn.into_erased(), info)
}

/// How often in a row a server may refuse a request before the caller gets an error. If one stream in ten is refused,
/// three would fail one request in ten thousand.
#[cfg(feature = "http2")]
const MOST_REFUSALS: u8 = 7;

/// How often in a row a server has refused the request.
#[derive(Default)]
struct Refusals(#[cfg(feature = "http2")] u8);

impl Refusals {
    /// Whether a request that came back unsent is sent on another connection: one that had been used before may have been just
    /// closing, but who ends one that was made for the request may do so again. A server that refuses requests over HTTP/2
    /// says that it has not acted on them, and that they may come again (RFC 9113 §8.7); unless it ends a connection with an
    /// error on the first of all.
    #[cold]
    #[cfg(feature = "http2")]
    fn let_go_on(&mut self, error: &Error) -> bool {
        if error.wants_http1() {
            self.0 += 1;
            return self.0 <= MOST_REFUSALS;
        }
        if !error.is_refused() {
            return error.is_reused();
        }
        match error.go_away_code() {
            // Each such connection has served others, or one of these callers will be the first on the next one.
            Some(_) if error.is_reused() => true,
            Some(1..) => false,
            Some(0) | None => {
                self.0 += 1;
                self.0 <= MOST_REFUSALS
            }
        }
    }

    /// Whether a request that came back unsent is sent on another connection: one that had been used before may have been just
    /// closing, but who ends one that was made for the request may do so again.
    #[cold]
    #[cfg(not(feature = "http2"))]
    fn let_go_on(&self, error: &Error) -> bool {
        error.is_reused()
    }
}

/// There will be no response, and the use of the connection is over. Says whether the request is sent on another one.
fn unanswered<C: Poolable>(
    mut conn: C,
    error: BoxError,
    unsent: bool,
    extras: Option<&Extras>,
    resend: impl FnOnce(&Error) -> bool,
) -> (Error, bool) {
    let lifespan = conn.lifespan_mut();
    let failed = Error::from_send(error, unsent);
    let is_request_body = failed.is_request_body();
    let info = ConnectionInfo::of(lifespan);
    let failed = failed.on(match extras.and_then(|it| it.limits.as_ref()) {
        Some(limits) => limits.recorded(info),
        None => info,
    });
    outcomes::observe_error(lifespan.shared(), &failed);
    lifespan.end_use(if is_request_body {
        CloseReason::Abandoned
    } else if failed.is_reset() {
        CloseReason::Peer
    } else {
        CloseReason::Error
    });
    let is_resent = resend(&failed);
    if is_resent {
        lifespan.shared().activity().give_back();
    }
    (failed, is_resent)
}

impl<M, F, C, S, B> fmt::Debug for ExchangeFuture<M, F, C, S, B>
where
    C: Poolable,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeFuture")
            .field("destination", &self.destination)
            .finish_non_exhaustive()
    }
}
