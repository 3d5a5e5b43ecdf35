//! Converts errors of `h2` into those of this crate.

use std::io::{self, ErrorKind};

use crate::connection::close_reason::CloseReason;
use crate::error::{BoxError, Http2End, Http2Fault, Instead, SaidNothing};
use crate::http2::shared::Http2Shared;

/// The error of an exchange. `h2` has one error for fields that are larger than allowed and for malformed ones. If they
/// were long as they were sent (`is_large`), they count as too large.
#[cold]
pub(super) fn of_exchange(error: h2::Error, shared: &Http2Shared, is_large: bool) -> BoxError {
    match error.reason() {
        Some(reason) if is_large && error.is_library() => too_large(reason),
        _ => of(error, shared),
    }
}

/// The fields of a response are larger than allowed.
#[cold]
pub(super) fn too_large(reason: h2::Reason) -> BoxError {
    Http2Fault {
        end: Http2End::TooLarge,
        code: reason.into(),
        debug_data: Vec::new(),
        source: None,
    }
    .into()
}

/// The error of a connection or a stream. If the server asks for fewer requests, the connection pauses. If `h2` has ended
/// the connection, it gets no further uses: its driver may wait for a long time until the reason is written.
#[cold]
pub(super) fn of(error: h2::Error, shared: &Http2Shared) -> BoxError {
    if error.is_io() {
        let error = error.into_io().unwrap_or_else(|| ErrorKind::Other.into());
        if let Some(instead) = Instead::recognise(&error) {
            return io::Error::new(error.kind(), instead).into();
        }
        if shared.reads() == 0 {
            return io::Error::new(error.kind(), SaidNothing(error)).into();
        }
        return match shared.go_away() {
            Some(go_away) => Http2Fault {
                end: Http2End::Closed,
                code: go_away.code,
                debug_data: go_away.debug_data.clone(),
                source: Some(error.into()),
            }
            .into(),
            None => error.into(),
        };
    }
    let Some(reason) = error.reason() else {
        return error.into();
    };
    let end = match (error.is_remote(), error.is_go_away()) {
        (true, true) => Http2End::GoAway,
        (true, false) => Http2End::Reset,
        (false, true) => Http2End::Own,
        (false, false) => Http2End::OwnReset,
    };
    if reason == h2::Reason::ENHANCE_YOUR_CALM {
        shared.pause();
    }
    if error.is_go_away() && !error.is_remote() {
        shared.close(CloseReason::Error);
    }
    let go_away = shared.go_away();
    Http2Fault {
        end,
        code: reason.into(),
        debug_data: go_away.map_or_else(Vec::new, |it| it.debug_data.clone()),
        source: None,
    }
    .into()
}

/// Whether the server has certainly not acted on the request, or requires HTTP/1.1 for it.
pub(super) fn is_refused(error: &h2::Error) -> bool {
    use h2::Reason;
    let refuses = |reason| matches!(reason, Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED);
    error.is_remote() && (error.is_go_away() || error.reason().is_some_and(refuses))
}
