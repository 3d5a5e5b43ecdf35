//! Changes a request for a route through a proxy.

#[cfg(feature = "proxy")]
use http::header::PROXY_AUTHORIZATION;
use http::header::{HeaderMap, HeaderName};

use crate::exchange::tokens;
use crate::target::Destination;
use crate::target::invalid::TargetError;
#[cfg(feature = "proxy")]
use crate::target::route::Route;

const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Sets the fields for the proxy of the request's route. If the proxy reads the request, the destination is marked;
/// otherwise the request goes through a tunnel to the origin, which never sees the proxy's fields.
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
            // The caller's own field takes precedence.
            headers.entry(name).or_insert_with(|| value.clone());
        }
        destination.set_read_by_proxy();
        return Ok(());
    }
    if headers.get_all(PROXY_AUTHORIZATION).iter().nth(1).is_some() {
        let why = "it is there more than once";
        return Err(TargetError::Header("proxy-authorization", why));
    }
    // Sent on the CONNECT of the connection, so only requests with the same value share the connection.
    if let Some(own) = headers.remove(PROXY_AUTHORIZATION)
        && proxy.protocol().is_http()
    {
        let route = destination.route().cloned().unwrap_or_default();
        let proxy = proxy.with_authorization(own);
        destination.set_route(route.with_proxy(proxy));
    }
    Ok(())
}

/// Whether the proxy closes the connection after this response, by the field that proxies use in addition to
/// `Connection` (not in an RFC; curl and browsers obey it).
#[cold]
pub(super) fn says_close(fields: &HeaderMap) -> bool {
    let mut values = fields.get_all(PROXY_CONNECTION).iter();
    values.any(|value| tokens::has(value, "close"))
}

/// Without the feature `proxy`, no route has a proxy.
#[cfg(not(feature = "proxy"))]
pub(super) fn prepare(_: &mut HeaderMap, _: &mut Destination, _: bool) -> Result<(), TargetError> {
    Ok(())
}
