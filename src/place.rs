//! An authority, taken apart.

use std::ops::Range;

/// Where host and port are in an authority.
pub(crate) struct Place<'a> {
    /// Without brackets.
    pub(crate) host: Range<usize>,
    /// `Err`: what stands in its place is none.
    pub(crate) port: Result<Option<u16>, &'a str>,
}

impl<'a> Place<'a> {
    /// From behind: almost always a port, and a host that has no colon and no user information before it.
    #[inline]
    pub(crate) fn of(authority: &'a str) -> Self {
        let bytes = authority.as_bytes();
        let mut start = bytes.len();
        let (mut port, mut unit) = (0, 1);
        while start > 0 && bytes[start - 1].is_ascii_digit() && unit <= 10_000 {
            start -= 1;
            port += u32::from(bytes[start] - b'0') * unit;
            unit *= 10;
        }
        let (end, port) = match bytes[..start].last() {
            Some(b':') if start < bytes.len() => (start - 1, u16::try_from(port).ok()),
            _ => (bytes.len(), None),
        };
        let plain = !bytes[..end]
            .iter()
            .any(|it| matches!(it, b':' | b'@' | b'['));
        if plain && port.is_some() == (end < bytes.len()) {
            return Self {
                host: 0..end,
                port: Ok(port),
            };
        }
        Self::with_all_parts(authority)
    }

    /// With user information, an IPv6 literal, or what is no port.
    #[cold]
    fn with_all_parts(authority: &'a str) -> Self {
        let bytes = authority.as_bytes();
        let mut start = 0;
        let mut colon = None;
        for (at, byte) in bytes.iter().enumerate() {
            match byte {
                b':' if colon.is_none() => colon = Some(at),
                // What came before was user information.
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
