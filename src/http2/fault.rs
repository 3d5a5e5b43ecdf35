//! The errors of `h2`, as the rest of the crate knows them.

use std::io::ErrorKind;

use crate::error::{BoxError, Http2End, Http2Fault};
use crate::http2::shared::Http2Shared;

/// What `h2` said of a stream. Where the server wants to be left in peace, it is.
#[cold]
pub(super) fn of(error: h2::Error, shared: &Http2Shared) -> BoxError {
    if error.is_io() {
        let error = error.into_io().unwrap_or_else(|| ErrorKind::Other.into());
        return match shared.go_away() {
            Some(go_away) => Http2Fault {
                end: Http2End::Closed,
                code: go_away.code,
                debug_data: go_away.debug_data.clone(),
                source: Some(error),
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
        (false, _) => Http2End::Own,
    };
    if reason == h2::Reason::ENHANCE_YOUR_CALM {
        shared.pause();
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

/// Whether the server has surely not acted on the request, or wants it over HTTP/1.1 in the stead.
pub(super) fn is_refused(error: &h2::Error) -> bool {
    use h2::Reason;
    let refuses = |reason| matches!(reason, Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED);
    error.is_remote() && (error.is_go_away() || error.reason().is_some_and(refuses))
}
