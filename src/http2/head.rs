//! The head of a request in the form for HTTP/2.

use std::sync::OnceLock;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
    UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Method, Request, Uri, Version};

use crate::target::key::Key;

/// The common parts of all requests on one connection, so that they are not made for each.
#[derive(Debug)]
pub(super) struct Origin {
    scheme: Scheme,
    /// The authority of the first request, which is almost always that of all.
    authority: OnceLock<Authority>,
}

impl Origin {
    /// `scheme`: used if no pool has set it.
    pub(super) fn new(scheme: Scheme) -> Self {
        Self {
            scheme,
            authority: OnceLock::new(),
        }
    }

    fn authority(&self, host: &HeaderValue) -> Option<Authority> {
        if let Some(known) = self.authority.get()
            && known.as_str().as_bytes() == host.as_bytes()
        {
            return Some(known.clone());
        }
        let authority = Authority::try_from(host.as_bytes()).ok()?;
        let _ = self.authority.set(authority.clone());
        Some(authority)
    }
}

/// Fields of a single HTTP/1 connection (RFC 9113 §8.2.2).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Why a request cannot be sent over HTTP/2.
pub(super) type Fault = &'static str;

/// Converts the head of a request that [`Exchange`](crate::layers::Exchange) has prepared, with a path as its URI and the
/// authority in `Host` unless it is that of `key`, the key of the connection, which has the scheme. `length`: the length
/// of the body, for a field unless there is one. `sent`: a new request, filled in place because it is large.
pub(super) fn prepare<B>(
    sent: &mut Request<()>,
    request: &Request<B>,
    origin: &Origin,
    key: Option<&Key>,
    length: Option<u64>,
) -> Result<(), Fault> {
    let host = fields(request.headers(), sent.headers_mut())?;
    *sent.uri_mut() = target(request, host, origin, key)?;
    *sent.method_mut() = request.method().clone();
    *sent.version_mut() = Version::HTTP_2;
    if let Some(length) = length
        && !sent.headers().contains_key(CONTENT_LENGTH)
    {
        sent.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    Ok(())
}

/// The length of the body that a head announces.
pub(super) fn length(fields: &HeaderMap) -> Option<u64> {
    if fields.is_empty() {
        return None;
    }
    fields.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn target<B>(
    request: &Request<B>,
    host: Option<&HeaderValue>,
    origin: &Origin,
    key: Option<&Key>,
) -> Result<Uri, Fault> {
    if request.method() == Method::CONNECT {
        return Err("CONNECT over HTTP/2 is not supported: send it over HTTP/1");
    }
    let authority = match host.or_else(|| key?.host_header()) {
        Some(host) => origin.authority(host),
        None => request.uri().authority().cloned(),
    };
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(match key {
        Some(key) if key.scheme() == "https" => Scheme::HTTPS,
        Some(_) => Scheme::HTTP,
        None => origin.scheme.clone(),
    });
    parts.authority = Some(authority.ok_or("its host is no authority")?);
    let path = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    Uri::from_parts(parts).map_err(|_| "its target makes no URI")
}

/// The fields that are sent, of all that there are; and `Host`, which is not.
#[inline]
fn fields<'a>(own: &'a HeaderMap, sent: &mut HeaderMap) -> Result<Option<&'a HeaderValue>, Fault> {
    let (mut host, mut is_plain) = (None, true);
    // Each is compared, and none is looked up: most requests have few.
    for (name, value) in own {
        if *name == HOST {
            host = Some(value);
        } else if *name == UPGRADE {
            return Err("HTTP/2 has no upgrades: send the request over HTTP/1");
        } else if [
            CONNECTION,
            TRANSFER_ENCODING,
            TE,
            KEEP_ALIVE,
            PROXY_CONNECTION,
        ]
        .contains(name)
        {
            is_plain = false;
        }
    }
    if own.len() > usize::from(host.is_some()) {
        sent.clone_from(own);
        sent.remove(HOST);
        if !is_plain {
            remove_hops(own, sent);
        }
    }
    Ok(host)
}

/// What is of the one connection: what `Connection` names, too, all but `TE`, of which HTTP/2 knows one value.
#[cold]
fn remove_hops(own: &HeaderMap, sent: &mut HeaderMap) {
    for options in own.get_all(CONNECTION) {
        for name in options.as_bytes().split(|&byte| byte == b',') {
            if let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) {
                sent.remove(name);
            }
        }
    }
    for name in [
        CONNECTION,
        TRANSFER_ENCODING,
        TE,
        KEEP_ALIVE,
        PROXY_CONNECTION,
    ] {
        sent.remove(name);
    }
    if own.get_all(TE).iter().any(wants_trailers) {
        sent.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn wants_trailers(te: &HeaderValue) -> bool {
    let codings = te.as_bytes().split(|&byte| byte == b',');
    codings
        .filter_map(|coding| coding.split(|&byte| byte == b';').next())
        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::Target;

    fn prepared(request: http::request::Builder) -> Result<Request<()>, Fault> {
        let request = request.body(()).unwrap();
        let mut sent = Request::new(());
        prepare(&mut sent, &request, &Origin::new(Scheme::HTTPS), None, None).map(|()| sent)
    }

    #[test]
    fn the_host_is_the_authority_and_fields_of_one_connection_go() {
        let request = Request::get("/a?b")
            .header("host", "h:81")
            .header("connection", "close, x-hop, te")
            .header("keep-alive", "1")
            .header("proxy-connection", "1")
            .header("transfer-encoding", "chunked")
            .header("x-hop", "1")
            .header("te", "gzip, Trailers;q=1")
            .header("accept", "a")
            .header("accept", "b");
        let sent = prepared(request).unwrap();
        assert_eq!(*sent.uri(), "https://h:81/a?b");
        assert_eq!(sent.version(), Version::HTTP_2);
        let mut fields: Vec<_> = sent.headers().iter().collect();
        fields.sort_by_key(|(name, _)| name.as_str());
        let [(_, a), (_, b), (te, trailers)] = fields[..] else {
            panic!("{fields:?}");
        };
        assert_eq!((a, b), (&"a".parse().unwrap(), &"b".parse().unwrap()));
        assert_eq!(
            (te.as_str(), trailers.to_str().unwrap()),
            ("te", "trailers")
        );
    }

    #[test]
    fn each_request_has_the_authority_of_its_own_host() {
        let origin = Origin::new(Scheme::HTTP);
        for host in ["a", "b:8080", "a", "[::1]:80"] {
            let request = Request::get("/").header("host", host).body(()).unwrap();
            let mut sent = Request::new(());
            prepare(&mut sent, &request, &origin, None, None).unwrap();
            assert_eq!(sent.uri().authority().unwrap().as_str(), host);
            assert_eq!(sent.uri().scheme(), Some(&Scheme::HTTP));
        }
    }

    /// Also where TLS ends before the transport, or begins beneath it.
    #[test]
    fn the_scheme_is_that_of_the_key_and_only_without_one_the_connections() {
        for of_connection in [Scheme::HTTP, Scheme::HTTPS] {
            let origin = Origin::new(of_connection.clone());
            for (uri, scheme) in [
                (Some("http://h/"), Scheme::HTTP),
                (Some("https://h/"), Scheme::HTTPS),
                (None, of_connection),
            ] {
                let key = uri.map(|it| Key::from(Uri::from_static(it).key()));
                let request = Request::get("/").header("host", "h").body(()).unwrap();
                let mut sent = Request::new(());
                prepare(&mut sent, &request, &origin, key.as_ref(), None).unwrap();
                assert_eq!(sent.uri().scheme(), Some(&scheme), "{uri:?}");
            }
        }
    }

    #[test]
    fn what_asks_of_a_server_as_a_whole_has_an_asterisk() {
        let sent = prepared(Request::options("*").header("host", "h")).unwrap();
        assert_eq!(sent.uri().path(), "*");
    }

    #[test]
    fn tunnels_and_upgrades_are_not_sent() {
        let connect = Request::builder().method("CONNECT").uri("h:443");
        assert!(prepared(connect.header("host", "h:443")).is_err());
        let upgrade = Request::get("/").header("upgrade", "websocket");
        assert!(prepared(upgrade.header("host", "h")).is_err());
        assert!(prepared(Request::get("/").header("host", "a b")).is_err());
        assert!(prepared(Request::get("/")).is_err());
    }
}
