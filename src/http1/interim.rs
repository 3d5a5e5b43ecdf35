//! How much may come before the head of a response.

use std::io;

/// The most interim responses (1xx) to one request. The JDK's client has the same limit; RFC 9110 §15.2 allows any
/// number.
const MOST: u32 = 8;

/// The most bytes until hyper has a response's head. hyper limits a head to less; this limits what comes before it, in
/// however small pieces.
const MOST_BYTES: u64 = 1 << 20;

/// Counts what comes in before the head of a response. hyper skips interim responses without limit; its callback for
/// them would cost every request an extension.
#[derive(Debug, Default)]
pub(super) struct Interim {
    /// The use that this is about.
    number: u64,
    responses: u32,
    bytes: u64,
}

impl Interim {
    /// Bytes that came in while no head had been seen in the use of this number.
    pub(super) fn read(&mut self, number: u64, bytes: &[u8]) -> io::Result<()> {
        if self.number != number {
            *self = Self {
                number,
                ..Self::default()
            };
        }
        self.bytes += bytes.len() as u64;
        if self.bytes > MOST_BYTES {
            return Err(too_much("the head of the response has no end"));
        }
        if is_interim(bytes) {
            self.count(bytes)?;
        }
        Ok(())
    }

    #[cold]
    fn count(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while is_interim(bytes) {
            self.responses += 1;
            if self.responses > MOST {
                return Err(too_much("there are too many interim responses"));
            }
            let end = bytes.windows(4).position(|it| it == b"\r\n\r\n");
            bytes = end.map_or(&[], |end| &bytes[end + 4..]);
        }
        Ok(())
    }
}

/// Whether an interim response begins here: `HTTP/1.1 1..`.
fn is_interim(bytes: &[u8]) -> bool {
    bytes.get(9) == Some(&b'1') && bytes.starts_with(b"HTTP/1.")
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
    fn a_head_without_end_ends() {
        let mut interim = Interim::default();
        let endless = (0..).map(|_| interim.read(1, &[b'x'; 1024]));
        assert_eq!(endless.take_while(Result::is_ok).count(), 1024);
    }
}
