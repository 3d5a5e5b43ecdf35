//! Frames that one connection has read from a request's body, for the next connection.

use std::collections::VecDeque;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// Frames that were read from a body which is to be sent again. As an extension of the request they travel to the
/// connection that sends the request again, and are sent before the rest of the body.
#[derive(Clone, Debug, Default)]
pub(crate) struct Taken {
    parts: VecDeque<Part>,
    /// The body has ended: it must not be polled again (`Stream::unfold` would panic).
    is_all: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Part {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Taken {
    pub(crate) fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        Self {
            parts: parts.into_iter().collect(),
            is_all: false,
        }
    }

    /// Whether none of its frames is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Whether nothing follows these frames.
    pub(crate) fn is_all(&self) -> bool {
        self.is_all
    }

    pub(crate) fn set_all(&mut self) {
        self.is_all = true;
    }

    #[cfg(feature = "http2")]
    pub(crate) fn push(&mut self, part: Part) {
        self.parts.push_back(part);
    }

    pub(crate) fn next(&mut self) -> Option<Frame<Bytes>> {
        Some(match self.parts.pop_front()? {
            Part::Data(bytes) => Frame::data(bytes),
            Part::Trailers(trailers) => Frame::trailers(trailers),
        })
    }

    /// These frames, followed by `rest`.
    pub(crate) fn then(mut self, rest: Self) -> Self {
        self.parts.extend(rest.parts);
        self.is_all |= rest.is_all;
        self
    }

    /// The size of all of a body from which these frames were read.
    pub(crate) fn size_with<B: Body>(&self, body: &B) -> SizeHint {
        match self.is_all() {
            true => self.and(SizeHint::with_exact(0)),
            false => self.and(body.size_hint()),
        }
    }

    /// The size of a body that begins with these frames.
    fn and(&self, rest: SizeHint) -> SizeHint {
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

#[cfg(test)]
mod tests {
    use super::*;

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
