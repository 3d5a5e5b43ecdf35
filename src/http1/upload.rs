//! The body of a request, watched to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::bond::Bond;

pin_project! {
    /// A request body that tells its connection when hyper has all of it. A server may answer before that; then the
    /// connection is of no use any more, and hyper would go on with the upload (hyper#4176).
    pub(super) struct Upload<B> {
        #[pin]
        body: B,
        // Until the end; nothing for a body without content.
        going_on: Option<GoingOn>,
    }
}

impl<B: Body> Upload<B> {
    #[inline]
    pub(super) fn new(body: B, bond: &Arc<Bond>) -> Self {
        let going_on = (!body.is_end_stream()).then(|| GoingOn::new(bond.clone()));
        Self { body, going_on }
    }
}

impl<B> Upload<B> {
    pub(super) fn into_inner(self) -> B {
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
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if frame.is_none() || this.body.is_end_stream() {
            *this.going_on = None;
        }
        Poll::Ready(frame)
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

/// While hyper does not have all of a body.
struct GoingOn(Arc<Bond>);

impl GoingOn {
    #[inline]
    fn new(bond: Arc<Bond>) -> Self {
        bond.set_uploading(true);
        Self(bond)
    }
}

impl Drop for GoingOn {
    fn drop(&mut self) {
        self.0.set_uploading(false);
    }
}
