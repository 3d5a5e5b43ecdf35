//! What the fuzzer looks at and nobody else can: here under `cfg(fuzzing)` only, and no part of the public face.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;

use crate::clock::Nanos;
use crate::exchange;

/// What a response says about its connection. `None` says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Said {
    /// How long it may be idle.
    pub idle: Option<Duration>,
    /// How many exchanges are left.
    pub uses: Option<u64>,
    /// It is not to be used again.
    pub is_last: bool,
}

/// Reads `Keep-Alive` and `Connection`.
pub fn said<R>(response: &Response<R>, margin: Duration) -> Said {
    let mut head = Response::new(Empty::<Bytes>::new());
    *head.version_mut() = response.version();
    head.headers_mut().clone_from(response.headers());
    let (word, is_last) = exchange::said(&head, margin);
    Said {
        idle: (word.idle != Nanos::NONE).then(|| word.idle.time()),
        uses: (word.uses != u32::MAX).then_some(word.uses.into()),
        is_last,
    }
}
