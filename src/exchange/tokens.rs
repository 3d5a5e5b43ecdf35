//! Lists of tokens in field values. On bytes: a value may hold bytes above ASCII (obs-text, RFC 9110 §5.5), which make
//! only their own token unreadable.

use http::header::{CONNECTION, HeaderMap, HeaderValue};

/// The elements of a list, without the whitespace around them.
#[inline]
pub(super) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let elements = value.as_bytes().split(|byte| *byte == b',');
    elements.map(<[u8]>::trim_ascii)
}

/// Whether the list has this element, in any letters.
#[inline]
pub(super) fn has(value: &HeaderValue, token: &str) -> bool {
    tokens(value).any(|it| it.eq_ignore_ascii_case(token.as_bytes()))
}

/// Whether one of the `Connection` fields has this option.
pub(super) fn is_option(fields: &HeaderMap, option: &str) -> bool {
    let mut values = fields.get_all(CONNECTION).iter();
    values.any(|value| has(value, option))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_can_be_read_counts_beside_one_that_cannot() {
        for (value, closes) in [
            (&b"close"[..], true),
            (b" Close ", true),
            (b"close, \xe9", true),
            (b"\xc3\xa9,\tcLOSE", true),
            (b"close\xe9", false),
            (b"closed", false),
            (b"x close", false),
            (b",,", false),
            (b"", false),
        ] {
            let value = HeaderValue::from_bytes(value).unwrap();
            assert_eq!(has(&value, "close"), closes, "{value:?}");
        }
    }
}
