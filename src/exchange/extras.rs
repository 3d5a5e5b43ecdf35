//! What few exchanges need in addition to a connection and a response.

use http::{Method, Request, Response};
use http_body::Body;

use crate::clock::Millis;
use crate::connection::close_reason::CloseReason;
use crate::connection::shared::ConnShared;
use crate::error::Error;
use crate::exchange::layer::{Options, Settings};
use crate::exchange::request::split_origin;
use crate::exchange::time_limits::TimeLimits;
use crate::exchange::{fields, hint, to_proxy};
use crate::target::Destination;
use crate::target::invalid::TargetError;

/// State that few exchanges have. Boxed: an exchange without it pays for one check.
#[derive(Debug, Default)]
pub(super) struct Extras {
    /// It opens a tunnel.
    pub(super) connects: bool,
    /// The connection is not used after it.
    pub(super) is_last: bool,
    /// A proxy reads and answers the request.
    pub(super) of_proxy: bool,
    /// Its body waits for a 100.
    pub(super) expects_continue: bool,
    /// Its time limits, or the record of its times.
    pub(super) limits: Option<Box<TimeLimits>>,
    /// That the server requires HTTP/1.1 for it, once that is known.
    #[cfg(feature = "http2")]
    http1_required: Option<Error>,
}

/// Prepares the request for its origin, and adds what it needs to `extras`.
#[inline]
pub(super) fn begin<B: Body>(
    request: &mut Request<B>,
    settings: &Settings,
    destination: &mut Option<Destination>,
    extras: &mut Option<Box<Extras>>,
) -> Result<(), TargetError> {
    let connects = request.method() == Method::CONNECT;
    split_origin(request, settings, destination, extras)?;
    let of_proxy = destination
        .as_ref()
        .is_some_and(Destination::is_read_by_proxy);
    let is_last = !settings.keep_alive;
    if connects || is_last || of_proxy {
        let extras = extras.get_or_insert_default();
        extras.connects = connects;
        extras.is_last = is_last;
        extras.of_proxy = of_proxy;
    }
    if !request.headers().is_empty() {
        read_fields(request, extras);
    }
    Ok(())
}

/// Adds what the fields of the request require.
#[inline(never)]
fn read_fields<B: Body>(request: &mut Request<B>, extras: &mut Option<Box<Extras>>) {
    let says_close = hint::says_close(request.headers());
    let expects_continue = fields::expects_continue(request);
    if says_close || expects_continue {
        let extras = extras.get_or_insert_default();
        extras.is_last |= says_close;
        extras.expects_continue = expects_continue;
    }
}

/// The server requires HTTP/1.1 for the request, which goes out again over that.
#[cold]
#[cfg(feature = "http2")]
pub(super) fn http1_is_required(extras: &mut Option<Box<Extras>>, error: Error) {
    extras.get_or_insert_default().http1_required = Some(error);
}

/// The error for the caller, who also has to know if the request went out over HTTP/1.1 because the server required that.
#[cold]
#[cfg(feature = "http2")]
pub(super) fn explained(extras: &mut Option<Box<Extras>>, error: Error) -> Error {
    let required = extras.as_mut().and_then(|it| it.http1_required.take());
    match required {
        Some(required) => error.after_http1_required(required),
        None => error,
    }
}

impl Extras {
    /// Whether there is time left; checked before a connection is requested, and before it is used.
    #[cold]
    pub(super) fn check(&self) -> Result<(), Error> {
        self.limits.as_ref().map_or(Ok(()), |limits| limits.check())
    }

    /// Called before the request is sent on this connection: its driver may be done before the response is seen.
    #[cold]
    pub(super) fn set_on(&mut self, connection: &ConnShared, options: &Options) {
        let timeout = options.expect_continue_timeout;
        if self.expects_continue && timeout != Millis::ZERO {
            connection.expect_continue(timeout.time());
        }
        if let Some(limits) = &mut self.limits {
            limits.hand_to(connection);
        }
        if self.is_last {
            connection.set_close_reason(CloseReason::Final);
        }
    }

    /// Whether the connection may not be used after this response.
    #[cold]
    pub(super) fn end_with<R>(&self, response: &Response<R>) -> bool {
        self.is_last || self.of_proxy && to_proxy::says_close(response.headers())
    }
}
