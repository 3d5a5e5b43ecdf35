//! What a route through a proxy changes about a request.

#[cfg(feature = "proxy")]
use http::header::PROXY_AUTHORIZATION;
use http::header::{HeaderMap, HeaderName};

use crate::exchange::tokens;
use crate::target::Destination;
use crate::target::invalid::TargetError;
#[cfg(feature = "proxy")]
use crate::target::route::Route;

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Gives the proxy of the request's route its fields. Unless it is the proxy that reads the request, which the destination
/// is told then, the request goes through a tunnel to the origin, which never sees what is the proxy's.
#[cfg(feature = "proxy")]
#[cold]
pub(super) fn prepare(
    headers: &mut HeaderMap,
    destination: &mut Destination,
    connects: bool,
) -> Result<(), TargetError> {
    let Some(proxy) = destination.route().and_then(Route::proxy).cloned() else {
        return Ok(());
    };
    let asks_proxy = connects && proxy.protocol().is_http();
    if asks_proxy {
        // A CONNECT of the caller's is for the proxy itself, whatever its target is (RFC 9110 §9.3.6).
        destination.set_plain();
        if proxy.always_tunnels() {
            let route = destination.route().cloned().unwrap_or_default();
            destination.set_route(route.with_proxy(proxy.clone().without_tunnel()));
        }
    }
    if asks_proxy || !proxy.tunnels(destination.is_https()) {
        for (name, value) in proxy.fields() {
            // The caller's own stands.
            headers.entry(name).or_insert_with(|| value.clone());
        }
        destination.set_read_by_proxy();
        return Ok(());
    }
    if headers.get_all(PROXY_AUTHORIZATION).iter().nth(1).is_some() {
        let why = "it is there more than once";
        return Err(TargetError::Header("proxy-authorization", why));
    }
    // On the CONNECT of the connection, which so is shared only by requests that say the same.
    if let Some(own) = headers.remove(PROXY_AUTHORIZATION)
        && proxy.protocol().is_http()
    {
        let route = destination.route().cloned().unwrap_or_default();
        let proxy = proxy.with_authorization(own);
        destination.set_route(route.with_proxy(proxy));
    }
    Ok(())
}

/// Whether a proxy says that it closes the connection after this response, in the field that proxies use for it beside
/// `Connection` (no RFC has it; curl and browsers heed it).
#[cold]
pub(super) fn says_close(fields: &HeaderMap) -> bool {
    let mut values = fields.get_all(PROXY_CONNECTION).iter();
    values.any(|value| tokens::has(value, "close"))
}

/// Without the feature `proxy` no route names one.
#[cfg(not(feature = "proxy"))]
pub(super) fn prepare(_: &mut HeaderMap, _: &mut Destination, _: bool) -> Result<(), TargetError> {
    Ok(())
}
