//! What a route through a proxy changes about a request.

use http::HeaderMap;
#[cfg(feature = "proxy")]
use http::header::PROXY_AUTHORIZATION;

use crate::error::TargetError;
#[cfg(feature = "proxy")]
use crate::route::Route;
use crate::target::Destination;

/// Gives the proxy of the request's route its fields, and says whether it is the proxy that reads the request. If not, the
/// request goes through a tunnel to the origin, which never sees what is the proxy's.
#[cfg(feature = "proxy")]
#[cold]
pub(super) fn prepare(
    headers: &mut HeaderMap,
    destination: &mut Destination,
    connects: bool,
) -> Result<bool, TargetError> {
    let Some(proxy) = destination.route().and_then(Route::proxy).cloned() else {
        return Ok(false);
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
        return Ok(true);
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
    Ok(false)
}

/// Without the feature `proxy` no route names one.
#[cfg(not(feature = "proxy"))]
pub(super) fn prepare(
    _: &mut HeaderMap,
    _: &mut Destination,
    _: bool,
) -> Result<bool, TargetError> {
    Ok(false)
}
