use std::mem;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body as HttpBody;
use tower_service::Service;

use crate::connection::poolable::{Leased, Poolable};
use crate::error::{BoxError, Error, SendError};
use crate::exchange::future::{AcquireFn, Acquired};
use crate::exchange::layer::Settings;
use crate::exchange::{Body, ExchangeFuture};
use crate::target::Destination;

/// Sends each request on a connection of `M`, and holds the connection until the response body has ended.
///
/// The request's URI must be absolute. The target is sent in origin form, for `CONNECT` in authority form; the target
/// `*` is allowed for `OPTIONS` only. A `CONNECT` is sent to the authority of its URI, which needs a port, or to the
/// proxy of its route; without TLS, unless the scheme of its URI is `https`. If a reused connection was being closed
/// and did not accept the request, the request is sent on another connection, whatever its method, because none of it
/// was written.
///
/// # Fields
///
/// The caller's fields are sent. In addition, a request gets
///
/// - `Host`, which is sent first (RFC 9112 §3.2);
/// - `Content-Length: 0` for POST, PUT and PATCH without a body (RFC 9110 §8.6);
/// - `Authorization: Basic` if the URI has `user:password@` (percent-encoded if necessary) and the caller has set no
///   `Authorization`. Keys, errors and connectors do not show it;
/// - the option `close` in `Connection` if the connection is not kept, except in a request for an upgrade, and the
///   option `te` if there is a `TE` (RFC 9110 §7.8, §10.1.4).
///
/// # Clone
///
/// Clones share whatever clones of `M` share.
#[derive(Clone, Debug)]
pub struct Exchange<M> {
    inner: M,
    settings: Settings,
}

impl<M> Exchange<M> {
    pub(super) fn new(inner: M, settings: Settings) -> Self {
        Self { inner, settings }
    }

    /// Sends the request if `M` is always ready; `acquire` can do more than call it.
    #[inline]
    pub(crate) fn exchange<C, B>(
        &self,
        acquire: AcquireFn<M, C, M::Future>,
        request: Request<B>,
    ) -> ExchangeFuture<M, M::Future, C, C::Future, B>
    where
        M: Service<Destination, Response = C> + Clone,
        C: Poolable + Service<Request<B>>,
        B: HttpBody,
    {
        ExchangeFuture::new(self.inner.clone(), acquire, request, self.settings.clone())
    }

    /// The service that provides the connections.
    pub const fn get_ref(&self) -> &M {
        &self.inner
    }

    /// The service that provides the connections.
    pub const fn get_mut(&mut self) -> &mut M {
        &mut self.inner
    }

    /// The service that provides the connections.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

impl<M, C, B, R> Service<Request<B>> for Exchange<M>
where
    M: Service<Destination, Response = C> + Clone,
    M::Error: Into<BoxError>,
    C: Leased + Service<Request<B>, Response = Response<R>, Error = SendError<B>>,
    B: HttpBody,
    R: HttpBody + Send + Sync + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Error;
    type Future = ExchangeFuture<M, M::Future, C, C::Future, B>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.inner
            .poll_ready(cx)
            .map_err(|error| Error::from_checkout(error.into()))
    }

    #[inline]
    fn call(&mut self, request: Request<B>) -> Self::Future {
        let clone = self.inner.clone();
        let ready = mem::replace(&mut self.inner, clone);
        let acquire: AcquireFn<M, C, M::Future> =
            |service, destination| Acquired::Pending(service.call(destination.clone()));
        ExchangeFuture::new(ready, acquire, request, self.settings.clone())
    }
}
