//! From a host to the addresses to try.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};

use hyper_util::client::legacy::connect::dns::Name;
use tower_service::Service;

use crate::connect_error::ConnectError;
use crate::error::BoxError;
use crate::lookup::Lookup;
use crate::route::Family;

/// The addresses of a host, at least one, as the resolver gives them: those of another family left out, and each with the
/// port to connect to.
///
/// The URI's port stands if the caller wrote one. Otherwise a port that the resolver gives stands, if it is not 0 (hyper-util's
/// `HttpConnector` does the same); and otherwise the default of the scheme.
///
/// # Errors
///
/// What the resolver says, or that the name has no such address. The text names the host.
pub(super) async fn resolve<R>(
    resolver: &mut R,
    lookup: &Lookup,
) -> Result<Vec<SocketAddr>, ConnectError>
where
    R: Service<Name>,
    R::Response: Iterator<Item = SocketAddr>,
    R::Error: Into<BoxError>,
{
    let Lookup { host, port, .. } = lookup;
    let fits = |address: IpAddr| {
        lookup
            .family
            .is_none_or(|family| Family::of(address) == family)
    };
    let kind = lookup
        .family
        .map_or(String::new(), |family| format!("{family} "));
    if let Some(address) = literal(lookup) {
        if fits(address) {
            return Ok(vec![SocketAddr::new(address, *port)]);
        }
        return Err(ConnectError::new(format!(
            "connect: {address} is no {kind}address"
        )));
    }
    let cannot = |error: BoxError| ConnectError::caused_by(format!("resolve {host}"), error);
    let name: Name = host.parse().map_err(|error| cannot(Box::new(error)))?;
    poll_fn(|cx| resolver.poll_ready(cx))
        .await
        .map_err(|error| cannot(error.into()))?;
    let found = resolver.call(name).await;
    let found = found.map_err(|error| cannot(error.into()))?;
    let addresses: Vec<_> = found
        .filter(|address| fits(address.ip()))
        .map(|mut address| {
            if lookup.has_port || address.port() == 0 {
                address.set_port(*port);
            }
            address
        })
        .collect();
    if addresses.is_empty() {
        return Err(ConnectError::new(format!(
            "connect: {host} has no {kind}address"
        )));
    }
    Ok(addresses)
}

/// The host, if it is an address.
pub(super) fn literal(lookup: &Lookup) -> Option<IpAddr> {
    lookup.host.parse().ok()
}
