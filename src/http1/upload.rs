//! The body of a request, watched to its end.

use std::cell::Cell;
use std::mem::{self, ManuallyDrop};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::bond::Bond;

pin_project! {
    /// A request body that tells its connection when hyper has all of it. A server may answer before that; then the
    /// connection is of no use any more, and hyper would go on with the upload (hyper#4176).
    ///
    /// It is no larger than the body: each connection of hyper has room for 32 requests, so that a pointer here would be
    /// 256 bytes there. Whose it is, is known without: hyper drops a body when it has all of it, while the connection's
    /// driver is polled, and the driver has left its bond with the thread.
    pub(super) struct Upload<B> {
        #[pin]
        body: B,
        end: End,
    }
}

/// Says that this body is on its way from here on.
#[inline]
pub(super) fn begin(body: &impl Body, bond: &Bond) {
    // Nothing is to be uploaded of a body without content.
    if !body.is_end_stream() {
        bond.set_uploading(true);
    }
}

impl<B> Upload<B> {
    #[inline]
    pub(super) fn new(body: B) -> Self {
        Self { body, end: End }
    }

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
        // The caller's code runs in here, and may drop requests of its own.
        let polled = driven_by(&mut None, || self.project().body.poll_frame(cx));
        // Of the caller's body alone: whatever else holds an upload back is not the caller's slowness.
        let bond = exchange(None);
        if let Some(bond) = &bond {
            bond.activity().set_upload_waits(polled.is_pending());
        }
        exchange(bond);
        polled
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
    /// The connection that hyper drives on this thread at this moment. Not dropped with the thread, which would have to see
    /// to that at every look: nothing is here but during a poll, and one bond at the most after a poll that panicked.
    static DRIVEN: Cell<ManuallyDrop<Option<Arc<Bond>>>> =
        const { Cell::new(ManuallyDrop::new(None)) };
}

/// What was there before.
#[inline]
fn exchange(bond: Option<Arc<Bond>>) -> Option<Arc<Bond>> {
    ManuallyDrop::into_inner(DRIVEN.replace(ManuallyDrop::new(bond)))
}

/// With a body until its end.
struct End;

impl Drop for End {
    #[inline]
    fn drop(&mut self) {
        let bond = exchange(None);
        if let Some(bond) = &bond {
            bond.set_uploading(false);
        }
        exchange(bond);
    }
}

/// Runs `poll`, in which a body that ends is that of the connection whose bond this is. The bond is back after it. After a
/// panic it is not, and the thread has it until the next one: its connection is gone then, and it means nothing to others.
#[inline]
pub(super) fn driven_by<R>(bond: &mut Option<Arc<Bond>>, poll: impl FnOnce() -> R) -> R {
    let outer = exchange(bond.take());
    let polled = poll();
    *bond = exchange(outer);
    polled
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::{Empty, Full};

    use super::*;

    fn content(bond: &Bond) -> Upload<Full<Bytes>> {
        let body = Full::new(Bytes::from("content"));
        begin(&body, bond);
        assert!(bond.is_uploading());
        Upload::new(body)
    }

    #[test]
    fn it_takes_no_room() {
        assert_eq!(size_of::<Upload<Empty<Bytes>>>(), 0);
        assert_eq!(size_of::<Upload<Full<Bytes>>>(), size_of::<Full<Bytes>>());
    }

    #[test]
    fn its_end_is_heard_of_by_the_connection_that_is_driven() {
        let [outer, inner] = [(); 2].map(|()| Arc::new(Bond::new()));
        let (mut of_outer, mut of_inner) = (Some(outer.clone()), Some(inner.clone()));
        let uploads = [content(&outer), content(&inner)];
        let [upload_of_outer, upload_of_inner] = uploads;
        driven_by(&mut of_outer, || {
            driven_by(&mut of_inner, || drop(upload_of_inner));
            assert!(outer.is_uploading() && !inner.is_uploading());
            drop(upload_of_outer);
            assert!(!outer.is_uploading());
        });
        assert!(Arc::ptr_eq(&of_outer.unwrap(), &outer));
        assert!(Arc::ptr_eq(&of_inner.unwrap(), &inner));
    }

    /// It may have come back while another connection is driven, whose upload asks for something itself.
    #[test]
    fn one_that_was_not_sent_has_no_end() {
        let bond = Arc::new(Bond::new());
        let upload = content(&bond);
        driven_by(&mut Some(bond.clone()), || upload.into_inner());
        assert!(bond.is_uploading());
    }

    /// A body that gives up a request of its own when it is asked for more.
    struct Gives(Option<Upload<Full<Bytes>>>);

    impl Body for Gives {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            self.0 = None;
            Poll::Pending
        }
    }

    #[test]
    fn what_a_body_gives_up_is_not_the_end_of_its_own_upload() {
        let bond = Arc::new(Bond::new());
        let given_up = content(&Bond::new());
        let body = Gives(Some(given_up));
        begin(&body, &bond);
        let mut upload = Upload::new(body);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        driven_by(&mut Some(bond.clone()), || {
            let polled = Pin::new(&mut upload).poll_frame(&mut cx);
            assert!(polled.is_pending());
            assert!(bond.is_uploading());
            drop(upload);
            assert!(!bond.is_uploading());
        });
    }

    #[test]
    fn after_a_panic_the_next_connection_hears_of_its_own() {
        let [first, second] = [(); 2].map(|()| Arc::new(Bond::new()));
        let uploads = [content(&first), content(&second)];
        let [upload_of_first, upload_of_second] = uploads;
        let poll = || driven_by(&mut Some(first.clone()), || panic!("a body's"));
        let caught: std::thread::Result<()> =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(poll));
        assert!(caught.is_err());
        driven_by(&mut Some(second.clone()), || drop(upload_of_second));
        assert!(first.is_uploading() && !second.is_uploading());
        drop(upload_of_first);
        assert!(!second.is_uploading());
    }
}
