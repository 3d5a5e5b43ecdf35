//! A request's body, in pieces that take their time.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

/// A clone begins with what is left.
pub(crate) struct Upload {
    left: Bytes,
    piece: usize,
    pause: Duration,
    pausing: Option<Pin<Box<Sleep>>>,
    is_chunked: bool,
    /// Whether the last piece was taken; of this or of a clone.
    taken: Arc<AtomicBool>,
}

impl Upload {
    /// In pieces of so many bytes, each but the first after a pause.
    pub(crate) fn new(bytes: Vec<u8>, piece: usize, pause: Duration) -> Self {
        Self {
            left: bytes.into(),
            piece,
            pause,
            pausing: None,
            is_chunked: false,
            taken: Arc::default(),
        }
    }

    /// Its length is not said.
    pub(crate) fn chunked(self) -> Self {
        Self {
            is_chunked: true,
            ..self
        }
    }

    /// Becomes true when the last piece was taken.
    pub(crate) fn taken(&self) -> Arc<AtomicBool> {
        self.taken.clone()
    }
}

impl Clone for Upload {
    fn clone(&self) -> Self {
        Self {
            left: self.left.clone(),
            pausing: None,
            taken: self.taken.clone(),
            ..*self
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pausing) = &mut self.pausing {
            ready!(pausing.as_mut().poll(cx));
            self.pausing = None;
        }
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        let length = self.piece.min(self.left.len());
        let piece = self.left.split_to(length);
        if self.left.is_empty() {
            self.taken.store(true, Ordering::SeqCst);
        }
        if !self.pause.is_zero() {
            self.pausing = Some(Box::pin(sleep(self.pause)));
        }
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        match self.is_chunked {
            true => SizeHint::default(),
            false => SizeHint::with_exact(self.left.len() as u64),
        }
    }
}
