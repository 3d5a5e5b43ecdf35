//! What a request says.

use crate::temper::Temper;

/// Where an upload ends.
pub(crate) enum Framing {
    Length(usize),
    Chunked,
}

/// One request, as it arrived.
pub(crate) struct Asked {
    pub(crate) temper: Temper,
    pub(crate) id: u64,
    pub(crate) length: usize,
    pub(crate) method: String,
    pub(crate) upload: Framing,
    pub(crate) checksum: u32,
}

impl Asked {
    /// `METHOD /TEMPER/ID/LENGTH HTTP/1.1`, and fields.
    pub(crate) fn parse(head: &str) -> Option<Self> {
        let mut lines = head.lines();
        let (method, rest) = lines.next()?.split_once(' ')?;
        let mut target = rest.strip_suffix(" HTTP/1.1")?.split('/').skip(1);
        let field = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields
                .find(|(key, _)| key.eq_ignore_ascii_case(name))?
                .1
                .parse::<u64>()
                .ok()
        };
        ["GET", "HEAD", "PUT", "POST"]
            .contains(&method)
            .then_some(())?;
        Some(Self {
            temper: Temper::named(target.next()?)?,
            id: target.next()?.parse().ok()?,
            length: target.next()?.parse().ok()?,
            method: method.to_owned(),
            upload: match head.contains("transfer-encoding: chunked") {
                true => Framing::Chunked,
                false => Framing::Length(field("content-length").unwrap_or(0) as usize),
            },
            checksum: field("x-crc32").unwrap_or(0) as u32,
        })
    }
}
