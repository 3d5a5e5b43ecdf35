//! What a response says about its connection.

use std::time::Duration;

use http::header::{
    CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING,
};
use http::{Response, Version};
use http_body::Body;

use crate::clock::{Millis, Nanos};
use crate::connection::lifespan::ServerHint;
use crate::exchange::tokens::{has, is_option, tokens};

/// RFC 2068 §19.7.1.1; its parameters are from draft-thomson-hybi-http-timeout.
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// What a response says about its connection.
pub(super) struct ResponseHint {
    /// The remaining time and uses.
    pub(super) server_hint: ServerHint,
    /// The connection may not be used after this response (RFC 9112 §9.3).
    pub(super) is_last: bool,
}

/// Looks at each field once: two look-ups cost more than that in a response of the usual size.
#[inline]
pub(super) fn read<R: Body>(response: &Response<R>, margin: Millis) -> ResponseHint {
    let mut server_hint = ServerHint::NONE;
    let (mut close, mut keep_alive) = (false, false);
    for (name, value) in response.headers() {
        if name == CONNECTION {
            close |= has(value, "close");
            keep_alive |= has(value, "keep-alive");
        } else if name == KEEP_ALIVE {
            tighten(&mut server_hint, value, margin);
        }
    }
    let is_10 = response.version() == Version::HTTP_10;
    // Over HTTP/2 a response with a `Transfer-Encoding` is refused before.
    let is_http1 = response.version() != Version::HTTP_2;
    // A body of known length has a `Content-Length`, because hyper gives precedence to `Transfer-Encoding`.
    let has_length = response.body().size_hint().exact().is_some_and(|it| it > 0);
    ResponseHint {
        server_hint,
        is_last: close
            || is_10 && !keep_alive
            || !has_length && is_http1 && is_framed_twice(response.headers()),
    }
}

/// Whether the response has two lengths: another intermediary may have used the other one (RFC 9112 §6.3).
#[inline(never)]
fn is_framed_twice(fields: &HeaderMap) -> bool {
    fields.contains_key(TRANSFER_ENCODING) && fields.contains_key(CONTENT_LENGTH)
}

/// Whether the request is the last on its connection.
pub(super) fn says_close(fields: &HeaderMap) -> bool {
    is_option(fields, "close")
}

/// `Keep-Alive: timeout=N, max=M`; the margin is subtracted from the timeout. Unknown parameters are ignored, and the
/// smallest value of a repeated parameter counts.
fn tighten(server_hint: &mut ServerHint, value: &HeaderValue, margin: Millis) {
    for parameter in tokens(value) {
        let Some(at) = parameter.iter().position(|byte| *byte == b'=') else {
            continue;
        };
        let (name, value) = (parameter[..at].trim_ascii(), &parameter[at + 1..]);
        let Some(number) = number(value.trim_ascii()) else {
            continue;
        };
        if name.eq_ignore_ascii_case(b"timeout") {
            let idle =
                Nanos::from_duration(Duration::from_secs(number)).saturating_sub(margin.nanos());
            server_hint.idle = server_hint.idle.min(idle);
        } else if name.eq_ignore_ascii_case(b"max") {
            let number = u32::try_from(number).unwrap_or(u32::MAX);
            server_hint.uses = server_hint.uses.min(number);
        }
    }
}

/// Digits, bare or quoted. A number that is too large has no effect.
fn number(value: &[u8]) -> Option<u64> {
    let digits = match value {
        [b'"', digits @ .., b'"'] => digits,
        bare => bare,
    };
    let all_digits = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    let digits = std::str::from_utf8(digits).ok().filter(|_| all_digits)?;
    Some(digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Empty;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn said(values: &[&str]) -> (Option<u64>, Option<u64>) {
        let mut response = Response::new(Empty::<Bytes>::new());
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            response.headers_mut().append(KEEP_ALIVE, value);
        }
        let server_hint = read(&response, Millis::from_duration(SECOND)).server_hint;
        (
            (server_hint.idle != Nanos::NONE).then_some(server_hint.idle.time().as_secs()),
            (server_hint.uses != u32::MAX).then_some(server_hint.uses.into()),
        )
    }

    #[test]
    fn parameters_in_any_shape() {
        for (value, expected) in [
            ("timeout=5", (Some(4), None)),
            ("timeout=5, max=1", (Some(4), Some(1))),
            ("max=7, timeout=5", (Some(4), Some(7))),
            ("max=7,timeout=5", (Some(4), Some(7))),
            ("Timeout=5", (Some(4), None)),
            ("TIMEOUT=5,MAX=2", (Some(4), Some(2))),
            ("timeout = 5", (Some(4), None)),
            (" timeout\t=\t5 ", (Some(4), None)),
            ("timeout=\"5\"", (Some(4), None)),
            ("timeout=\"5\", max=\"3\"", (Some(4), Some(3))),
            ("timeout=0", (Some(0), None)),
            ("timeout=1", (Some(0), None)),
            ("timeout=2", (Some(1), None)),
            ("timeout=60", (Some(59), None)),
            ("timeout=05", (Some(4), None)),
            ("max=0", (None, Some(0))),
            ("max=100", (None, Some(100))),
            ("timeout=5, timeout=3", (Some(2), None)),
            ("timeout=3, timeout=5", (Some(2), None)),
            ("max=9, max=4", (None, Some(4))),
            ("timeout=5; max=3", (None, None)),
            ("timeout=5, foo=bar", (Some(4), None)),
            ("foo, timeout=5", (Some(4), None)),
            ("foo=\"a\", timeout=5", (Some(4), None)),
            (",,timeout=5,,", (Some(4), None)),
            ("timeout=5, é", (Some(4), None)),
            ("é=1, max=2, timeout=é", (None, Some(2))),
            // Not understood, and so unsaid.
            ("", (None, None)),
            ("timeout", (None, None)),
            ("timeout=", (None, None)),
            ("timeout=\"\"", (None, None)),
            ("timeout=\"5", (None, None)),
            ("timeout=5\"", (None, None)),
            ("timeout=-5", (None, None)),
            ("timeout=+5", (None, None)),
            ("timeout=2.5", (None, None)),
            ("timeout=5s", (None, None)),
            ("timeout=0x5", (None, None)),
            ("timeout=five", (None, None)),
            ("timeout 5", (None, None)),
            ("timeouts=5", (None, None)),
            ("=5", (None, None)),
            ("5", (None, None)),
        ] {
            assert_eq!(said(&[value]), expected, "{value:?}");
        }
    }

    #[test]
    fn fields_add_up_and_large_numbers_are_no_trouble() {
        assert_eq!(said(&["timeout=9", "timeout=4, max=2"]), (Some(3), Some(2)));
        assert_eq!(said(&["timeout=99999999999999999999"]), (None, None));
        assert_eq!(said(&["max=99999999999999999999"]), (None, None));
        assert_eq!(said(&[]), (None, None));
    }

    #[test]
    fn the_last_response_is_known() {
        let last = |version, connection: Option<&str>| {
            let mut response = Response::builder().version(version);
            if let Some(value) = connection {
                response = response.header(CONNECTION, value);
            }
            read(
                &response.body(Empty::<Bytes>::new()).unwrap(),
                Millis::from_duration(SECOND),
            )
            .is_last
        };
        for (connection, in_11, in_10) in [
            (None, false, true),
            (Some("keep-alive"), false, false),
            (Some("Keep-Alive, x"), false, false),
            (Some("close"), true, true),
            (Some("x, ClOsE"), true, true),
            (Some("x"), false, true),
            (Some("closed"), false, true),
        ] {
            assert_eq!(last(Version::HTTP_11, connection), in_11, "{connection:?}");
            assert_eq!(last(Version::HTTP_10, connection), in_10, "{connection:?}");
        }
    }
}
