//! The fields that a request needs in addition to its caller's.

use std::mem;

use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderValue, TE, UPGRADE};
use http::{Method, Request, Version};
use http_body::Body;

use crate::connection::taken::Taken;
use crate::exchange::tokens;
use crate::target::Destination;
use crate::target::key::Key;

/// Adds `Host`, unless the caller has set it.
#[inline]
pub(super) fn add_host(fields: &mut HeaderMap, key: Option<&Key>, destination: &Destination) {
    if fields.is_empty() {
        if let Some(host) = host(key, destination) {
            // An empty map has no earlier value to return.
            fields.append(HOST, host);
        }
    } else if fields.keys().next() != Some(&HOST) {
        put_host_first(fields, key, destination);
    }
}

/// Adds the length of an empty body, unless the caller has set it.
#[inline]
pub(super) fn add_length<B: Body>(request: &mut Request<B>) {
    if let Method::POST | Method::PUT | Method::PATCH = *request.method()
        && length_of(request.body()) == Some(0)
        // Frames that one connection has read are sent again by the next one.
        && request.extensions().get::<Taken>().is_none()
    {
        put_length_zero(request.headers_mut());
    }
}

/// The length of a body, if it is known.
pub(super) fn length_of<B: Body>(body: &B) -> Option<u64> {
    match body.is_end_stream() {
        true => Some(0),
        false => body.size_hint().exact(),
    }
}

#[inline]
fn host(key: Option<&Key>, destination: &Destination) -> Option<HeaderValue> {
    match key {
        Some(key) if !destination.is_read_by_proxy() => key.host_header().cloned(),
        _ => host_of_origin(destination),
    }
}

/// A connection without a pool has no key, and one to a proxy may have the proxy's.
#[cold]
fn host_of_origin(destination: &Destination) -> Option<HeaderValue> {
    Key::from(destination.origin()).host_header().cloned()
}

/// RFC 9112 §3.2: `Host` should be the first field, but `HeaderMap` cannot insert at its front.
#[inline(never)]
fn put_host_first(fields: &mut HeaderMap, key: Option<&Key>, destination: &Destination) {
    let own = fields.get(HOST).cloned();
    let Some(host) = own.or_else(|| host(key, destination)) else {
        return;
    };
    let mut others = mem::replace(fields, HeaderMap::with_capacity(fields.keys_len() + 1));
    fields.append(HOST, host);
    let mut last = HOST;
    for (name, value) in others.drain() {
        // `drain` returns the name of a field once, with its first value.
        last = name.unwrap_or(last);
        if last != HOST {
            fields.append(&last, value);
        }
    }
}

/// RFC 9110 §8.6. hyper sends no length without a body, and removes a `Transfer-Encoding`.
#[cold]
fn put_length_zero(fields: &mut HeaderMap) {
    if !fields.contains_key(CONTENT_LENGTH) {
        fields.append(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
}

/// Adds the option `close` to `Connection`; not to a request for an upgrade, because a server that sees `close` refuses
/// the upgrade, and an upgraded connection leaves its pool anyway (RFC 9110 §7.8).
#[cold]
pub(super) fn put_connection_close(fields: &mut HeaderMap) {
    let upgrades = fields.contains_key(UPGRADE) && tokens::is_option(fields, "upgrade");
    if !upgrades {
        add_option(fields, "close");
    }
}

/// RFC 9110 §10.1.4: a sender of `TE` has to send the option `TE` too, so that an intermediary does not pass `TE` on.
#[inline]
pub(super) fn name_te(fields: &mut HeaderMap) {
    if fields.contains_key(TE) {
        add_option(fields, "te");
    }
}

/// Whether the body waits until the server accepts it (RFC 9110 §10.1.1). HTTP/1.0 has no such expectation. A request
/// without content must not have it, and loses the field.
pub(super) fn expects_continue<B: Body>(request: &mut Request<B>) -> bool {
    let expectation = request.headers().get(EXPECT);
    if !expectation.is_some_and(|it| tokens::has(it, "100-continue")) {
        return false;
    }
    if request.body().is_end_stream() {
        request.headers_mut().remove(EXPECT);
        return false;
    }
    request.version() != Version::HTTP_10
}

/// The other options are kept, in one field, except that `close` replaces `keep-alive`.
#[cold]
fn add_option(fields: &mut HeaderMap, option: &'static str) {
    if tokens::is_option(fields, option) {
        return;
    }
    let mut value = Vec::new();
    let options = fields.get_all(CONNECTION).iter().flat_map(tokens::tokens);
    for other in options {
        let contradicts = option == "close" && other.eq_ignore_ascii_case(b"keep-alive");
        if !other.is_empty() && !contradicts {
            value.extend_from_slice(other);
            value.extend_from_slice(b", ");
        }
    }
    value.extend_from_slice(option.as_bytes());
    let value = HeaderValue::try_from(value).expect("parts of field values are field values");
    fields.insert(CONNECTION, value);
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use http_body::{Frame, SizeHint};
    use http_body_util::{Empty, Full};

    use super::*;

    fn fields(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let fields = fields.iter().map(|(name, value)| {
            let name = http::HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        });
        let mut map = HeaderMap::new();
        fields.for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    fn listed(fields: &HeaderMap) -> Vec<(&str, &str)> {
        let fields = fields.iter();
        fields
            .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
            .collect()
    }

    #[test]
    fn host_comes_first_and_the_others_keep_their_order() {
        let destination = Destination::try_from(http::Uri::from_static("http://h:81/")).unwrap();
        for (own, sent) in [
            (&[][..], &[("host", "h:81")][..]),
            (&[("host", "own")], &[("host", "own")]),
            (&[("accept", "a")], &[("host", "h:81"), ("accept", "a")]),
            (
                &[
                    ("b", "1"),
                    ("a", "2"),
                    ("b", "3"),
                    ("host", "own"),
                    ("c", "4"),
                ],
                &[
                    ("host", "own"),
                    ("b", "1"),
                    ("b", "3"),
                    ("a", "2"),
                    ("c", "4"),
                ],
            ),
            (
                &[("host", "own"), ("b", "1"), ("a", "2")],
                &[("host", "own"), ("b", "1"), ("a", "2")],
            ),
        ] {
            let mut request = Request::new(Empty::<Bytes>::new());
            *request.headers_mut() = fields(own);
            add_host(request.headers_mut(), None, &destination);
            assert_eq!(listed(request.headers()), sent, "{own:?}");
        }
    }

    #[test]
    fn a_method_that_expects_content_says_when_there_is_none() {
        for (method, content, own, length) in [
            ("POST", "", &[][..], Some("0")),
            ("PUT", "", &[], Some("0")),
            ("PATCH", "", &[("accept", "a")], Some("0")),
            ("POST", "", &[("content-length", "0")], Some("0")),
            // hyper says it where there is content.
            ("POST", "x", &[], None),
            ("DELETE", "", &[], None),
            ("GET", "", &[], None),
            ("HEAD", "", &[], None),
            ("OPTIONS", "", &[], None),
        ] {
            let body = Full::new(Bytes::from_static(content.as_bytes()));
            let request = Request::builder().method(method).body(body);
            let mut request = request.unwrap();
            *request.headers_mut() = fields(own);
            add_length(&mut request);
            let lengths = request.headers().get_all(CONTENT_LENGTH);
            let lengths: Vec<_> = lengths.iter().map(|it| it.to_str().unwrap()).collect();
            assert_eq!(lengths, Vec::from_iter(length), "{method} {content:?}");
        }
    }

    #[test]
    fn a_body_of_which_something_was_taken_is_not_empty() {
        let mut request = Request::post("/").body(Empty::<Bytes>::new()).unwrap();
        request.extensions_mut().insert(Taken::default());
        add_length(&mut request);
        assert!(!request.headers().contains_key(CONTENT_LENGTH));
    }

    /// It does not say that it is at its end before it is asked.
    struct Nothing;

    impl Body for Nothing {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Ready(None)
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(0)
        }
    }

    #[test]
    fn a_body_of_the_length_zero_is_no_content() {
        let mut request = Request::post("/").body(Nothing).unwrap();
        add_length(&mut request);
        assert_eq!(request.headers()[CONTENT_LENGTH], "0");
    }

    #[test]
    fn close_stands_beside_the_options_of_the_caller() {
        for (own, said) in [
            (&[][..], &["close"][..]),
            (&[("connection", "X-Hop")], &["X-Hop, close"]),
            (
                &[("connection", "a,,b "), ("connection", "c")],
                &["a, b, c, close"],
            ),
            (&[("connection", "Close")], &["Close"]),
            (&[("connection", "Keep-Alive, a")], &["a, close"]),
            (
                &[("connection", "upgrade"), ("upgrade", "websocket")],
                &["upgrade"],
            ),
            (
                &[("connection", "a, Upgrade"), ("upgrade", "h")],
                &["a, Upgrade"],
            ),
            // One of the two alone asks for no upgrade.
            (&[("connection", "upgrade")], &["upgrade, close"]),
            (&[("upgrade", "websocket")], &["close"]),
        ] {
            let mut fields = fields(own);
            put_connection_close(&mut fields);
            let values = fields.get_all(CONNECTION).iter();
            let values: Vec<_> = values.map(|it| it.to_str().unwrap()).collect();
            assert_eq!(values, said, "{own:?}");
        }
    }

    #[test]
    fn te_is_named_as_an_option() {
        for (own, said) in [
            (&[("te", "trailers")][..], Some("te")),
            (
                &[("te", "trailers"), ("connection", "keep-alive")],
                Some("keep-alive, te"),
            ),
            (
                &[("te", "trailers"), ("connection", "TE, close")],
                Some("TE, close"),
            ),
            (&[("accept", "a")], None),
        ] {
            let mut fields = fields(own);
            name_te(&mut fields);
            let value = fields.get(CONNECTION).map(|it| it.to_str().unwrap());
            assert_eq!(value, said, "{own:?}");
        }
    }
}
