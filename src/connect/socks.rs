//! A tunnel through a SOCKS proxy, made by hyper-util.

use std::convert::Infallible;
use std::future::ready;
use std::net::SocketAddr;

use http::Uri;
use hyper_util::client::legacy::connect::proxy::{SocksV4, SocksV5};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

use crate::connect::proxy_conn::ProxyConn;
use crate::error::BoxError;
use crate::target::proxy::{Protocol, Proxy};

/// Asks the proxy at the other end of `hop` for a tunnel to `origin`, a name or an address, and returns the transport.
pub(super) async fn tunnel<C>(hop: ProxyConn<C>, proxy: &Proxy, origin: Uri) -> Result<C, BoxError>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failure = hop.failure();
    let mut hop = Some(TokioIo::new(hop));
    // hyper-util asks its connector for the transport to the proxy, once. The transport is there already, so the URI is
    // not used.
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
        // The error of hyper-util says only that there was an I/O error.
        Err(error) => Err(failure.take().map_or(error, Into::into)),
    }
}

/// The origin by its first address that the proxy supports.
///
/// # Errors
///
/// If no address is supported.
pub(super) fn by_address(proxy: &Proxy, host: &str, found: &[SocketAddr]) -> Result<Uri, BoxError> {
    let takes_all = proxy.protocol() != Protocol::Socks4;
    let address = found.iter().find(|it| takes_all || it.is_ipv4());
    let Some(address) = address else {
        return Err(format!("{host} has no address that the proxy could be given").into());
    };
    Ok(format!("http://{address}/").parse::<Uri>()?)
}
