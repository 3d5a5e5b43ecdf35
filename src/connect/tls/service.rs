use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tower_service::Service;

use crate::connect::MaybeTls;
use crate::connect::tls::anchors::Configuration;
use crate::connect::tls::error::TlsError;
use crate::error::BoxError;

/// The connector that [`TlsLayer`](crate::connect::TlsLayer) makes of another.
#[derive(Clone)]
pub struct Tls<M> {
    inner: M,
    configuration: Arc<Configuration>,
}

impl<M> Tls<M> {
    pub(super) fn new(inner: M, configuration: Arc<Configuration>) -> Self {
        Self {
            inner,
            configuration,
        }
    }

    /// The connector below.
    pub const fn get_ref(&self) -> &M {
        &self.inner
    }
}

impl<M, T> Service<T> for Tls<M>
where
    M: Service<Uri>,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    T: Into<Uri>,
{
    type Response = MaybeTls<M::Response>;
    type Error = BoxError;
    type Future = TlsConnecting<M::Response>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let uri = target.into();
        if uri.scheme() != Some(&Scheme::HTTPS) {
            let connecting = self.inner.call(uri);
            return TlsConnecting(Box::pin(async move {
                Ok(MaybeTls::plain(connecting.await.map_err(Into::into)?))
            }));
        }
        let host = uri.host().unwrap_or_default().to_owned();
        let connecting = self.inner.call(without_tls(&uri));
        let configuration = self.configuration.clone();
        TlsConnecting(Box::pin(async move {
            let name = server_name(&host)?;
            let config = configuration.get().await?;
            let transport = connecting.await.map_err(Into::into)?;
            let handshake = TlsConnector::from(config).connect(name, transport);
            match handshake.await {
                Ok(stream) => Ok(MaybeTls::tls(stream)),
                Err(error) => Err(TlsError::handshake(&host, error).into()),
            }
        }))
    }
}

/// The same place, to be connected to as it is.
fn without_tls(uri: &Uri) -> Uri {
    let port = uri.port_u16().unwrap_or(443);
    let authority = format!("{}:{port}", uri.host().unwrap_or_default());
    let mut parts = Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Authority::try_from(authority).ok();
    parts.path_and_query = Some(PathAndQuery::from_static("/"));
    // Without a host it is nothing that can be connected to, which is for the connector to say.
    Uri::from_parts(parts).unwrap_or_default()
}

/// The name in the server's certificate; an IP address is one without SNI.
fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    let name = match host.strip_prefix('[') {
        Some(rest) => (rest.strip_suffix(']'))
            .and_then(|literal| literal.parse::<IpAddr>().ok())
            .map(ServerName::from),
        None => ServerName::try_from(host.to_owned()).ok(),
    };
    name.ok_or_else(|| TlsError::Name(host.to_owned()))
}

impl<M: fmt::Debug> fmt::Debug for Tls<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

/// Resolves to a transport, after the handshake where there is one. Boxed: connecting is rare.
///
/// # Cancel safety
///
/// Dropping it gives up the connect.
pub struct TlsConnecting<IO>(Pin<Box<dyn Future<Output = Result<MaybeTls<IO>, BoxError>> + Send>>);

impl<IO> Future for TlsConnecting<IO> {
    type Output = Result<MaybeTls<IO>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<IO> fmt::Debug for TlsConnecting<IO> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TlsConnecting")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connector_is_asked_for_a_plain_connection() {
        for (asked, below) in [
            ("https://h/", "http://h:443/"),
            ("https://me:secret@h/", "http://h:443/"),
            ("https://h:/", "http://h:443/"),
            ("https://h:8443/path?query", "http://h:8443/"),
            ("https://[::1]/", "http://[::1]:443/"),
            ("https://[::1]:8443/", "http://[::1]:8443/"),
        ] {
            assert_eq!(without_tls(&asked.parse().unwrap()), below, "{asked}");
        }
    }

    #[test]
    fn every_host_that_a_certificate_can_name_is_one() {
        for host in ["h", "a_b.example", "example.com.", "127.0.0.1", "[::1]"] {
            server_name(host).unwrap();
        }
        for host in ["", "[v1.x]", "[::1", "a..b", "-", "%41"] {
            server_name(host).unwrap_err();
        }
    }
}
