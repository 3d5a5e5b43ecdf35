use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Scheme;
use http::{Request, Uri};
use tower_service::Service;

use crate::target::Destination;
use crate::target::route::Route;

/// The scheme, host and port whose addresses these are, and the route for requests without one.
#[derive(Debug)]
pub(super) struct Origin {
    scheme: Scheme,
    host: String,
    port: u16,
    route: Route,
}

impl Origin {
    pub(super) fn of(target: &Destination) -> Self {
        Self {
            scheme: target.scheme().clone(),
            host: target.host().to_owned(),
            port: target.port(),
            route: target.route().cloned().unwrap_or_default(),
        }
    }

    /// Whether a request is for this origin, or does not say for which.
    fn is_of(&self, uri: &Uri) -> bool {
        let Some(host) = uri.host() else {
            return true;
        };
        let scheme = uri.scheme().unwrap_or(&self.scheme);
        let default = if *scheme == Scheme::HTTPS { 443 } else { 80 };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        *scheme == self.scheme
            && host.eq_ignore_ascii_case(&self.host)
            && uri.port_u16().unwrap_or(default) == self.port
    }
}

/// Sends the requests for a name to one of its addresses, with [`Route::with_address`](crate::extensions::Route::with_address); see
/// [`DnsDiscover`](super::DnsDiscover).
///
/// A request for another scheme, host or port passes unchanged, for example one that a layer above sends after a redirect.
#[derive(Clone, Debug)]
pub struct AtAddress<S> {
    inner: S,
    origin: Arc<Origin>,
    address: SocketAddr,
}

impl<S> AtAddress<S> {
    pub(super) fn new(inner: S, origin: Arc<Origin>, address: SocketAddr) -> Self {
        Self {
            inner,
            origin,
            address,
        }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl<S, B> Service<Request<B>> for AtAddress<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if self.origin.is_of(request.uri()) {
            let own = request.extensions_mut().remove::<Route>();
            let route = own.unwrap_or_else(|| self.origin.route.clone());
            request
                .extensions_mut()
                .insert(route.with_address(self.address));
        }
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::ready;

    use tower::ServiceExt;

    use super::*;
    use crate::target::route::Family;

    #[tokio::test]
    async fn requests_for_the_name_go_to_the_address_and_keep_their_route() {
        let (own, common) = (
            Route::new().with_family(Family::V4),
            Route::new().with_local_address([127, 0, 0, 9].into()),
        );
        let target = Destination::try_from(Uri::from_static("http://host.test")).unwrap();
        let origin = Arc::new(Origin::of(&target.with_route(common.clone())));
        let address = ([192, 0, 2, 1], 80).into();
        let agent = tower::service_fn(|request: Request<()>| {
            ready(Ok::<_, Infallible>(request.extensions().get().cloned()))
        });
        let service = AtAddress::new(agent, origin, address);
        for (uri, route, expected) in [
            (
                "http://host.test/",
                None,
                Some(common.clone().with_address(address)),
            ),
            (
                "http://HOST.test:80/a",
                None,
                Some(common.with_address(address)),
            ),
            (
                "http://host.test/",
                Some(own.clone()),
                Some(own.clone().with_address(address)),
            ),
            ("http://host.test:81/", None, None),
            ("https://host.test/", None, None),
            ("http://other.test/", Some(own.clone()), Some(own)),
        ] {
            let mut request = Request::get(uri).body(()).unwrap();
            if let Some(route) = route {
                request.extensions_mut().insert(route);
            }
            assert_eq!(
                service.clone().oneshot(request).await.unwrap(),
                expected,
                "{uri}"
            );
        }
    }
}
