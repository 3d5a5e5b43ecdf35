//! The body of a response whose times are recorded.

use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::connection::info::ConnectionInfo;

pin_project! {
    /// A body with the record of its exchange. The end, the failure or the drop of the body ends the record.
    pub(super) struct Timed<R> {
        #[pin]
        body: R,
        record: Record,
    }
}

/// Ended by its drop, if not before.
struct Record(ConnectionInfo);

impl<R: HttpBody> Timed<R> {
    pub(super) fn new(body: R, info: ConnectionInfo) -> Self {
        let record = Record(info);
        if body.is_end_stream() {
            end(&record.0);
        }
        Self { body, record }
    }
}

impl<R: HttpBody> HttpBody for Timed<R> {
    type Data = R::Data;
    type Error = R::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>> {
        let mut this = self.project();
        let polled = this.body.as_mut().poll_frame(cx);
        let ends = match &polled {
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream(),
            Poll::Ready(_) => true,
            Poll::Pending => false,
        };
        if ends {
            end(&this.record.0);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        end(&self.0);
    }
}

/// The exchange is over; recorded once.
pub(super) fn end(info: &ConnectionInfo) {
    let first = info.recorder().is_some_and(|recorder| recorder.end());
    #[cfg(feature = "tracing")]
    if first && let (Some(timings), Some(key)) = (info.timings(), info.key()) {
        tracing::debug!(
            target: crate::agent::TARGET,
            %key,
            connection.id = info.id(),
            network.protocol.name = crate::agent::PROTOCOL,
            network.protocol.version = crate::agent::protocol_version(info.version()),
            stream.id = info.stream_id(),
            queue = ?timings.queue(),
            dns = timings.dns().map(tracing::field::debug),
            connect = timings.connect().map(tracing::field::debug),
            tunnel = timings.tunnel().map(tracing::field::debug),
            tls = timings.tls().map(tracing::field::debug),
            response = timings.response().map(tracing::field::debug),
            body = timings.body().map(tracing::field::debug),
            total = ?timings.total(),
            "exchanged"
        );
    }
    #[cfg(not(feature = "tracing"))]
    let _ = first;
}
