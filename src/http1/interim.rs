//! Limits what a server may send before the head of its response.

use std::io;

use crate::error::Instead;

/// The most interim responses (1xx) to one request, unless a layer sets another number. RFC 9110 §15.2 allows any
/// number; the JDK's client accepts 8, which a proxy that forwards early hints may exceed.
pub(super) const DEFAULT_MAX: usize = 100;

/// The most bytes of interim responses to one request, whatever their number. hyper limits each head; this limits their
/// sum.
const MAX_BYTES: u32 = 1 << 20;

/// A value of [`Interim::max`]: no limit except for the bytes, which more responses than this would exceed by far.
const ANY: u16 = u16::MAX;

/// Counts the interim responses to one request, and their bytes, as they are read below hyper, in whatever pieces.
///
/// hyper skips any number of interim responses. Its callback for them would cost each request an extension, and so an
/// allocation. Here, a request whose response comes at once costs one check of its first bytes.
///
/// A parser below a parser has to be as lenient: whatever hyper (httparse) reads as the head of an interim response is
/// read as one here. A status line may follow any number of empty lines; a line ends with LF, with or without a CR
/// before it; a line that begins with a space is a line like any other. Input that hyper rejects may be counted either
/// way.
#[derive(Debug)]
pub(super) struct Interim {
    /// Identifies the exchange that the counts belong to.
    exchange: u8,
    /// The bytes of empty lines and interim responses; at most one more than `MAX_BYTES`.
    bytes: u32,
    responses: u16,
    max: u16,
    position: Position,
    /// A 100 was among them, or a 101, which may only follow a 100.
    continues: bool,
    /// How much of the end of the response's head was read, if that has to be detected.
    end: End,
}

/// How much of the empty line at the end of a head was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    InLine,
    Line,
    Read,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// A status line, of which this many bytes were read, or an empty line before one.
    StatusLine(u8),
    /// A status code that begins with 1, and has this many further digits so far.
    Code(u8),
    /// An interim response, at the beginning of a line: an empty line ends it.
    Line,
    /// An interim response, in the middle of a line.
    InLine,
    /// The final response, which hyper reads and limits.
    Response,
}

impl Position {
    const START: Self = Self::StatusLine(0);
}

/// The beginning of a status line; any minor version matches.
const VERSION: &[u8] = b"HTTP/1.? ";

impl Interim {
    /// Accepts `max` interim responses to each request.
    pub(super) fn new(max: usize) -> Self {
        Self {
            exchange: 0,
            bytes: 0,
            responses: 0,
            max: u16::try_from(max).unwrap_or(ANY),
            position: Position::START,
            continues: false,
            end: End::InLine,
        }
    }

    /// Reads bytes that arrived before the caller of this exchange got a head.
    ///
    /// # Errors
    ///
    /// If the server has sent too much before its response, or speaks another protocol.
    #[inline]
    pub(super) fn read(&mut self, exchange: u8, bytes: &[u8]) -> io::Result<()> {
        self.begin(exchange);
        match (self.position, bytes) {
            (Position::Response, _) => Ok(()),
            // The usual case: `HTTP/1.1 2`.
            (Position::START, [b'H', _, _, _, _, _, _, _, _, b'2'..=b'9', ..]) => {
                self.position = Position::Response;
                Ok(())
            }
            _ => self.count(bytes).map(drop),
        }
    }

    /// The same if the end of the response's head has to be detected; returns whether it was read.
    ///
    /// # Errors
    ///
    /// As for `read`.
    #[cold]
    pub(super) fn read_head(&mut self, exchange: u8, bytes: &[u8]) -> io::Result<bool> {
        self.begin(exchange);
        let counted = match self.position {
            Position::Response => 0,
            _ => self.count(bytes)?,
        };
        if self.position == Position::Response {
            for byte in &bytes[counted..] {
                self.end = match (self.end, byte) {
                    (End::Read, _) | (End::Line, b'\n') => End::Read,
                    (_, b'\n') | (End::Line, b'\r') => End::Line,
                    _ => End::InLine,
                };
            }
        }
        Ok(self.end == End::Read)
    }

    #[inline]
    fn begin(&mut self, exchange: u8) {
        if self.exchange != exchange {
            *self = Self {
                exchange,
                bytes: 0,
                responses: 0,
                max: self.max,
                position: Position::START,
                continues: false,
                end: End::InLine,
            };
        }
    }

    /// Whether the server accepts the body of a request with `Expect: 100-continue`; `None` if it has not answered.
    pub(super) fn wants_body(&self) -> Option<bool> {
        match self.position {
            _ if self.continues => Some(true),
            Position::Response => Some(false),
            _ => None,
        }
    }

    /// Returns how many of the bytes precede the response, or are needed to recognise it.
    #[cold]
    fn count(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_first = self.position == Position::START && self.bytes == 0;
        if is_first && let Some(instead) = Instead::of_http1(bytes) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, instead));
        }
        for (at, &byte) in bytes.iter().enumerate() {
            if let (Position::Code(1), b'0' | b'1') = (self.position, byte) {
                self.continues = true;
            }
            self.position = self.position.after(byte);
            if self.position == Position::Response {
                return Ok(at + 1);
            }
            if self.position == Position::COUNTED {
                self.position = Position::InLine;
                self.responses = self.responses.saturating_add(1);
                if self.responses > self.max && self.max != ANY {
                    let max = self.max;
                    return Err(too_much(format!(
                        "the server sent more than {max} interim (1xx) responses"
                    )));
                }
            }
            self.bytes += 1;
            if self.bytes > MAX_BYTES {
                return Err(too_much(format!(
                    "the server sent more than {MAX_BYTES} bytes of interim (1xx) responses"
                )));
            }
        }
        Ok(bytes.len())
    }
}

impl Position {
    /// An interim response, at the end of its status code.
    const COUNTED: Self = Self::Code(2);

    fn after(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::START, b'\r' | b'\n') => Self::START,
            (Self::StatusLine(read), _) if usize::from(read) < VERSION.len() => {
                match VERSION[usize::from(read)] {
                    b'?' => Self::StatusLine(read + 1),
                    expected if expected == byte => Self::StatusLine(read + 1),
                    _ => Self::Response,
                }
            }
            (Self::StatusLine(read), b' ') => Self::StatusLine(read),
            (Self::StatusLine(_), b'1') => Self::Code(0),
            (Self::StatusLine(_), _) => Self::Response,
            (Self::Code(0), b'0') => Self::Code(1),
            // 101 switches protocols, and no HTTP follows it.
            (Self::Code(1), b'1') => Self::Response,
            (Self::Code(_), _) => Self::COUNTED,
            (Self::Line, b'\n') => Self::START,
            (Self::Line, b'\r') => Self::Line,
            (Self::InLine, b'\n') => Self::Line,
            (Self::Line | Self::InLine, _) => Self::InLine,
            (Self::Response, _) => Self::Response,
        }
    }
}

fn too_much(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    /// Interim responses as hyper accepts them.
    const LENIENT: [&[u8]; 10] = [
        HINTS,
        b"\nHTTP/1.1 103 Early Hints\r\n\r\n",
        b"\r\n\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\n",
        b"\n\r\n\nHTTP/1.1 102 Processing\n\n",
        b"HTTP/1.0 100 Continue\r\n\r\n",
        b"HTTP/1.1 199\n\r\n",
        b"HTTP/1.1 110 \r\n\n",
        b"HTTP/1.1 103 \xff\nlink: a\nlink: b\n\n",
        b"HTTP/1.1 103 x\r\nlink: a\r\n b\r\n \r\n\tc:\r\n\r\n",
        b"HTTP/1.1 100 HTTP/1.1 200\r\nHTTP/1.1: 200\r\n\r\n",
    ];

    fn interim() -> Interim {
        Interim::new(DEFAULT_MAX)
    }

    #[test]
    fn the_end_of_a_head_is_seen_in_whatever_pieces_it_comes() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\n\n",
            "HTTP/1.1 204 No Content\r\nx: y\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nx:\r\n y\r\n\r\n",
        ] {
            for before in ["", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n", "\r\n"] {
                let sent = format!("{before}{head}").into_bytes();
                for size in 1..=sent.len() {
                    let mut interim = interim();
                    let mut read = 0;
                    for piece in sent.chunks(size) {
                        read += piece.len();
                        let is_here = interim.read_head(1, piece).unwrap();
                        assert_eq!(is_here, read == sent.len(), "{before:?}{head:?} by {size}");
                    }
                    assert!(interim.read_head(1, b"body").unwrap());
                    assert!(!interim.read_head(2, b"HTTP/1.1 200").unwrap());
                }
            }
        }
    }

    fn read_in_pieces(interim: &mut Interim, bytes: &[u8], size: usize) -> io::Result<()> {
        let mut pieces = bytes.chunks(size);
        pieces.try_for_each(|piece| interim.read(1, piece))
    }

    #[test]
    fn as_many_as_the_limit_pass_and_one_more_does_not_in_every_form_and_any_pieces() {
        for form in LENIENT {
            for size in [1, 2, 3, 7, 16, 1000, usize::MAX] {
                let bytes = |count| [&form.repeat(count), OK].concat();
                for max in [0, 1, 8, DEFAULT_MAX] {
                    let name = format!("{max} of {:?} by {size}", form.escape_ascii().to_string());
                    let mut interim = Interim::new(max);
                    read_in_pieces(&mut interim, &bytes(max), size).expect(&name);
                    assert_eq!(interim.position, Position::Response, "{name}");
                    let error = read_in_pieces(&mut Interim::new(max), &bytes(max + 1), size);
                    assert_eq!(
                        error.expect_err(&name).to_string(),
                        format!("the server sent more than {max} interim (1xx) responses")
                    );
                }
            }
        }
    }

    #[test]
    fn each_request_has_its_own() {
        let mut interim = interim();
        for exchange in 1..=3 {
            interim.read(exchange, &HINTS.repeat(DEFAULT_MAX)).unwrap();
        }
        interim.read(3, HINTS).unwrap_err();
    }

    #[test]
    fn an_upgrade_is_a_response_and_what_follows_is_not_looked_at() {
        let upgrade = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        for response in [&upgrade[..], b"HTTP/1.1 404\r\n\r\n", b"HTTP/0.9", b"\n200"] {
            for size in [1, usize::MAX] {
                let mut interim = Interim::new(1);
                let bytes = [HINTS, response, &HINTS.repeat(9)].concat();
                read_in_pieces(&mut interim, &bytes, size).unwrap();
            }
        }
    }

    #[test]
    fn bytes_before_the_response_are_limited_and_the_response_is_not() {
        let body = vec![b'x'; 4 << 20];
        for hints in [0, 9] {
            let bytes = [&HINTS.repeat(hints), OK, &body].concat();
            for size in [1000, usize::MAX] {
                read_in_pieces(&mut interim(), &bytes, size).unwrap();
            }
        }
        let long = [b"HTTP/1.1 103 Early Hints\r\nlink: ".to_vec(), body].concat();
        for size in [1000, usize::MAX] {
            let error = read_in_pieces(&mut interim(), &long, size).unwrap_err();
            assert!(error.to_string().contains("1048576 bytes"), "{error}");
        }
        let read = long[..MAX_BYTES as usize].chunks(1000);
        let mut interim = interim();
        assert!(read.map(|it| interim.read(1, it)).all(|it| it.is_ok()));
        interim.read(1, b"x").unwrap_err();
    }

    #[test]
    fn a_limit_too_large_to_count_is_none() {
        let short = b"HTTP/1.1 100\n\n";
        let most = MAX_BYTES as usize / short.len();
        assert!(most > ANY.into());
        let mut interim = Interim::new(most);
        interim.read(1, &short.repeat(most)).unwrap();
        interim.read(1, short).unwrap_err();
    }
}
