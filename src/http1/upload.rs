//! The body of a request, watched to its end.

use std::cell::Cell;
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::bond::Bond;

pin_project! {
    /// A request body that tells its connection when hyper has all of it. A server may answer before that; then the
    /// connection is of no use any more, and hyper would go on with the upload (hyper#4176).
    ///
    /// It is no larger than the body: each connection of hyper has room for 32 requests, so that a pointer here would be
    /// 256 bytes there. Where the connection is, is known without: hyper drops a body when it has all of it, while the
    /// connection's driver is polled, and flushes the transport before anything else. What is left by the body in a cell
    /// of the thread is found there by the transport.
    pub(super) struct Upload<B> {
        #[pin]
        body: B,
        end: End,
    }
}

impl<B: Body> Upload<B> {
    #[inline]
    pub(super) fn new(body: B, bond: &Bond) -> Self {
        // Nothing is to be uploaded of a body without content.
        if !body.is_end_stream() {
            bond.set_uploading(true);
        }
        Self { body, end: End }
    }
}

impl<B> Upload<B> {
    /// Of a request that was not sent: nothing of it has ended.
    pub(super) fn into_inner(self) -> B {
        mem::forget(self.end);
        self.body
    }
}

impl<B: Body> Body for Upload<B> {
    type Data = B::Data;
    type Error = B::Error;

    #[inline]
    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    #[inline]
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    #[inline]
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

thread_local! {
    /// A body has ended while the driver was polled that this thread polls.
    static ENDED: Cell<bool> = const { Cell::new(false) };
}

/// With a body until its end.
struct End;

impl Drop for End {
    #[inline]
    fn drop(&mut self) {
        ENDED.set(true);
    }
}

/// A driver is about to be polled. What has ended before was not its connection's: requests that were not sent, bodies of
/// connections that were dropped.
#[inline]
pub(super) fn begin_poll() {
    ENDED.set(false);
}

/// Whether hyper has come to the end of the body since this was asked last. Asked by the transport whenever it is
/// written to or flushed, and so before anything of the response is read that came after the end.
#[inline]
pub(super) fn has_ended() -> bool {
    ENDED.take()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Empty, Full};

    use super::*;

    #[test]
    fn it_takes_no_room() {
        assert_eq!(size_of::<Upload<Empty<Bytes>>>(), 0);
        assert_eq!(size_of::<Upload<Full<Bytes>>>(), size_of::<Full<Bytes>>());
    }

    #[test]
    fn its_end_is_heard_of_once() {
        let bond = Bond::new();
        let upload = Upload::new(Full::new(Bytes::from("content")), &bond);
        assert!(bond.is_uploading());
        begin_poll();
        assert!(!has_ended());
        drop(upload);
        assert!(has_ended());
        assert!(!has_ended());
    }

    /// It may have come back while another connection's driver was polled: whose upload asks for something itself.
    #[test]
    fn one_that_was_not_sent_has_no_end() {
        let bond = Bond::new();
        let upload = Upload::new(Full::new(Bytes::from("content")), &bond);
        begin_poll();
        let _ = upload.into_inner();
        assert!(!has_ended());
    }
}
