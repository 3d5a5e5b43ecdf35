//! The user information of a URI.

use std::mem;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderValue};
use http::uri::Authority;
use http::{Method, Request, Uri};
use percent_encoding::percent_decode_str;

use crate::target::invalid::TargetError;

/// Turns `user:password@` in the request's URI into its `Authorization`, unless the caller has set one. Nothing below
/// sees the user information, neither connectors nor code that prints a target.
///
/// For a CONNECT, the user information of the target is dropped, because the request is for a proxy.
#[cold]
pub(super) fn take<B>(request: &mut Request<B>) -> Result<(), TargetError> {
    let Some((user, host)) = request
        .uri()
        .authority()
        .and_then(|it| it.as_str().rsplit_once('@'))
    else {
        return Ok(());
    };
    // A bracket that was opened in the user information may be closed here.
    let Ok(bare) = host.parse::<Authority>() else {
        let why = "the host of the URI, behind its user information, is none";
        return Err(TargetError::User(why));
    };
    let authorization = match *request.method() {
        Method::CONNECT => None,
        _ if request.headers().contains_key(AUTHORIZATION) => None,
        _ => basic(user)?,
    };
    if let Some(value) = authorization {
        request.headers_mut().append(AUTHORIZATION, value);
    }
    let mut parts = mem::take(request.uri_mut()).into_parts();
    parts.authority = Some(bare);
    *request.uri_mut() = Uri::from_parts(parts).expect("a URI stays one without user information");
    Ok(())
}

/// RFC 7617: a name without a colon, a colon, and a password; neither may contain control characters.
fn basic(user: &str) -> Result<Option<HeaderValue>, TargetError> {
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    let [name, password] = [name, password].map(|it| Vec::from_iter(percent_decode_str(it)));
    if name.is_empty() && password.is_empty() {
        return Ok(None);
    }
    if name.contains(&b':') {
        let why = "the user name in the URI has a colon: set the field authorization instead";
        return Err(TargetError::User(why));
    }
    if name.iter().chain(&password).any(u8::is_ascii_control) {
        let why = "the user information in the URI has a control character: set the field authorization instead";
        return Err(TargetError::User(why));
    }
    let encoded = STANDARD.encode([&name[..], b":", &password].concat());
    let value = HeaderValue::try_from(format!("Basic {encoded}"));
    let mut value = value.expect("base64 is a field value");
    value.set_sensitive(true);
    Ok(Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(method: Method, uri: &str) -> Result<Request<()>, TargetError> {
        let request = Request::builder().method(method).uri(uri).body(());
        let mut request = request.unwrap();
        take(&mut request)?;
        Ok(request)
    }

    #[test]
    fn user_information_becomes_authorization() {
        for (uri, decoded) in [
            ("http://me:secret@h/", Some(&b"me:secret"[..])),
            ("http://me@h:81/a?b=c", Some(b"me:")),
            ("http://:secret@h/", Some(b":secret")),
            (
                "http://m%40e:s%3Ac%2Fr%C3%A9t@h/",
                Some(b"m@e:s:c/r\xc3\xa9t"),
            ),
            ("http://me:%FF@h/", Some(b"me:\xff")),
            ("http://me:a:b@h/", Some(b"me:a:b")),
            ("http://me:100%@h/", Some(b"me:100%")),
            ("http://a@b:c@h/", Some(b"a@b:c")),
            ("http://me:secret@[::1]:81/", Some(b"me:secret")),
            ("http://@h/", None),
            ("http://:@h/", None),
            ("http://h/", None),
            ("http://[::1]/", None),
        ] {
            let request = taken(Method::GET, uri).unwrap();
            let value = request.headers().get(AUTHORIZATION);
            let sent = value.map(|it| {
                assert!(it.is_sensitive());
                let encoded = it.as_bytes().strip_prefix(b"Basic ").unwrap();
                STANDARD.decode(encoded).unwrap()
            });
            assert_eq!(sent.as_deref(), decoded, "{uri}");
            let (scheme, rest) = uri.split_once("//").unwrap();
            let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
            assert_eq!(request.uri().to_string(), format!("{scheme}//{rest}"));
        }
    }

    #[test]
    fn what_basic_cannot_say_is_named_without_showing_it() {
        for (uri, why) in [
            ("http://se%3Acret:x@h/", "colon"),
            ("http://secret%0D%0Ax:y@h/", "control"),
            ("http://x:secret%00@h/", "control"),
        ] {
            let error = taken(Method::GET, uri).unwrap_err().to_string();
            assert!(error.contains(why) && !error.contains("cret"), "{error}");
        }
    }

    #[test]
    fn a_tunnel_is_not_authorized_by_its_target() {
        for uri in ["me:secret@h:443", "http://me%00:secret@h:443/"] {
            let request = taken(Method::CONNECT, uri).unwrap();
            assert!(request.headers().is_empty());
            assert!(!request.uri().to_string().contains('@'));
        }
    }

    #[test]
    fn the_callers_own_authorization_stands() {
        let mut request = Request::get("http://me:a%00b@h/").body(()).unwrap();
        let own = HeaderValue::from_static("Bearer x");
        request.headers_mut().insert(AUTHORIZATION, own.clone());
        take(&mut request).unwrap();
        let values = request.headers().get_all(AUTHORIZATION);
        assert_eq!(Vec::from_iter(values), [&own]);
        assert_eq!(*request.uri(), "http://h/");
    }
}
