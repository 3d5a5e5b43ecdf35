//! An HTTP/2 server that sends whatever frames it likes, against the agent: every request comes to an end, no answer is made of
//! what was not sent, and nothing is left behind.
#![no_main]

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tower::service_fn;
use tower_keep_alive::{KeepAlive, KeepAliveLayer, Protocol, connect::Destination};

/// On paused time: whoever waits for longer than this waits for ever.
const FOR_EVER: Duration = Duration::from_secs(3600);

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const PREFACE: usize = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// `:status: 200`, from the static table.
const OK: &[u8] = &[0x88];
/// `:status: 204` and `x-own: 1`, without an index.
const OWN: &[u8] = b"\x89\x00\x05x-own\x011";

/// What a server does, told by the first two bytes of the input; the rest makes the frames that it sends.
struct Script {
    /// It closes when it has sent them.
    closes: bool,
    /// What is left of a body is not asked for.
    drops: bool,
    /// The requests have bodies larger than a window.
    uploads: bool,
    /// Two requests at once.
    twice: bool,
    /// It answers the client's PINGs.
    pongs: bool,
    /// It sends in pieces of so many bytes, with a pause between them.
    pieces: usize,
    sent: Vec<u8>,
}

impl Script {
    fn read(data: &[u8]) -> Option<Self> {
        let ([how, pieces], rest) = data.split_first_chunk()?;
        // One in eight sends the input as it is.
        let sent = match how >> 5 {
            7 => rest.to_vec(),
            6 => frames_of(rest),
            _ => [frame(SETTINGS, 0, 0, &[]), frames_of(rest)].concat(),
        };
        Some(Self {
            closes: how & 1 != 0,
            drops: how & 2 != 0,
            uploads: how & 4 != 0,
            twice: how & 8 != 0,
            pongs: how & 16 == 0,
            pieces: match pieces {
                0 => usize::MAX,
                _ => (*pieces).into(),
            },
            sent,
        })
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Frames out of the input: each has a byte for its type, one for its flags, one for its stream and one for its length, of the
/// payload that follows. A type above 127 is a head that can be decoded.
fn frames_of(mut input: &[u8]) -> Vec<u8> {
    let mut frames = Vec::new();
    while let Some((&[kind, flags, stream, length], rest)) = input.split_first_chunk() {
        let stream = u32::from(stream);
        let (payload, rest) = rest.split_at(usize::from(length).min(rest.len()));
        input = rest;
        frames.extend(match kind {
            128.. => {
                let block = [OK, payload].concat();
                frame(HEADERS, flags & END_STREAM | END_HEADERS, stream, &block)
            }
            // Lengths that are right are rare by chance.
            PING if length > 8 => frame(PING, flags, 0, &payload[..payload.len().min(8)]),
            SETTINGS => frame(SETTINGS, flags, 0, &payload[..payload.len() / 6 * 6]),
            _ => frame(kind, flags, stream, payload),
        });
    }
    frames
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// The next frame, the last one perhaps in part.
fn next<'a>(bytes: &mut &'a [u8], in_part: bool) -> Option<Frame<'a>> {
    let (&[a, b, c, kind, flags, stream @ ..], rest) = bytes.split_first_chunk::<9>()?;
    let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
    if length > rest.len() && !in_part {
        return None;
    }
    let (payload, rest) = rest.split_at(length.min(rest.len()));
    *bytes = rest;
    let stream = u32::from_be_bytes(stream) & (u32::MAX >> 1);
    Some(Frame {
        kind,
        flags,
        stream,
        payload,
    })
}

impl Frame<'_> {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn content(&self) -> &[u8] {
        if !self.has(PADDED) {
            return self.payload;
        }
        match self.payload.split_first() {
            Some((&padding, rest)) => &rest[..rest.len().saturating_sub(padding.into())],
            None => &[],
        }
    }
}

/// All that one server has sent.
type Sent = Arc<Mutex<Vec<u8>>>;

fn lock<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Server {
    io: DuplexStream,
    sent: Sent,
}

impl Server {
    async fn send(&mut self, bytes: &[u8]) -> bool {
        lock(&self.sent).extend_from_slice(bytes);
        self.io.write_all(bytes).await.is_ok()
    }

    /// Answers the first request as the script says, and every other one with an empty response of its own.
    async fn serve(mut self, script: Option<Arc<Script>>) {
        let mut arrived = Vec::new();
        let mut is_first = true;
        let mut preface = [0; PREFACE];
        if self.io.read_exact(&mut preface).await.is_err() {
            return;
        }
        if script.is_none() && !self.send(&frame(SETTINGS, 0, 0, &[])).await {
            return;
        }
        loop {
            if !matches!(self.io.read_buf(&mut arrived).await, Ok(1..)) {
                return;
            }
            let mut rest = &arrived[..];
            while let Some(it) = next(&mut rest, false) {
                let goes_on = match (it.kind, &script) {
                    (HEADERS, Some(script)) if is_first => {
                        is_first = false;
                        self.perform(script).await && !script.closes
                    }
                    (HEADERS, _) => {
                        let flags = END_HEADERS | END_STREAM;
                        self.send(&frame(HEADERS, flags, it.stream, OWN)).await
                    }
                    (PING, script) if !it.has(ACK) => {
                        let pongs = script.as_ref().is_none_or(|it| it.pongs);
                        !pongs || self.send(&frame(PING, ACK, 0, it.payload)).await
                    }
                    _ => true,
                };
                if !goes_on {
                    return;
                }
            }
            arrived = rest.to_vec();
        }
    }

    async fn perform(&mut self, script: &Script) -> bool {
        for piece in script.sent.chunks(script.pieces) {
            if !self.send(piece).await {
                return false;
            }
            if script.pieces < script.sent.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        true
    }
}

/// What a caller has got.
struct Answer {
    stream: u32,
    body: Vec<u8>,
    /// It was read to its end.
    is_whole: bool,
}

impl Answer {
    /// Whether a server that has sent these bytes has sent this answer.
    fn is_in(&self, mut sent: &[u8]) -> bool {
        let (mut head, mut end, mut body) = (false, false, Vec::new());
        while let Some(it) = next(&mut sent, true) {
            if it.stream != self.stream {
                continue;
            }
            match it.kind {
                HEADERS | CONTINUATION => head = true,
                DATA => body.extend_from_slice(it.content()),
                // After an early answer, whose body is whole.
                RST_STREAM => end |= it.payload == [0; 4],
                _ => {}
            }
            end |= matches!(it.kind, HEADERS | DATA) && it.has(END_STREAM);
        }
        head && body.starts_with(&self.body) && (end || !self.is_whole)
    }
}

async fn ask<M>(client: &KeepAlive<M, Full<Bytes>>, drops: bool, uploads: bool) -> Option<Answer>
where
    KeepAlive<M, Full<Bytes>>: Clone
        + tower::Service<
            Request<Full<Bytes>>,
            Response = http::Response<tower_keep_alive::Body>,
            Error = tower_keep_alive::Error,
        >,
{
    let request = match uploads {
        true => Request::post("http://host/").body(Full::from(vec![b'u'; 100_000])),
        false => Request::get("http://host/").body(Full::default()),
    };
    let request = request.expect("it is one");
    let response = tower::ServiceExt::oneshot(client.clone(), request)
        .await
        .ok()?;
    let mut answer = Answer {
        stream: response.body().connection().stream_id().unwrap_or(0),
        body: Vec::new(),
        is_whole: false,
    };
    if drops {
        return Some(answer);
    }
    let mut body = response.into_body();
    loop {
        match body.frame().await {
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    answer.body.extend_from_slice(&data);
                }
            }
            Some(Err(_)) => return Some(answer),
            None => {
                answer.is_whole = true;
                return Some(answer);
            }
        }
    }
}

async fn run(script: Arc<Script>) {
    let all: Arc<Mutex<Vec<Sent>>> = Arc::default();
    let layer = KeepAliveLayer::new()
        .protocol(Protocol::Http2)
        // For a server that allows no stream any more.
        .checkout_timeout(Duration::from_secs(60));
    let agent = layer.handle();
    let (servers, its) = (all.clone(), script.clone());
    let connector = service_fn(move |_: Destination| {
        let (here, there) = tokio::io::duplex(1 << 16);
        let sent = Sent::default();
        let server = Server {
            io: there,
            sent: sent.clone(),
        };
        let mut servers = lock(&servers);
        // The first server is the one that does as it likes.
        tokio::spawn(server.serve(servers.is_empty().then(|| its.clone())));
        servers.push(sent);
        std::future::ready(Ok::<_, io::Error>(here))
    });
    let client = tower::Layer::layer(&layer, connector);
    let first = async {
        let one = ask(&client, script.drops, script.uploads);
        match script.twice {
            true => <[_; 2]>::from(tokio::join!(one, ask(&client, false, false))),
            false => [one.await, None],
        }
    };
    let first = tokio::time::timeout(FOR_EVER, first).await;
    let first = first.expect("the first request does not end");
    // What the server sends late is there before the last one.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let last = tokio::time::timeout(FOR_EVER, ask(&client, false, false)).await;
    let last = last.expect("the last request does not end");
    let servers = lock(&all).clone();
    for answer in first.into_iter().chain([last]).flatten() {
        let is_sent = servers.iter().any(|sent| answer.is_in(&lock(sent)));
        assert!(is_sent, "an answer that nobody has sent");
    }

    drop(client);
    let gone = tokio::time::timeout(FOR_EVER, agent.drain()).await;
    gone.expect("connections are left behind");
    let status = agent.status();
    assert_eq!(status.open(), 0);
    assert_eq!(
        status.created,
        status.closed + status.detached,
        "{status:?}"
    );
}

fuzz_target!(|data: &[u8]| {
    let Some(script) = Script::read(data) else {
        return;
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("it needs nothing of the system")
        .block_on(run(Arc::new(script)));
});
