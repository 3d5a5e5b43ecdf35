//! How much may come before the head of a response.

use std::io;

/// The most interim responses (1xx) to one request. The JDK's client has the same limit; RFC 9110 §15.2 allows any
/// number.
const MOST: u8 = 8;

/// The most bytes until hyper has a response's head. hyper limits a head to less; this limits what comes before it, in
/// however small pieces.
const MOST_BYTES: usize = 1 << 20;

/// Counts what comes in before the head of a response, in whatever pieces. hyper skips interim responses without limit;
/// its callback for them would cost every request an extension.
#[derive(Debug, Default)]
pub(super) struct Interim {
    /// The use that this is about.
    number: u64,
    /// Up to [`MOST_BYTES`].
    bytes: u32,
    responses: u8,
    head: Head,
}

/// What the bytes that were read last are a part of.
#[derive(Clone, Copy, Debug)]
enum Head {
    /// A head that has just begun: so many bytes of it were as an interim response's are.
    Beginning(u8),
    /// An interim response's: so many bytes of its end were the last.
    Interim(u8),
    /// The response's own, which hyper reads.
    Last,
}

impl Default for Head {
    fn default() -> Self {
        Self::Beginning(0)
    }
}

/// How the head of an interim response begins; the minor version is any.
const BEGINNING: &[u8] = b"HTTP/1.? 1";
const END: &[u8] = b"\r\n\r\n";

impl Interim {
    /// Bytes that came in while no head had been seen in the use of this number.
    #[inline]
    pub(super) fn read(&mut self, number: u64, bytes: &[u8]) -> io::Result<()> {
        if self.number != number {
            *self = Self {
                number,
                ..Self::default()
            };
        }
        let so_far = self.bytes as usize + bytes.len();
        if so_far > MOST_BYTES {
            return Err(too_much("the head of the response has no end"));
        }
        self.bytes = so_far as u32;
        match self.head {
            Head::Last => Ok(()),
            // Almost always the response's own, and whole.
            Head::Beginning(0) if bytes.get(9).is_some_and(|it| *it != b'1') => {
                self.head = Head::Last;
                Ok(())
            }
            _ => self.count(bytes),
        }
    }

    #[cold]
    fn count(&mut self, bytes: &[u8]) -> io::Result<()> {
        for byte in bytes {
            self.head = match self.head {
                // hyper skips empty lines before a head.
                Head::Beginning(0) if matches!(byte, b'\r' | b'\n') => Head::Beginning(0),
                Head::Beginning(at) if !fits(BEGINNING, at, *byte) => Head::Last,
                Head::Beginning(at) if !is_last(BEGINNING, at) => Head::Beginning(at + 1),
                Head::Beginning(_) => {
                    self.responses += 1;
                    if self.responses > MOST {
                        return Err(too_much("there are too many interim responses"));
                    }
                    Head::Interim(0)
                }
                Head::Interim(at) if !fits(END, at, *byte) => {
                    Head::Interim(u8::from(*byte == END[0]))
                }
                Head::Interim(at) if !is_last(END, at) => Head::Interim(at + 1),
                Head::Interim(_) => Head::Beginning(0),
                Head::Last => return Ok(()),
            };
        }
        Ok(())
    }
}

fn fits(pattern: &[u8], at: u8, byte: u8) -> bool {
    let expected = pattern[usize::from(at)];
    expected == byte || expected == b'?'
}

fn is_last(pattern: &[u8], at: u8) -> bool {
    usize::from(at) + 1 == pattern.len()
}

fn too_much(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n";
    const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

    #[test]
    fn eight_are_borne_in_whatever_pieces() {
        let mut together = HINTS.repeat(8);
        together.extend(OK);
        Interim::default().read(1, &together).unwrap();
        let mut one_by_one = Interim::default();
        for _ in 0..8 {
            one_by_one.read(1, HINTS).unwrap();
        }
        one_by_one.read(1, OK).unwrap();
        // Another request begins anew.
        one_by_one.read(2, &together).unwrap();
    }

    #[test]
    fn a_ninth_is_not() {
        let error = Interim::default().read(1, &HINTS.repeat(9)).unwrap_err();
        assert!(error.to_string().contains("interim"), "{error}");
        let mut one_by_one = Interim::default();
        let read = (0..9).map(|_| one_by_one.read(1, HINTS));
        assert!(read.last().unwrap().is_err());
    }

    #[test]
    fn they_are_counted_byte_by_byte() {
        let all = |count: usize| {
            let mut interim = Interim::default();
            let bytes = [b"\r\n".to_vec(), HINTS.repeat(count), OK.to_vec()].concat();
            bytes
                .iter()
                .try_for_each(|byte| interim.read(1, std::slice::from_ref(byte)))
        };
        all(8).unwrap();
        let error = all(9).unwrap_err();
        assert!(error.to_string().contains("interim"), "{error}");
    }

    #[test]
    fn a_head_without_end_ends() {
        let mut interim = Interim::default();
        let endless = (0..).map(|_| interim.read(1, &[b'x'; 1024]));
        assert_eq!(endless.take_while(Result::is_ok).count(), 1024);
    }
}
