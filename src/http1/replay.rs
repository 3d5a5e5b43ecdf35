//! What hyper takes out of a request's body before anything of the request is written, had back where nothing is.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::connection::shared::ConnShared;
use crate::http1::transport::ONE_RECORD;

/// hyper copies a frame where its transport takes one piece at a time. A copy is kept of no more than a request may have
/// that is unsent after its write failed.
const MOST_COPIED: usize = ONE_RECORD;

/// What was taken out of a body and not written. It is sent before the rest of that body: as an extension of the request, it
/// goes to the connection that sends the request again.
#[derive(Clone, Debug, Default)]
pub(super) struct Taken {
    parts: VecDeque<Part>,
    /// The body has said that it ends: it is not polled again (`Stream::unfold` would panic).
    is_all: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Taken {
    fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        Self {
            parts: parts.into_iter().collect(),
            is_all: false,
        }
    }

    /// Whether none of its frames is left.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether nothing follows these frames.
    pub(super) fn is_all(&self) -> bool {
        self.is_all
    }

    pub(super) fn set_all(&mut self) {
        self.is_all = true;
    }

    pub(super) fn next<D>(&mut self) -> Option<Frame<Data<D>>> {
        Some(match self.parts.pop_front()? {
            Part::Data(bytes) => Frame::data(Data::Again(bytes)),
            Part::Trailers(trailers) => Frame::trailers(trailers),
        })
    }

    /// All of this, and then `rest`.
    pub(super) fn then(mut self, rest: Self) -> Self {
        self.parts.extend(rest.parts);
        self.is_all |= rest.is_all;
        self
    }

    /// The size of a body that begins with this.
    pub(super) fn and(&self, rest: SizeHint) -> SizeHint {
        let lengths = self.parts.iter().map(|part| match part {
            Part::Data(bytes) => bytes.len() as u64,
            Part::Trailers(_) => 0,
        });
        let length: u64 = lengths.sum();
        let mut size = SizeHint::new();
        size.set_lower(rest.lower().saturating_add(length));
        if let Some(upper) = rest.upper().and_then(|it| it.checked_add(length)) {
            size.set_upper(upper);
        }
        size
    }
}

/// Where the content of a request goes when hyper drops it, and the frames that hyper took out of it. Both are given up as
/// soon as anything of the request is written.
pub(super) struct Returns<T> {
    shared: Arc<ConnShared>,
    state: Mutex<State<T>>,
}

struct State<T> {
    /// And how many frames were taken out of it.
    content: Option<(T, usize)>,
    /// By number.
    parts: Vec<(usize, Part)>,
    /// A frame was too large to be kept, or was written.
    is_lost: bool,
    /// Who waits until all of it is back.
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

    /// hyper has dropped the content, out of which it took so many frames.
    pub(super) fn put_content(&self, content: T, taken: usize) {
        // What is not kept is dropped after the lock: it is the caller's.
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

    /// Something was written, or cannot be had back.
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

    /// Ready when hyper has nothing of it any more: with the content and what was taken out of it, unless some is lost.
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
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The data of a frame: as the body gave it, or as it was had back.
pub(super) enum Data<D> {
    Own(D),
    Again(Bytes),
}

/// The data of a frame that hyper has. If it is dropped before anything of its request is written, it goes back.
pub(super) struct Piece<D: Buf, T> {
    data: Data<D>,
    /// Until that is decided.
    back: Option<(usize, Arc<Returns<T>>)>,
}

impl<D: Buf, T> Piece<D, T> {
    /// Of a request of which something is written already.
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

    /// hyper moves on in it: it has written some of it, or copies it to write it later.
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
        let next = || taken.next::<Bytes>();
        std::iter::from_fn(next)
            .map(|frame| match frame.into_data() {
                Ok(mut data) => Ok(data.copy_to_bytes(data.remaining())),
                Err(frame) => Err(frame.into_trailers().unwrap_or_default()),
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

    #[test]
    fn the_size_of_a_body_that_begins_again_counts_what_was_taken() {
        let taken = Taken::new([
            Part::Data(Bytes::from_static(b"abc")),
            Part::Data(Bytes::from_static(b"d")),
            Part::Trailers(HeaderMap::new()),
        ]);
        assert_eq!(taken.and(SizeHint::with_exact(2)).exact(), Some(6));
        let unknown = taken.and(SizeHint::new());
        assert_eq!((unknown.lower(), unknown.upper()), (4, None));
    }
}
