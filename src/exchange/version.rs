//! What the version and the purpose of a request require of its connection.

use http::header::{CONTENT_LENGTH, UPGRADE};
use http::{Method, Request, Version};
use http_body::Body;

use crate::exchange::fields;
use crate::target::Destination;
use crate::target::invalid::TargetError;
use crate::target::protocol::Protocol;

/// For requests other than HTTP/1.1 over HTTP/1. `protocol`: what the connections speak, unless the route sets it. Sets
/// on the destination which protocol the connection has to speak.
#[inline(never)]
pub(super) fn settle<B: Body>(
    request: &Request<B>,
    protocol: Protocol,
    destination: &mut Destination,
) -> Result<(), TargetError> {
    let spoken = destination.spoken(protocol);
    let version = request.version();
    match version {
        Version::HTTP_11 => {}
        Version::HTTP_10 => check_http10(request)?,
        #[cfg(feature = "http2")]
        Version::HTTP_2 if destination.said_protocol().unwrap_or(protocol) != Protocol::Http1 => {}
        other => return Err(TargetError::Version(other)),
    }
    let wants_http2 = version == Version::HTTP_2;
    let fields = request.headers();
    // Most requests have no fields yet, and need no look-up.
    let is_upgrade =
        *request.method() == Method::CONNECT || !fields.is_empty() && fields.contains_key(UPGRADE);
    if is_upgrade && wants_http2 {
        let why = "CONNECT and upgrades are not sent over HTTP/2: set the request's version to Version::HTTP_11";
        return Err(TargetError::Method(why));
    }
    if is_upgrade || version == Version::HTTP_10 {
        if spoken != Protocol::Http1 {
            destination.set_protocol(Protocol::Http1);
        }
        return Ok(());
    }
    #[cfg(feature = "http2")]
    {
        // If nothing is negotiated, the request's version counts as prior knowledge of the server.
        if wants_http2 && spoken == Protocol::Http1 {
            destination.set_protocol(Protocol::Http2);
        }
        let asks = wants_http2 || spoken == Protocol::Http2;
        if asks && destination.is_read_by_proxy() {
            let why =
                "HTTP/2 goes through a proxy only in a tunnel: use Proxy::with_tunnel, or HTTP/1.1";
            return Err(TargetError::Route(why));
        }
    }
    if wants_http2 {
        destination.set_wants_http2();
    }
    Ok(())
}

/// HTTP/1.0 has no chunks: a body needs a length (RFC 9112 §6.3). With GET, HEAD and CONNECT, a body of unknown length
/// counts as empty, as in HTTP/1.1.
#[cold]
fn check_http10<B: Body>(request: &Request<B>) -> Result<(), TargetError> {
    let takes_none = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::CONNECT
    );
    if takes_none
        || fields::length_of(request.body()).is_some()
        || request.headers().contains_key(CONTENT_LENGTH)
    {
        return Ok(());
    }
    Err(TargetError::Body(
        "HTTP/1.0 cannot carry one of unknown length: set Content-Length, or send the request as HTTP/1.1",
    ))
}

#[cfg(test)]
#[cfg(feature = "http2")]
mod tests {
    use bytes::Bytes;
    use http::Uri;
    use http_body_util::Empty;

    use super::*;
    use crate::target::Target;
    use crate::target::key::Key;
    use crate::target::route::Route;

    /// The name of the key, and whether the connection has to speak HTTP/2.
    fn settled(
        protocol: Protocol,
        uri: &'static str,
        version: Version,
        upgrade: Option<&str>,
        route: Option<Protocol>,
    ) -> Result<(String, bool), TargetError> {
        let mut request = Request::get(uri).version(version);
        if let Some(upgrade) = upgrade {
            request = request.header("upgrade", upgrade);
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        let mut destination = Destination::try_from(Uri::from_static(uri)).unwrap();
        if let Some(protocol) = route {
            destination = destination.with_route(Route::new().with_protocol(protocol));
        }
        settle(&request, protocol, &mut destination)?;
        let key = Key::from(destination.key()).to_string();
        Ok((key, destination.wants_http2()))
    }

    const PLAIN: &str = "http://h/";
    const TLS: &str = "https://h/";

    #[test]
    fn a_request_of_http_1_1_goes_over_what_is_spoken() {
        for protocol in [Protocol::Http1, Protocol::Http2, Protocol::Auto] {
            for (uri, key) in [(PLAIN, "h:80:"), (TLS, "https:h:443:")] {
                let settled = settled(protocol, uri, Version::HTTP_11, None, None);
                assert_eq!(settled.unwrap(), (key.to_owned(), false));
            }
        }
    }

    #[test]
    fn upgrades_and_http_1_0_go_over_http_1() {
        for (protocol, uri, key) in [
            (Protocol::Http1, TLS, "https:h:443:"),
            (Protocol::Auto, PLAIN, "h:80:"),
            (Protocol::Auto, TLS, "https:h:443::protocol=http1"),
            (Protocol::Http2, PLAIN, "h:80::protocol=http1"),
        ] {
            for (version, upgrade) in [
                (Version::HTTP_11, Some("websocket")),
                (Version::HTTP_10, None),
            ] {
                let settled = settled(protocol, uri, version, upgrade, None);
                assert_eq!(
                    settled.unwrap(),
                    (key.to_owned(), false),
                    "{protocol} {uri}"
                );
            }
        }
        let both = settled(
            Protocol::Auto,
            TLS,
            Version::HTTP_2,
            Some("websocket"),
            None,
        );
        assert!(matches!(both, Err(TargetError::Method(_))));
    }

    #[test]
    fn a_request_of_http_2_has_it_where_it_can_be_had() {
        for (protocol, uri, route, key) in [
            (Protocol::Auto, TLS, None, "https:h:443:"),
            (Protocol::Auto, PLAIN, None, "h:80::protocol=http2"),
            (Protocol::Http2, PLAIN, None, "h:80:"),
            (
                Protocol::Http1,
                TLS,
                Some(Protocol::Auto),
                "https:h:443::protocol=auto",
            ),
        ] {
            let settled = settled(protocol, uri, Version::HTTP_2, None, route);
            assert_eq!(settled.unwrap(), (key.to_owned(), true), "{protocol} {uri}");
        }
        for (protocol, route) in [
            (Protocol::Http1, None),
            (Protocol::Auto, Some(Protocol::Http1)),
        ] {
            let refused = settled(protocol, TLS, Version::HTTP_2, None, route);
            assert!(matches!(refused, Err(TargetError::Version(_))));
        }
    }
}
