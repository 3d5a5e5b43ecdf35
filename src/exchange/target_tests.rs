//! The target of a request, for every URI that can be built (RFC 9112 §3.2).

use bytes::Bytes;
use http::uri::{Authority, Parts, PathAndQuery, Scheme};
use http::{Method, Request, Uri};
use http_body_util::Empty;
use percent_encoding::percent_decode_str;
use proptest::prelude::*;
use proptest::sample::select;

use crate::exchange::ExchangeLayer;
use crate::exchange::request::split_origin;

/// What came of a request: its target and its `Authorization`, or why there is none.
fn aimed(method: &Method, uri: &Uri, absolute: bool) -> Result<(String, Option<String>), String> {
    let request = Request::builder().method(method).uri(uri.clone());
    let mut request = request.body(Empty::<Bytes>::new()).unwrap();
    let settings = ExchangeLayer::new().absolute_form(absolute).settings();
    let mut destination = None;
    split_origin(&mut request, &settings, &mut destination, &mut None)
        .map_err(|fault| fault.to_string())?;
    assert!(!format!("{destination:?}").contains('@'));
    let authorization = request.headers().get("authorization");
    let authorization = authorization.map(|it| it.to_str().unwrap().to_owned());
    Ok((request.uri().to_string(), authorization))
}

/// The parts of a URI, of which some stand together in no text.
fn parts() -> impl Strategy<Value = Uri> {
    let scheme = select(vec!["http", "https", "HTTP", "hTTps", "ws", ""]);
    let user = select(vec![
        "",
        "@",
        "u@",
        ":@",
        "u:@",
        "u:p@",
        ":p@",
        "a@b@",
        "u%40:%2F@",
        "%00@",
    ]);
    let host = select(vec![
        "h",
        "H.test",
        "127.0.0.1",
        "[::1]",
        "[fe80::1%25en0]",
        "a;b=c",
        "*",
        "!",
    ]);
    let port = select(vec!["", ":", ":0", ":80", ":8080", ":65536", ":x"]);
    let path = select(vec![
        "",
        "/",
        "/a",
        "//",
        "/a/b",
        "/*",
        "*",
        "/%2e",
        "/\u{e9}",
        "/\u{1f600}/",
        "/{\"|^}",
        "/a@b:c",
    ]);
    let query = select(vec!["", "?", "?q", "?a=b&c", "??", "?\u{e9}", "?/a@b"]);
    let fragment = select(vec!["", "#", "#f", "#\u{e9}"]);
    (scheme, user, host, port, path, query, fragment).prop_filter_map(
        "no URI",
        |(scheme, user, host, port, path, query, fragment)| {
            let mut parts = Parts::default();
            let path = format!("{path}{query}{fragment}");
            if !scheme.is_empty() {
                parts.scheme = Some(scheme.parse::<Scheme>().ok()?);
                // Nothing and a fragment is a path that is empty.
                parts.path_and_query = Some(path.parse::<PathAndQuery>().ok()?);
            }
            let authority = format!("{user}{host}{port}");
            parts.authority = Some(authority.parse::<Authority>().ok()?);
            Uri::from_parts(parts).ok()
        },
    )
}

/// A URI of any text that is one.
fn texts() -> impl Strategy<Value = Uri> {
    let text = "(https?://|//)?([a-z:%@]{0,4}@)?(\\[[0-9a-f:.%]{0,6}\\]|[a-zA-Z0-9._~!$&'()*+,;=-]{0,6})(:[0-9]{0,5})?[/?#]?\\PC{0,12}";
    text.prop_filter_map("no URI", |text| text.parse().ok())
}

fn methods() -> impl Strategy<Value = Method> {
    let odd = Method::from_bytes(b"PURGE").unwrap();
    let methods = [Method::GET, Method::POST, Method::OPTIONS, Method::CONNECT];
    select([&methods[..], &[odd]].concat())
}

fn decoded(text: &str) -> Vec<u8> {
    percent_decode_str(text).collect()
}

/// The host and the port of an authority as it was written, without user information.
fn place(authority: &str) -> &str {
    authority.rsplit('@').next().unwrap()
}

/// What may stand in a target at all: no space, nothing that ends a line, nothing above ASCII.
fn is_visible(target: &str) -> bool {
    !target.is_empty() && target.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Panics if the target is not of the one form that it has to be of.
fn check(method: &Method, uri: &Uri, absolute: bool, target: &str) {
    assert!(is_visible(target), "{target:?}");
    let authority = place(uri.authority().unwrap().as_str());
    if method == Method::CONNECT {
        assert_eq!(target, authority);
        let (_, port) = target.rsplit_once(':').unwrap();
        assert!(port.parse::<u16>().is_ok(), "{target:?}");
        return;
    }
    assert!(!target.contains('#'), "{target:?}");
    let is_plain = uri.scheme_str().unwrap().eq_ignore_ascii_case("http");
    let path = if absolute && is_plain {
        let rest = target.strip_prefix("http://").unwrap();
        rest.strip_prefix(authority).unwrap()
    } else {
        target
    };
    if uri.path() == "*" {
        assert_eq!((path, method), ("*", &Method::OPTIONS));
        return;
    }
    assert!(path.starts_with('/'), "{target:?}");
    let (path, query) = path
        .split_once('?')
        .map_or((path, None), |(path, query)| (path, Some(query)));
    assert_eq!(decoded(path), decoded(uri.path()), "{target:?}");
    assert_eq!(query.map(decoded), uri.query().map(decoded), "{target:?}");
    if uri.path_and_query().unwrap().as_str().is_ascii() {
        assert_eq!(
            (path, query),
            (uri.path(), uri.query()),
            "it is not changed"
        );
    }
}

/// Why there may be no target.
fn is_refused(method: &Method, uri: &Uri) -> bool {
    let connects = method == Method::CONNECT;
    let Some(authority) = uri.authority() else {
        return true;
    };
    let place = place(authority.as_str());
    let host = authority.host();
    let port = place.strip_prefix(host).unwrap();
    let number = port.strip_prefix(':').map(str::parse::<u16>);
    let has_scheme = match uri.scheme_str() {
        Some(scheme) => ["http", "https"]
            .iter()
            .any(|it| scheme.eq_ignore_ascii_case(it)),
        None => connects,
    };
    let has_port = matches!(number, Some(Ok(_)));
    let is_no_port = !has_port && !matches!(port, "" | ":");
    let user = authority.as_str().strip_suffix(place).unwrap();
    let name = user.split(':').next().unwrap();
    let is_bad_user =
        user.contains("%0") || user.contains("%1") || user.contains("%7f") || name.contains("%3");
    !has_scheme
        || host.is_empty()
        || host == "[]"
        || is_no_port
        || connects && !has_port
        || !connects && uri.path() == "*" && method != Method::OPTIONS
        || !connects && is_bad_user
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn every_uri_has_the_target_of_its_form_or_a_fault_with_a_name(
        uri in prop_oneof![3 => parts(), 1 => texts()],
        method in methods(),
        absolute: bool,
    ) {
        match aimed(&method, &uri, absolute) {
            Ok((target, authorization)) => {
                check(&method, &uri, absolute, &target);
                let user = uri.authority().unwrap().as_str().rsplit_once('@');
                let has_user = user.is_some_and(|(user, _)| !matches!(user, "" | ":"));
                prop_assert_eq!(authorization.is_some(), has_user && method != Method::CONNECT);
            }
            Err(why) => prop_assert!(is_refused(&method, &uri), "{} {}: {}", method, uri, why),
        }
    }
}
