//! Parses the head of a request of which nothing was written from the bytes that hyper wanted to write.
//!
//! hyper does not keep a head that it has encoded, and a copy of each head in advance would cost every request what one
//! in a million needs.

use http::header::{AUTHORIZATION, COOKIE, HeaderName, HeaderValue, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};

const END_OF_LINE: &[u8] = b"\r\n";
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// How many of these bytes are the head of the request that they begin with; all of them if it is incomplete.
pub(super) fn head_length(bytes: &[u8]) -> usize {
    find(bytes, END_OF_HEAD).map_or(bytes.len(), |at| at + END_OF_HEAD.len())
}

/// The request with this head, whose version is left to the caller; `None` if the head is incomplete.
pub(super) fn read(head: &[u8]) -> Option<Request<()>> {
    let mut rest = head.strip_suffix(END_OF_LINE)?;
    let mut request = Request::new(());
    let mut first = line(&mut rest)?.splitn(3, |byte| *byte == b' ');
    *request.method_mut() = Method::from_bytes(first.next()?).ok()?;
    *request.uri_mut() = target(first.next()?)?;
    first.next()?.strip_prefix(b"HTTP/1.")?;
    while !rest.is_empty() {
        let field = line(&mut rest)?;
        let colon = field.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&field[..colon]).ok()?;
        let mut value = HeaderValue::from_bytes(field[colon + 1..].strip_prefix(b" ")?).ok()?;
        value.set_sensitive([AUTHORIZATION, PROXY_AUTHORIZATION, COOKIE].contains(&name));
        request.headers_mut().append(name, value);
    }
    Some(request)
}

/// Parses the target. `http::Uri` prints an absolute URI with the path `*` (see [`asterisk`](super::asterisk)), but
/// does not parse it.
fn target(text: &[u8]) -> Option<Uri> {
    let uri = Uri::try_from(text).ok()?;
    if uri.scheme().is_none() || !uri.authority()?.as_str().ends_with('*') {
        return Some(uri);
    }
    let mut parts = Uri::try_from(text.strip_suffix(b"*")?).ok()?.into_parts();
    parts.path_and_query = Some(PathAndQuery::from_static("*"));
    Uri::from_parts(parts).ok()
}

/// The next line, without its line ending.
fn line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let at = find(rest, END_OF_LINE)?;
    let line = &rest[..at];
    *rest = &rest[at + END_OF_LINE.len()..];
    Some(line)
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|it| it == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_back_as_it_was() {
        let head = b"DELETE /a?b=c HTTP/1.1\r\nHost: h:81\r\nx-empty: \r\nx: 1\r\nx: a: b \r\nauthorization: me\r\n\r\n";
        let with_more = [head.as_slice(), b"body\r\n\r\n"].concat();
        assert_eq!(head_length(&with_more), head.len());
        let request = read(head).unwrap();
        assert_eq!(request.method(), "DELETE");
        assert_eq!(*request.uri(), "/a?b=c");
        let fields: Vec<_> = request.headers().iter().collect();
        let fields = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_bytes()));
        let expected: [(&str, &[u8]); 5] = [
            ("host", b"h:81"),
            ("x-empty", b""),
            ("x", b"1"),
            ("x", b"a: b "),
            ("authorization", b"me"),
        ];
        assert_eq!(fields.collect::<Vec<_>>(), expected);
        assert!(request.headers()["authorization"].is_sensitive());
        assert!(!request.headers()["host"].is_sensitive());
    }

    #[test]
    fn every_form_of_a_target_is_read_back() {
        for target in [
            "/",
            "*",
            "h:443",
            "http://h:1/a?b",
            "http://h:1*",
            "http://h*",
            "http://[::1]*",
            "http://h:1/*",
        ] {
            let head = format!("OPTIONS {target} HTTP/1.0\r\n\r\n");
            let uri = read(head.as_bytes()).unwrap().uri().clone();
            assert_eq!(uri.to_string(), target);
            let is_asterisk = target.ends_with('*') && !target.ends_with("/*");
            assert_eq!(uri.path() == "*", is_asterisk, "{target}");
        }
    }

    #[test]
    fn what_is_not_the_whole_of_a_head_is_none() {
        let whole = b"GET / HTTP/1.1\r\nhost: h\r\n\r\n";
        assert!(read(whole).is_some());
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_none(), "{end}");
        }
        assert!(read(b"GET / SMTP\r\n\r\n").is_none());
    }
}
