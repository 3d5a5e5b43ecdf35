use std::fmt;
use std::future::ready;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::uri::Scheme;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;
use tower_service::Service;

use crate::connect::MaybeTls;
use crate::connect::connecting::Connecting;
use crate::connect::times;
use crate::connect::tls::error;
use crate::connect::tls::records::Records;
use crate::connect::tls::trust_roots::Configuration;
use crate::error::BoxError;
use crate::error::connect::ConnectError;
use crate::target::Destination;
use crate::target::protocol::Protocol;
use crate::target::tls_config::{Offering, TlsConfig};

/// A connector with TLS; the service that [`TlsLayer`](crate::connect::TlsLayer) makes.
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

    /// The inner connector.
    pub const fn get_ref(&self) -> &M {
        &self.inner
    }

    /// The inner connector.
    pub const fn get_mut(&mut self) -> &mut M {
        &mut self.inner
    }
}

impl<M, T> Service<T> for Tls<M>
where
    M: Service<T>,
    M::Response: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    M::Future: Send + 'static,
    M::Error: Into<BoxError>,
    T: TryInto<Destination> + From<Destination>,
    T::Error: Into<BoxError>,
{
    type Response = MaybeTls<M::Response>;
    type Error = BoxError;
    type Future = Connecting<MaybeTls<M::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: T) -> Self::Future {
        let destination = match target.try_into() {
            Ok(destination) => destination,
            Err(error) => {
                let error = error.into();
                return Connecting::new(ready(Err(error)));
            }
        };
        // A secured destination is passed through: below a `ProxyConnector`, this layer is for the proxies, and TLS
        // with the origin is added above.
        if *destination.scheme() != Scheme::HTTPS || destination.is_secured() {
            let connecting = self.inner.call(destination.into());
            return Connecting::new(async move {
                Ok(MaybeTls::plain(connecting.await.map_err(Into::into)?))
            });
        }
        let route = destination.route();
        let own = route.and_then(|route| route.tls()).cloned();
        let host = route
            .and_then(|route| route.server_name())
            .unwrap_or_else(|| destination.authority().host())
            .to_owned();
        let configuration = self.configuration.clone();
        let protocol = destination.protocol();
        let protocol = protocol.unwrap_or_else(|| configuration.protocol());
        let connecting = self.inner.call(destination.secured().into());
        Connecting::new(async move {
            let name = server_name(&host)?;
            let config = match own {
                Some(own) => config_of(&own, protocol).await?,
                None => configuration.get(protocol).await?,
            };
            let transport = connecting.await.map_err(Into::into)?;
            let handshake = TlsConnector::from(config).connect(name, Records::new(transport));
            match times::part(|times| &mut times.tls, handshake).await {
                Ok(stream) => Ok(MaybeTls::tls(stream)),
                Err(failure) => Err(error::handshake(&host, protocol, failure).into()),
            }
        })
    }
}

/// The configuration of a route: a rustls configuration, or settings from which one is made when it is first needed.
async fn config_of(route: &TlsConfig, protocol: Protocol) -> Result<Arc<ClientConfig>, BoxError> {
    match route.get::<Configuration>() {
        Some(configuration) => configuration.get(protocol).await,
        None => Ok(route
            .get::<Offering>()
            .expect("a TlsConfig is made of one or the other")
            .of(protocol)),
    }
}

/// The name in the server's certificate. An IP address is not sent as SNI.
fn server_name(host: &str) -> Result<ServerName<'static>, ConnectError> {
    let name = match host.strip_prefix('[') {
        Some(rest) => (rest.strip_suffix(']'))
            .and_then(|literal| literal.parse::<IpAddr>().ok())
            .map(ServerName::from),
        None => ServerName::try_from(host.to_owned()).ok(),
    };
    name.ok_or_else(|| error::no_name(host))
}

impl<M: fmt::Debug> fmt::Debug for Tls<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
