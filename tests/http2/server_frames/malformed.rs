//! Frames that are wrong, one by one, and the codes that RFC 9113 names for them.

use std::time::Duration;

use super::{answer, http2};
use crate::support::agent::{at_rest, fetch};
use crate::support::frames::code::{
    COMPRESSION_ERROR, FLOW_CONTROL_ERROR, FRAME_SIZE_ERROR, PROTOCOL_ERROR,
};
use crate::support::frames::flag::{ACK, END_HEADERS, END_STREAM, PADDED};
use crate::support::frames::{code, encode, frame, kind, setting, settings};
use crate::support::http2::Server;
use tower_keep_alive::KeepAliveLayer;

/// What a client has to make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The connection ends, by GOAWAY with this code.
    Connection(u32),
    /// The stream is reset with this code, and the connection goes on.
    Stream(u32),
    /// The request is answered.
    Ignored,
}

use Verdict::{Connection, Ignored, Stream};

struct Row {
    name: &'static str,
    /// What the server sends after a request on this stream.
    bytes: fn(u32) -> Vec<u8>,
    /// What the RFC says.
    named: Verdict,
    /// What `h2` does.
    done: Verdict,
    departure: Departure,
}

/// How what `h2` does differs from what the RFC says about the frame.
#[derive(Clone, Copy, Debug)]
enum Departure {
    None,
    /// The RFC permits it elsewhere: "an endpoint MAY choose to treat a stream error as a connection error" (§5.4.1).
    Permitted,
    /// This section does not permit it. §7 leaves PROTOCOL_ERROR for where no more specific code is available.
    Against(&'static str),
}

const fn row(name: &'static str, bytes: fn(u32) -> Vec<u8>, named: Verdict) -> Row {
    Row {
        name,
        bytes,
        named,
        done: named,
        departure: Departure::None,
    }
}

impl Row {
    /// `h2` ends the connection for a fault of one stream.
    const fn for_the_connection(mut self) -> Self {
        if let Stream(code) = self.named {
            self.done = Connection(code);
        }
        self.departure = Departure::Permitted;
        self
    }

    /// `h2` does something else than this section requires.
    const fn against(mut self, section: &'static str, done: Verdict) -> Self {
        self.done = done;
        self.departure = Departure::Against(section);
        self
    }

    /// Whether the departure is what it is said to be.
    fn is_explained(&self) -> bool {
        match (self.departure, self.named, self.done) {
            (Departure::None, named, done) => named == done,
            (Departure::Permitted, Stream(named), Connection(done)) => named == done,
            (Departure::Permitted, ..) => false,
            (Departure::Against(section), named, done) => {
                let is_generic = done == Connection(PROTOCOL_ERROR) || done == Ignored;
                section.starts_with('§') && named != done && is_generic
            }
        }
    }
}

#[rustfmt::skip]
const MALFORMED: &[Row] = &[
    // §4.1, §5.5: what nobody knows is no error.
    row("a frame of an unknown type", |it| with_ok(frame(0xbe, 0xff, it, b"what?"), it), Ignored),
    row("an unknown setting", |it| with_ok(set(0xbeef, 7), it), Ignored),
    row("flags that mean nothing", |it| with_ok(frame(kind::PING, 0xfe, 0, &[0; 8]), it), Ignored),
    // §4.2
    row("DATA larger than allowed", |it| [head(it), frame(kind::DATA, 0, it, &[0; 16_385])].concat(), Connection(FRAME_SIZE_ERROR)),
    row("HEADERS larger than allowed", |it| frame(kind::HEADERS, END_HEADERS, it, &[0; 16_385]), Connection(FRAME_SIZE_ERROR)),
    // §4.3
    row("fields that cannot be decoded", |it| frame(kind::HEADERS, END_HEADERS, it, &[0xff; 6]), Connection(COMPRESSION_ERROR))
        .against("§4.3", Connection(PROTOCOL_ERROR)),
    row("an index with nothing behind it", |it| frame(kind::HEADERS, END_HEADERS, it, &[0xc9]), Connection(COMPRESSION_ERROR))
        .against("§4.3", Connection(PROTOCOL_ERROR)),
    // §5.1
    row("DATA on a stream that was never begun", |_| frame(kind::DATA, 0, 99, b"x"), Connection(PROTOCOL_ERROR)),
    row("HEADERS on a stream that was never begun", |_| head(99), Connection(PROTOCOL_ERROR)),
    row("HEADERS on a stream of the server's own", |_| head(2), Connection(PROTOCOL_ERROR)),
    row("WINDOW_UPDATE on a stream that was never begun", |_| opens(99, 1), Connection(PROTOCOL_ERROR)),
    row("RST_STREAM on a stream that was never begun", |_| frame(kind::RST_STREAM, 0, 99, &[0; 4]), Connection(PROTOCOL_ERROR)),
    row("DATA before HEADERS", |it| frame(kind::DATA, 0, it, b"x"), Stream(PROTOCOL_ERROR))
        .for_the_connection(),
    // §6.1
    row("DATA on stream 0", |_| frame(kind::DATA, 0, 0, b"x"), Connection(PROTOCOL_ERROR)),
    row("DATA with more padding than it is long", |it| [head(it), frame(kind::DATA, PADDED, it, &[9, 0])].concat(), Connection(PROTOCOL_ERROR)),
    // §6.2
    row("HEADERS on stream 0", |_| head(0), Connection(PROTOCOL_ERROR)),
    row("HEADERS with more padding than they are long", |it| frame(kind::HEADERS, END_HEADERS | PADDED, it, &[9, 0x88]), Connection(PROTOCOL_ERROR)),
    row("PING between HEADERS and CONTINUATION", |it| [frame(kind::HEADERS, 0, it, &[0x88]), frame(kind::PING, 0, 0, &[0; 8])].concat(), Connection(PROTOCOL_ERROR)),
    // §6.4
    row("RST_STREAM on stream 0", |_| frame(kind::RST_STREAM, 0, 0, &[0; 4]), Connection(PROTOCOL_ERROR)),
    row("RST_STREAM of three bytes", |it| frame(kind::RST_STREAM, 0, it, &[0; 3]), Connection(FRAME_SIZE_ERROR))
        .against("§6.4", Connection(PROTOCOL_ERROR)),
    // §6.5
    row("SETTINGS on a stream", |it| frame(kind::SETTINGS, 0, it, &[]), Connection(PROTOCOL_ERROR)),
    row("SETTINGS of five bytes", |_| frame(kind::SETTINGS, 0, 0, &[0; 5]), Connection(FRAME_SIZE_ERROR))
        .against("§6.5", Connection(PROTOCOL_ERROR)),
    row("SETTINGS acknowledged with content", |_| frame(kind::SETTINGS, ACK, 0, &[0; 6]), Connection(FRAME_SIZE_ERROR))
        .against("§6.5", Connection(PROTOCOL_ERROR)),
    row("a server that would be pushed to", |_| set(setting::ENABLE_PUSH, 2), Connection(PROTOCOL_ERROR)),
    row("a window that is too large", |_| set(setting::INITIAL_WINDOW_SIZE, 1 << 31), Connection(FLOW_CONTROL_ERROR))
        .against("§6.5.2", Connection(PROTOCOL_ERROR)),
    row("frames that may be too small", |_| set(setting::MAX_FRAME_SIZE, 16_383), Connection(PROTOCOL_ERROR)),
    row("frames that may be too large", |_| set(setting::MAX_FRAME_SIZE, 1 << 24), Connection(PROTOCOL_ERROR)),
    row("settings of which one is wrong", |_| frame(kind::SETTINGS, 0, 0, &settings([(setting::MAX_FRAME_SIZE, 20_000), (setting::MAX_FRAME_SIZE, 1)])), Connection(PROTOCOL_ERROR)),
    // §6.6
    row("PUSH_PROMISE, which was declined", |it| frame(kind::PUSH_PROMISE, END_HEADERS, it, &[&[0, 0, 0, 2], &request()[..]].concat()), Connection(PROTOCOL_ERROR)),
    // §6.7
    row("PING on a stream", |it| frame(kind::PING, 0, it, &[0; 8]), Connection(PROTOCOL_ERROR)),
    row("PING of seven bytes", |_| frame(kind::PING, 0, 0, &[0; 7]), Connection(FRAME_SIZE_ERROR))
        .against("§6.7", Connection(PROTOCOL_ERROR)),
    // §6.8
    row("GOAWAY on a stream", |it| frame(kind::GOAWAY, 0, it, &[0; 8]), Connection(PROTOCOL_ERROR)),
    row("GOAWAY of seven bytes", |_| frame(kind::GOAWAY, 0, 0, &[0; 7]), Connection(FRAME_SIZE_ERROR))
        .against("§4.2", Connection(PROTOCOL_ERROR)),
    // §6.9
    row("WINDOW_UPDATE of three bytes", |_| frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]), Connection(FRAME_SIZE_ERROR))
        .against("§6.9", Connection(PROTOCOL_ERROR)),
    row("a window of the connection that opens by nothing", |_| opens(0, 0), Connection(PROTOCOL_ERROR)),
    row("a window of a stream that opens by nothing", |it| opens(it, 0), Stream(PROTOCOL_ERROR))
        .for_the_connection(),
    row("a window of the connection that opens too far", |_| opens(0, u32::MAX >> 1), Connection(FLOW_CONTROL_ERROR)),
    // §6.10
    row("CONTINUATION of nothing", |it| frame(kind::CONTINUATION, END_HEADERS, it, &[0x88]), Connection(PROTOCOL_ERROR)),
    row("CONTINUATION of another stream", |it| [frame(kind::HEADERS, 0, it, &[0x88]), frame(kind::CONTINUATION, END_HEADERS, it + 2, &[])].concat(), Connection(PROTOCOL_ERROR)),
    // §8.1, §8.2, §8.3: malformed responses.
    row("a response without a status", |it| fields(it, &[("server", "x")]), Stream(PROTOCOL_ERROR)),
    row("a status that is none", |it| fields(it, &[(":status", "fine")]), Stream(PROTOCOL_ERROR))
        .for_the_connection(),
    row("a name in capitals", |it| fields(it, &[(":status", "200"), ("Server", "x")]), Stream(PROTOCOL_ERROR))
        .for_the_connection(),
    row("a field that is of one connection", |it| fields(it, &[(":status", "200"), ("connection", "close")]), Stream(PROTOCOL_ERROR)),
    row("a transfer coding", |it| fields(it, &[(":status", "200"), ("transfer-encoding", "chunked")]), Stream(PROTOCOL_ERROR)),
    row("a pseudo-field of requests", |it| [fields(it, &[(":status", "200"), (":path", "/")]), frame(kind::DATA, END_STREAM, it, b"ok")].concat(), Stream(PROTOCOL_ERROR))
        .against("§8.3", Ignored),
    row("a pseudo-field after a field", |it| fields(it, &[("server", "x"), (":status", "200")]), Stream(PROTOCOL_ERROR)),
    row("a body that is longer than announced", |it| [fields(it, &[(":status", "200"), ("content-length", "1")]), frame(kind::DATA, 0, it, b"xx")].concat(), Stream(PROTOCOL_ERROR)),
    row("a body that is shorter than announced", |it| [fields(it, &[(":status", "200"), ("content-length", "3")]), frame(kind::DATA, END_STREAM, it, b"xx")].concat(), Stream(PROTOCOL_ERROR)),
];

fn fields(stream: u32, fields: &[(&str, &str)]) -> Vec<u8> {
    frame(
        kind::HEADERS,
        END_HEADERS,
        stream,
        &encode(fields.iter().copied()),
    )
}

fn head(stream: u32) -> Vec<u8> {
    fields(stream, &[(":status", "200")])
}

fn with_ok(before: Vec<u8>, stream: u32) -> Vec<u8> {
    let body = frame(kind::DATA, END_STREAM, stream, b"ok");
    [before, head(stream), body].concat()
}

fn set(name: u16, value: u32) -> Vec<u8> {
    frame(kind::SETTINGS, 0, 0, &settings([(name, value)]))
}

fn opens(stream: u32, by: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes())
}

fn request() -> Vec<u8> {
    encode([
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "x"),
        (":path", "/"),
    ])
}

/// A server whose first connection sends this after its first request; everything else is answered.
async fn server_that_sends(bytes: fn(u32) -> Vec<u8>) -> Server {
    Server::start(move |mut conn| async move {
        conn.open([]).await;
        if conn.index == 0 {
            let stream = conn.request().await.expect("a request").stream;
            conn.send(&bytes(stream)).await;
        }
        answer(&mut conn).await;
    })
    .await
}

/// What the client has made of it, by the server's log.
fn verdict(server: &Server) -> Option<Verdict> {
    server.log.seen(|seen| {
        let ended = seen.go_aways.iter().find(|it| it.1 != code::NO_ERROR);
        let reset = seen.resets.iter().find(|it| it.2 != code::CANCEL);
        match (ended, reset) {
            (Some(&(0, code)), _) => Some(Connection(code)),
            (None, Some(&(0, _, code))) => Some(Stream(code)),
            _ => None,
        }
    })
}

#[tokio::test]
async fn each_malformed_frame_gets_the_code_that_the_rfc_names() {
    let mut faults = Vec::new();
    for row in MALFORMED {
        assert!(row.is_explained(), "{}: {:?}", row.name, row.departure);
        let server = server_that_sends(row.bytes).await;
        let (client, handle) = http2(KeepAliveLayer::new());
        let first = fetch(&client, server.url("/"));
        let first = tokio::time::timeout(Duration::from_secs(3), first).await;
        let first = first.unwrap_or_else(|_| panic!("{}: neither answer nor error", row.name));
        let mut done = if first.is_ok() { Some(Ignored) } else { None };
        for _ in 0..500 {
            done = verdict(&server).or(done);
            if done.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let mut fault = |what: String| faults.push(format!("{}: {what}", row.name));
        if done != Some(row.done) || first.is_ok() != (row.done == Ignored) {
            fault(format!("{done:?} in place of {:?}: {first:?}", row.done));
        }
        if let (Err(error), Connection(code) | Stream(code)) = (&first, row.done)
            && (error.http2_reason() != Some(code)
                || error.is_refused()
                || error.is_unsent()
                || error.is_too_large())
        {
            fault(format!("the caller is told {error:?}"));
        }
        // The permit is free, and the next request finds a connection.
        let next = fetch(&client, server.url("/next")).await;
        if !next.is_ok_and(|it| it.body == "ok") {
            fault("the next request fails".into());
        }
        let connections = server.log.seen(|seen| seen.connections);
        let expected = match row.done {
            Connection(_) => 2,
            Stream(_) | Ignored => 1,
        };
        if connections != expected {
            fault(format!("{connections} connections in place of {expected}"));
        }
        at_rest(&handle).await;
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}
