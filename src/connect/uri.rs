use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::connect::connecting::Connecting;
use crate::error::{BoxError, Error, Kind};
use crate::target::Destination;
use crate::target::invalid::TargetError;

/// Makes a connector that takes [`Uri`]s usable below [`KeepAliveLayer`](crate::KeepAliveLayer), which passes a
/// [`Destination`] to connectors.
///
/// The connector gets the origin's URI, with the path `/`. A URI cannot carry a [`Route`](crate::extensions::Route): a request with
/// a route fails with an error for which [`is_target`](Error::is_target) is true, and the connector is not called. The
/// exception is a route that has a [`Protocol`](crate::Protocol) and nothing else: the protocol is checked against what
/// the connector has negotiated, once it is connected
/// ([`HandshakeLayer::negotiated_with`](crate::layers::HandshakeLayer::negotiated_with)).
///
/// Use [`new`](Self::new) for a connector whose transports implement tokio's I/O traits, and [`hyper`](Self::hyper) for
/// one whose transports implement hyper's, such as those of hyper-util:
///
/// ```
/// use bytes::Bytes;
/// use http::Uri;
/// use http_body_util::Full;
/// use hyper_util::client::legacy::connect::HttpConnector;
/// use tokio::net::TcpStream;
/// use tower::{ServiceBuilder, service_fn};
/// use tower_keep_alive::KeepAliveLayer;
/// use tower_keep_alive::connect::UriConnector;
///
/// let of_hyper_util = ServiceBuilder::new()
///     .layer(KeepAliveLayer::<Full<Bytes>>::new())
///     .service(UriConnector::hyper(HttpConnector::new()));
///
/// let of_your_own = ServiceBuilder::new()
///     .layer(KeepAliveLayer::<Full<Bytes>>::new())
///     .service(UriConnector::new(service_fn(|uri: Uri| async move {
///         let host = uri.host().unwrap_or_default().to_owned();
///         TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await
///     })));
/// # fn sends<S: tower::Service<http::Request<Full<Bytes>>>>(_: S) {}
/// # sends(of_hyper_util);
/// # sends(of_your_own);
/// ```
///
/// # Errors
///
/// The errors of the connector, and an error for a request with a route.
#[derive(Clone, Debug)]
pub struct UriConnector<M> {
    inner: M,
}

impl<M> UriConnector<M> {
    /// Wraps a connector whose transports implement tokio's [`AsyncRead`](tokio::io::AsyncRead) and
    /// [`AsyncWrite`](tokio::io::AsyncWrite).
    #[must_use]
    pub const fn new(connector: M) -> Self {
        Self { inner: connector }
    }

    /// The connector.
    pub const fn get_ref(&self) -> &M {
        &self.inner
    }

    /// The connector.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

impl<M> UriConnector<HyperIo<M>> {
    /// Wraps a connector whose transports implement hyper's [`Read`] and [`Write`], such as those of hyper-util.
    #[must_use]
    pub const fn hyper(connector: M) -> Self {
        Self::new(HyperIo(connector))
    }
}

impl<M> Service<Destination> for UriConnector<M>
where
    M: Service<Uri>,
    M::Error: Into<BoxError>,
    M::Future: Send + 'static,
{
    type Response = M::Response;
    type Error = BoxError;
    type Future = Connecting<M::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, destination: Destination) -> Self::Future {
        let connecting = match destination.route() {
            Some(route) if !route.is_only_protocol() => None,
            _ => Some(self.inner.call(destination.into())),
        };
        Connecting::new(async {
            match connecting {
                Some(connecting) => connecting.await.map_err(Into::into),
                None => Err(refused().into()),
            }
        })
    }
}

#[cold]
fn refused() -> Error {
    let why = "the request has a route, and its agent's connector takes URIs, which have no place for one: use a connector of Destinations, as TcpConnector is";
    Error::new(Kind::Target(TargetError::Route(why)))
}

/// A connector of hyper-util, whose transports implement tokio's I/O traits here; see [`UriConnector::hyper`].
#[derive(Clone, Debug)]
pub struct HyperIo<M>(M);

impl<M> Service<Uri> for HyperIo<M>
where
    M: Service<Uri>,
    M::Response: Read + Write,
    M::Error: Into<BoxError>,
    M::Future: Send + 'static,
{
    type Response = TokioIo<M::Response>;
    type Error = BoxError;
    type Future = Connecting<TokioIo<M::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Connecting::new(async { connecting.await.map(TokioIo::new).map_err(Into::into) })
    }
}
