use std::any::Any;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use hyper::body::Incoming;
use tokio::runtime::Handle;

use crate::clock::Millis;
use crate::connection::close_reason::CloseReason;
use crate::connection::info::ConnectionInfo;
use crate::connection::outcome_observer::Verdict;
use crate::connection::poolable::{ErasedLease, Released};
use crate::error::{BoxError, Error, Kind};
use crate::exchange::in_bytes::InBytes;
use crate::exchange::layer::Drain;
use crate::exchange::outcomes;
use crate::exchange::timed::Timed;
use crate::handshake::IncomingBody;

/// The body of a response. It holds its connection, and returns the connection to the pool with its last frame.
///
/// A body that was read to its end may be kept for as long as you like. On a runtime of several threads the last frame may be
/// held back for a moment until the connection is free, so that the caller's next request finds it idle. A body that is
/// dropped before its end closes its connection, unless the rest of the body had already arrived; over HTTP/2 it ends its
/// stream, and its connection goes on.
///
/// # Errors
///
/// An [`Error`] if the connection fails before the end, or ends before the length that the server announced.
pub struct Body {
    inner: Inner,
    /// `None` after the end.
    held: Option<Box<dyn ErasedLease>>,
    info: ConnectionInfo,
    end: BodyEnd,
}

/// What happens at the end of a body, or when it is dropped before. The parts of a [`Drain`] are fields of their own, which makes
/// it eight bytes shorter: a body is moved with its response.
pub(super) struct BodyEnd {
    drain_bytes: u64,
    drain_time: Millis,
    /// What the head of the response says of its address, if that counts with the end of the body.
    verdict: Option<Verdict>,
}

// More than 256 bytes take twice the instructions to move.
#[cfg(all(test, target_os = "linux", target_pointer_width = "64"))]
const _: () = assert!(size_of::<Response<Body>>() <= 256);

impl BodyEnd {
    #[inline]
    pub(super) fn new(drain: Drain, verdict: Option<Verdict>) -> Self {
        Self {
            drain_bytes: drain.bytes,
            drain_time: drain.time,
            verdict,
        }
    }

    fn drain(&self) -> Drain {
        Drain {
            bytes: self.drain_bytes,
            time: self.drain_time,
        }
    }
}

enum Inner {
    Http1(Incoming),
    /// Of another version of HTTP.
    Incoming(IncomingBody),
    Other(BoxBody<Bytes, BoxError>),
    /// At its end, which is held back.
    Held(Box<End>),
}

/// The end of a body whose connection will be free in a moment.
struct End {
    /// The last frame, if the body ended with one.
    frame: Option<Frame<Bytes>>,
    released: Released,
}

impl Body {
    /// A body of another type, boxed: the body of a layer above that wraps a [`Body`], or that of a stub in a test.
    ///
    /// Such a body has no [`connection`](Self::connection); [`from_response`](Self::from_response) keeps it. A `Body`
    /// is returned unchanged.
    ///
    /// ```
    /// use bytes::Bytes;
    /// use http::{Request, Response};
    /// use http_body_util::Full;
    /// use tower::service_fn;
    /// use tower_keep_alive::{Body, Error, RequestBody};
    ///
    /// // Answers in the place of a client, in a test.
    /// let stub = service_fn(|_: Request<RequestBody>| async {
    ///     let body = Body::new(Full::new(Bytes::from("hello")));
    ///     Ok::<_, Error>(Response::new(body))
    /// });
    /// # fn is_a_client<S: tower::Service<Request<RequestBody>, Response = Response<Body>, Error = Error>>(_: S) {}
    /// # is_a_client(stub);
    /// ```
    #[must_use]
    pub fn new<R>(body: R) -> Self
    where
        R: HttpBody + Send + Sync + 'static,
        R::Error: Into<BoxError>,
    {
        let mut body = Some(body);
        let own = (&mut body as &mut dyn Any).downcast_mut::<Option<Self>>();
        match own.and_then(Option::take) {
            Some(body) => body,
            None => Self::about(body, ConnectionInfo::none()),
        }
    }

    /// Makes the body of a response a [`Body`] again, after a layer has changed its type, such as tower-http's
    /// `DecompressionLayer`. Pass this function to `map_response` directly above that layer; everything above has a type that
    /// can be named. [Common tasks](crate::guides::common_tasks#compressed-responses) has an example.
    ///
    /// The [`connection`](Self::connection) is kept. It comes from the response's extensions, so it is lost with
    /// [`info_in_extensions(false)`](crate::KeepAliveLayer::info_in_extensions).
    ///
    /// ```
    /// use http::{Request, Response};
    /// use http_body_util::BodyExt;
    /// use tower::ServiceBuilder;
    /// use tower_keep_alive::connect::DefaultConnector;
    /// use tower_keep_alive::{Body, BoxError, KeepAliveLayer, RequestBody};
    ///
    /// let client = ServiceBuilder::new()
    ///     .map_response(Body::from_response)
    ///     // Any layer that gives the body another type.
    ///     .map_response(|response: Response<Body>| response.map(|body| body.map_err(BoxError::from)))
    ///     .layer(KeepAliveLayer::new())
    ///     .service(DefaultConnector::new());
    /// # fn is_a_client<S: tower::Service<Request<RequestBody>, Response = Response<Body>>>(_: S) {}
    /// # is_a_client(client);
    /// ```
    #[must_use]
    pub fn from_response<R>(response: Response<R>) -> Response<Self>
    where
        R: HttpBody + Send + Sync + 'static,
        R::Error: Into<BoxError>,
    {
        let info = response.extensions().get::<ConnectionInfo>().cloned();
        response.map(|body| match info {
            Some(info) => Self::about(Some(body), info),
            None => Self::new(body),
        })
    }

    /// A body that holds no connection.
    fn about<R>(body: Option<R>, info: ConnectionInfo) -> Self
    where
        R: HttpBody + Send + Sync + 'static,
        R::Error: Into<BoxError>,
    {
        Self {
            inner: Inner::boxed(body),
            held: None,
            info,
            end: BodyEnd::new(Drain::NONE, None),
        }
    }

    #[inline]
    pub(super) fn holding<R>(
        body: R,
        held: Option<Box<dyn ErasedLease>>,
        info: ConnectionInfo,
        end: BodyEnd,
    ) -> Self
    where
        R: HttpBody + Send + Sync + 'static,
        R::Error: Into<BoxError>,
    {
        // The most frequent type is recognised without a box.
        let mut body = Some(body);
        let incoming = (&mut body as &mut dyn Any).downcast_mut::<Option<IncomingBody>>();
        let inner = match incoming.and_then(Option::take) {
            Some(incoming) => match incoming.into_http1() {
                Ok(body) => Inner::Http1(body),
                Err(body) => Inner::Incoming(body),
            },
            None => Inner::boxed(body),
        };
        Self {
            inner,
            held,
            info,
            end,
        }
    }

    /// The body of an exchange whose times are recorded.
    #[cold]
    pub(super) fn timed<R>(
        body: R,
        held: Option<Box<dyn ErasedLease>>,
        info: ConnectionInfo,
        end: BodyEnd,
    ) -> Self
    where
        R: HttpBody + Send + Sync + 'static,
        R::Error: Into<BoxError>,
    {
        let body = Timed::new(body, info.clone());
        Self::holding(body, held, info, end)
    }

    /// The connection on which the response was received. If there was none ([`Body::new`]), the info has no key, and
    /// its [`uses`](ConnectionInfo::uses) are 0.
    #[must_use]
    pub fn connection(&self) -> &ConnectionInfo {
        &self.info
    }

    /// Ends the use; returns what to wait for, if the connection is not free yet.
    #[inline]
    fn ended(&mut self, cx: &mut Context<'_>) -> Option<Released> {
        let held = self.held.take()?;
        self.report();
        held.release_soon(cx)
    }

    /// The result of the exchange is what the head of its response has said.
    #[inline]
    fn report(&mut self) {
        if let Some(verdict) = self.end.verdict.take() {
            outcomes::report(self.info.shared(), verdict);
        }
    }

    /// Updates the connection's state after each frame, and at the end of the body.
    #[inline]
    fn after_poll<E>(
        &mut self,
        polled: &Poll<Option<Result<Frame<Bytes>, E>>>,
        cx: &mut Context<'_>,
    ) -> Option<Released> {
        // After its end, the connection belongs to somebody else.
        self.held.as_ref()?;
        let activity = self.info.shared().activity();
        activity.set_caller_waits(polled.is_pending());
        match polled {
            // A caller that knows the length does not poll again after the last frame.
            Poll::Ready(Some(Ok(_))) if self.inner.is_end_stream() => self.ended(cx),
            Poll::Ready(None) => self.ended(cx),
            _ => None,
        }
    }

    /// Holds the end of the body back until the connection is free.
    #[cold]
    fn hold_back<E: Into<BoxError>>(
        &mut self,
        end: Poll<Option<Result<Frame<Bytes>, E>>>,
        released: Released,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = match end {
            Poll::Ready(Some(Ok(frame))) => Some(frame),
            _ => None,
        };
        self.inner = Inner::Held(Box::new(End { frame, released }));
        let polled = self.inner.poll_frame(cx);
        self.map_error(polled)
    }

    /// Replaces the error of the body by the agent's own.
    #[inline]
    fn map_error<E: Into<BoxError>>(
        &mut self,
        polled: Poll<Option<Result<Frame<Bytes>, E>>>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        match polled {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(frame))),
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(self.failed(error.into())))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }

    fn failed(&mut self, source: BoxError) -> Error {
        if let Some(mut held) = self.held.take() {
            let error = Error::new(Kind::Body)
                .caused_by(source)
                .on(self.info.clone());
            if self.end.verdict.take().is_some() {
                outcomes::observe_error(self.info.shared(), &error);
            }
            held.lifespan_mut().end_use(CloseReason::Error);
            held.release();
            return error;
        }
        // The error may come through a layer.
        match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => {
                let error = Error::new(Kind::Body).caused_by(source);
                match self.info.is_none() {
                    true => error,
                    false => error.with_connection(self.info.clone()),
                }
            }
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Error;

    #[inline]
    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        // Inspected in place, and moved once if it is hyper's own, because it is large.
        match &mut self.inner {
            Inner::Http1(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                match self.after_poll(&polled, cx) {
                    None => self.map_error(polled),
                    Some(released) => self.hold_back(polled, released, cx),
                }
            }
            inner => {
                let polled = inner.poll_frame(cx);
                match self.after_poll(&polled, cx) {
                    None => self.map_error(polled),
                    Some(released) => self.hold_back(polled, released, cx),
                }
            }
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Inner {
    fn boxed<R>(body: Option<R>) -> Self
    where
        R: HttpBody + Send + Sync + 'static,
        R::Error: Into<BoxError>,
    {
        Self::Other(body.map_or_else(BoxBody::default, |inner| BoxBody::new(InBytes { inner })))
    }

    #[inline]
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self {
            Self::Http1(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Into::into))),
            Self::Incoming(body) => Pin::new(body).poll_frame(cx),
            Self::Other(body) => Pin::new(body).poll_frame(cx),
            Self::Held(end) => {
                ready!(Pin::new(&mut end.released).poll(cx));
                let frame = end.frame.take();
                *self = Self::Other(BoxBody::default());
                Poll::Ready(frame.map(Ok))
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Incoming(body) => body.size_hint(),
            Self::Other(body) => body.size_hint(),
            Self::Held(end) => {
                let data = end.frame.as_ref().and_then(Frame::data_ref);
                SizeHint::with_exact(data.map_or(0, |data| data.len() as u64))
            }
        }
    }

    /// Whether dropping it before its end makes the connection unusable.
    fn ends_its_connection(&self) -> bool {
        match self {
            Self::Incoming(body) => body.ends_its_connection(),
            Self::Http1(_) | Self::Other(_) | Self::Held(_) => true,
        }
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Incoming(body) => body.is_end_stream(),
            Self::Other(body) => body.is_end_stream(),
            Self::Held(_) => false,
        }
    }
}

impl Drop for Body {
    #[inline]
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            self.give_up(held);
        }
    }
}

impl Body {
    /// The body is dropped before its end.
    #[cold]
    fn give_up(&mut self, mut held: Box<dyn ErasedLease>) {
        self.report();
        held.lifespan_mut().leave_unfinished();
        let rest = mem::replace(&mut self.inner, Inner::Other(BoxBody::default()));
        let drain = self.end.drain();
        if drain.is_wanted()
            && rest.ends_its_connection()
            && rest.size_hint().lower() <= drain.bytes
            && let Ok(runtime) = Handle::try_current()
        {
            held.lifespan_mut()
                .shared()
                .set_reading_rest(drain.time.time());
            runtime.spawn(read_on(rest, held, drain));
            return;
        }
        // First the rest of the body, so that the driver knows whether it has all of it.
        drop(rest);
        held.release();
    }
}

/// Reads the rest of a body, so that the connection can be used again. Ends with the body, or at the first of its
/// limits; then the connection is closed.
async fn read_on(mut rest: Inner, held: Box<dyn ErasedLease>, drain: Drain) {
    let mut held = Abandoned(Some(held));
    let mut left = drain.bytes;
    let to_the_end = poll_fn(|cx| {
        while !rest.is_end_stream() {
            match ready!(rest.poll_frame(cx)) {
                None => return Poll::Ready(true),
                Some(Err(_)) => return Poll::Ready(false),
                Some(Ok(frame)) => {
                    let read = frame.data_ref().map_or(0, Bytes::len);
                    match left.checked_sub(read as u64) {
                        Some(rest) => left = rest,
                        None => return Poll::Ready(false),
                    }
                }
            }
        }
        Poll::Ready(true)
    });
    let ended = tokio::time::timeout(drain.time.time(), to_the_end).await;
    if ended == Ok(true)
        && let Some(mut held) = held.0.take()
    {
        held.lifespan_mut().shared().has_read_rest();
        held.release();
    }
}

/// A use that is closed if it is dropped.
struct Abandoned(Option<Box<dyn ErasedLease>>);

impl Drop for Abandoned {
    fn drop(&mut self) {
        if let Some(mut held) = self.0.take() {
            held.lifespan_mut().end_use(CloseReason::Abandoned);
            held.release();
        }
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("connection", &self.info)
            .field("held", &self.held.is_some())
            .finish_non_exhaustive()
    }
}
