use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll};

use h2::client::SendRequest;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use crate::connect::Probe;
use crate::connection::close_reason::CloseReason;
use crate::connection::lifespan::Lifespan;
use crate::connection::poolable::{Liveness, Poolable};
use crate::connection::shared::ChangeHook;
use crate::connection::taken::Taken;
use crate::error::{BoxError, SendError};
use crate::http2::future::{self, Content};
use crate::http2::head::{self, Origin};
use crate::http2::piece::Piece;
use crate::http2::shared::Http2Shared;
use crate::http2::stream::StreamShared;
use crate::http2::upload::Upload;
use crate::http2::{Http2Body, Http2Future, fault};

/// An HTTP/2 connection, or one of its uses: a `Service` for one request at a time, which is a stream of the
/// connection.
///
/// It accepts requests as [`Exchange`](crate::layers::Exchange) prepares them: with a path as the URI, and a `Host` field unless
/// the key of the connection says the same.
///
/// A use has to be kept until the response body has ended. Dropping it resets its stream, and nothing else; the
/// transport is dropped when the connection and all of its uses are dropped.
pub(crate) struct Http2Connection<B> {
    parts: Box<Parts>,
    body: PhantomData<fn(B)>,
}

/// Boxed for the life of the use, which is moved often: from the pool to its lease and back.
struct Parts {
    sender: SendRequest<Piece>,
    stream: Arc<StreamShared>,
    origin: Arc<Origin>,
    probe: Option<Probe>,
    lifespan: Lifespan,
}

impl<B> Http2Connection<B> {
    pub(super) fn new(
        sender: SendRequest<Piece>,
        shared: Arc<Http2Shared>,
        origin: Arc<Origin>,
        probe: Option<Probe>,
        lifespan: Lifespan,
    ) -> Self {
        shared.hold();
        let stream = StreamShared::new(shared, lifespan.shared().clone());
        Self {
            parts: Box::new(Parts {
                sender,
                stream,
                origin,
                probe,
                lifespan,
            }),
            body: PhantomData,
        }
    }

    /// The connection's limits, for any type of request bodies.
    pub(crate) fn lifespan_ref(&self) -> &Lifespan {
        &self.parts.lifespan
    }

    #[inline]
    fn shared(&self) -> &Arc<Http2Shared> {
        self.parts.stream.connection()
    }
}

impl<B: Send + 'static> Poolable for Http2Connection<B> {
    const SHARED: bool = true;

    #[inline]
    fn is_open(&self) -> bool {
        self.shared().is_open()
    }

    #[inline]
    fn poll_free(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let parts = &mut *self.parts;
        if parts.stream.is_busy() && parts.stream.poll_idle(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some(reason) = parts.stream.failure() {
            parts.lifespan.end_use(reason);
        }
        Poll::Ready(())
    }

    /// Bytes that arrive while it is idle may be a PING or new settings, and are no reason to close it.
    fn probe(&mut self) -> Liveness {
        if self.shared().has_streams() {
            // The driver reads and writes, so it knows the state of the transport; a look costs a system call.
            return Liveness::Open;
        }
        self.parts
            .probe
            .as_ref()
            .map_or(Liveness::Unknown, Probe::peek)
    }

    #[inline]
    fn capacity(&self) -> Option<usize> {
        self.shared().capacity()
    }

    fn is_doubted(&self) -> bool {
        self.shared().is_overdue()
    }

    fn another(&mut self) -> Option<Self> {
        let parts = &self.parts;
        Some(Self::new(
            parts.sender.clone(),
            self.shared().clone(),
            parts.origin.clone(),
            parts.probe.clone(),
            parts.lifespan.another(),
        ))
    }

    fn on_change(&mut self, hook: ChangeHook) {
        self.shared().set_hook(hook);
    }

    #[inline]
    fn lifespan(&self) -> &Lifespan {
        &self.parts.lifespan
    }

    #[inline]
    fn lifespan_mut(&mut self) -> &mut Lifespan {
        &mut self.parts.lifespan
    }
}

impl<B> Service<Request<B>> for Http2Connection<B>
where
    B: Body + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Http2Body>;
    type Error = SendError<B>;
    type Future = Http2Future<B>;

    /// Ready when no request is under way on this use. If the server allows no more streams for now, a request waits; if the
    /// connection takes no more of them, it is given back unsent.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendError<B>>> {
        match self.parts.stream.is_busy() {
            true => self.parts.stream.poll_idle(cx).map(Ok),
            false => Poll::Ready(Ok(())),
        }
    }

    // Not inlined: so the request is passed by its address, and moved once less.
    #[inline(never)]
    fn call(&mut self, mut request: Request<B>) -> Http2Future<B> {
        let parts = &mut *self.parts;
        let taken = match request.extensions().is_empty() {
            true => None,
            false => request.extensions_mut().remove::<Taken>(),
        };
        let is_end = taken.is_none() && request.body().is_end_stream();
        let taken = taken.unwrap_or_default();
        let length = match is_end {
            true => None,
            false => taken.size_with(request.body()).exact(),
        };
        let stream = &parts.stream;
        let key = parts.lifespan.shared().key();
        let refused = |error| {
            stream.conn().set_stream(0);
            Http2Future::refused(error)
        };
        let mut sent = Request::new(());
        if let Err(why) = head::prepare(&mut sent, &request, &parts.origin, key, length) {
            // No other connection would take it either, and so it does not come back.
            let error = io::Error::new(io::ErrorKind::InvalidInput, why);
            return refused(SendError::unsent(error, None));
        }
        if !stream.connection().has_id() {
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, NO_MORE_IDS);
            return refused(future::unsent(error.into(), request, taken));
        }
        let announced = head::length(sent.headers());
        // Of an exchange that was not waited for: a use is one stream.
        if stream.is_busy() {
            stream.give_up();
        }
        stream.begin(!is_end);
        match parts.sender.send_request(sent, is_end) {
            Ok((response, upload)) => {
                let (head, body) = request.into_parts();
                let id = upload.stream_id().as_u32();
                stream.begun(id, upload, head);
                let expects = stream.conn().take_continue_timeout();
                if is_end {
                    let body = Content::None(body);
                    return Http2Future::sent(response, body, None, stream.clone());
                }
                let upload = Upload::new(body, taken, stream.clone(), id, announced);
                let body = Content::Upload(Box::new(upload));
                Http2Future::sent(response, body, expects, stream.clone())
            }
            Err(error) => {
                stream.connection().close(CloseReason::Peer);
                stream.give_up();
                let error = fault::of(error, stream.connection());
                refused(future::unsent(error, request, taken))
            }
        }
    }
}

const NO_MORE_IDS: &str = "the connection has had all the streams that it can have";

impl<B> Drop for Http2Connection<B> {
    fn drop(&mut self) {
        self.parts.stream.close();
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        // Set before the last holder tells the driver that the connection has no owner any more.
        self.lifespan.shared().set_orphaned();
        self.stream.connection().release();
    }
}

impl<B> fmt::Debug for Http2Connection<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http2Connection")
            .field("lifespan", &self.parts.lifespan)
            .finish_non_exhaustive()
    }
}
