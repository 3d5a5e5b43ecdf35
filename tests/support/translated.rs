//! HTTP/2 on the wire, and HTTP/1.1 for the script (`TEST_OVER=h2`).
//!
//! A [`Translator`] owns the transport. It announces that a connection has one stream at a time, so that requests follow each
//! other as they do over HTTP/1.1, gives each request to the script as the bytes of HTTP/1.1, and turns the bytes of the
//! script's responses into frames. SETTINGS and PING are acknowledged whatever the script does meanwhile. DATA takes of the
//! windows until the script has read it. A stream that the client resets is over for the script as well: it reads the next
//! request, and what it answers to the former is dropped.
//!
//! What HTTP/2 has no words for (`Connection`, `Keep-Alive`, an upgrade, HTTP/1.0, bytes that no request asked for) is a panic:
//! such a test says [`not_over_h2`](super::not_over_h2).

use super::{
    frames::{self, Frame, Io, Log, Request, flag, kind, setting},
    response::{Part, Response},
    stream::Stream,
};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    future::Future,
    io,
};
use tokio::sync::{mpsc, oneshot};

/// The most bytes that a frame may have, where the client has not said more.
const MAX_FRAME: usize = 16_384;
/// How much may be sent until the client gives it back, where it has not said more (RFC 9113 §6.9.2).
const WINDOW: i64 = 65_535;

/// The script's end: what [`Stream`] does is done by the [`Translator`].
pub(super) struct Translated {
    commands: mpsc::UnboundedSender<Command>,
    requests: mpsc::UnboundedReceiver<Event>,
}

enum Command {
    Write(Vec<u8>, oneshot::Sender<()>),
    /// The script has come to the request of a stream.
    Begun(u32),
    /// So much of a stream's body was read.
    Read(u32, u32),
    HalfClose(oneshot::Sender<()>),
    Fin(oneshot::Sender<()>),
    Rst,
}

enum Event {
    /// Of HTTP/1.1, and how many of them the windows count: none of a head.
    Bytes {
        bytes: Vec<u8>,
        stream: u32,
        counted: Option<u32>,
    },
    /// The request whose body is being read has no end.
    Reset,
}

impl Translated {
    pub(super) async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self.requests.recv().await {
            None => Ok(0),
            Some(Event::Reset) => Err(io::ErrorKind::Interrupted.into()),
            Some(Event::Bytes {
                bytes,
                stream,
                counted,
            }) => {
                buffer.extend_from_slice(&bytes);
                let command = match counted {
                    None => Some(Command::Begun(stream)),
                    Some(0) => None,
                    Some(counted) => Some(Command::Read(stream, counted)),
                };
                if let Some(command) = command {
                    self.commands.send(command).ok();
                }
                Ok(bytes.len())
            }
        }
    }

    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.done(|done| Command::Write(bytes.to_owned(), done))
            .await
    }

    pub(super) async fn half_close(&self) -> io::Result<()> {
        self.done(Command::HalfClose).await
    }

    pub(super) async fn fin(self) {
        self.done(Command::Fin).await.ok();
    }

    pub(super) fn rst(self) {
        self.commands.send(Command::Rst).ok();
    }

    /// Resolves when the client is gone.
    pub(super) async fn gone(&self) {
        self.commands.closed().await;
    }

    async fn done(&self, command: impl FnOnce(oneshot::Sender<()>) -> Command) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        let (done, is_done) = oneshot::channel();
        self.commands
            .send(command(done))
            .map_err(|_| io::ErrorKind::BrokenPipe)?;
        is_done.await.map_err(gone)
    }
}

/// What is sent next, once a window has room for it.
enum Out {
    Head(u32, Vec<(String, String)>, bool),
    Data(u32, Vec<u8>, bool),
    Done(oneshot::Sender<()>),
}

/// A request that is not answered yet.
struct Exchange {
    stream: u32,
    answer: Response,
}

/// The transport's end; lives until the script's end is dropped or the client is gone.
pub(super) struct Translator {
    conn: frames::Conn<Stream>,
    log: Log,
    has_begun: bool,
    commands: mpsc::UnboundedReceiver<Command>,
    requests: mpsc::UnboundedSender<Event>,
    /// The streams whose head the script was given, and whether the body is in chunks.
    bodies: HashMap<u32, bool>,
    /// In the order that the script was given them, which is the order of its answers.
    exchanges: VecDeque<Exchange>,
    /// Streams that the client has reset.
    reset: HashSet<u32>,
    going: VecDeque<Out>,
    window: i64,
    initial_window: i64,
    windows: HashMap<u32, i64>,
}

/// Both ends of a translation; the future is the transport's.
pub(super) fn translate(stream: Stream) -> (Translated, impl Future<Output = ()> + Send) {
    let (commands, commanded) = mpsc::unbounded_channel();
    let (requested, requests) = mpsc::unbounded_channel();
    let log = Log::default();
    let translator = Translator {
        conn: frames::Conn::new(stream, &log),
        log,
        has_begun: false,
        commands: commanded,
        requests: requested,
        bodies: HashMap::new(),
        exchanges: VecDeque::new(),
        reset: HashSet::new(),
        going: VecDeque::new(),
        window: WINDOW,
        initial_window: WINDOW,
        windows: HashMap::new(),
    };
    (Translated { commands, requests }, translator.run())
}

impl Translator {
    async fn run(mut self) {
        self.conn
            .settings([(setting::MAX_CONCURRENT_STREAMS, 1)])
            .await;
        loop {
            self.send().await;
            tokio::select! {
                biased;
                command = self.commands.recv() => {
                    let Some(command) = command else { break };
                    if self.obey(command).await {
                        break;
                    }
                }
                frame = next(&mut self.conn, &mut self.has_begun) => {
                    let Some(frame) = frame else { break };
                    self.take(frame).await;
                }
            }
        }
        // A body without a length ends with its connection.
        self.end_body().await;
    }

    /// Whether that was the last.
    async fn obey(&mut self, command: Command) -> bool {
        match command {
            Command::Write(bytes, done) => {
                self.answer(&bytes);
                self.going.push_back(Out::Done(done));
            }
            Command::Begun(stream) => {
                // What the client has reset is not answered any more.
                while self.exchanges.front().is_some_and(|it| it.stream != stream) {
                    self.exchanges.pop_front();
                }
            }
            Command::Read(stream, length) => {
                self.conn.window_update(0, length).await;
                if self.bodies.contains_key(&stream) {
                    self.conn.window_update(stream, length).await;
                }
            }
            Command::HalfClose(done) => {
                self.end_body().await;
                self.conn.io().half_close().await;
                done.send(()).ok();
            }
            Command::Fin(done) => {
                self.end_body().await;
                self.transport().fin().await;
                done.send(()).ok();
                return true;
            }
            Command::Rst => {
                self.transport().rst();
                return true;
            }
        }
        false
    }

    fn transport(&mut self) -> Stream {
        std::mem::replace(self.conn.io(), Stream::Gone)
    }

    /// Turns the bytes of responses into what has to be sent.
    fn answer(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(exchange) = self.exchanges.front_mut() else {
                panic!(
                    "nobody asked for {:?}: over HTTP/2 there is no such thing",
                    String::from_utf8_lossy(bytes)
                );
            };
            let stream = exchange.stream;
            let part = exchange.answer.take(&mut bytes);
            let is_last = match part {
                None => continue,
                Some(Part::Head(fields, end)) => {
                    self.going.push_back(Out::Head(stream, fields, end));
                    end
                }
                Some(Part::Body(body, end)) => {
                    self.going.push_back(Out::Data(stream, body, end));
                    end
                }
            };
            if is_last {
                self.exchanges.pop_front();
            }
        }
    }

    async fn end_body(&mut self) {
        if let Some(exchange) = self.exchanges.front()
            && exchange.answer.ends_with_connection()
        {
            self.going
                .push_back(Out::Data(exchange.stream, Vec::new(), true));
            self.exchanges.pop_front();
        }
        self.send().await;
    }

    /// Sends what the windows have room for.
    async fn send(&mut self) {
        while let Some(out) = self.going.pop_front() {
            match out {
                Out::Done(done) => {
                    done.send(()).ok();
                }
                Out::Head(stream, _, _) | Out::Data(stream, _, _)
                    if self.reset.contains(&stream) => {}
                Out::Head(stream, fields, end) => {
                    let fields: Vec<_> = fields.iter().map(|(n, v)| (&**n, &**v)).collect();
                    self.conn.headers(stream, &fields, end).await;
                }
                Out::Data(stream, mut body, end) => {
                    let own = self.windows.entry(stream).or_insert(self.initial_window);
                    let room = usize::try_from(self.window.min(*own)).unwrap_or(0);
                    if room == 0 && !body.is_empty() {
                        self.going.push_front(Out::Data(stream, body, end));
                        return;
                    }
                    let rest = body.split_off(body.len().min(room).min(MAX_FRAME));
                    self.window -= body.len() as i64;
                    *own -= body.len() as i64;
                    self.conn.data(stream, &body, end && rest.is_empty()).await;
                    if !rest.is_empty() {
                        self.going.push_front(Out::Data(stream, rest, end));
                    }
                }
            }
        }
    }

    async fn take(&mut self, frame: Frame) {
        let stream = frame.stream;
        match frame.kind {
            kind::SETTINGS if !frame.has(flag::ACK) => {
                let new = frame
                    .settings()
                    .filter(|it| it.0 == setting::INITIAL_WINDOW_SIZE)
                    .last();
                if let Some((_, new)) = new {
                    let more = i64::from(new) - self.initial_window;
                    self.initial_window += more;
                    self.windows.values_mut().for_each(|it| *it += more);
                }
                self.conn.raw(kind::SETTINGS, flag::ACK, 0, &[]).await;
            }
            kind::PING if !frame.has(flag::ACK) => {
                self.conn
                    .raw(kind::PING, flag::ACK, 0, &frame.payload)
                    .await;
            }
            kind::WINDOW_UPDATE => {
                let more = i64::from(frame.number(0));
                match stream {
                    0 => self.window += more,
                    _ => {
                        let initial = self.initial_window;
                        *self.windows.entry(stream).or_insert(initial) += more;
                    }
                }
            }
            kind::HEADERS | kind::CONTINUATION if frame.has(flag::END_HEADERS) => {
                let request = self.request(stream);
                match self.bodies.get(&stream) {
                    None => self.begin(&request),
                    Some(_) => self.end(&request),
                }
            }
            kind::DATA => {
                let counted = frame.payload.len() as u32;
                let bytes = match self.bodies.get(&stream) {
                    // Of a stream that was reset.
                    None => Vec::new(),
                    Some(_) if frame.payload.is_empty() => Vec::new(),
                    Some(false) => frame.payload.clone(),
                    Some(true) => {
                        let mut chunk = format!("{counted:x}\r\n").into_bytes();
                        chunk.extend_from_slice(&frame.payload);
                        chunk.extend_from_slice(b"\r\n");
                        chunk
                    }
                };
                self.give(stream, bytes, Some(counted));
                if frame.has(flag::END_STREAM) {
                    let request = self.request(stream);
                    self.end(&request);
                }
            }
            kind::RST_STREAM => {
                self.reset.insert(stream);
                if self.bodies.remove(&stream).is_some() {
                    self.requests.send(Event::Reset).ok();
                }
            }
            _ => {}
        }
    }

    fn request(&self, stream: u32) -> Request {
        let request = self.log.seen(|seen| {
            let mut requests = seen.requests.iter();
            requests.find(|it| it.stream == stream).cloned()
        });
        request.expect("the head came first")
    }

    /// Gives the script a head.
    fn begin(&mut self, request: &Request) {
        let path = if request.method() == "CONNECT" {
            request.field(":authority").unwrap_or_default()
        } else {
            request.path()
        };
        let mut head = format!("{} {path} HTTP/1.1\r\n", request.method());
        for (name, value) in &request.fields {
            match &**name {
                ":authority" => head.push_str(&format!("host: {value}\r\n")),
                name if name.starts_with(':') => {}
                name => head.push_str(&format!("{name}: {value}\r\n")),
            }
        }
        if !request.is_complete {
            let in_chunks = request.field("content-length").is_none();
            if in_chunks {
                head.push_str("transfer-encoding: chunked\r\n");
            }
            self.bodies.insert(request.stream, in_chunks);
        }
        head.push_str("\r\n");
        self.exchanges.push_back(Exchange {
            stream: request.stream,
            answer: Response::to(request.method()),
        });
        self.give(request.stream, head.into_bytes(), None);
    }

    /// The body has ended, with what trailers there are.
    fn end(&mut self, request: &Request) {
        if self.bodies.remove(&request.stream) == Some(true) {
            let mut end = String::from("0\r\n");
            for (name, value) in &request.trailers {
                end.push_str(&format!("{name}: {value}\r\n"));
            }
            end.push_str("\r\n");
            self.give(request.stream, end.into_bytes(), Some(0));
        }
    }

    fn give(&self, stream: u32, bytes: Vec<u8>, counted: Option<u32>) {
        // Nothing read would be the end of the connection.
        if bytes.is_empty() {
            return;
        }
        let event = Event::Bytes {
            bytes,
            stream,
            counted,
        };
        self.requests.send(event).ok();
    }
}

/// The next frame; none when the client is gone, or speaks no HTTP/2.
async fn next(conn: &mut frames::Conn<Stream>, has_begun: &mut bool) -> Option<Frame> {
    if !*has_begun {
        if !conn.preface().await {
            return None;
        }
        *has_begun = true;
    }
    conn.frame().await
}

impl Io for Stream {
    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        Self::read(self, buffer).await
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        Self::write(self, bytes).await
    }
}
