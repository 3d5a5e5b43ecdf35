use std::fmt;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::{BoxBody, UnsyncBoxBody};
use http_body_util::{Empty, Full, StreamBody};

use crate::error::BoxError;
use crate::exchange::InBytes;

/// The default body type of requests of [`KeepAlive`](crate::KeepAlive), which many types convert into.
///
/// `From` accepts `()`, for no body, and `&'static str`, `String`, `&'static [u8]`, `Vec<u8>`, [`Bytes`], `Full<Bytes>`
/// and `Empty<Bytes>`, which are sent with their `Content-Length`; also http-body-util's `BoxBody`, `UnsyncBoxBody` and
/// `StreamBody`. For any other [`http_body::Body`] use [`RequestBody::new`].
///
/// A `RequestBody` may be a stream, so it is not `Clone`. [`try_clone`](Self::try_clone) copies one that consists of
/// bytes, and [`ReusedReset`](crate::retry::ReusedReset) does so before it sends a request.
///
/// ```
/// use bytes::Bytes;
/// use http_body::Body;
/// use http_body_util::StreamBody;
/// use tower_keep_alive::RequestBody;
///
/// assert!(RequestBody::from(()).is_end_stream());
/// assert_eq!(RequestBody::from("name=value").size_hint().exact(), Some(10));
/// assert_eq!(RequestBody::from(vec![1, 2, 3]).size_hint().exact(), Some(3));
///
/// let pieces = futures_util::stream::iter(["one ", "two"].map(|piece| {
///     Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from(piece)))
/// }));
/// let streamed = RequestBody::from(StreamBody::new(pieces));
/// assert_eq!(streamed.size_hint().exact(), None);
/// ```
pub struct RequestBody(Inner);

enum Inner {
    /// Empty once it was read.
    Bytes(Bytes),
    Boxed(UnsyncBoxBody<Bytes, BoxError>),
}

impl RequestBody {
    /// No body.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Inner::Bytes(Bytes::new()))
    }

    /// A body of another type, boxed. If its length is known it is sent with a `Content-Length`, otherwise in chunks.
    #[must_use]
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody + Send + 'static,
        B::Error: Into<BoxError>,
    {
        Self(Inner::Boxed(UnsyncBoxBody::new(InBytes { inner: body })))
    }

    /// A copy, if the body is bytes; `None` for a stream, which can be read only once.
    #[must_use]
    pub fn try_clone(&self) -> Option<Self> {
        match &self.0 {
            Inner::Bytes(bytes) => Some(bytes.clone().into()),
            Inner::Boxed(_) => None,
        }
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match &mut self.0 {
            Inner::Bytes(bytes) if bytes.is_empty() => Poll::Ready(None),
            Inner::Bytes(bytes) => Poll::Ready(Some(Ok(Frame::data(mem::take(bytes))))),
            Inner::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Bytes(bytes) => bytes.is_empty(),
            Inner::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Inner::Boxed(body) => body.size_hint(),
        }
    }
}

impl Default for RequestBody {
    fn default() -> Self {
        Self::empty()
    }
}

impl From<()> for RequestBody {
    fn from((): ()) -> Self {
        Self::empty()
    }
}

impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        Self(Inner::Bytes(bytes))
    }
}

impl From<Full<Bytes>> for RequestBody {
    fn from(mut body: Full<Bytes>) -> Self {
        // It is one frame, or none, and always ready.
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(frame))) => frame.into_data().unwrap_or_default().into(),
            _ => Self::empty(),
        }
    }
}

impl From<Empty<Bytes>> for RequestBody {
    fn from(_: Empty<Bytes>) -> Self {
        Self::empty()
    }
}

impl<E> From<BoxBody<Bytes, E>> for RequestBody
where
    E: Into<BoxError> + 'static,
{
    fn from(body: BoxBody<Bytes, E>) -> Self {
        Self::new(body)
    }
}

impl<E> From<UnsyncBoxBody<Bytes, E>> for RequestBody
where
    E: Into<BoxError> + 'static,
{
    fn from(body: UnsyncBoxBody<Bytes, E>) -> Self {
        Self::new(body)
    }
}

impl<S> From<StreamBody<S>> for RequestBody
where
    StreamBody<S>: HttpBody<Error: Into<BoxError>> + Send + 'static,
{
    fn from(body: StreamBody<S>) -> Self {
        Self::new(body)
    }
}

impl From<Vec<u8>> for RequestBody {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}

impl From<&'static [u8]> for RequestBody {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}

impl From<String> for RequestBody {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for RequestBody {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

/// Shows the length, not the contents.
impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestBody")
            .field("size", &self.size_hint().exact())
            .finish_non_exhaustive()
    }
}
