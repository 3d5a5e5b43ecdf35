//! Internals that the fuzzer tests; only under `cfg(fuzzing)`, and no part of the public API.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Empty;

use crate::clock::Nanos;
use crate::exchange;

/// What a response says about its connection. `None` says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hint {
    /// How long it may be idle.
    pub idle: Option<Duration>,
    /// How many exchanges are left.
    pub uses: Option<u64>,
    /// It is not to be used again.
    pub is_last: bool,
}

/// Reads `Keep-Alive` and `Connection`.
pub fn read_hint<R>(response: &Response<R>, margin: Duration) -> Hint {
    let mut head = Response::new(Empty::<Bytes>::new());
    *head.version_mut() = response.version();
    head.headers_mut().clone_from(response.headers());
    let (server_hint, is_last) = exchange::read_hint(&head, margin);
    Hint {
        idle: (server_hint.idle != Nanos::NONE).then(|| server_hint.idle.time()),
        uses: (server_hint.uses != u32::MAX).then_some(server_hint.uses.into()),
        is_last,
    }
}
