//! Recovers what hyper has read from a request's body before anything of the request was written.

use std::io::IoSlice;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::HeaderMap;

use crate::connection::shared::ConnShared;
use crate::connection::taken::{Part, Taken};
use crate::http1::transport::ONE_RECORD;

/// hyper copies a frame if its transport accepts one slice at a time. A copy is kept only of frames that are no larger
/// than what may count as unwritten after a failed write.
const MOST_COPIED: usize = ONE_RECORD;

/// Where the content of a request goes when hyper drops it, with the frames that hyper has read from it. Both are
/// dropped as soon as anything of the request is written.
pub(super) struct Returns<T> {
    shared: Arc<ConnShared>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// The content, with the number of frames that were read from it.
    content: Option<(T, usize)>,
    /// Frames by number.
    parts: Vec<(usize, Part)>,
    /// A frame was too large to be kept, or was written.
    is_lost: bool,
    /// The task that waits until everything is back.
    waker: Option<Waker>,
}

impl<T> Returns<T> {
    pub(super) fn new(shared: Arc<ConnShared>) -> Self {
        Self {
            shared,
            state: Mutex::new(State {
                content: None,
                parts: Vec::new(),
                is_lost: false,
                waker: None,
            }),
        }
    }

    #[inline]
    pub(super) fn shared(&self) -> &ConnShared {
        &self.shared
    }

    /// hyper has dropped the content, from which it had read this many frames.
    pub(super) fn put_content(&self, content: T, taken: usize) {
        // Whatever is not kept is dropped after the lock, because it is the caller's.
        let _lost = if self.shared.activity().has_written() {
            self.lose();
            Some(content)
        } else {
            self.change(|state| {
                if state.is_lost {
                    return Some(content);
                }
                state.content = Some((content, taken));
                None
            })
        };
    }

    pub(super) fn put_trailers(&self, number: usize, trailers: &HeaderMap) {
        self.put(number, Part::Trailers(trailers.clone()));
    }

    fn put(&self, number: usize, part: Part) {
        let _lost = self.change(|state| {
            if state.is_lost {
                return Some(part);
            }
            state.parts.push((number, part));
            None
        });
    }

    /// Something was written, or cannot be recovered.
    #[inline]
    fn lose(&self) {
        // Dropped after the lock.
        let _lost = self.change(|state| {
            state.is_lost = true;
            (state.content.take(), mem::take(&mut state.parts))
        });
    }

    #[inline]
    fn change<R>(&self, change: impl FnOnce(&mut State<T>) -> R) -> R {
        let (changed, waker) = {
            let mut state = self.state();
            (change(&mut state), state.waker.take())
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        changed
    }

    /// Ready when hyper has nothing of it any more: with the content and the frames, or `None` if some of it is lost.
    pub(super) fn poll_back(&self, cx: &Context<'_>) -> Poll<Option<(T, Taken)>> {
        let mut state = self.state();
        match state.content.take() {
            _ if state.is_lost => Poll::Ready(None),
            Some((content, taken)) if state.parts.len() == taken => {
                state.parts.sort_unstable_by_key(|(number, _)| *number);
                let parts = state.parts.drain(..).map(|(_, part)| part);
                Poll::Ready(Some((content, Taken::new(parts))))
            }
            not_all => {
                state.content = not_all;
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that can panic runs under this lock, so it is never poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The data of a frame, as the body gave it or as it was recovered.
pub(super) enum Data<D> {
    Own(D),
    Again(Bytes),
}

/// The data of a frame that hyper has. If it is dropped before anything of its request was written, it goes back.
pub(super) struct Piece<D: Buf, T> {
    data: Data<D>,
    /// `None` once it is decided whether it goes back.
    back: Option<(usize, Arc<Returns<T>>)>,
}

impl<D: Buf, T> Piece<D, T> {
    /// The data of a frame of a request that was written in part.
    #[inline]
    pub(super) fn written(data: Data<D>) -> Self {
        Self { data, back: None }
    }

    #[inline]
    pub(super) fn unwritten(data: Data<D>, number: usize, returns: &Arc<Returns<T>>) -> Self {
        Self {
            data,
            back: Some((number, returns.clone())),
        }
    }

    /// hyper advances in it: it has written some of it, or copies it to write it later.
    #[cold]
    fn decide(&mut self) {
        let Some((number, returns)) = self.back.take() else {
            return;
        };
        let length = self.data.remaining();
        if returns.shared.activity().has_written() || length > MOST_COPIED {
            return returns.lose();
        }
        let bytes = self.data.copy_to_bytes(length);
        returns.put(number, Part::Data(bytes.clone()));
        self.data = Data::Again(bytes);
    }
}

impl<D: Buf, T> Drop for Piece<D, T> {
    #[inline]
    fn drop(&mut self) {
        if let Some((number, returns)) = self.back.take() {
            if returns.shared.activity().has_written() {
                return returns.lose();
            }
            let bytes = self.data.copy_to_bytes(self.data.remaining());
            returns.put(number, Part::Data(bytes));
        }
    }
}

impl<D: Buf, T> Buf for Piece<D, T> {
    #[inline]
    fn remaining(&self) -> usize {
        self.data.remaining()
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        self.data.chunk()
    }

    #[inline]
    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.data.chunks_vectored(slices)
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        if self.back.is_some() {
            self.decide();
        }
        self.data.advance(count);
    }
}

impl<D: Buf> Buf for Data<D> {
    #[inline]
    fn remaining(&self) -> usize {
        match self {
            Self::Own(data) => data.remaining(),
            Self::Again(bytes) => bytes.remaining(),
        }
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        match self {
            Self::Own(data) => data.chunk(),
            Self::Again(bytes) => bytes.chunk(),
        }
    }

    #[inline]
    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Own(data) => data.chunks_vectored(slices),
            Self::Again(bytes) => bytes.chunks_vectored(slices),
        }
    }

    #[inline]
    fn advance(&mut self, count: usize) {
        match self {
            Self::Own(data) => data.advance(count),
            Self::Again(bytes) => bytes.advance(count),
        }
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        match self {
            Self::Own(data) => data.copy_to_bytes(length),
            Self::Again(bytes) => bytes.copy_to_bytes(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn returns() -> Arc<Returns<&'static str>> {
        Arc::new(Returns::new(Arc::new(ConnShared::new())))
    }

    fn back(returns: &Returns<&'static str>) -> Poll<Option<(&'static str, Taken)>> {
        returns.poll_back(&Context::from_waker(Waker::noop()))
    }

    type TwoChunks = bytes::buf::Chain<Bytes, Bytes>;

    fn piece(
        number: usize,
        returns: &Arc<Returns<&'static str>>,
    ) -> Piece<TwoChunks, &'static str> {
        let data = Bytes::from_static(b"con").chain(Bytes::from_static(b"tent"));
        Piece::unwritten(Data::Own(data), number, returns)
    }

    fn frames(mut taken: Taken) -> Vec<Result<Bytes, HeaderMap>> {
        let next = || taken.next();
        std::iter::from_fn(next)
            .map(|frame| {
                let frame = frame.into_data();
                frame.map_err(|frame| frame.into_trailers().unwrap_or_default())
            })
            .collect()
    }

    #[test]
    fn what_was_not_written_comes_back_in_order_once_hyper_has_nothing_of_it() {
        let returns = returns();
        let trailers = HeaderMap::from_iter([(http::header::AGE, HeaderValue::from_static("1"))]);
        let pieces = [0, 1].map(|number| piece(number, &returns));
        returns.put_trailers(2, &trailers);
        returns.put_content("body", 3);
        // hyper copies one of them, and hands them back in any order.
        let [mut first, second] = pieces;
        first.advance(2);
        drop(second);
        assert_eq!(first.chunk(), b"ntent");
        let Poll::Ready(Some((content, taken))) = back(&returns) else {
            panic!("the first went back when it was copied");
        };
        assert_eq!(content, "body");
        let content = || Ok(Bytes::from_static(b"content"));
        assert_eq!(frames(taken), [content(), content(), Err(trailers)]);
    }

    #[test]
    fn what_is_still_out_is_waited_for() {
        let returns = returns();
        let out = piece(0, &returns);
        assert!(back(&returns).is_pending(), "neither is there");
        returns.put_content("body", 1);
        assert!(back(&returns).is_pending(), "the frame is not");
        drop(out);
        assert!(back(&returns).is_ready());
    }

    #[test]
    fn nothing_comes_back_of_what_was_written() {
        for content_first in [true, false] {
            let returns = returns();
            let mut out = piece(0, &returns);
            let put = || returns.put_content("body", 1);
            if content_first {
                put();
            }
            returns.shared().activity().took();
            out.advance(4);
            drop(out);
            if !content_first {
                put();
            }
            assert!(matches!(back(&returns), Poll::Ready(None)));
            let state = returns.state();
            assert!(state.content.is_none() && state.parts.is_empty());
        }
    }

    #[test]
    fn a_frame_that_is_dropped_after_something_was_written_does_not_come_back() {
        let returns = returns();
        let out = piece(0, &returns);
        returns.shared().activity().took();
        drop(out);
        returns.put_content("body", 1);
        assert!(matches!(back(&returns), Poll::Ready(None)));
    }
}
