//! A tunnel through a proxy of SOCKS, by hyper-util.

use std::convert::Infallible;
use std::future::ready;
use std::net::IpAddr;

use http::Uri;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::connect::hop::Hop;
use crate::error::BoxError;
use crate::proxy::{Protocol, Proxy};

/// Asks the proxy at the other end of `hop` for a tunnel to `origin`, and gives the transport back.
pub(super) async fn tunnel<C>(hop: Hop<C>, proxy: &Proxy, origin: Uri) -> Result<C, BoxError>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failure = hop.failure();
    let origin = match proxy.protocol() {
        Protocol::Socks4 => resolved(origin, IpAddr::is_ipv4).await?,
        Protocol::Socks5 => resolved(origin, |_| true).await?,
        _ => origin,
    };
    let mut hop = Some(TokioIo::new(hop));
    // hyper-util asks for the transport to the proxy, once; where that proxy is has been said to the connector.
    let hop = tower::service_fn(move |_: Uri| {
        ready(Ok::<_, Infallible>(hop.take().expect("asked for once")))
    });
    let unused = Uri::default();
    let made: Result<_, BoxError> = match proxy.protocol() {
        Protocol::Socks4 | Protocol::Socks4a => {
            let made = SocksV4::new(unused, hop).call(origin).await;
            made.map_err(Into::into)
        }
        _ => {
            let mut socks = SocksV5::new(unused, hop);
            if let Some((name, password)) = proxy.login().cloned() {
                socks = socks.with_auth(name, password);
            }
            socks.call(origin).await.map_err(Into::into)
        }
    };
    match made {
        Ok(io) => Ok(io.into_inner().into_inner()),
        // hyper-util's error says no more than that there was one of I/O.
        Err(error) => Err(failure.take().map_or(error, Into::into)),
    }
}

/// An origin by its address: hyper-util's own resolution would hold the runtime's thread up.
async fn resolved(origin: Uri, will_do: impl Fn(&IpAddr) -> bool) -> Result<Uri, BoxError> {
    let host = origin.host().unwrap_or_default();
    let port = origin.port_u16().unwrap_or_default();
    let found = tokio::net::lookup_host(format!("{host}:{port}")).await?;
    let address = found.map(|found| found.ip()).find(|found| will_do(found));
    let Some(address) = address else {
        return Err(format!("{host} has no address that the proxy could be given").into());
    };
    let host = match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    };
    Ok(format!("http://{host}:{port}/").parse::<Uri>()?)
}
