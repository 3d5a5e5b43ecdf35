//! What few exchanges want beside a connection and a response.

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

/// In a box, and for most exchanges there is none: then it is one look.
#[derive(Debug)]
pub(super) struct Wishes {
    /// A tunnel.
    pub(super) connects: bool,
    /// The connection is not to be used after it.
    pub(super) is_last: bool,
    /// It is a proxy that reads it, and answers.
    pub(super) of_proxy: bool,
    /// Its body waits for a 100.
    pub(super) expects_continue: bool,
    /// Where it may not take as long as it likes, or its times are recorded.
    pub(super) limits: Option<Box<TimeLimits>>,
}

/// Makes the request ready for its origin, and says what it wants.
#[inline]
pub(super) fn begin<B: Body>(
    request: &mut Request<B>,
    settings: &Settings,
    destination: &mut Option<Destination>,
) -> Result<Option<Box<Wishes>>, TargetError> {
    let connects = request.method() == Method::CONNECT;
    let limits = split_origin(request, settings, destination)?;
    let of_proxy = destination
        .as_ref()
        .is_some_and(Destination::is_read_by_proxy);
    let is_last = !settings.keep_alive;
    if request.headers().is_empty() && !(connects || is_last || of_proxy || limits.is_some()) {
        return Ok(None);
    }
    let wishes = Wishes {
        connects,
        is_last,
        of_proxy,
        expects_continue: false,
        limits,
    };
    Ok(wishes.of(request))
}

impl Wishes {
    /// With what the fields of the request say.
    #[inline(never)]
    fn of<B: Body>(mut self, request: &mut Request<B>) -> Option<Box<Self>> {
        self.is_last |= hint::says_close(request.headers());
        self.expects_continue = fields::expects_continue(request);
        let any = self.connects
            || self.is_last
            || self.of_proxy
            || self.expects_continue
            || self.limits.is_some();
        any.then(|| Box::new(self))
    }

    /// Before a connection is asked for, and before it is used: whether there is time left.
    #[cold]
    pub(super) fn check(&self) -> Result<(), Error> {
        self.limits.as_ref().map_or(Ok(()), |limits| limits.check())
    }

    /// The request is about to be sent on this connection: its driver may be done before the answer is looked at.
    #[cold]
    pub(super) fn tell(&mut self, connection: &ConnShared, options: &Options) {
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

    /// Whether the connection is not to be used after this response.
    #[cold]
    pub(super) fn end_with<R>(&self, response: &Response<R>) -> bool {
        self.is_last || self.of_proxy && to_proxy::says_close(response.headers())
    }
}
