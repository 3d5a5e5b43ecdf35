//! Checks how a server begins.

use std::io;

use crate::error::Instead;

/// The progress of reading a server's first frame, which has to be SETTINGS (RFC 9113 §3.4). `h2` accepts any other
/// frame as the first as well, and takes an HTTP/1 response for a frame that is too large.
#[derive(Debug, Default)]
pub(super) struct Preface {
    bytes: [u8; LOOKED_AT],
    has: usize,
}

/// The length of a frame, its type and its flags.
const LOOKED_AT: usize = 5;

impl Preface {
    /// Reads the first bytes, or more of them. Fails if they are not HTTP/2.
    #[inline]
    pub(super) fn read(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.has {
            LOOKED_AT => Ok(()),
            _ => self.check(bytes),
        }
    }

    #[cold]
    fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        let here = bytes.len().min(LOOKED_AT - self.has);
        self.bytes[self.has..self.has + here].copy_from_slice(&bytes[..here]);
        self.has += here;
        if self.has < LOOKED_AT {
            return Ok(());
        }
        match Instead::of_http2(self.bytes) {
            None => Ok(()),
            Some(instead) => Err(io::Error::new(io::ErrorKind::InvalidData, instead)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_settings_is_an_error_that_says_what_it_is() {
        let begins = |bytes: &[u8], size| {
            let mut preface = Preface::default();
            let read = bytes.chunks(size).try_for_each(|it| preface.read(it));
            read.map_err(|it| it.to_string())
        };
        for size in [1, 2, 5, 100] {
            assert_eq!(begins(&[0, 0, 6, 4, 0, 0, 0, 0, 0, 0], size), Ok(()));
            let http1 = begins(b"HTTP/1.1 400 Bad Request\r\n", size);
            assert!(http1.unwrap_err().contains("HTTP/1"));
            let tls = begins(&[21, 3, 3, 0, 2, 2, 10], size);
            assert!(tls.unwrap_err().contains("TLS"));
            for other in [&b"SSH-2.0-x"[..], &[0, 0, 8, 6, 0], &[0, 0, 0, 4, 1]] {
                assert!(begins(other, size).unwrap_err().contains("SETTINGS"));
            }
        }
    }
}
