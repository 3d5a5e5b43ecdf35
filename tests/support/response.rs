//! A response of HTTP/1.1, read as a script writes it.

use std::mem;

/// What of a response came; true where it was the last.
pub(super) enum Part {
    Head(Vec<(String, String)>, bool),
    Body(Vec<u8>, bool),
}

/// One response, from its first byte to its last.
pub(super) struct Response {
    answers_head: bool,
    /// A head or a line that has no end yet.
    begun: Vec<u8>,
    rest: Rest,
}

/// What comes next.
#[derive(Clone, Copy)]
enum Rest {
    Head,
    Length(usize),
    /// A chunk's size.
    ChunkSize,
    /// What is left of a chunk, with the end of its line.
    Chunk(usize),
    Trailers,
    UntilClose,
}

impl Response {
    pub(super) fn to(method: &str) -> Self {
        Self {
            answers_head: method == "HEAD",
            begun: Vec::new(),
            rest: Rest::Head,
        }
    }

    pub(super) fn ends_with_connection(&self) -> bool {
        matches!(self.rest, Rest::UntilClose)
    }

    /// Takes from `bytes` what makes a part, if there is one.
    pub(super) fn take(&mut self, bytes: &mut &[u8]) -> Option<Part> {
        match self.rest {
            Rest::Head => {
                let head = self.through(bytes, b"\r\n\r\n")?;
                Some(self.head(&head))
            }
            Rest::Length(length) => {
                let body = some_of(bytes, length);
                self.rest = Rest::Length(length - body.len());
                let end = body.len() == length;
                Some(Part::Body(body, end))
            }
            Rest::ChunkSize => {
                let line = self.through(bytes, b"\r\n")?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16);
                self.rest = match size.expect("a chunk's size is hexadecimal") {
                    0 => Rest::Trailers,
                    size => Rest::Chunk(size + 2),
                };
                None
            }
            Rest::Chunk(length) => {
                let mut body = some_of(bytes, length);
                let left = length - body.len();
                self.rest = match left {
                    0 => Rest::ChunkSize,
                    left => Rest::Chunk(left),
                };
                // Without the end of the line.
                body.truncate(length.saturating_sub(2).min(body.len()));
                (!body.is_empty()).then_some(Part::Body(body, false))
            }
            Rest::Trailers => {
                self.begun.extend_from_slice(bytes);
                *bytes = &[];
                let is_whole = self.begun == b"\r\n" || self.begun.ends_with(b"\r\n\r\n");
                is_whole.then(|| {
                    let text = String::from_utf8_lossy(&self.begun).into_owned();
                    match fields(text.trim_end()) {
                        trailers if trailers.is_empty() => Part::Body(Vec::new(), true),
                        trailers => Part::Head(trailers, true),
                    }
                })
            }
            Rest::UntilClose => Some(Part::Body(mem::take(bytes).to_owned(), false)),
        }
    }

    fn head(&mut self, head: &str) -> Part {
        let (line, rest) = head.split_once("\r\n").unwrap_or((head, ""));
        let mut words = line.split(' ');
        let (version, status) = (words.next(), words.next().unwrap_or_default());
        assert_eq!(version, Some("HTTP/1.1"), "no response of HTTP/2: {head:?}");
        assert_ne!(status, "101", "HTTP/2 has no upgrades");
        let mut fields = fields(rest);
        let framing = |name: &str| fields.iter().find(|it| it.0 == name).map(|it| it.1.clone());
        let length = framing("content-length").map(|it| it.parse().expect("a length"));
        let in_chunks = framing("transfer-encoding").is_some();
        fields.retain(|it| it.0 != "transfer-encoding");
        for (name, _) in &fields {
            let is_of_http1 = ["connection", "keep-alive", "proxy-connection", "upgrade"];
            assert!(
                !is_of_http1.contains(&&**name),
                "HTTP/2 has no field {name}"
            );
        }
        fields.insert(0, (":status".to_owned(), status.to_owned()));
        if status.starts_with('1') {
            return Part::Head(fields, false);
        }
        let has_no_body = self.answers_head || status == "204" || status == "304";
        self.rest = match length {
            _ if in_chunks => Rest::ChunkSize,
            Some(length) => Rest::Length(length),
            None => Rest::UntilClose,
        };
        let end = has_no_body || (length == Some(0) && !in_chunks);
        Part::Head(fields, end)
    }

    /// What comes before `end`, which is taken as well.
    fn through(&mut self, bytes: &mut &[u8], end: &[u8]) -> Option<String> {
        while let Some((&byte, rest)) = bytes.split_first() {
            *bytes = rest;
            self.begun.push(byte);
            if self.begun.ends_with(end) {
                let mut text = mem::take(&mut self.begun);
                text.truncate(text.len() - end.len());
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
        }
        None
    }
}

fn some_of(bytes: &mut &[u8], at_most: usize) -> Vec<u8> {
    let (some, rest) = bytes.split_at(at_most.min(bytes.len()));
    *bytes = rest;
    some.to_owned()
}

fn fields(lines: &str) -> Vec<(String, String)> {
    let lines = lines.split("\r\n").filter(|line| !line.is_empty());
    let fields = lines.map(|line| {
        let (name, value) = line.split_once(':').expect("a field has a colon");
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    fields.collect()
}
