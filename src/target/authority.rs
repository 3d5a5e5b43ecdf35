//! Parses an authority into its parts.

use std::ops::Range;

/// Where host and port are in an authority.
pub(crate) struct HostPort<'a> {
    /// Without brackets.
    pub(crate) host: Range<usize>,
    /// `Err`: the text in the place of the port is not a port.
    pub(crate) port: Result<Option<u16>, &'a str>,
}

impl<'a> HostPort<'a> {
    /// Parses from the end: almost every authority is a host without colons and user information, with or without a
    /// port.
    #[inline]
    pub(crate) fn parse(authority: &'a str) -> Self {
        let bytes = authority.as_bytes();
        let mut before = bytes;
        let (mut port, mut unit) = (0, 1);
        while let [rest @ .., digit @ b'0'..=b'9'] = before
            && unit <= 10_000
        {
            before = rest;
            port += u32::from(digit - b'0') * unit;
            unit *= 10;
        }
        let (end, port) = match before {
            [host @ .., b':'] if unit > 1 => (host.len(), u16::try_from(port).ok()),
            _ => (bytes.len(), None),
        };
        if is_plain(&bytes[..end]) && port.is_some() == (end < bytes.len()) {
            return Self {
                host: 0..end,
                port: Ok(port),
            };
        }
        Self::with_all_parts(authority)
    }

    /// Parses an authority with user information, an IPv6 literal, or an invalid port.
    #[cold]
    fn with_all_parts(authority: &'a str) -> Self {
        let bytes = authority.as_bytes();
        let mut start = 0;
        let mut colon = None;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b':' if colon.is_none() => colon = Some(at),
                // Everything before this byte was user information.
                b'@' => (start, colon) = (at + 1, None),
                _ => {}
            }
        }
        let (host, end) = if bytes.get(start) == Some(&b'[') {
            let close = authority.rfind(']').unwrap_or(bytes.len());
            (start + 1..close, (close + 1).min(bytes.len()))
        } else {
            let end = colon.unwrap_or(bytes.len());
            (start..end, end)
        };
        let digits = authority[end..].strip_prefix(':').unwrap_or("");
        let port = match digits {
            "" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| digits),
        };
        Self { host, port }
    }
}

/// Whether this is a host alone, without brackets. Looks at eight bytes at a time; the last eight overlap with those
/// before.
#[inline]
fn is_plain(host: &[u8]) -> bool {
    let (chunks, _) = host.as_chunks();
    let is_one = match host.last_chunk() {
        Some(last) => chunks.iter().chain([last]).all(|it| !has_mark(*it)),
        None => !host.iter().any(|it| matches!(it, b':'..=b'@')),
    };
    is_one && host.first() != Some(&b'[')
}

/// Whether one of eight bytes is in the range from `:` to `@`. Of that range an authority seldom has more than `;` and
/// `=`.
///
/// No byte carries into the next: with its highest bit cleared, a byte above `9` has this bit set after adding 0x46,
/// and a byte above `@` has it set after adding 0x3f.
#[inline]
fn has_mark(bytes: [u8; 8]) -> bool {
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGHEST: u64 = ONES * 0x80;
    let bytes = u64::from_le_bytes(bytes);
    let ascii = bytes & !HIGHEST;
    let (above_9, above_at) = (ascii + ONES * 0x46, ascii + ONES * 0x3f);
    above_9 & !above_at & !bytes & HIGHEST != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_found_wherever_they_stand() {
        for length in 0..26 {
            for fill in [
                b'a', b'Z', b'0', b'9', b'-', b'.', b'_', b'~', 0x7f, 0x80, 0xba, 0xff,
            ] {
                let mut host = vec![fill; length];
                assert!(is_plain(&host), "{host:?}");
                for at in 0..length {
                    for (mark, plain) in [
                        (b':', false),
                        (b'@', false),
                        (b'[', at > 0),
                        (b'9', true),
                        (b'A', true),
                    ] {
                        host[at] = mark;
                        assert_eq!(is_plain(&host), plain, "{host:?}");
                    }
                    host[at] = fill;
                }
            }
        }
    }

    #[test]
    fn an_authority_is_taken_apart_alike_with_marks_and_without() {
        for (authority, host, port) in [
            ("h", "h", None),
            ("h:80", "h", Some(80)),
            ("h:", "h", None),
            ("h:0", "h", Some(0)),
            ("h:65535", "h", Some(65535)),
            ("127.0.0.1:8080", "127.0.0.1", Some(8080)),
            ("a.long.name.example", "a.long.name.example", None),
            ("a.long.name.example:443", "a.long.name.example", Some(443)),
            ("a;b=c:81", "a;b=c", Some(81)),
            ("me@h", "h", None),
            (
                "me:secret@a.long.name.example:81",
                "a.long.name.example",
                Some(81),
            ),
            ("me:80@h", "h", None),
            ("[::1]", "::1", None),
            ("[::1]:81", "::1", Some(81)),
            ("me@[fe80::1]:81", "fe80::1", Some(81)),
            ("12345", "12345", None),
            ("1234567:12345", "1234567", Some(12345)),
        ] {
            let place = HostPort::parse(authority);
            assert_eq!(&authority[place.host], host, "{authority}");
            assert_eq!(place.port, Ok(port), "{authority}");
        }
        for (authority, port) in [("h:65536", "65536"), ("h:1234567", "1234567")] {
            assert_eq!(HostPort::parse(authority).port, Err(port), "{authority}");
        }
    }
}
