//! One request, as it stood on the wire.

/// A request's head, and its body if that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// `GET`
    pub method: String,
    /// As sent: `/path?query`, an absolute URI, or `host:port`.
    pub target: String,
    /// `HTTP/1.1`
    pub version: String,
    /// In the order sent; names in lower case, values trimmed.
    pub headers: Vec<(String, String)>,
    /// Decoded if it was chunked. Empty until read.
    pub body: Vec<u8>,
    /// [`Conn::index`](super::Conn::index) of the connection it came over.
    pub connection: usize,
}

impl Head {
    /// The first value of the header `name`, which is given in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        Some(value)
    }

    /// Reads what stands before the empty line. Panics on anything but a request: no client of ours may send that.
    pub(super) fn parse(bytes: &[u8], connection: usize) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let start: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
        let [method, target, version] = start[..] else {
            panic!("not a request on connection {connection}: {text:?}");
        };
        let headers = lines.map(|line| {
            let Some((name, value)) = line.split_once(':') else {
                panic!("not a header on connection {connection}: {line:?}");
            };
            (name.to_ascii_lowercase(), value.trim().to_owned())
        });
        Self {
            method: method.to_owned(),
            target: target.to_owned(),
            version: version.to_owned(),
            headers: headers.collect(),
            body: Vec::new(),
            connection,
        }
    }

    pub(super) fn framing(&self) -> Framing {
        if self.header("transfer-encoding").is_some() {
            return Framing::Chunked;
        }
        match self.header("content-length") {
            Some(length) => Framing::Length(length.parse().expect("content-length is a number")),
            None => Framing::Length(0),
        }
    }
}

/// Where a request's body ends.
#[derive(Clone, Copy)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}
