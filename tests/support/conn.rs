//! One accepted connection, in the hands of its script.

use super::{
    head::{Framing, Head},
    stream::Stream,
    tally::{Open, Tally, lock},
    translated::translate,
};
use std::{
    future::Future,
    io, mem,
    sync::{Arc, Mutex},
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::rustls::{HandshakeKind, ServerConfig, ServerConnection};

/// One accepted connection. Dropped, it is closed; to be sure of a FIN or a RST say [`fin`](Self::fin) or
/// [`rst`](Self::rst), since the kernel makes it a RST when unread bytes are left.
pub struct Conn {
    /// 0 is the first that the server accepted.
    pub index: usize,
    stream: Stream,
    /// Arrived, not yet taken.
    buffer: Vec<u8>,
    /// The body that follows in the stream.
    unread: Framing,
    /// Whether the client has given up the latest request, and not the connection.
    was_reset: bool,
    /// The name that the client of TLS sent along, and how the handshake went.
    pub handshake: Option<(Option<String>, HandshakeKind)>,
    /// The latest head's place in the tally.
    latest: Option<usize>,
    tally: Arc<Mutex<Tally>>,
    /// Until the client is seen to have closed.
    open: Option<Open>,
}

impl Conn {
    pub(super) fn new(stream: Stream, tally: &Arc<Mutex<Tally>>) -> Self {
        let (index, open) = Open::new(tally);
        Self {
            index,
            stream,
            buffer: Vec::new(),
            unread: Framing::Length(0),
            was_reset: false,
            handshake: None,
            latest: None,
            tally: tally.clone(),
            open: Some(open),
        }
    }

    /// The next request with its body; `None` if the client closes or resets before its end.
    pub async fn request(&mut self) -> Option<Head> {
        loop {
            let mut head = self.head().await?;
            if let Some(body) = self.body().await {
                head.body = body;
                return Some(head);
            }
            if !mem::take(&mut self.was_reset) {
                return None;
            }
        }
    }

    /// The next request without its body, which stays unread. What is left of the previous one's is skipped.
    pub async fn head(&mut self) -> Option<Head> {
        if self.body().await.is_none() && !mem::take(&mut self.was_reset) {
            return None;
        }
        let bytes = self.take_through(b"\r\n\r\n").await?;
        let head = Head::parse(&bytes, self.index);
        self.unread = head.framing();
        let mut tally = lock(&self.tally);
        self.latest = Some(tally.heads.len());
        tally.heads.push(head.clone());
        Some(head)
    }

    /// The body of the latest head, as after a `100 Continue`; `None` if the client closes or resets before its end.
    pub async fn body(&mut self) -> Option<Vec<u8>> {
        let body = match mem::replace(&mut self.unread, Framing::Length(0)) {
            Framing::Length(0) => return Some(Vec::new()),
            Framing::Length(length) => self.take(length).await?,
            Framing::Chunked => self.take_chunks().await?,
        };
        let latest = self.latest.expect("a body follows a head");
        lock(&self.tally).heads[latest].body.clone_from(&body);
        Some(body)
    }

    /// The next raw bytes, at least one: for upgrades, or a body piece by piece. Empty if the client closes or resets.
    pub async fn read(&mut self) -> Vec<u8> {
        self.unread = Framing::Length(0);
        if self.buffer.is_empty() {
            self.fill().await;
        }
        mem::take(&mut self.buffer)
    }

    /// Sends exactly these bytes, in one piece. A client that is gone is no error.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        if self.stream.write(bytes.as_ref()).await.is_err() {
            self.open = None;
        }
    }

    /// Sends `HTTP/1.1 200 OK` with a content-length and `body`.
    pub async fn respond(&mut self, body: &str) {
        self.respond_with("HTTP/1.1 200 OK", body).await;
    }

    /// Sends a status line with headers (`"HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5"`) and `body`.
    ///
    /// Adds a content-length, unless the headers have a framing of their own or the status has no body. The answer to
    /// HEAD has no body.
    pub async fn respond_with(&mut self, status_line_and_headers: &str, body: &str) {
        let mut response = status_line_and_headers.trim_end().to_owned();
        if !is_framed(&response) {
            response.push_str(&format!("\r\ncontent-length: {}", body.len()));
        }
        response.push_str("\r\n\r\n");
        if !self.answers_head() {
            response.push_str(body);
        }
        self.send(response).await;
    }

    /// Closes both ways in good order: the client sees a FIN, and with TLS a close_notify before it.
    pub async fn fin(self) {
        self.stream.fin().await;
    }

    /// Closes both ways: the client sees a FIN, and no close_notify.
    pub async fn cut(self) {
        self.stream.without_tls().fin().await;
    }

    /// The server's side of a TLS handshake; false if it fails. What comes after it is under TLS.
    pub async fn secure(&mut self, config: Arc<ServerConfig>) -> bool {
        let is_secure = self.stream.secure(&config.into()).await;
        if let Some(tls) = self.tls() {
            let name = tls.server_name().map(str::to_owned);
            self.handshake = tls.handshake_kind().map(|kind| (name, kind));
        }
        is_secure
    }

    /// Speaks HTTP/2 from here on, in which the script sees HTTP/1.1; that lasts as long as the future is polled.
    pub(super) fn translate(&mut self) -> impl Future<Output = ()> + Send + use<> {
        let below = mem::replace(&mut self.stream, Stream::Gone);
        let (translated, transport) = translate(below);
        self.stream = Stream::Translated(translated);
        transport
    }

    /// What was agreed on with the client; nothing without TLS.
    pub fn tls(&mut self) -> Option<&mut ServerConnection> {
        match &mut self.stream {
            Stream::Tls(tls) => Some(tls.get_mut().1),
            _ => None,
        }
    }

    /// Sends exactly these bytes on the socket, past TLS.
    pub async fn send_below_tls(&mut self, bytes: impl AsRef<[u8]>) {
        if let Stream::Tls(tls) = &mut self.stream {
            tls.get_mut().0.write_all(bytes.as_ref()).await.ok();
        }
    }

    /// Sends what TLS itself has to say, as after [`tls`](Self::tls).
    pub async fn flush(&mut self) {
        self.stream.write(&[]).await.ok();
    }

    /// Sends a FIN, and goes on reading.
    pub async fn half_close(&mut self) {
        self.stream.half_close().await;
    }

    /// Resets: the client sees ECONNRESET.
    pub fn rst(self) {
        self.stream.rst();
    }

    /// Holds the connection open and reads nothing, until the client is gone.
    pub async fn stall(mut self) {
        self.gone().await;
    }

    /// Resolves when the client has closed or reset. Reads nothing, so a client that cannot write stays so.
    ///
    /// A FIN comes after the bytes before it. A client that closes with more unsent than the server's unread buffer has
    /// room for is therefore never seen to go.
    pub async fn gone(&mut self) {
        self.stream.gone().await;
        self.open = None;
    }

    /// Resolves when the client has closed or reset. Reads and discards what comes before.
    pub async fn closed(&mut self) {
        while self.fill().await || mem::take(&mut self.was_reset) {
            self.buffer.clear();
        }
    }

    /// Waits for more bytes; false if there are none to come.
    async fn fill(&mut self) -> bool {
        match self.stream.read(&mut self.buffer).await {
            Ok(1..) => return true,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.buffer.clear();
                self.was_reset = true;
            }
            _ => self.open = None,
        }
        false
    }

    /// Adds what has come to `buffer`, and waits for something.
    pub(super) async fn read_to(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        let read = self.stream.read(buffer).await;
        if !matches!(read, Ok(1..)) {
            self.open = None;
        }
        read
    }

    /// Writes all of it.
    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write(bytes).await
    }

    async fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        let rest = self.buffer.split_off(length);
        Some(mem::replace(&mut self.buffer, rest))
    }

    /// What comes before `end`, which is taken as well.
    async fn take_through(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            let found = self
                .buffer
                .windows(end.len())
                .position(|bytes| bytes == end);
            if let Some(at) = found {
                let mut taken = self.take(at + end.len()).await?;
                taken.truncate(at);
                return Some(taken);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn take_chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_through(b"\r\n").await?;
            let line = String::from_utf8_lossy(&line);
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).expect("a chunk's size is hexadecimal");
            if size == 0 {
                break;
            }
            body.extend(self.take(size).await?);
            let end = self.take(2).await?;
            assert_eq!(end, b"\r\n", "a chunk is as long as its size says");
        }
        // Trailers, then the empty line.
        while !self.take_through(b"\r\n").await?.is_empty() {}
        Some(body)
    }

    fn answers_head(&self) -> bool {
        let tally = lock(&self.tally);
        self.latest
            .is_some_and(|latest| tally.heads[latest].method == "HEAD")
    }
}

/// Whether a response says itself where it ends.
fn is_framed(status_line_and_headers: &str) -> bool {
    let head = status_line_and_headers.to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap_or_default();
    status.starts_with('1')
        || status == "204"
        || status == "304"
        || head.contains("\r\ncontent-length:")
        || head.contains("\r\ntransfer-encoding:")
}
