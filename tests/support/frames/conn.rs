//! One connection, in the hands of its script.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::io;

use super::frame::{Frame, PREFACE, code, flag, frame, kind, setting, settings};
use super::hpack::{Decoder, Field, encode};
use super::log::{Log, Request};

/// The bytes of a connection.
pub trait Io: Send {
    /// Adds what has come to the buffer, and waits for something: 0 when nothing will. Cancelled, it has taken nothing.
    fn read(&mut self, buffer: &mut Vec<u8>) -> impl Future<Output = io::Result<usize>> + Send;

    /// Writes all of it.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = io::Result<()>> + Send;
}

/// A connection of a scripted server. What it sends is sent when a method returns; that the client is gone is no error.
#[derive(Debug)]
pub struct Conn<S> {
    /// 0 is the first of the log whose preface came.
    pub index: usize,
    io: S,
    arrived: Vec<u8>,
    /// How much of `arrived` was taken.
    taken: usize,
    going: Vec<u8>,
    decoder: Decoder,
    /// A head whose end has not come: its frame, and the block so far.
    head: Option<(Frame, Vec<u8>)>,
    /// What is open.
    streams: HashMap<u32, Stream>,
    /// Places in the log of requests that are there, and were not given out.
    complete: VecDeque<usize>,
    limits: Limits,
    /// The last stream that is served, once GOAWAY has said so.
    last: Option<u32>,
    /// The latest stream that came.
    pub latest: u32,
    log: Log,
}

#[derive(Debug)]
struct Stream {
    /// In the log.
    place: usize,
    has_ended: bool,
    is_answered: bool,
}

/// What SETTINGS have said about the streams of a connection.
#[derive(Debug, Default)]
struct Limits {
    /// What the client has to keep: the first from the start, the others when they are acknowledged or when they are higher.
    binding: Option<u32>,
    unheard: VecDeque<Option<u32>>,
    has_begun: bool,
}

impl<S: Io> Conn<S> {
    pub fn new(io: S, log: &Log) -> Self {
        Self {
            index: usize::MAX,
            io,
            arrived: Vec::new(),
            taken: 0,
            going: Vec::new(),
            decoder: Decoder::default(),
            head: None,
            streams: HashMap::new(),
            complete: VecDeque::new(),
            limits: Limits::default(),
            last: None,
            latest: 0,
            log: log.clone(),
        }
    }

    /// The client's preface; false if something else comes, or nothing.
    pub async fn preface(&mut self) -> bool {
        while self.arrived.len() < PREFACE.len() {
            if !self.fill().await {
                return false;
            }
        }
        self.taken = PREFACE.len();
        let mut seen = self.log.lock();
        self.index = seen.connections;
        seen.connections += 1;
        self.arrived.starts_with(PREFACE)
    }

    /// The client's preface, and SETTINGS.
    pub async fn open(&mut self, settings: impl IntoIterator<Item = (u16, u32)>) -> bool {
        let begins = self.preface().await;
        self.settings(settings).await;
        begins
    }

    /// The next frame, to which nothing is answered; none when the client has closed.
    pub async fn frame(&mut self) -> Option<Frame> {
        self.flush().await;
        loop {
            if let Some((frame, length)) = Frame::parse(&self.arrived[self.taken..]) {
                self.taken += length;
                self.note(&frame);
                return Some(frame);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// The next frame. SETTINGS and PING are acknowledged, and what DATA has taken of the windows is given back.
    ///
    /// Cancelled, it has lost nothing, if everything was sent before.
    pub async fn next(&mut self) -> Option<Frame> {
        let it = self.frame().await?;
        match it.kind {
            kind::SETTINGS if !it.has(flag::ACK) => {
                self.push(frame(kind::SETTINGS, flag::ACK, 0, &[]));
            }
            kind::PING if !it.has(flag::ACK) => {
                self.push(frame(kind::PING, flag::ACK, 0, &it.payload));
            }
            kind::DATA if !it.payload.is_empty() => {
                let length = (it.payload.len() as u32).to_be_bytes();
                self.push(frame(kind::WINDOW_UPDATE, 0, 0, &length));
                if self.streams.contains_key(&it.stream) {
                    self.push(frame(kind::WINDOW_UPDATE, 0, it.stream, &length));
                }
            }
            _ => {}
        }
        Some(it)
    }

    /// The next request that is complete and not refused, with [`next`](Self::next)'s manners; none when the client has closed.
    pub async fn request(&mut self) -> Option<Request> {
        loop {
            if let Some(request) = self.take_request() {
                self.flush().await;
                return Some(request);
            }
            self.next().await?;
        }
    }

    /// A request that is there already.
    pub fn take_request(&mut self) -> Option<Request> {
        while let Some(place) = self.complete.pop_front() {
            let request = self.log.lock().requests[place].clone();
            if !request.is_refused {
                return Some(request);
            }
        }
        None
    }

    /// The bytes below, for a close of some kind.
    pub fn io(&mut self) -> &mut S {
        &mut self.io
    }

    /// Counts streams beyond `limit`, though SETTINGS have not said so yet.
    pub fn count_beyond(&mut self, limit: u32) {
        self.limits.binding = Some(limit);
    }

    /// What the server has seen.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// How many streams of this connection are open.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Reads on, with [`next`](Self::next)'s manners, until the client closes.
    pub async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Reads on and answers nothing, not even a PING, until the client closes.
    pub async fn silence(&mut self) {
        while self.frame().await.is_some() {}
    }

    pub async fn settings(&mut self, list: impl IntoIterator<Item = (u16, u32)>) {
        self.push_settings(list);
        self.flush().await;
    }

    /// A whole response.
    pub async fn respond(&mut self, stream: u32, status: u16, body: &[u8]) {
        self.push_response(stream, status, body);
        self.flush().await;
    }

    /// HEADERS with a status and other fields; `end` where no body follows.
    pub async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        self.push_headers(stream, fields, end);
        self.flush().await;
    }

    pub async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.push_data(stream, bytes, end);
        self.flush().await;
    }

    pub async fn reset(&mut self, stream: u32, code: u32) {
        self.push_reset(stream, code);
        self.flush().await;
    }

    /// Whatever stream is above `last` has not been looked at, and will not be.
    pub async fn go_away(&mut self, last: u32, code: u32, debug: &[u8]) {
        self.push_go_away(last, code, debug);
        self.flush().await;
    }

    pub async fn ping(&mut self, opaque: [u8; 8]) {
        self.raw(kind::PING, 0, 0, &opaque).await;
    }

    pub async fn window_update(&mut self, stream: u32, by: u32) {
        self.raw(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
            .await;
    }

    /// Any frame at all.
    pub async fn raw(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.send(&frame(kind, flags, stream, payload)).await;
    }

    /// Exactly these bytes.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.push(bytes);
        self.flush().await;
    }

    /// Exactly these bytes; false when the client is gone.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.flush().await;
        self.io.write(bytes).await.is_ok()
    }

    pub(super) fn push(&mut self, bytes: impl AsRef<[u8]>) {
        self.going.extend_from_slice(bytes.as_ref());
    }

    pub(super) fn push_settings(&mut self, list: impl IntoIterator<Item = (u16, u32)>) {
        let list: Vec<_> = list.into_iter().collect();
        let limit = list
            .iter()
            .rfind(|it| it.0 == setting::MAX_CONCURRENT_STREAMS);
        self.limits.sent(limit.map(|it| it.1));
        self.push(frame(kind::SETTINGS, 0, 0, &settings(list)));
    }

    pub(super) fn push_response(&mut self, stream: u32, status: u16, body: &[u8]) {
        self.push_headers(stream, &[(":status", &status.to_string())], body.is_empty());
        if !body.is_empty() {
            self.push_data(stream, body, true);
        }
    }

    fn push_headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        self.push(frame(
            kind::HEADERS,
            flags,
            stream,
            &encode(fields.iter().copied()),
        ));
        self.answered(stream, end);
    }

    fn push_data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        let flags = if end { flag::END_STREAM } else { 0 };
        self.push(frame(kind::DATA, flags, stream, bytes));
        self.answered(stream, end);
    }

    pub(super) fn push_reset(&mut self, stream: u32, code: u32) {
        self.push(frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes()));
        if let Some(it) = self.close(stream) {
            self.log.lock().requests[it.place].is_refused |= code == code::REFUSED_STREAM;
        }
    }

    pub(super) fn push_go_away(&mut self, last: u32, code: u32, debug: &[u8]) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(debug);
        self.push(frame(kind::GOAWAY, 0, 0, &payload));
        self.last = Some(last);
        let above: Vec<_> = self
            .streams
            .keys()
            .copied()
            .filter(|&it| it > last)
            .collect();
        for stream in above {
            if let Some(it) = self.close(stream) {
                self.log.lock().requests[it.place].is_refused = true;
            }
        }
    }

    /// Sends what [`next`](Self::next) has to answer, which the next read would do too: before a wait that may be cancelled.
    pub async fn flush(&mut self) {
        if !self.going.is_empty() {
            // A client that is gone is found when it is read from.
            self.io.write(&self.going).await.ok();
            self.going.clear();
        }
    }

    async fn fill(&mut self) -> bool {
        self.arrived.drain(..std::mem::take(&mut self.taken));
        matches!(self.io.read(&mut self.arrived).await, Ok(1..))
    }

    fn note(&mut self, frame: &Frame) {
        *self.log.lock().frames.entry(frame.kind).or_default() += 1;
        match frame.kind {
            kind::HEADERS => {
                let block = frame.content().to_vec();
                self.note_block(frame.clone(), block, frame.has(flag::END_HEADERS));
            }
            kind::CONTINUATION => {
                let (head, mut block) = self.head.take().expect("CONTINUATION comes after HEADERS");
                block.extend_from_slice(&frame.payload);
                self.note_block(head, block, frame.has(flag::END_HEADERS));
            }
            kind::DATA => {
                if let Some(it) = self.streams.get(&frame.stream) {
                    let body = &mut self.log.lock().requests[it.place].body;
                    body.extend_from_slice(frame.content());
                }
                if frame.has(flag::END_STREAM) {
                    self.ended(frame.stream);
                }
            }
            kind::RST_STREAM => {
                self.close(frame.stream);
                let reset = (self.index, frame.stream, frame.number(0));
                self.log.lock().resets.push(reset);
            }
            kind::GOAWAY => {
                let go_away = (self.index, frame.number(4));
                self.log.lock().go_aways.push(go_away);
            }
            kind::SETTINGS if frame.has(flag::ACK) => self.limits.heard(),
            _ => {}
        }
    }

    fn note_block(&mut self, head: Frame, block: Vec<u8>, is_whole: bool) {
        if !is_whole {
            self.head = Some((head, block));
            return;
        }
        let fields = self.decoder.decode(&block);
        let fields = fields.expect("a client's blocks can be decoded");
        match self.streams.get(&head.stream) {
            Some(it) => self.log.lock().requests[it.place].trailers = fields,
            None => self.begin(head.stream, fields),
        }
        if head.has(flag::END_STREAM) {
            self.ended(head.stream);
        }
    }

    fn begin(&mut self, stream: u32, fields: Vec<Field>) {
        self.latest = self.latest.max(stream);
        let mut seen = self.log.lock();
        let is_refused = self.last.is_some_and(|last| stream > last);
        let place = seen.requests.len();
        seen.requests.push(Request {
            connection: self.index,
            stream,
            fields,
            body: Vec::new(),
            trailers: Vec::new(),
            is_complete: false,
            is_refused,
        });
        if is_refused {
            return;
        }
        let is_beyond = |limit| self.streams.len() >= limit as usize;
        seen.beyond_limit += usize::from(self.limits.binding.is_some_and(is_beyond));
        seen.open += 1;
        seen.most_open = seen.most_open.max(seen.open);
        seen.most_open_on_one = seen.most_open_on_one.max(self.streams.len() + 1);
        let it = Stream {
            place,
            has_ended: false,
            is_answered: false,
        };
        self.streams.insert(stream, it);
    }

    /// The client's side is over.
    fn ended(&mut self, stream: u32) {
        let Some(it) = self.streams.get_mut(&stream) else {
            return;
        };
        it.has_ended = true;
        self.log.lock().requests[it.place].is_complete = true;
        self.complete.push_back(it.place);
        if it.is_answered {
            self.close(stream);
        }
    }

    fn answered(&mut self, stream: u32, end: bool) {
        let Some(it) = self.streams.get_mut(&stream).filter(|_| end) else {
            return;
        };
        it.is_answered = true;
        if it.has_ended {
            self.close(stream);
        }
    }

    fn close(&mut self, stream: u32) -> Option<Stream> {
        let closed = self.streams.remove(&stream)?;
        self.log.lock().open -= 1;
        Some(closed)
    }
}

impl<S> Drop for Conn<S> {
    fn drop(&mut self) {
        self.log.lock().open -= self.streams.len();
    }
}

impl Limits {
    fn sent(&mut self, limit: Option<u32>) {
        if !std::mem::replace(&mut self.has_begun, true) {
            self.binding = self.binding.or(limit);
        } else if limit.zip(self.binding).is_some_and(|(new, old)| new > old) {
            self.binding = limit;
        }
        self.unheard.push_back(limit);
    }

    fn heard(&mut self) {
        if let Some(Some(limit)) = self.unheard.pop_front() {
            self.binding = Some(limit);
        }
    }
}
